"""What one call allows and prefers: read once, checked at once."""

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Budget
from braidbandit.catalogue.limits import Limits


def test_limits_are_recorded_as_plain_numbers():
    limits = Limits(
        compute_budget=np.float32(0.5),
        budget=Budget(flops=np.int64(10), memory=float("inf")),
        preference={"quality": 1, "compute": np.float32(0.25)},
        accuracy_target=np.float32(0.5),
    )
    assert json.loads(json.dumps(limits.to_dict(), allow_nan=False)) == {
        "compute_budget": 0.5,
        "flops": 10.0,
        "memory": None,
        "latency_ms": None,
        "preference": {"quality": 1.0, "compute": 0.25},
        "accuracy_target": 0.5,
    }


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), np.float32(0)])
def test_budgets_that_make_no_sense(value):
    with pytest.raises(ValueError, match="flops must be above 0"):
        Budget(flops=value)


@pytest.mark.parametrize("value", ["0.3", b"0.3", True, np.True_, [0.3, 0.4], {}, 1j])
def test_limits_that_are_no_numbers(value):
    for name in ("compute_budget", "accuracy_target"):
        with pytest.raises(TypeError, match=f"{name} is a number, received "):
            Limits(**{name: value})
    with pytest.raises(TypeError, match="flops is a number, received "):
        Budget(flops=value)


def test_what_can_be_read_only_once_is_kept():
    limits = Limits(excluded=iter("ab"), eligible=iter(["c"]))
    for _ in range(2):
        assert list(limits.excluded) == ["a", "b"]
        assert list(limits.eligible) == ["c"]
    mask = np.ones(3, bool)
    assert Limits(eligible=mask).eligible is mask
    assert Limits(eligible={"c"}).eligible == ("c",)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"compute_budget": 1.01}, ValueError, "between 0 .* and 1"),
        ({"compute_budget": -0.01}, ValueError, "between 0 .* and 1"),
        ({"compute_budget": float("nan")}, ValueError, "between 0 .* and 1"),
        ({"compute_budget": None}, TypeError, r"received None \(NoneType\)"),
        ({"compute_budget": Budget()}, TypeError, "give it as budget="),
        ({"budget": 0.5}, TypeError, "is compute_budget"),
        ({"excluded": "abc"}, TypeError, "received text 'abc'"),
        ({"eligible": "abc"}, TypeError, "received text 'abc'"),
        ({"accuracy_target": 1.5}, ValueError, "lies in .0, 1"),
        ({"accuracy_target": float("nan")}, ValueError, "lies in .0, 1"),
    ],
)
def test_limits_that_make_no_sense(given, error, message):
    with pytest.raises(error, match=message):
        Limits(**given)


def test_the_bounds_themselves_are_allowed():
    for bound in (0.0, 1.0, 0, 1, np.float32(1)):
        limits = Limits(compute_budget=bound, accuracy_target=bound)
        assert limits.to_dict()["compute_budget"] == bound


def test_limits_do_not_change():
    limits, budget = Limits(), Budget(flops=1.0)
    with pytest.raises(FrozenInstanceError):
        limits.compute_budget = 0.5
    with pytest.raises(FrozenInstanceError):
        budget.flops = 2.0


def test_a_budget_without_limits_is_no_budget():
    assert Limits(budget=Budget()).to_dict() == Limits().to_dict()


@given(st.floats(), st.none() | st.floats())
def test_shares_are_taken_as_they_are_or_refused(compute_budget, target):
    if all(share is None or 0 <= share <= 1 for share in (compute_budget, target)):
        record = Limits(compute_budget, accuracy_target=target).to_dict()
        assert record["compute_budget"] == compute_budget
        assert record["accuracy_target"] == target
    else:
        with pytest.raises(ValueError, match="compute_budget must lie|accuracy_target"):
            Limits(compute_budget, accuracy_target=target)


@given(st.lists(st.none() | st.floats(), min_size=3, max_size=3))
def test_a_budget_comes_back_from_its_record(values):
    if all(value is None or value > 0 for value in values):
        budget = Budget(*values)
        assert Budget(**budget.to_dict()) == budget
        json.dumps(budget.to_dict(), allow_nan=False)
    else:
        with pytest.raises(ValueError, match="must be above 0 or None"):
            Budget(*values)


def test_a_record_that_is_changed_changes_no_limits():
    """A decision holds it, and others read the same limits after."""
    limits = Limits(preference={"quality": 1.0})
    record = limits.to_dict()
    record["preference"]["quality"] = 9.0
    record["compute_budget"] = 0.0
    assert limits.to_dict()["preference"] == {"quality": 1.0}
    assert limits.to_dict()["compute_budget"] == 1.0


def test_what_is_given_may_change_afterwards():
    prefers, arms = {"quality": 1.0}, ["a"]
    limits = Limits(excluded=arms, preference=prefers)
    prefers["quality"] = 9.0
    arms.append("b")
    assert limits.to_dict()["preference"] == {"quality": 1.0}
    assert limits.excluded == ("a",)


@pytest.mark.parametrize("key", ["flops", "memory", "latency_ms"])
@pytest.mark.parametrize("value", [0.0, -1, float("nan"), float("-inf")])
def test_each_absolute_limit_names_itself(key, value):
    with pytest.raises(ValueError, match=f"^{key} must be above 0 or None, received"):
        Budget(**{key: value})
    for endless in (float("inf"), 10**400):
        assert Budget(**{key: endless}) == Budget()


@pytest.mark.parametrize(
    "given_", [{"compute_budget": "0.5"}, {"accuracy_target": "0.5"}]
)
def test_text_is_no_share(given_):
    with pytest.raises(TypeError):
        Limits(**given_)


def test_a_reason_may_come_with_an_excluded_arm():
    reasons = {"a": "it is down"}
    limits = Limits(excluded=reasons)
    reasons.clear()
    assert list(limits.excluded) == ["a"]
    assert limits.why_excluded("a") == "it is down"
    assert limits.told_excluded == ". Excluded: it is down"
    plain = Limits(excluded=["a"])
    assert plain.why_excluded("a") == "excluded by the caller"
    assert plain.told_excluded == Limits().told_excluded == ""
    with pytest.raises(TypeError, match=r"received the reason True"):
        Limits(excluded={"a": True})
