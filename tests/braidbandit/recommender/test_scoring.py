"""Limits of one call, as a recommender takes them."""

import numpy as np
import pytest

from braidbandit import Budget, Ledger


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
