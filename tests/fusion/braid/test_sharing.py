"""Braids that share strands: one that moves leaves the others right."""

import gc
import weakref

import pytest
import tiny
import torch

from fusion import BraidConfig, BraidedLLM
from fusion.braid.sharing import sharers
from fusion.conformance import randomise

FAMILIES = ("llama", "gemma", "gpt2", "qwen2")
IDS = torch.tensor([[5, 50, 150]])


@pytest.fixture
def mine():
    """Strands that no other test has."""
    return {f: tiny.tiny_strand(f, seed=i) for i, f in enumerate(FAMILIES)}


def braid(mine, *names, layers=("final", "output")):
    shares = [1 / len(names)] * len(names)
    config = BraidConfig(names[0], list(names[1:]), shares, list(layers), "router")
    return randomise(BraidedLLM(config, [mine[name] for name in names]))


def places(model):
    """Where all of a braid is."""
    strands = (model.anchor, *model.donors)
    found = {p.device.type for p in model.parameters()}
    return found | {p.device.type for s in strands for p in s.model.parameters()}


def test_all_that_shares_a_strand_moves_along(mine):
    """By way of gemma and gpt2; qwen2 is in none of them."""
    first, second = braid(mine, "llama", "gemma"), braid(mine, "gpt2", "gemma")
    third, apart = braid(mine, "gpt2", "llama"), braid(mine, "qwen2", layers=("final",))
    assert set(map(id, sharers(first))) == {id(second), id(third)}
    assert sharers(apart) == []
    first.to("meta")
    assert places(first) == places(second) == places(third) == {"meta"}
    assert places(apart) == {"cpu"}
    assert torch.isfinite(apart(IDS).logits).all()


def test_a_move_to_where_they_are_changes_nothing(mine):
    first, second = braid(mine, "llama", "gemma"), braid(mine, "gemma", "llama")
    before = [model(IDS).logits for model in (first, second)]
    first.to("cpu").to(torch.float32).float().cpu()
    after = [model(IDS).logits for model in (first, second)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("how", ["to", "half", "bfloat16"])
def test_numbers_of_another_type_are_refused_while_others_use_them(mine, how):
    first, second = braid(mine, "llama", "gemma"), braid(mine, "gpt2", "gemma")
    before = [model(IDS).logits for model in (first, second)]
    with pytest.raises(ValueError, match=r"\['llama', 'gemma'\] .* other braids \(1\)"):
        first.to(torch.float16) if how == "to" else getattr(first, how)()
    assert {strand.dtype for strand in mine.values()} == {torch.float32}
    after = [model(IDS).logits for model in (first, second)]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_a_braid_that_is_gone_is_in_nobodys_way(mine):
    first, second = braid(mine, "llama", "gemma"), braid(mine, "gpt2", "gemma")
    gone = weakref.ref(second)
    loop = [second]
    loop.append(loop)  # freed by the collector only
    del second, loop
    first.to(torch.bfloat16)
    gc.collect()
    assert gone() is None
    assert first.anchor.dtype == first.donors[0].dtype == torch.bfloat16
    assert {p.dtype for p in first.parameters()} == {torch.float32}


def test_a_braid_that_is_built_meets_its_anchor_with_all_that_shares(mine):
    """Its donor is elsewhere, with a braid on it."""
    other = braid(mine, "gemma", layers=("final",))
    first = braid(mine, "llama", layers=("final",))
    first.to("meta")
    assert places(other) == {"cpu"}
    late = braid(mine, "llama", "gemma", layers=("final",))
    assert places(late) == places(other) == places(first) == {"meta"}


def test_strands_that_llama_cpp_runs_move_nothing(tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import ggufs

    mine = {
        "llama": ggufs.native_strand(tmp_path, "llama", "llama"),
        "gemma": tiny.tiny_strand("gemma"),
    }
    both, alone = braid(mine, "llama", "gemma"), braid(mine, "llama", layers=("final",))
    assert sharers(both) == sharers(alone) == []
    both.to(torch.bfloat16)
    assert mine["gemma"].dtype == torch.bfloat16
    assert torch.isfinite(both(IDS).logits).all()
    assert torch.isfinite(alone(IDS).logits).all()
