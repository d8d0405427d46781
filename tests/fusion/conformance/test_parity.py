"""Parity is a measurement: it has to show what differs, and no more."""

import math

import pytest
import torch

from fusion import conformance
from fusion.braid.model import BraidedLLM
from fusion.conformance import parity


@pytest.fixture
def model(braid):
    return braid("llama", "gemma", layers=("final",))


def says(monkeypatch, change, in_steps=True):
    """Change the logits of decoding with a cache, or those of the whole text."""
    real = BraidedLLM.forward

    def forward(self, *args, **options):
        out = real(self, *args, **options)
        if ("cache" in options) == in_steps:
            out.logits = change(out.logits)
        return out

    monkeypatch.setattr(BraidedLLM, "forward", forward)


def scaled(logits):
    return logits * 2


def upside_down(logits):
    return -logits


def shifted(logits):
    return logits + 100


def none_at_all(logits):
    return torch.full_like(logits, math.nan)


@pytest.mark.parametrize(
    ("change", "least", "choice"),
    [(scaled, 0.1, 1.0), (upside_down, 0.1, 0.2), (shifted, 0.0, 1.0)],
)
def test_the_gap_and_the_choice_are_told_apart(
    model, monkeypatch, change, least, choice
):
    """Twice the logits choose alike; a constant more of each is no difference."""
    says(monkeypatch, change)
    found = parity(model, conformance.TEXTS[1:3])
    assert found.largest_gap >= least
    assert (found.largest_gap > 1e-3) == (least > 0)
    assert abs(found.same_choice - choice) <= 0.2


@pytest.mark.parametrize("in_steps", [False, True])
def test_logits_that_are_no_numbers_are_no_small_gap(model, monkeypatch, in_steps):
    says(monkeypatch, none_at_all, in_steps)
    assert math.isnan(parity(model, conformance.TEXTS[:1]).largest_gap)


def test_one_bad_text_among_good_ones_is_seen(model, monkeypatch):
    real, calls = conformance.TEXTS, []

    def second(logits):
        calls.append(logits)
        return -logits if len(calls) > 20 else logits

    says(monkeypatch, second)
    assert parity(model, [real[1], real[0]]).largest_gap > 0.1


def test_shares_that_are_cut_anew_are_told_for_each_donor(braid):
    model = braid("llama", "gemma", "llama-2")
    found = parity(model, [conformance.TEXTS[0]])
    assert found.recut["llama-2"] == 0
    assert 0 < found.recut["gemma"] < 1
    assert found.positions == len(model.anchor.tokens.encode(conformance.TEXTS[0]))


def test_without_texts_there_is_nothing_to_measure(model):
    with pytest.raises(ValueError, match="received no texts; give at least one"):
        parity(model, [])


def test_a_text_that_the_anchor_changes_is_refused(braid):
    with pytest.raises(ValueError, match="cannot round-trip"):
        parity(braid("gemma", "llama"), ["a\u2581b"])
