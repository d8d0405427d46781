"""Strands that llama.cpp runs say what transformers says of the same weights."""

import copy
import gc

import pytest
import tiny
import torch
from transformers import DynamicCache

from fusion import BraidConfig, BraidedLLM, Pool, conformance
from fusion.braid.configuration import STRATEGIES

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

import ggufs

from fusion.strands.context_layer import BRANCHES
from fusion.strands.native_strand import NativeStrand

# Keys and values are kept in half precision, and kernels depend on the batch's shape.
ATOL = 0.03
BRAIDS = (
    ("llama", "gemma"),
    ("gemma", "llama"),
    ("llama", "llama-2"),
    ("qwen2", "llama", "gemma"),
)


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """A strand of each family, and a second llama."""
    folder = tmp_path_factory.mktemp("gguf")
    made = {f: ggufs.native_strand(folder, f, f) for f in ggufs.FAMILIES}
    made["llama-2"] = ggufs.native_strand(folder, "llama", "llama-2", seed=7)
    return made


def ids_of(family, text=tiny.PROSE):
    return torch.tensor([tiny.tiny_tokenizer(family).encode(text)])


@pytest.mark.parametrize("family", ggufs.FAMILIES)
@pytest.mark.parametrize("text", tiny.SAMPLES.values(), ids=tiny.SAMPLES)
def test_states_and_logits_are_those_of_transformers(native, family, text):
    ids, theirs = ids_of(family, text), tiny.tiny_strand(family)
    mine = native[family]
    states, wanted = (s.run(ids, taps=["final"])["final"] for s in (mine, theirs))
    assert torch.allclose(states, wanted, atol=0.02, rtol=0.02)
    logits = mine.logits(states)
    assert torch.allclose(logits, theirs.logits(wanted), atol=0.1, rtol=0.02)
    assert torch.allclose(logits[0], mine.own_logits(ids[0].tolist()), atol=1e-3)
    assert (mine.width, mine.n_layers) == (theirs.width, theirs.n_layers)
    assert mine.vocab_size == theirs.vocab_size


def test_reading_goes_on_where_it_was_and_is_taken_back(native):
    strand, ids = native["llama"], ids_of("llama")
    whole = strand.run(ids, taps=["final"])["final"]
    cache = DynamicCache()
    strand.run(ids[:, :9], taps=["final"], cache=cache)
    cache.crop(-4)
    assert cache.get_seq_length() == 5
    rest = strand.run(ids[:, 5:], taps=["final"], cache=cache)["final"]
    assert torch.allclose(rest, whole[:, 5:], atol=ATOL)


def test_a_text_outgrows_its_context(native):
    strand, long = native["llama"], ids_of("llama").repeat(1, 40)[:, :600]
    with pytest.warns(UserWarning, match="512 tokens and reads 600"):
        whole = strand.run(long, taps=["final"])["final"]
    cache = DynamicCache()
    parts = [
        strand.run(long[:, low : low + 100], taps=["final"], cache=cache)["final"]
        for low in range(0, 600, 100)
    ]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=ATOL)


def test_rows_of_a_batch_are_read_apart(native):
    strand = native["qwen2"]
    first, second = ids_of("qwen2", tiny.CODE), ids_of("qwen2", tiny.PROSE)[:, :7]
    gap = first.shape[1] - 7
    rows = torch.cat([first, torch.nn.functional.pad(second, (gap, 0))])
    mask = torch.ones_like(rows)
    mask[1, :gap] = 0
    cache = DynamicCache()
    found = strand.run(rows, taps=["final"], attention_mask=mask, cache=cache)["final"]
    alone = strand.run(second, taps=["final"])["final"]
    assert torch.allclose(found[1, gap:], alone[0], atol=ATOL)
    # Both rows go on as the second one, each with a context of its own.
    cache.reorder_cache(torch.tensor([1, 1]))
    new = first[:, :2].repeat(2, 1)
    then = strand.run(new, taps=["final"], cache=cache)["final"]
    wanted = strand.run(torch.cat([second, first[:, :2]], 1), taps=["final"])["final"]
    assert torch.allclose(then, wanted[:, -2:].expand(2, -1, -1), atol=ATOL)
    assert torch.allclose(copy.deepcopy(then), then)


@pytest.mark.parametrize("family", ggufs.FAMILIES)
def test_a_tree_is_read_as_its_lineages(native, family):
    strand, a = native[family], ids_of(family)[0].tolist()
    trunk, more = a[:6], a[6:12]
    # Beside the trunk: two ways from its third token, one of which branches again.
    tokens = [more[0], more[1], more[2], more[3]]
    seen = [[0, 1, 2, 6], [0, 1, 2, 7], [0, 1, 2, 7, 8], [0, 1, 2, 7, 9]]
    visible = torch.zeros(4, 10, dtype=torch.bool)
    for row, at in zip(visible, seen, strict=True):
        row[at] = True
    cache = DynamicCache()
    strand.run(torch.tensor([trunk]), taps=["final"], cache=cache)
    mask = strand.tree_mask(visible, torch.zeros(10))
    found = strand.run(
        torch.tensor([tokens]), taps=["final"], cache=cache, attention_mask=mask
    )["final"][0]
    flat = [*trunk, *tokens]
    for row, at in zip(found, seen, strict=True):
        lineage = torch.tensor([[flat[i] for i in at]])
        alone = strand.run(lineage, taps=["final"])["final"][0, -1]
        assert torch.allclose(row, alone, atol=ATOL)
    # The text goes on from the last of them.
    cache.layers[0].keep([0, 1, 2, 7, 9])
    then = strand.run(torch.tensor([more[4:]]), taps=["final"], cache=cache)["final"]
    whole = torch.tensor([[*(flat[i] for i in seen[-1]), *more[4:]]])
    wanted = strand.run(whole, taps=["final"])["final"]
    assert torch.allclose(then, wanted[:, -2:], atol=ATOL)


def test_more_ways_than_are_read_at_once(native):
    strand, ids = native["llama"], ids_of("llama")[0].tolist()
    m = BRANCHES + 3
    visible = torch.zeros(m, 1 + m, dtype=torch.bool)
    visible[:, 0] = True
    visible[torch.arange(m), 1 + torch.arange(m)] = True
    cache = DynamicCache()
    strand.run(torch.tensor([ids[:1]]), taps=["final"], cache=cache)
    mask = strand.tree_mask(visible, torch.zeros(1 + m))
    tokens = torch.tensor([list(range(10, 10 + m))])
    found = strand.run(tokens, taps=["final"], cache=cache, attention_mask=mask)
    for token, row in zip(tokens[0].tolist(), found["final"][0], strict=True):
        pair = torch.tensor([[ids[0], token]])
        alone = strand.run(pair, taps=["final"])["final"][0, -1]
        assert torch.allclose(row, alone, atol=ATOL)


def test_the_gradient_of_a_head_is_that_of_its_weights(native):
    strand = native["llama"]
    states = torch.randn(3, strand.width, requires_grad=True)
    strand.logits(states).square().sum().backward()
    weight, bias = strand.head_rows(torch.arange(strand.vocab_size))
    assert bias is None
    wanted = 2 * (states @ weight.T) @ weight
    assert torch.allclose(states.grad, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["Q8_0", "F16"])
def test_a_quantised_head_is_multiplied_as_it_is(tmp_path, kind):
    file = ggufs.write(tmp_path / "model.gguf", "llama", kind=kind)
    strand = NativeStrand("quantised", file, tiny.tiny_tokenizer("llama"))
    ids = ids_of("llama")
    states = strand.run(ids, taps=["final"])["final"]
    weight, _ = strand.head_rows(torch.arange(strand.vocab_size))
    wanted, logits = states @ weight.T, strand.logits(states)
    assert (logits - wanted).abs().max() < 0.02 * wanted.abs().max()
    exact = tiny.tiny_strand("llama").head.weight
    assert (weight - exact).abs().max() < 0.02 * exact.abs().max()


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
        native["llama"].run(ids_of("llama"), taps=[1])


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


def test_contexts_are_used_again(native):
    strand, ids = native["gemma"], ids_of("gemma")
    strand.run(ids, taps=["final"])
    gc.collect()
    before = len(strand._contexts._spare)
    assert before >= 1
    strand.run(ids, taps=["final"])
    assert len(strand._contexts._spare) == before
