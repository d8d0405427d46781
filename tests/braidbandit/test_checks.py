"""What people give is taken as it is, or refused with what is wrong with it."""

import decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import BraidRecommender
from braidbandit._checks import (
    check_labels,
    check_propensities,
    check_reward,
    check_rewards,
    check_weight,
    check_weights,
    check_whole,
    is_missing,
    same,
)
from braidbandit.bandit.guard import ConservativePolicy, DeclineToDefault
from braidbandit.bandit.online_posterior import check_learning
from braidbandit.bandit.policies import LinUCB, SquareCB, ThompsonSampling
from braidbandit.bandit.prior import PriorScales
from braidbandit.catalogue.limits import Budget, Limits
from braidbandit.recommender.asking import check_rate
from braidbandit.recommender.drift import DriftMonitor
from braidbandit.recommender.objectives import (
    Preference,
    check_measurement,
    check_price,
)
from braidbandit.recommender.settings import check_settings

# One label of four is missing in each, two in the last.
MISSING = {
    "None": ["a", "b", None, "a"],
    "NaN among text": ["a", "b", float("nan"), "a"],
    "NaN among text, as an array": np.array(["a", "b", np.nan, "a"]),
    "NaN among objects": np.array(["a", "b", np.nan, "a"], dtype=object),
    "NaN among numbers": [1.0, 2.0, np.nan, 1.0],
    "Decimal": [decimal.Decimal(1), decimal.Decimal(2), decimal.Decimal("NaN"), 1],
    "Int64": pd.Series([1, 2, pd.NA, 1], dtype="Int64"),
    "boolean": pd.array([True, False, pd.NA, True], dtype="boolean"),
    "string": pd.Series(["a", "b", pd.NA, "a"], dtype="string"),
    "categories": pd.Series(["a", "b", None, "a"], dtype="category"),
    "NaT": pd.to_datetime(pd.Series(["2026-01-01", "2026-01-02", None, "2026-01-01"])),
    "NaT of NumPy": np.array(["2026", "2027", "NaT", "2026"], dtype="datetime64[ns]"),
    "masked": np.ma.array([1, 2, 3, 1], mask=[False, False, True, False]),
    "a masked entry": [1, 2, np.ma.masked, 1],
    "empty": ["a", "b", "", "a"],
    "blank": ["a", "b", "  ", "a"],
    "written out": ["a", "nan", "<NA>", "a"],
}
COLLIDING = {
    "1 and '1'": [1, "1", 1, "1"],
    "1.0 and '1.0'": [1.0, "1.0", 1.0, "1.0"],
    "1 and True": [1, True, 2, False],
    "True and 'True'": np.array([True, "True", False, "True"], dtype=object),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_labels_are_counted(name):
    count = 2 if name == "written out" else 1
    with pytest.raises(ValueError, match=f"^{count} rows have no arm, of 4"):
        check_labels(MISSING[name])


@pytest.mark.parametrize("name", COLLIDING)
def test_labels_that_collide(name):
    with pytest.raises(ValueError, match="several kinds"):
        check_labels(COLLIDING[name])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a", "none", "Nancy"], ["a", "none", "Nancy"]),
        (pd.Series([2, 1], index=[5, 7]), [2, 1]),
        (np.array([1.0, 2.0]), [1, 2]),
        ([1, 1.0, np.int8(1)], [1, 1, 1]),
        (pd.Series(["a", "b"], dtype="category"), ["a", "b"]),
        (range(3), [0, 1, 2]),
        (iter("ab"), ["a", "b"]),
        (np.array([True, False]), [True, False]),
        ([("a", 1), ("b", 2)], [("a", 1), ("b", 2)]),
        (np.ma.array([3, 4]), [3, 4]),
    ],
)
def test_labels_that_are_there(labels, expected):
    assert check_labels(labels) == expected


@pytest.mark.parametrize("bad", ["ab", [[1], [2]], np.ones((2, 1)), np.array(1)])
def test_labels_of_another_shape(bad):
    with pytest.raises(ValueError, match="expected"):
        check_labels(bad)


@pytest.mark.parametrize("bad", [[1.5], [np.nan], [-0.1], [0.5, 0.5]])
def test_bad_rewards(bad):
    with pytest.raises(ValueError, match="reward"):
        check_rewards(bad, 1)


@pytest.mark.parametrize("bad", [[0.0], [np.nan], [1.1], [0.5, 0.5]])
def test_bad_propensities(bad):
    with pytest.raises(ValueError, match="propensity"):
        check_propensities(bad, 1)


@pytest.mark.parametrize("bad", [1e12, 2e6, 1e-7, -1.0, np.nan, np.inf])
def test_weights_beyond_their_range(bad):
    with pytest.raises(ValueError, match="between 1e-06 and 1e"):
        check_weights([1.0, bad], 2)
    with pytest.raises(ValueError, match="between 1e-06 and 1e"):
        check_weight(bad)


def test_weights_within_their_range():
    assert check_weights([0.0, 1e-6, 1e6], 3).tolist() == [0.0, 1e-6, 1e6]
    assert check_weight(np.float32(2)) == 2.0
    with pytest.raises(ValueError, match="shape"):
        check_weights([1.0], 2)
    with pytest.raises(ValueError, match="received 0"):
        check_weight(0.0)
    with pytest.raises(TypeError, match="number"):
        check_weight("2")


@pytest.mark.parametrize("given", [0, 1, 0.25, True, np.float32(0.5), "half"])
def test_one_reward(given):
    if given == "half":
        with pytest.raises(TypeError, match=r"in \[0, 1\], received 'half' \(str\)"):
            check_reward(given)
    else:
        found = check_reward(given)
        assert found == given
        assert type(found) is float


@pytest.mark.parametrize("value", [10**400, -(10**400)])
def test_a_whole_number_beyond_all_floats_is_refused(value):
    with pytest.raises(ValueError, match="a reward lies in"):
        check_reward(value)
    with pytest.raises(ValueError, match="weight lies between"):
        check_weight(value)
    with pytest.raises(ValueError, match="reward: received a whole number beyond"):
        check_rewards([0.5, value], 2)


@given(st.floats())
def test_a_reward_is_taken_as_it_is_or_refused(value):
    if 0.0 <= value <= 1.0:
        assert check_reward(value) == value
        assert check_rewards([value], 1).tolist() == [value]
    else:
        for check in (check_reward, lambda v: check_rewards([v], 1)):
            with pytest.raises(ValueError, match="lies in"):
                check(value)


def test_what_is_not_given_counts_as_one():
    assert check_rewards(None, 2).tolist() == check_weights(None, 2).tolist() == [1, 1]
    assert check_propensities(None, 2) is None


@given(st.lists(st.floats(1e-6, 1e6) | st.just(0.0), min_size=1))
def test_weights_are_not_changed(weights):
    assert check_weights(weights, len(weights)).tolist() == weights


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_a_whole_number_becomes_one_of_python(value):
    found = check_whole("n", value, 3)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [3.0, "3", True, None, np.float64(3), np.bool_(True)])
def test_what_is_no_whole_number(value):
    with pytest.raises(TypeError, match="n is a whole number"):
        check_whole("n", value, 0)


def test_a_whole_number_that_is_too_small():
    with pytest.raises(ValueError, match="n must be at least 4, received 3"):
        check_whole("n", 3, 4)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (None, None, True),
        (None, 0, False),
        (0, np.int32(0), True),
        (0, False, False),
        ("a", "a", True),
        ([1, 2], (1, 2), False),
        (np.arange(2), np.arange(2), True),
        (np.arange(2), np.arange(3), False),
    ],
)
def test_settings_that_are_the_same(one, other, equal):
    assert same(one, other) is equal
    assert same(other, one) is equal


@pytest.mark.parametrize(
    "label", [None, np.nan, "", "  ", "NaN", "<NA>", np.ma.masked, np.datetime64("NaT")]
)
def test_missing_labels(label):
    assert is_missing(label)


@pytest.mark.parametrize("label", [0, False, "0", "nano", -1.5, np.datetime64(1, "D")])
def test_labels_that_are_not_missing(label):
    assert not is_missing(label)


DEFAULTS = BraidRecommender().get_params()
SETTINGS = {
    "floor": lambda v: LinUCB(floor=v),
    "alpha": lambda v: LinUCB(alpha=v),
    "scale": lambda v: ThompsonSampling(scale=v),
    "gamma": lambda v: SquareCB(gamma=v),
    "share": lambda v: ConservativePolicy(share=v),
    "slack": lambda v: DeclineToDefault(slack=v),
    "prior scale noise": lambda v: PriorScales(noise=v),
    "prior scale mean": lambda v: PriorScales(mean=v),
    "threshold": lambda v: DriftMonitor(threshold=v),
    "widen": lambda v: DriftMonitor(widen=v),
    "forgetting": lambda v: check_learning(v, None, 0),
    "price": check_price,
    "rate": check_rate,
    "mean_cost": lambda v: check_settings({**DEFAULTS, "mean_cost": v}),
    "switching_cost": lambda v: check_settings({**DEFAULTS, "switching_cost": v}),
    "preference for latency": lambda v: Preference.read({"latency": v}),
    "latency_ms": lambda v: check_measurement("latency_ms", v),
    "compute_budget": lambda v: Limits(compute_budget=v),
    "accuracy_target": lambda v: Limits(accuracy_target=v),
    "preference for compute": lambda v: Limits(preference={"compute": v}),
    "flops": lambda v: Budget(flops=v),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "value", ["0.5", b"1", True, np.bool_(True), [0.5, 0.5], {}, 1j], ids=repr
)
def test_a_setting_that_is_no_number_is_refused_by_name(name, value):
    with pytest.raises(TypeError, match=f"^{name} is a number, received") as caught:
        SETTINGS[name](value)
    assert repr(value) in str(caught.value)


# A preference is checked where it is read; others may be infinite: there is no limit.
ENDLESS = ("preference for compute", "flops", "threshold")


@pytest.mark.parametrize("name", [n for n in SETTINGS if n not in ENDLESS])
def test_a_setting_beyond_all_floats_is_refused_by_value(name):
    with pytest.raises(ValueError, match="received .*10000"):
        SETTINGS[name](10**400)
