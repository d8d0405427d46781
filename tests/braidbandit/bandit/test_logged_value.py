"""The value of other choices on a log: sums by hand, and what has no value."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_checks import COLLIDING, MISSING

from braidbandit.bandit.logged_value import logged_value

ROWS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from("ab"),
        st.floats(0, 1),
        st.floats(0.05, 1),
        st.floats(0.1, 10),
    ),
    min_size=1,
    max_size=20,
)


@pytest.mark.parametrize("name", [*MISSING, *COLLIDING])
def test_no_value_without_labels(name):
    labels = {**MISSING, **COLLIDING}[name]
    with pytest.raises(ValueError, match="no arm|several kinds"):
        logged_value(["a"] * 4, labels, [1.0] * 4)


def test_predictions_of_another_kind_agree_with_nothing():
    with pytest.raises(ValueError, match="several kinds"):
        logged_value(["1", "2"], [1, 2], [1.0, 1.0])


def test_value_by_hand():
    """Rows 1 and 3 agree: (2 x 1 / 0.5 + 1 x 0.4 / 0.2) / (2 / 0.5 + 1 / 0.2) = 6/9."""
    value = logged_value(
        ["a", "b", "b"], ["a", "a", "b"], [1.0, 0.0, 0.4], [0.5, 0.5, 0.2], [2, 1, 1]
    )
    assert value == pytest.approx(6 / 9)


def test_without_rewards_it_is_the_agreement():
    assert logged_value(["a", "b"], ["a", "a"]) == 0.5
    assert logged_value(["a", "b"], ["a", "a"], sample_weight=[3, 1]) == 0.75


def test_it_is_unbiased_enough_on_a_skewed_log():
    """Arm "a" is logged 9 times in 10; the value of always "b" is 0.3 +- 0.03."""
    rng = np.random.default_rng(0)
    taken = np.where(rng.random(4000) < 0.9, "a", "b")
    reward = (rng.random(4000) < np.where(taken == "a", 0.8, 0.3)).astype(float)
    p = np.where(taken == "a", 0.9, 0.1)
    always = np.full(4000, "b")
    error = np.sqrt(0.3 * 0.7 / 400)
    for propensity in (p, None):
        value = logged_value(always, taken, reward, propensity)
        assert abs(value - 0.3) < 3 * error


@given(ROWS)
def test_it_is_between_the_rewards_that_agree(rows):
    predicted, taken, reward, p, weight = map(list, zip(*rows, strict=True))
    agreed = [r for one, other, r, *_ in rows if one == other]
    value = logged_value(predicted, taken, reward, p, weight)
    if agreed:
        assert min(agreed) - 1e-9 <= value <= max(agreed) + 1e-9
    else:
        assert np.isnan(value)


@given(ROWS, st.randoms(), st.floats(0.01, 100))
def test_neither_order_nor_the_size_of_all_weights_matters(rows, random, factor):
    assume(any(one == other for one, other, *_ in rows))
    predicted, taken, reward, p, weight = map(list, zip(*rows, strict=True))
    value = logged_value(predicted, taken, reward, p, weight)
    random.shuffle(rows)
    predicted, taken, reward, p, weight = map(list, zip(*rows, strict=True))
    other = logged_value(predicted, taken, reward, p, [factor * w for w in weight])
    assert other == pytest.approx(value)


def test_predictions_for_other_rows_are_refused():
    """One prediction would count for every row."""
    with pytest.raises(ValueError, match="1 arms are predicted for 2 rows"):
        logged_value(["a"], ["a", "b"])


def test_what_agrees_with_nothing_has_no_value():
    assert np.isnan(logged_value(["b"], ["a"], [1.0]))
    assert np.isnan(logged_value(["a"], ["a"], sample_weight=[0.0]))
    assert logged_value(["b"], ["a"]) == 0.0  # without rewards: the agreement


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ({"reward": [1.5]}, "reward"),
        ({"propensity": [0.0]}, "propensity"),
        ({"sample_weight": [1e12]}, "between 1e-06 and 1e"),
        ({"sample_weight": [1.0, 1.0]}, "shape"),
    ],
)
def test_numbers_outside_their_range_are_refused(bad, match):
    with pytest.raises(ValueError, match=match):
        logged_value(["a"], ["a"], **bad)
