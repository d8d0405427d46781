import tiny
import torch

from fusion.braid.cache import BraidCache, Row, advance, gather_rows
from fusion.conformance import resegmented


def test_prefixes_are_the_donors_tokens_of_the_text_so_far(strands):
    llama, gemma = strands["llama"], strands["gemma"]
    ids = llama.tokens.encode("café")
    assert [llama.tokens.table[i] for i in ids] == [b"c", b"a", b"f", b"\xc3", b"\xa9"]
    found = Row(ids=ids).prefixes(llama, gemma, 5)
    texts = ["c", "ca", "caf", "caf", "café"]  # half an é is no text
    assert found == [gemma.tokens.encode(t) for t in texts]
    assert Row(ids=ids).prefixes(llama, gemma, 2) == found[-2:]


def test_prefixes_with_one_tokenizer_are_the_tokens_themselves(strands):
    row = Row(ids=[7, 8, 9])
    assert row.prefixes(strands["llama"], strands["llama-2"], 2) == [[7, 8], [7, 8, 9]]


def test_gather_pads_rows_of_different_lengths(strands):
    llama, gemma = strands["llama"], strands["gemma"]
    ids = [llama.tokens.encode(t) for t in (tiny.CODE, "café")]
    length = len(ids[0])
    batch, mask = torch.zeros(2, 2, length, dtype=torch.long)
    for row, real, known in zip(batch, mask, ids, strict=True):
        row[length - len(known) :] = torch.tensor(known)
        real[length - len(known) :] = 1
    step = advance(llama, batch, mask)
    found = gather_rows(step, llama, gemma, ["final"])["final"]
    assert found.last.shape == (2, length)
    # Padding sees nothing; the row's own last position sees its whole text.
    assert (found.last[1, : -len(ids[1])] == -1).all()
    assert not found.visible[1, : -len(ids[1])].any()
    assert found.visible[1, -1].sum() == len(gemma.tokens.encode("café"))


def test_the_samples_do_change_their_cuts(strands):
    """Else every test of cutting again would pass for nothing."""
    pairs = [("llama", "gemma"), ("gemma", "llama"), ("llama", "gpt2")]
    for anchor, donor in ((strands[a], strands[b]) for a, b in pairs):
        ids = [anchor.tokens.encode(t) for t in tiny.SAMPLES.values()]
        assert sum(len(resegmented(anchor, donor, i)) for i in ids) >= 5


def test_rows_follow_their_beams():
    cache = BraidCache()
    cache.rows = [Row(ids=[1]), Row(ids=[2])]
    cache.reorder_cache(torch.tensor([1, 1]))
    assert [r.ids for r in cache.rows] == [[2], [2]]
    cache.rows[0].ids.append(3)  # copies: beams go different ways
    assert cache.rows[1].ids == [2]
    cache.batch_repeat_interleave(2)
    assert [r.ids for r in cache.rows] == [[2, 3], [2, 3], [2], [2]]
    cache.batch_select_indices(torch.tensor([2]))
    assert [r.ids for r in cache.rows] == [[2]]


def test_crop_takes_padding_back_too(braid):
    model = braid("llama", "gemma", layers=("final",))
    ids = torch.tensor([model.anchor.tokens.encode(tiny.PROSE)])
    row = torch.cat([torch.zeros_like(ids[:, :4]), ids], dim=1)
    mask = torch.cat([torch.zeros(1, 4), torch.ones(ids.shape)], dim=1)
    cache = BraidCache()
    with torch.no_grad():
        model(row[:, :7], attention_mask=mask[:, :7], cache=cache)
        cache.crop(-5)  # three tokens and two columns of padding
        assert cache.rows[0].ids == []
        got = model(row[:, 2:], attention_mask=mask, cache=cache).logits
        torch.testing.assert_close(got[:, 2:], model(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_cache_that_is_reset_begins_anew(braid):
    model = braid("llama", "gemma", layers=(1, "final"))
    ids = torch.tensor([model.anchor.tokens.encode(tiny.PROSE)])
    cache = BraidCache()
    with torch.no_grad():
        wanted = model(ids, cache=cache).logits
        cache.reset()
        assert torch.equal(model(ids, cache=cache).logits, wanted)


def test_crop_takes_the_text_back(braid):
    """A braid that went down another way and back gives the first way's logits."""
    model = braid("llama", "gemma", layers=(1, "final"), strategy="attention")
    ids = torch.tensor([model.anchor.tokens.encode(tiny.EMOJI)])
    cache = BraidCache()
    with torch.no_grad():
        model(ids[:, :10], cache=cache)
        model(ids[:, 20:23], cache=cache)
        cache.crop(-3)
        got = model(ids[:, 10:], cache=cache).logits
        wanted = model(ids).logits[:, 10:]
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
