"""Strands that llama.cpp runs say what transformers says of the same weights."""

import pytest
import tiny
import torch

from fusion import BraidConfig, BraidedLLM, Pool, conformance
from fusion.braid.configuration import STRATEGIES

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

import ggufs

from fusion.strands.native_strand import NativeStrand

# Keys and values are kept in half precision, and kernels depend on the batch's shape.
ATOL = 0.03
BRAIDS = (
    ("llama", "gemma"),
    ("gemma", "llama"),
    ("llama", "llama-2"),
    ("qwen2", "llama", "gemma"),
)


@pytest.mark.parametrize("family", ggufs.FAMILIES)
@pytest.mark.parametrize("text", tiny.SAMPLES.values(), ids=tiny.SAMPLES)
def test_states_and_logits_are_those_of_transformers(native, family, text):
    ids, theirs = ggufs.ids_of(family, text), tiny.tiny_strand(family)
    mine = native[family]
    states, wanted = (s.run(ids, taps=["final"])["final"] for s in (mine, theirs))
    assert torch.allclose(states, wanted, atol=0.02, rtol=0.02)
    logits = mine.logits(states)
    assert torch.allclose(logits, theirs.logits(wanted), atol=0.1, rtol=0.02)
    assert torch.allclose(logits[0], mine.own_logits(ids[0].tolist()), atol=1e-3)
    assert (mine.width, mine.n_layers) == (theirs.width, theirs.n_layers)
    assert mine.vocab_size == theirs.vocab_size


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("names", BRAIDS, ids="+".join)
def test_braids_of_native_strands_conform(native, tmp_path, names, strategy):
    layers = ["final", "output"]
    shares = [0.6, *([0.4 / (len(names) - 1)] * (len(names) - 1))]
    config = BraidConfig(names[0], names[1:], shares, layers, strategy)
    model = conformance.randomise(BraidedLLM(config, list(native.values())))
    pool = Pool()
    for strand in native.values():
        pool.add(strand)
    turn = BRAIDS.index(names) + STRATEGIES.index(strategy)
    conformance.run_all(model, tmp_path, pool, conformance.TEXTS[turn % 2 :: 2], ATOL)


def test_decoder_layers_are_refused(native):
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], [1, "final"], "router")
    with pytest.raises(ValueError, match=r"does not show decoder layers.*native=False"):
        BraidedLLM(config, list(native.values()))
    with pytest.raises(ValueError, match="asked for"):
        native["llama"].run(ggufs.ids_of("llama"), taps=[1])


def test_a_token_that_is_none_is_refused(native):
    with pytest.raises(ValueError, match="has 405 tokens, received"):
        native["llama"].run(torch.tensor([[1, 405]]), taps=["final"])


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_file_is_told(tmp_path, damage):
    file = ggufs.write(tmp_path / "model.gguf", "llama")
    data = file.read_bytes()
    changed = {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "other": data.replace(b"llama", b"lambs"),
    }
    file.write_bytes(changed[damage])
    with pytest.raises(ValueError, match=r"cannot load .*model\.gguf: "):
        NativeStrand("damaged", file, tiny.tiny_tokenizer("llama"))
