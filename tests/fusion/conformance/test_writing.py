"""Each check of writing fails on a defect of its kind."""

import pytest
import torch

from fusion.braid.fusers import FUSERS
from fusion.braid.model import BraidedLLM
from fusion.conformance import writing

TEXTS = ("if x: 好", "é😀 end")
WRITING = ("greedy", "sampling", "beams")


def check(name, model, texts=TEXTS):
    getattr(writing, f"check_{name}")(model, texts, new_tokens=8)


@pytest.fixture
def model(braid):
    return braid("llama", "gemma", layers=("final", "output"))


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("strategy", FUSERS)
def test_a_braid_without_a_defect_passes(braid, name, strategy):
    check(name, braid("llama", "gemma", layers=(1, "final"), strategy=strategy))


def cached(options):
    return any(options.get(name) is not None for name in ("cache", "past_key_values"))


def says_the_opposite_from_its_cache(out, options):
    if cached(options):
        out.logits = -out.logits


def is_surer_from_its_cache(out, options):
    if cached(options):
        out.logits = out.logits * 1.5


def says_the_opposite_beside_others(out, options):
    if len(out.logits) > 1:
        out.logits = -out.logits


def mixes_up_its_rows(out, options):
    if cached(options) and len(out.logits) > 1:
        out.logits = out.logits.flip(0)


@pytest.mark.parametrize(
    ("defect", "name", "says"),
    [
        (says_the_opposite_from_its_cache, "greedy", "wrote .*, the largest logits"),
        (says_the_opposite_beside_others, "greedy", "in a batch and .* alone"),
        (mixes_up_its_rows, "greedy", "in a batch and .* alone"),
        (says_the_opposite_from_its_cache, "sampling", "with a cache and .* without"),
        (is_surer_from_its_cache, "sampling", "with one seed sampled"),
        (mixes_up_its_rows, "sampling", "with one seed sampled"),
        (says_the_opposite_from_its_cache, "beams", "beams' scores, .* differ by"),
        (is_surer_from_its_cache, "beams", "scores, cached and not: logits differ"),
        (mixes_up_its_rows, "beams", "beams"),
    ],
)
def test_a_defect_is_told_by_the_check_of_its_kind(model, planted, defect, name, says):
    planted(defect)
    with pytest.raises(AssertionError, match=f"generate, .*{says}"):
        check(name, model)


def test_beams_of_the_right_scores_and_other_tokens_are_told(model, monkeypatch):
    real = BraidedLLM.generate

    def other_tokens(self, ids, **options):
        found = real(self, ids, **options)
        if options.get("use_cache"):
            found.sequences[:, -1] += 1
        return found

    monkeypatch.setattr(BraidedLLM, "generate", other_tokens)
    with pytest.raises(AssertionError, match="beams wrote .* with a cache in a batch"):
        check("beams", model)


def test_a_braid_that_writes_behind_padding_is_told(model, monkeypatch):
    real = BraidedLLM.generate

    def patient(self, ids, attention_mask, **options):
        attention_mask = attention_mask.clone()
        attention_mask[:, -1] = 1
        return real(self, ids, attention_mask=attention_mask, **options)

    monkeypatch.setattr(BraidedLLM, "generate", patient)
    with pytest.raises(AssertionError, match="wrote behind padding on the right"):
        check("greedy", model)


@pytest.mark.parametrize("name", WRITING)
def test_what_writing_raises_is_reported_by_the_name_of_the_check(model, planted, name):
    def breaks(out, options):
        raise RuntimeError("odd")

    planted(breaks)
    with pytest.raises(AssertionError, match=f"{name}: raised RuntimeError: odd"):
        check(name, model)


@pytest.mark.parametrize("name", WRITING)
def test_checks_leave_random_numbers_and_settings_as_they_were(model, name):
    model.generation_config.update(repetition_penalty=2.0, do_sample=True)
    settings = model.generation_config.to_dict()
    random = torch.get_rng_state()
    check(name, model)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.generation_config.to_dict() == settings


@pytest.mark.parametrize("name", WRITING)
def test_one_text_is_enough(model, name):
    check(name, model, ("a",))
