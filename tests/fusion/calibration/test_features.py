import numpy as np
import pytest
import tiny
import torch

from fusion.braid.cache import advance, gather_rows
from fusion.calibration.features import (
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
        served = gather_rows(step, llama, gemma, ["final"])["final"]
        got, wanted = view.aligned()[0][0], served.aligned()[0][0]
        cut = resegmented(llama, gemma, ids)
        # Half a character is no text: what is served waits for the rest of it.
        whole = {len(text[:n].encode()) for n in range(len(text) + 1)}
        same = [t for t in range(len(ids)) if t not in cut and a.ends[t] in whole]
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
