"""Limits of one call as they are recorded; what they do is in test_recommender."""

import json

import numpy as np
import pytest

from braidbandit import Budget, Ledger
from braidbandit.recommender.scoring import Limits


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
    with pytest.raises(TypeError):
        Budget(flops="10")


@pytest.mark.parametrize(
    "collect", [list, tuple, set, frozenset, dict.fromkeys, np.array]
)
def test_eligible_arms_in_any_collection(agent, collect):
    arm = agent.catalogue.ids[2]
    ids = collect([arm])
    ids = ids.keys() if isinstance(ids, dict) else ids
    assert agent.recommend("x", eligible=ids).braid.id == arm


def test_a_decision_under_any_limit_can_be_kept(agent, tmp_path):
    decision = agent.recommend(
        {"type": "code", "complexity": np.float32(0.5)},
        budget=Budget(latency_ms=float("inf"), flops=np.float32(1e9)),
        accuracy_target=np.float32(0.1),
    )
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.record_decision(decision)
    agent.save(tmp_path / "s")
