"""Texts in contexts of llama.cpp: read on, taken back, copied, and read as trees."""

import copy
import gc

import ggufs
import pytest
import tiny
import torch
from transformers import DynamicCache

from fusion.strands.context_layer import BRANCHES

# Keys and values are kept in half precision, and kernels depend on the batch's shape.
ATOL = 0.03


def test_reading_goes_on_where_it_was_and_is_taken_back(native):
    strand, ids = native["llama"], ggufs.ids_of("llama")
    whole = strand.run(ids, taps=["final"])["final"]
    cache = DynamicCache()
    strand.run(ids[:, :9], taps=["final"], cache=cache)
    cache.crop(-4)
    assert cache.get_seq_length() == 5
    rest = strand.run(ids[:, 5:], taps=["final"], cache=cache)["final"]
    assert torch.allclose(rest, whole[:, 5:], atol=ATOL)


def test_a_text_outgrows_its_context(native):
    strand, long = native["llama"], ggufs.ids_of("llama").repeat(1, 40)[:, :600]
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
    first, second = (
        ggufs.ids_of("qwen2", tiny.CODE),
        ggufs.ids_of("qwen2", tiny.PROSE)[:, :7],
    )
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
    strand, a = native[family], ggufs.ids_of(family)[0].tolist()
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
    strand, ids = native["llama"], ggufs.ids_of("llama")[0].tolist()
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


def test_contexts_are_used_again(native):
    strand, ids = native["gemma"], ggufs.ids_of("gemma")
    strand.run(ids, taps=["final"])
    gc.collect()
    before = len(strand._contexts._spare)
    assert before >= 1
    strand.run(ids, taps=["final"])
    assert len(strand._contexts._spare) == before
