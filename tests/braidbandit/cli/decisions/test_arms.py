from math import sqrt

import pytest

from braidbandit import Ledger
from braidbandit.cli.decisions.arms import ANY, Record, kind_of, records_of
from braidbandit.cli.shell.place import place_of


def test_a_mean_and_its_error_by_hand():
    record = Record("a", "a", rewards=[0.0, 0.5, 1.0])
    assert (record.mean, record.error) == (0.5, 0.5 / sqrt(3))
    assert Record("a", "a").mean is None
    assert Record("a", "a", rewards=[1.0]).error is None


def test_every_decision_and_reward_is_counted_once(folder):
    place = place_of(folder, None)
    steps = []
    with Ledger(place.ledger_file) as ledger:
        records = records_of(ledger, place.load_policy(), lambda: steps.append(1))
        counted = records_of(ledger)
    assert len(steps) == 4 + 3
    assert sum(r.decisions for r in records) == 4
    rewards = sorted(reward for r in records for reward in r.rewards)
    assert rewards == [0.25, 0.8, 1.0]
    # The tasks said what they are.
    assert {kind for r in records for kind in r.kinds} == {"code"}
    # Without the policy: only arms that were chosen, and nothing is expected of them.
    assert all(r.decisions for r in counted)
    assert {r.expected for r in counted} == {None}
    assert len(records) > len(counted) or all(r.decisions for r in records)


def test_expected_is_the_mean_over_the_tasks(folder):
    place = place_of(folder, None)
    policy = place.load_policy()
    with Ledger(place.ledger_file) as ledger:
        records = {r.arm: r for r in records_of(ledger, policy)}
        X = [list(decision.x) for decision, _ in ledger.decisions()]
    import numpy as np

    means = policy.arm_model_.means(np.array(X)).mean(axis=0)
    for arm, mean in zip(policy.arm_ids_, means, strict=True):
        assert records[arm].expected == pytest.approx(mean)


def test_the_kind_of_a_task_that_nobody_named(agent):
    decision = agent.recommend("x")
    assert kind_of(None, decision) == ANY
    assert kind_of(agent, decision) == ANY  # the encoder has seen no task
    stated = agent.recommend({"text": "x", "type": "medical"})
    assert kind_of(agent, stated) == "medical"
