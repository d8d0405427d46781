import warnings

import numpy as np
import pytest

from braidbandit import (
    BraidRecommender,
    DriftMonitor,
    DriftWarning,
    EpsilonGreedy,
    Ledger,
    Outcome,
)


def first_alarm(surprises):
    monitor, sums = DriftMonitor(), np.zeros((2, 1))
    for t, surprise in enumerate(surprises):
        sums, alarm = monitor.watch(sums, 0, surprise)
        if alarm:
            return t
    return None


def test_quiet_when_nothing_changes():
    for seed in range(5):
        assert first_alarm(np.random.default_rng(seed).standard_normal(10_000)) is None


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_a_shift_is_noticed(shift):
    """30 / (0.5 - 0.15) = 86 rewards on average."""
    delays = [
        first_alarm(shift + np.random.default_rng(seed).standard_normal(1000))
        for seed in range(20)
    ]
    assert 60 < np.mean(delays) < 120


def play(agent, means, rounds, rng):
    for i in range(rounds):
        decision = agent.recommend(f"task {i % 9}")
        mean = means[decision.braid.id]
        agent.update(decision, float(np.clip(mean + 0.1 * rng.standard_normal(), 0, 1)))


def test_the_recommender_warns_widens_and_turns_to_another_arm(catalogue, encoder):
    rng = np.random.default_rng(0)
    agent = BraidRecommender(
        catalogue, encoder, EpsilonGreedy(0.1), price=0.0, random_state=0,
        drift=DriftMonitor(),
    )  # fmt: skip
    best = catalogue.ids[0]
    means = dict.fromkeys(catalogue.ids, 0.5) | {best: 0.8}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        play(agent, means, 300, rng)
    means[best] = 0.2
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        play(agent, means, 300, rng)
    assert told[0].category is DriftWarning
    assert best in str(told[0].message)
    again = [agent.predict([f"task {i}"])[0] for i in range(9)]
    assert best not in again


@pytest.mark.filterwarnings("ignore::braidbandit.DriftWarning")
def test_alarms_do_not_add_up_when_a_ledger_is_learnt_again(
    catalogue, encoder, tmp_path
):
    """The same agent, however often it learns, is as a new one that learns once."""

    def new():
        return BraidRecommender(
            catalogue, encoder, drift=DriftMonitor(threshold=6.0), random_state=0
        )

    def assert_as_new(agent):
        fresh = new()
        for _, decision, outcome in ledger.pairs():
            fresh.update(decision, outcome.reward)
        assert agent.arm_model_.alarms == fresh.arm_model_.alarms
        assert (
            agent.arm_model_.versions[arm][: len(fresh.arm_model_.versions[arm])]
            == (fresh.arm_model_.versions[arm])
        )
        for name in ("mean", "factor", "own_mean", "own_covariance", "own_change"):
            np.testing.assert_allclose(
                getattr(agent.posterior_, name),
                getattr(fresh.posterior_, name),
                atol=1e-9,
            )

    agent, arm, ledger = new(), catalogue.ids[0], Ledger(tmp_path / "ledger.db")
    for i in range(90):
        decision = agent.recommend(f"task {i % 7}", eligible=[arm])
        ledger.record_decision(decision)
        ledger.record_outcome(Outcome(decision.id, 0.9 if i < 45 else 0.1))
        agent.sync(ledger)
    assert agent.arm_model_.alarms
    assert_as_new(agent)
    assert_as_new(agent.sync(ledger, anew=True).sync(ledger, anew=True))
    first = next(iter(agent.settled_))
    ledger.retract(first)
    assert_as_new(agent.sync(ledger))
    agent.save(tmp_path / "state")
    again = BraidRecommender.load(tmp_path / "state", encoder=encoder)
    assert_as_new(again.sync(ledger, anew=True))


def test_sums_are_saved(catalogue, encoder, tmp_path):
    agent = BraidRecommender(catalogue, encoder, drift=DriftMonitor(threshold=9.0))
    for i in range(5):
        agent.update(agent.recommend(f"task {i}"), 0.9)
    agent.save(tmp_path)
    again = BraidRecommender.load(tmp_path, encoder=encoder)
    assert again.drift == agent.drift
    assert agent.surprises_.any()
    np.testing.assert_array_equal(again.surprises_, agent.surprises_)


def test_bad_settings():
    with pytest.raises(ValueError, match="threshold"):
        DriftMonitor(threshold=0.0)


def test_a_warning_that_is_an_error_comes_after_all_is_learnt(
    catalogue, encoder, tmp_path
):
    """One reward at a time, many at once, or from a ledger: all the same."""

    def new():
        return BraidRecommender(
            catalogue, encoder, drift=DriftMonitor(threshold=6.0), random_state=0
        )

    first, arm, ledger = new(), catalogue.ids[0], Ledger(tmp_path / "ledger.db")
    rewards = [0.9] * 45 + [0.1] * 45
    decisions = [first.recommend("x", eligible=[arm]) for _ in rewards]
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for decision, reward in zip(decisions, rewards, strict=True):
            ledger.record_decision(decision)
            ledger.record_outcome(Outcome(decision.id, reward))
            try:
                first.update(decision, reward)
            except DriftWarning as warning:
                told.append(warning)
                assert first.settled_[decision.id] == reward
                first.update(decision, reward)  # known already
        assert told
        assert first.n_updates_ == 90
        second, third = new(), new()
        for learn in (
            lambda: second.sync(ledger),
            lambda: third.sync(ledger, anew=True),
        ):
            with pytest.raises(DriftWarning):
                learn()
    for other in (second, third):
        assert other.arm_model_.alarms == first.arm_model_.alarms
        np.testing.assert_allclose(other.posterior_.mean, first.posterior_.mean)
        other.sync(ledger)
        assert other.n_updates_ == 90
