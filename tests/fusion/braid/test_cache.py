import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.braid.cache import BraidCache, Row, Step, advance, gather_rows
from fusion.conformance import resegmented
from fusion.conformance.tools import readings


def test_prefixes_are_the_donors_tokens_of_the_text_so_far(strands):
    llama, gemma = strands["llama"], strands["gemma"]
    ids = llama.tokens.encode("café")
    assert [llama.tokens.table[i] for i in ids] == [b"c", b"a", b"f", b"\xc3", b"\xa9"]
    found, ways = Row(ids=ids).prefixes(llama, gemma, 5)
    texts = ["c", "ca", "caf", "caf", "café"]  # half an é is no text
    assert found == [gemma.tokens.encode(t) for t in texts]
    assert ways == [[(0, 0)], [(1, 0)], [(2, 0)], [(3, 1)], [(4, 0)]]
    found_of_two, ways = Row(ids=ids).prefixes(llama, gemma, 2)
    assert found_of_two == found[-2:]
    assert ways == [[(0, 1)], [(1, 0)]]
    assert Row(ids=ids).prefixes(llama, gemma, 0) == ([], [])


def test_prefixes_with_one_tokenizer_are_the_tokens_themselves(strands):
    row = Row(ids=[7, 8, 9])
    found, ways = row.prefixes(strands["llama"], strands["llama-2"], 2)
    assert found == [[7, 8], [7, 8, 9]]
    assert ways == [[(0, 0)], [(1, 0)]]


def test_gather_pads_rows_of_different_lengths(strands):
    llama, gemma = strands["llama"], strands["gemma"]
    ids = [llama.tokens.encode(t) for t in (tiny.CODE, "café")]
    length = len(ids[0])
    batch, mask = torch.zeros(2, 2, length, dtype=torch.long)
    for row, real, known in zip(batch, mask, ids, strict=True):
        row[length - len(known) :] = torch.tensor(known)
        real[length - len(known) :] = 1
    step = advance(llama, batch, mask)
    found = gather_rows(step, llama, gemma, ["final"]).states["final"]
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


def padded_right(model, texts, extra=0):
    rows = [model.anchor.tokens.encode(text) for text in texts]
    length = max(map(len, rows)) + extra
    ids, mask = torch.zeros(2, len(rows), length, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = torch.tensor(row)
        mask[b, : len(row)] = 1
    return ids, mask


def test_crop_takes_columns_back_where_a_row_has_padding(braid):
    """The shorter row ends in padding: taking that back leaves its text alone."""
    model = braid("llama", "gemma", layers=(1, "final"), strategy="attention")
    ids, mask = padded_right(model, ["The dog", "The other dog"])
    texts, cache = [ids[b][mask[b] == 1] for b in range(2)], BraidCache()
    short = len(texts[0])
    with torch.no_grad():
        model(ids, attention_mask=mask, cache=cache)
        cache.crop(short - ids.shape[1])
        assert [row.ids for row in cache.rows] == [t[:short].tolist() for t in texts]
        more = torch.tensor([[70, 71], [80, 81]])
        got = model(more, cache=cache).logits
        for b in range(2):
            whole = model(torch.cat([texts[b][:short], more[b]])[None]).logits[0]
            torch.testing.assert_close(got[b], whole[short:], atol=1e-4, rtol=1e-4)


COLUMNS = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12)


@given(
    columns=COLUMNS,
    prompt=st.one_of(st.none(), st.integers(1, 14)),
    step=st.integers(1, 5),
    back=st.integers(0, 14),
)
def test_a_row_that_is_cropped_is_as_if_it_had_read_less(columns, prompt, step, back):
    """Wherever its padding is, however it was fed, wherever its prompt ends."""

    def read(part):
        row = Row()
        for start in range(0, len(part), step):
            ids, real = zip(*part[start : start + step], strict=True)
            row.extend(ids, real, None, prompt, start)
        return row

    row = read(columns)
    row.crop(back)
    wanted = read(columns[: max(len(columns) - back, 0)])
    assert (row.ids, row.beyond) == (wanted.ids, wanted.beyond)
    assert row.padding == wanted.padding


@pytest.mark.parametrize(
    ("prompt", "start", "read", "after", "ids", "beyond"),
    [
        (None, 0, [0, 2, 3], [], [5, 7, 8], 0),
        (3, 0, [0, 2], [3], [5, 7], 1),
        (9, 6, [0, 2], [3], [5, 7], 1),
        (4, 6, [], [0, 2, 3], [], 3),
    ],
)
def test_a_row_tells_the_prompt_from_what_comes_after(
    prompt, start, read, after, ids, beyond
):
    row = Row()
    real = [True, False, True, True]
    assert row.extend([5, 6, 7, 8], real, None, prompt, start) == (read, after)
    assert (row.ids, row.beyond, row.prompt) == (ids, beyond, prompt)


def test_positions_may_begin_anywhere_and_then_go_on_one_by_one():
    row = Row()
    row.extend([5, 6], [True, True], [7, 8], None, 0)
    assert row.shift == 7
    row.extend([6, 7], [False, True], [0, 9], None, 2)  # that of padding is any
    with pytest.raises(ValueError, match="position_ids has 11 where 10 comes next"):
        row.extend([7], [True], [11], None, 4)
    assert row.ids == [5, 6, 7]


def state(cache):
    """All that a cache holds, to be compared."""
    rows = [(list(row.ids), row.prompt, row.beyond, row.shift) for row in cache.rows]
    paths = [
        {name: list(path.ids) for name, path in row.donors.items()}
        for row in cache.rows
    ]
    keys = [layer.keys.clone() for layer in cache.layers if layer.is_initialized]
    return rows, paths, cache.long, cache.prompt_length, keys


def same(a, b):
    return a[:-1] == b[:-1] and all(map(torch.equal, a[-1], b[-1]))


ONE, TWO = torch.tensor([[70]]), torch.tensor([[70], [71]])


@pytest.mark.parametrize(
    ("new", "options", "says"),
    [
        (torch.zeros(0, 1, dtype=torch.long), {}, r"input_ids of shape \(0, 1\)"),
        (torch.zeros(1, 0, dtype=torch.long), {}, r"input_ids of shape \(1, 0\)"),
        (TWO, {}, "the cache holds 1 rows, received 2"),
        (ONE, {"attention_mask": torch.ones(1, 1)}, r"expected \(1, 5\)"),
        (ONE, {"attention_mask": torch.ones(2, 5)}, r"shape \(2, 5\)"),
        (ONE, {"position_ids": torch.tensor([4])}, r"position_ids has shape \(1,\)"),
        (ONE, {"position_ids": torch.tensor([[4, 5]])}, r"shape \(1, 2\)"),
        (ONE, {"position_ids": torch.tensor([[6]])}, "has 6 where 4 comes next"),
        (ONE, {"prompt_length": 2}, r"begun with prompts of \[4\] columns"),
        (ONE, {"prompt_length": 0}, "a prompt has at least one column"),
        (ONE, {"prompt_length": torch.tensor([4, 4])}, r"prompt_length has shape \(2,"),
    ],
)
def test_a_step_that_is_refused_leaves_the_cache_as_it_was(braid, new, options, says):
    model = braid("llama", "gemma", layers=(1,), fuse="prompt")
    cache, ids = BraidCache(), torch.tensor([[70, 71, 72, 73]])
    with torch.no_grad():
        model(ids, cache=cache)
        before = state(cache)
        assert [len(row[0]) for row in before[0]] == [4]
        with pytest.raises(ValueError, match=says):
            model(new, cache=cache, **options)
        assert same(state(cache), before)
        again = model(ONE, cache=cache).logits
        whole = model(torch.cat([ids, ONE], 1), prompt_length=4).logits[:, -1:]
    torch.testing.assert_close(again, whole, atol=1e-4, rtol=1e-4)


def test_a_prompt_has_one_length_or_one_for_each_row(strands):
    ids = torch.full((3, 4), 70)
    options = {"fuse": "prompt", "cache": None}
    for length, wanted in (
        (2, [2, 2, 2]),
        (torch.tensor(2), [2, 2, 2]),
        (torch.tensor([3]), [3, 3, 3]),
        (torch.tensor([1, 2, 3]), [1, 2, 3]),
    ):
        step = advance(strands["llama"], ids, prompt_length=length, **options)
        assert [row.prompt for row in step.rows] == wanted
        assert [len(row.ids) for row in step.rows] == wanted
    for wrong in (torch.tensor([1, 2]), torch.tensor([[1], [2], [3]])):
        with pytest.raises(ValueError, match="or one for each of 3 rows"):
            advance(strands["llama"], ids, prompt_length=wrong, **options)


def test_short_and_long_texts_of_long_rope_are_read_apart():
    phi, cache = tiny.long_rope_strand(4), BraidCache()
    five = torch.full((2, 5), 70)
    short = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with pytest.raises(ValueError, match="rows of 3 to 5 tokens in one batch"):
        advance(phi, five, short, cache=cache)
    assert cache.rows == []
    assert not cache.long
    advance(phi, five, cache=cache)
    assert cache.long


def test_a_step_leaves_the_rows_of_before_alone(strands):
    cache, ids = BraidCache(), torch.tensor([[70, 71]])
    advance(strands["llama"], ids, cache=cache)
    [before] = cache.rows
    advance(strands["llama"], ids, torch.tensor([[1, 0]]), cache=cache)
    assert (before.ids, before.padding) == ([70, 71], [])
    assert (cache.rows[0].ids, cache.rows[0].padding) == ([70, 71, 70], [1])


@pytest.mark.parametrize(
    ("columns", "after", "reads", "key"),
    [
        ([[0, 1], [1]], [[], []], True, (2, 1)),
        ([[], [0]], [[0], []], True, (0, 1)),
        ([[], []], [[0], [0]], False, (0, 0)),  # behind every prompt
        ([[], []], [[], []], True, (0, 0)),  # padding only
    ],
)
def test_donors_rest_in_a_step_behind_every_prompt(columns, after, reads, key):
    step = Step([Row(), Row()], columns, after, 2, None)
    assert (step.reads, step.key) == (reads, key)


def test_what_comes_behind_a_prompt_sees_all_of_it_and_has_nothing_beside_it(strands):
    llama, gemma = strands["llama"], strands["gemma"]
    ids = torch.tensor([llama.tokens.encode("The dog sleeps")])
    step = advance(llama, ids, fuse="prompt", prompt_length=3)
    found = gather_rows(step, llama, gemma, ["final"]).states["final"]
    read = len(gemma.tokens.encode(llama.tokens.text(ids[0, :3].tolist()).decode()))
    assert (found.last[0, 3:] == -1).all()
    assert (found.last[0, :3] >= 0).all()
    assert found.visible[0, 3:].sum(-1).tolist() == [read] * (ids.shape[1] - 3)


TEXT = st.lists(
    st.sampled_from(["a", "e\u0301", "好", "👩‍🚀", "😀", " the", "\n    ", "x=1", "ñ"]),
    min_size=1,
    max_size=6,
).map("".join)


@settings(max_examples=15)
@given(texts=st.lists(TEXT, min_size=1, max_size=3), left=st.booleans())
def test_each_position_sees_the_donors_reading_of_its_text_so_far(strands, texts, left):
    """Of any text, on whichever side the rows beside it are padded."""
    llama, gemma = strands["llama"], strands["gemma"]
    rows = [llama.tokens.encode(text) for text in texts]
    length = max(map(len, rows))
    ids, mask = torch.zeros(2, len(rows), length, dtype=torch.long)
    starts = [length - len(row) if left else 0 for row in rows]
    for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[b, start : start + len(row)] = torch.tensor(row)
        mask[b, start : start + len(row)] = 1
    step = advance(llama, ids, mask)
    found = gather_rows(step, llama, gemma, ["final"]).states["final"]
    assert not found.visible[mask == 0].any()
    for b, (row, start) in enumerate(zip(rows, starts, strict=True)):
        wanted = readings(llama, gemma, row)
        seen = found.visible[b, start : start + len(row)]
        assert seen.sum(-1).tolist() == [len(prefix) for prefix in wanted]
        alone = gemma.run(torch.tensor([wanted[-1]]), taps=["final"])["final"][0]
        got = found.states[b, seen[-1]]
        torch.testing.assert_close(got, alone, atol=1e-3, rtol=1e-3)
        newest = found.states[b, found.last[b, start + len(row) - 1]]
        torch.testing.assert_close(newest, alone[-1], atol=1e-3, rtol=1e-3)


def test_rows_are_picked_by_number_from_the_end_or_by_a_mask():
    for picked, wanted in (
        (torch.tensor([2, 0]), [[3], [1]]),
        (torch.tensor([-1]), [[3]]),
        (torch.tensor([True, False, True]), [[1], [3]]),
        (torch.tensor([False, False, False]), []),
    ):
        cache = BraidCache()
        cache.rows = [Row(ids=[n]) for n in (1, 2, 3)]
        cache.batch_select_indices(picked)
        assert [row.ids for row in cache.rows] == wanted


def test_a_row_that_two_beams_follow_has_two_paths(strands):
    cache = BraidCache()
    ids = torch.tensor([strands["llama"].tokens.encode("The dog")])
    step = advance(strands["llama"], ids, cache=cache)
    gather_rows(step, strands["llama"], strands["gemma"], ["final"])
    cache.batch_repeat_interleave(2)
    one, other = (row.donors["gemma"] for row in cache.rows)
    known = list(other.ids)
    one.crop(1)
    assert other.ids == known
    assert other.cache.get_seq_length() == len(known)
    assert one.cache.get_seq_length() == 1


def test_a_cache_that_begins_again_keeps_the_length_of_its_prompts(braid):
    model = braid("llama", "gemma", layers=(1,), fuse="prompt")
    ids, cache = torch.full((2, 5), 70), BraidCache()
    cache.expect(torch.tensor([2, 3]))
    with torch.no_grad():
        wanted = model(ids, cache=cache).logits
        assert [row.prompt for row in cache.rows] == [2, 3]
        cache.restart()
        assert (cache.rows, cache.get_seq_length()) == ([], 0)
        assert torch.equal(model(ids, cache=cache).logits, wanted)
    assert [row.ids for row in cache.rows] == [[70] * 2, [70] * 3]


def test_a_cache_without_prompts_begins_again_without_them(braid):
    model, cache = braid("llama", "gemma", layers=(1,)), BraidCache()
    model(torch.full((1, 5), 70), cache=cache)
    cache.restart()
    assert cache.prompt_length is None
