import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.braid.cache import advance, gather_rows
from fusion.calibration.features import (
    TextFeatures,
    compute_features,
    donor_view,
    pack,
    read_layers,
    unpack,
)
from fusion.conformance import resegmented

TEXT = "The house is old. def f(x): return x + 1"


def test_the_donors_view_is_the_served_one_but_where_text_is_cut_again(strands):
    llama, gemma = strands["llama"], strands["gemma"]
    for text in tiny.SAMPLES.values():
        [a], [d] = compute_features(llama, [text]), compute_features(gemma, [text])
        view = donor_view(a, d, d.hidden)
        ids = a.ids.tolist()
        step = advance(llama, a.ids[None])
        served = gather_rows(step, llama, gemma, ["final"]).states["final"]
        got, wanted = view.aligned()[0][0], served.aligned()[0][0]
        cut = resegmented(llama, gemma, ids)
        # Half a character is no text: what is served waits for the rest of it.
        whole = {len(text[:n].encode()) for n in range(len(text) + 1)}
        # Of white space at its end, what is served leaves the last to the next word.
        blank = {n for n in whole if text.encode()[:n].decode()[-1:].isspace()}
        uncut = [t for t in range(len(ids)) if t not in cut]
        same = [t for t in uncut if a.ends[t] in whole - blank]
        assert len(same) >= len(ids) / 4
        torch.testing.assert_close(got[same], wanted[same], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_texts_read_together_are_as_read_alone(strands, name):
    texts = [TEXT, "a", TEXT * 3, "It rains \U0001f327 today.", TEXT[:20]]
    together = compute_features(strands[name], texts)
    for text, features in zip(texts, together, strict=True):
        [alone] = compute_features(strands[name], [text])
        assert torch.equal(features.ids, alone.ids)
        assert features.ends.tolist() == alone.ends.tolist()
        torch.testing.assert_close(features.hidden, alone.hidden, atol=1e-5, rtol=1e-5)


def test_the_donor_beside_the_anchor_has_read_no_further(strands):
    [anchor], [donor] = (
        compute_features(strands[n], [TEXT]) for n in ("llama", "gemma")
    )
    view = donor_view(anchor, donor, donor.hidden)
    for t, end in enumerate(anchor.ends):
        seen = np.flatnonzero(view.visible[0, t].numpy())
        assert (donor.ends[seen] <= end).all()
        assert (donor.ends[len(seen) :] > end).all()
        assert view.last[0, t] == len(seen) - 1


def test_special_tokens_that_are_written_out_are_read_as_such(strands):
    """A donor is given the words that the anchor's tokens write, as in serving."""
    gemma, llama = strands["gemma"], strands["llama"]
    text = "<bos>The rain<eos> stays<|end|>"
    [own] = compute_features(gemma, [text])
    eos = gemma.tokenizer.eos_token_id
    assert own.ids.tolist() == gemma.tokens.read(text)
    assert own.ids.tolist().count(eos) == 1
    [donor] = compute_features(llama, [text], anchor=gemma)
    assert donor.ids.tolist() == llama.tokens.encode("The rain stays<|end|>")
    assert own.ends[-1] == donor.ends[-1]
    [sister] = compute_features(strands["llama-2"], [text], anchor=llama)
    assert sister.ids.tolist() == llama.tokens.read(text)


def test_texts_on_both_sides_of_a_turn_are_read_apart():
    strand = tiny.long_rope_strand(10)
    texts = ["a b c", "a b c d e", tiny.PROSE[:20], tiny.PROSE]
    together = compute_features(strand, texts)
    assert len({len(t.ids) > strand.turn for t in together}) == 2
    for text, features in zip(texts, together, strict=True):
        [alone] = compute_features(strand, [text])
        torch.testing.assert_close(features.hidden, alone.hidden, atol=1e-5, rtol=1e-5)


def test_features_are_packed_and_unpacked_as_they_were(strands):
    texts = compute_features(strands["gpt2"], [TEXT, "a", TEXT[:9]])
    again = unpack(pack(texts), torch.device("cpu"))
    for before, after in zip(texts, again, strict=True):
        assert torch.equal(before.ids, after.ids)
        assert torch.equal(before.hidden, after.hidden)
        assert before.ends.tolist() == after.ends.tolist()
        assert after.targets.tolist() == before.ids.tolist()[1:]


def test_layers_are_those_of_the_strand(strands):
    llama = strands["llama"]
    texts = compute_features(llama, [TEXT, TEXT[:9]])
    for features, layers in zip(
        texts, read_layers(llama, texts, [0, "final"]), strict=True
    ):
        wanted = llama.run(features.ids[None], taps=[0])[0][0]
        assert torch.equal(layers[0], wanted)
        torch.testing.assert_close(layers["final"], features.hidden)
        assert not torch.equal(layers[0], layers["final"])


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
)
def test_beside_each_token_are_the_donors_that_end_by_then(steps, others):
    ends, ends_of_donor = np.cumsum(steps), np.cumsum(others)
    anchor = TextFeatures(torch.zeros(len(ends)), ends, torch.zeros(len(ends), 1))
    states = torch.arange(1.0, len(ends_of_donor) + 1)[:, None]
    donor = TextFeatures(torch.zeros(len(states)), ends_of_donor, states)
    view = donor_view(anchor, donor, states)
    for t, end in enumerate(ends):
        seen = [j for j, e in enumerate(ends_of_donor) if e <= end]
        assert int(view.last[0, t]) == (seen[-1] if seen else -1)
        assert view.visible[0, t].nonzero().flatten().tolist() == seen
    aligned, present = view.aligned()
    assert present.flatten().tolist() == [
        bool((ends_of_donor <= e).any()) for e in ends
    ]
    # States are numbered from 1, and 0 where there is none.
    assert aligned.flatten().tolist() == (view.last[0] + 1).tolist()


@settings(max_examples=40)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=25), st.integers(1, 120))
def test_every_text_is_read_once_and_no_batch_is_too_large(lengths, most):
    """`most` tokens with the padding, but for a text that is longer by itself."""
    strand, rows = Counting(turn=12), []
    strand.rows = rows
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fusion.calibration.features.BATCH", most)
        found = compute_features(strand, ["x" * n for n in lengths])
    assert [len(text.ids) for text in found] == lengths
    # The state of a letter is its place, so rows are not mixed up.
    for text in found:
        assert text.hidden.flatten().tolist() == list(range(len(text.ids)))
    assert sum(size for size, _, _ in rows) == len(lengths)
    for size, width, shortest in rows:
        assert size == 1 or size * width <= most
        assert (shortest > strand.turn) == (width > strand.turn)


class Counting:
    """A strand that reads every letter as a token, and notes its batches."""

    device = torch.device("cpu")

    def __init__(self, turn):
        self.turn, self.tokens = turn, self

    def read_with_ends(self, text):
        return [1] * len(text), self.ends([1] * len(text))

    def ends(self, ids):
        return np.arange(1, len(ids) + 1)

    def run(self, ids, taps):
        shortest = int((ids > 0).sum(1).min())
        self.rows.append((len(ids), ids.shape[1], shortest))
        places = torch.arange(float(ids.shape[1])).expand(len(ids), -1)
        return {"final": places[..., None]}
