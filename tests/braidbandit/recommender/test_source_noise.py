"""The noise of sources, from how often they agree."""

import numpy as np
import pytest

from braidbandit.recommender.feedback_log import FeedbackLog
from braidbandit.recommender.source_noise import variance_ratio


def judged(noise, n, seed=0):
    """How often sources with these noise variances agree on n differences."""
    rng = np.random.default_rng(seed)
    differences = rng.standard_normal(n)
    said = {
        source: differences + variance**0.5 * rng.standard_normal(n) > 0
        for source, variance in noise.items()
    }
    return {
        one: {
            other: (n, int((said[one] != said[other]).sum()))
            for other in noise
            if other != one
        }
        for one in noise
    }


def test_ratios_are_those_of_the_variances():
    repeats = judged({"a": 1.0, "b": 1.0, "c": 4.0}, 20_000)
    a, b, c = (variance_ratio(repeats, source) for source in "abc")
    assert a == pytest.approx(b, rel=0.1)
    assert 2.5 < c / a < 4.5


def test_few_judgements_change_little():
    few, many = (
        variance_ratio(judged({"a": 0.5, "b": 0.5, "c": 8.0}, n), "c")
        for n in (4, 4000)
    )
    assert abs(np.log(few)) < abs(np.log(many))


@pytest.mark.parametrize("sources", ["ab", "abc", "abcde"])
@pytest.mark.parametrize("n", [1, 20, 100, 10_000])
def test_sources_that_always_agree_are_no_noisier_than_usual(sources, n):
    repeats = {one: dict.fromkeys(set(sources) - {one}, (n, 0)) for one in sources}
    assert variance_ratio(repeats, "a") <= 1.0 + 1e-9


def test_without_repeats_a_source_is_as_usual():
    assert variance_ratio({}, "a") == 1.0
    assert variance_ratio({"a": {}}, "a") == 1.0
    assert variance_ratio(judged({"a": 1.0, "b": 1.0}, 100), "c") == 1.0


def test_two_sources_cannot_be_told_apart():
    repeats = judged({"good": 0.1, "bad": 9.0}, 500)
    assert variance_ratio(repeats, "good") == variance_ratio(repeats, "bad")


@pytest.mark.parametrize("apart", [0, 50, 100])
def test_ratios_are_bounded(apart):
    repeats = judged({"a": 1.0, "b": 1.0}, 100)
    repeats["x"] = {"a": (100, apart), "b": (100, apart)}
    for source in "ab":
        repeats[source]["x"] = (100, apart)
    assert 0.5 <= variance_ratio(repeats, "x") <= 20.0


def test_a_log_without_comparisons_has_no_repeats():
    assert FeedbackLog().repeats == {}
