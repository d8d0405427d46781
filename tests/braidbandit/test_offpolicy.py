import numpy as np
import pytest

from braidbandit import (
    EpsilonGreedy,
    Ledger,
    Log,
    Outcome,
    UnderLimits,
    compare,
    evaluate,
)
from braidbandit.offpolicy import check_support


def make_log(n=600, seed=0, floor=0.3):
    """Three arms worth 0.2, 0.5 and 0.8; the log prefers one by the context."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 1))
    p = np.full((n, 3), floor / 3)
    p[np.arange(n), np.where(X[:, 0] > 0, 0, 1)] += 1.0 - floor
    arms = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    rewards = (rng.random(n) < 0.2 + 0.3 * arms).astype(float)
    return Log(X, arms, rewards, p[np.arange(n), arms], [0, 1, 2])


def by_name(estimates):
    return {e.estimator: e for e in estimates}


def test_the_best_arm_is_found_in_a_log_that_avoids_it():
    log = make_log()
    table = compare({"0": 0, "1": 1, "2": 2, "random": np.full((600, 3), 1 / 3)}, log)
    assert table.best().policy == "2"
    truth = {"0": 0.2, "1": 0.5, "2": 0.8, "random": 0.5}
    for row in table.rows:
        if row.estimator == "DR":
            assert row.low <= row.value <= row.high
            assert row.sequence_low <= truth[row.policy] <= row.sequence_high
            assert abs(row.value - truth[row.policy]) < 0.15
    assert table.logged == log.rewards.mean()
    assert table.to_dict()["rows"][0]["estimator"] == "IPS"
    assert len(str(table).splitlines()) == 1 + 4 * 6 + 1


def test_intervals_cover():
    """100 logs; 95 % intervals of DR cover in at least 95 - 3 x 2.2 = 88."""
    covered = 0
    for seed in range(100):
        found = by_name(evaluate(2, make_log(300, seed), n_resamples=200))["DR"]
        covered += found.low <= 0.8 <= found.high
    assert covered >= 88


def test_the_same_seed_gives_the_same_numbers():
    log = make_log()
    assert evaluate(1, log) == evaluate(1, log)
    assert evaluate(1, log) != evaluate(1, log, random_state=1)


def test_a_log_that_learnt_as_it_went_is_covered_at_all_times():
    """The log follows the better mean so far with probability 0.8, so that its rows
    depend on each other; the confidence sequence of arm 0 still covers 0.4."""
    missed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sums, counts = np.ones(2), np.full(2, 2.0)
        arms, rewards, p = [], [], []
        for _ in range(200):
            share = np.full(2, 0.2)
            share[np.argmax(sums / counts)] = 0.8
            arm = int(rng.random() > share[0])
            reward = float(rng.random() < (0.4, 0.5)[arm])
            sums[arm] += reward
            counts[arm] += 1
            arms.append(arm)
            rewards.append(reward)
            p.append(share[arm])
        log = Log(np.zeros((200, 1)), arms, rewards, p, [0, 1])
        found = by_name(evaluate(0, log, n_resamples=100, least_propensity=0.2))["DR"]
        missed += not found.sequence_low <= 0.4 <= found.sequence_high
    # 5 % of 60, and three standard errors.
    assert missed <= 3 + 5


def test_a_deterministic_log_is_refused():
    rng = np.random.default_rng(0)
    arms = rng.integers(3, size=50)
    log = Log(rng.random((50, 1)), arms, np.ones(50), np.ones(50))
    with pytest.raises(ValueError, match="deterministic.*explores"):
        evaluate(0, log)
    with pytest.raises(ValueError, match="none of the policies"):
        compare({"a": 0, "b": 1}, log)
    # The very same choices need no exploration.
    assert by_name(evaluate(arms, log))["DR"].value == pytest.approx(1.0)


def test_arms_that_were_not_eligible_are_refused():
    eligible = np.ones((40, 2), dtype=bool)
    eligible[::4, 1] = False
    log = Log(np.zeros((40, 1)), [0] * 40, [0.5] * 40, [0.5] * 40, [0, 1], eligible)
    with pytest.raises(ValueError, match=r"25.0% of the policy's choices"):
        check_support(np.tile([0.0, 1.0], (40, 1)), log)


def test_propensities_of_another_log_are_refused():
    """Logged with 1/2, reported as 1/10: the weights are 5 on average."""
    rng = np.random.default_rng(0)
    arms = rng.integers(2, size=2000)
    log = Log(np.zeros((2000, 1)), arms, np.ones(2000), np.full(2000, 0.1))
    with pytest.raises(ValueError, match="mean weight is 4"):
        evaluate(0, log)


def test_an_arm_that_was_never_possible_is_refused():
    """1,000 rows at propensity 1/2, and arm 1 in none of them."""
    log = Log(np.zeros((1000, 1)), [0] * 1000, [1.0] * 1000, [0.5] * 1000, [0, 1])
    with pytest.raises(ValueError, match="mean weight is 0"):
        evaluate(1, log)


def test_too_little_evidence_is_refused():
    """Three rows in 300 took the arm, at propensity 0.01."""
    arms = np.zeros(300, dtype=int)
    arms[:3] = 1
    p = np.where(arms == 1, 0.01, 0.99)
    log = Log(np.zeros((300, 1)), arms, np.ones(300), p)
    with pytest.raises(ValueError, match="as much .* as 3.0 of its own"):
        evaluate(1, log)
    table = compare({"rare": 1, "usual": 0}, log)
    assert list(table.refused) == ["rare"]
    assert "rare: refused" in str(table)
    table = compare({"never": 2, "usual": 0}, log)
    assert "the log does not know" in table.refused["never"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": 1.0}, "level"),
        ({"n_resamples": 10}, "n_resamples"),
        ({"least_propensity": 0.9}, "least_propensity"),
        ({"least_propensity": 0.0}, "least_propensity"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate(1, make_log(), **settings)


def test_no_policy():
    with pytest.raises(ValueError, match="at least one policy"):
        compare({}, make_log(20))


def test_a_ledger_is_judged_as_it_is(agent, tmp_path):
    agent.set_params(policy=EpsilonGreedy(floor=0.8))
    before = None
    with Ledger(tmp_path / "ledger.db") as ledger:
        for i in range(120):
            decision = agent.recommend({"text": f"task {i % 9}", "type": "code"})
            ledger.record_decision(decision)
            reward = 0.9 if decision.braid.id == agent.catalogue.ids[0] else 0.3
            ledger.record_outcome(Outcome(decision.id, reward))
            agent.update(decision, reward)
        before = agent.posterior_.mean.tobytes()
        table = compare(
            {
                "now": agent,
                "best": agent.catalogue.ids[0],
                "cheap": UnderLimits(agent, compute_budget=0.0),
            },
            ledger,
        )
    assert agent.posterior_.mean.tobytes() == before
    dr = {row.policy: row.value for row in table.rows if row.estimator == "DR"}
    assert dr["best"] == pytest.approx(0.9, abs=0.1)
    assert dr["best"] > dr["now"] > 0.3
