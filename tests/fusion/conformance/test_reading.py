"""Each check of reading fails on a defect of its kind, and on no braid without one."""

import pytest
import torch

from fusion import conformance
from fusion.braid.cache import BraidCache, Row
from fusion.braid.donors import DonorPath
from fusion.braid.fusers import FUSERS, DonorStates
from fusion.conformance import reading

TEXTS = ("if x: 好", "é😀 end")  # short, of two lengths, and cut anew by later text
READING = ("causality", "donors", "cache", "prompt", "batch", "padding")


def check(name, model, texts=TEXTS):
    getattr(reading, f"check_{name}")(model, texts)


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("strategy", FUSERS)
def test_a_braid_without_a_defect_passes(braid, name, strategy):
    check(name, braid("llama", "gemma", layers=(1, "final"), strategy=strategy))


def looks_ahead(out, options):
    out.logits = out.logits + options["input_ids"][:, -1:, None]


def goes_by_the_length(out, options):
    out.logits = out.logits * out.logits.shape[1]


def looks_at_its_neighbours(out, options):
    out.logits = out.logits + out.logits.mean(0)


def goes_by_the_order(out, options):
    # The first row of several is another than the same row alone or last.
    if len(out.logits) > 1:
        out.logits[-1] += 1


def counts_the_mask(out, options):
    mask = options.get("attention_mask")
    if mask is not None:
        out.logits = out.logits + (mask == 0).sum()


def looks_at_what_fills_the_rows(out, options):
    out.logits = out.logits + options["input_ids"][:, :1, None] * 0.1


def forgets_its_cache(out, options):
    if options.get("use_cache"):
        out.cache = BraidCache()


def says_no_number(out, options):
    out.logits = out.logits * float("nan")


def says_too_little(out, options):
    out.logits = out.logits[:, :-1] if out.logits.shape[1] > 1 else out.logits


@pytest.mark.parametrize(
    ("defect", "name", "says"),
    [
        (looks_ahead, "causality", "followed by other tokens after position 0"),
        (looks_ahead, "cache", "cache, .* logits differ"),
        (goes_by_the_length, "causality", "logits differ"),
        (goes_by_the_length, "cache", "step by step: logits differ"),
        (looks_at_its_neighbours, "batch", "batch, row 0 of 2: logits differ"),
        (goes_by_the_order, "batch", "batch, row 0 of 2 reordered: logits differ"),
        (counts_the_mask, "padding", "padding, left by token None, row 0: logits"),
        (looks_at_what_fills_the_rows, "padding", "padding, left by token"),
        (forgets_its_cache, "cache", "step by step: logits differ"),
        (forgets_its_cache, "padding", "padding: raised ValueError: attention_mask"),
        (says_no_number, "causality", "logits are not finite"),
        (says_no_number, "cache", "logits are not finite"),
        (says_no_number, "batch", "logits are not finite"),
        (says_no_number, "padding", "logits are not finite"),
        (says_too_little, "causality", "shapes .* differ"),
        (says_too_little, "cache", "shapes .* differ"),
    ],
)
def test_a_defect_is_told_by_the_check_of_its_kind(braid, planted, defect, name, says):
    model = braid("llama", "gemma", layers=(1,))
    planted(defect)
    with pytest.raises(AssertionError, match=says):
        check(name, model)


def test_a_causality_defect_where_a_donor_cuts_anew_is_found_there(braid, planted):
    """Only one position is wrong, and only before one continuation."""
    model = braid("llama", "gemma", layers=("final",))
    ids = model.anchor.tokens.encode(TEXTS[1])
    [cut, *_] = conformance.resegmented(model.anchor, model.donors[0], ids)

    def recut(out, options):
        if options["input_ids"].shape[1] > cut + 1:
            out.logits[:, cut] += 1

    planted(recut)
    with pytest.raises(AssertionError, match=f"nothing after position {cut}.*differ"):
        check("causality", model, TEXTS[1:])


@pytest.mark.parametrize("name", ["causality", "cache", "batch", "padding"])
def test_what_a_braid_raises_is_reported_by_the_name_of_the_check(braid, planted, name):
    def breaks(out, options):
        raise ZeroDivisionError("by nothing")

    model = braid("llama", "gemma")
    planted(breaks)
    with pytest.raises(AssertionError, match=f"{name}: raised ZeroDivisionError: by n"):
        check(name, model)


def one_token_behind(monkeypatch):
    real = Row.prefixes

    def behind(*given):
        rows, ways = real(*given)
        return [row[:-1] for row in rows], ways

    monkeypatch.setattr(Row, "prefixes", behind)


def states_of_another_size(monkeypatch):
    real = DonorPath.states_at
    monkeypatch.setattr(DonorPath, "states_at", lambda *a: real(*a) * 1.01)
    branch = DonorPath.branch
    monkeypatch.setattr(
        DonorPath, "branch", lambda *a: {t: s * 1.01 for t, s in branch(*a).items()}
    )


def the_oldest_for_the_newest(monkeypatch):
    real = DonorStates.aligned

    def oldest(self):
        return real(DonorStates(self.states, self.last.clamp(max=0), self.visible))

    monkeypatch.setattr(DonorStates, "aligned", oldest)


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        (one_token_behind, r"sees \d+ tokens, the text so far has \d+"),
        (states_of_another_size, "donor gemma, .*: logits differ"),
        (the_oldest_for_the_newest, "donor gemma, .*newest: logits differ"),
    ],
)
def test_a_donor_that_is_shown_wrongly_is_told(braid, monkeypatch, defect, says):
    model = braid("llama", "gemma")
    defect(monkeypatch)
    with pytest.raises(AssertionError, match=says):
        check("donors", model)


def test_donors_that_read_past_the_prompt_are_told_with_what_they_read(
    braid, monkeypatch
):
    model = braid("llama", "gemma", layers=(1,), fuse="prompt")
    check("prompt", model)
    real = Row.extend

    def all_of_it(self, ids, is_real, positions, prompt, start):
        found = real(self, ids, is_real, positions, None, start)
        self.prompt = prompt
        return found

    monkeypatch.setattr(Row, "extend", all_of_it)
    with pytest.raises(AssertionError, match="gemma read tokens .*, the prompt has"):
        check("prompt", model)


def test_a_gap_is_refused_only_where_the_anchor_counts_it(braid, planted):
    """A refusal without such a reason is a defect of its own."""

    def refuses(out, options):
        turns = options.get("attention_mask", torch.ones(1, 2)).diff(dim=-1)
        if bool(((turns < 0).any(-1) & (turns > 0).any(-1)).any()):
            raise ValueError("a gap")

    check("padding", braid("gemma", "llama"))  # its window counts, so it refuses
    planted(refuses)
    with pytest.raises(AssertionError, match="padding: raised ValueError: a gap"):
        check("padding", braid("llama", "gemma"))


@pytest.mark.parametrize("name", ["donors", "cache", "prompt", "batch", "padding"])
@pytest.mark.parametrize("texts", [("a",), ("a", "The dog"), ("ab", "c")])
def test_texts_of_a_token_or_two_are_texts_too(braid, name, texts):
    check(name, braid("llama", "gemma", layers=(1, "final")), texts)


@pytest.mark.parametrize("name", READING)
def test_donors_without_a_share_read_nothing_and_that_is_no_defect(braid, name):
    shares, layers = [1.0, 0.0], (1,)
    check(name, braid("llama", "gemma", layers=layers, shares=shares, fuse="prompt"))


@pytest.mark.parametrize("name", READING)
def test_checks_leave_the_braid_as_it_was(braid, name):
    model = braid("llama", "gemma", layers=(1, "final"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    check(name, model)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
