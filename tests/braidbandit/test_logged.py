import numpy as np
import pytest

from braidbandit.logged import check_propensities, check_rewards, logged_value


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


@pytest.mark.parametrize("bad", [[1.5], [np.nan], [-0.1], [0.5, 0.5]])
def test_bad_rewards(bad):
    with pytest.raises(ValueError, match="reward"):
        check_rewards(bad, 1)


@pytest.mark.parametrize("bad", [[0.0], [np.nan], [1.1], [0.5, 0.5]])
def test_bad_propensities(bad):
    with pytest.raises(ValueError, match="propensity"):
        check_propensities(bad, 1)
