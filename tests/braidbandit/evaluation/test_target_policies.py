import numpy as np
import pytest
from sklearn.base import clone

from braidbandit import Greedy, Ledger, LinearBandit, Log, Outcome, UnderLimits
from braidbandit.evaluation.target_policies import target_probabilities

TASKS = [{"text": f"task {i}", "type": "code"} for i in range(12)]


@pytest.fixture
def log():
    return Log([[0.0], [1.0], [2.0]], ["b", "a", "b"], [1, 0, 0.5], [0.5, 0.25, 1.0])


@pytest.fixture
def ledger(tmp_path, agent):
    with Ledger(tmp_path / "ledger.db") as opened:
        for i, task in enumerate(TASKS):
            decision = agent.recommend(task)
            opened.record_decision(decision)
            if i != 3:
                outcome = Outcome(decision.id, 0.1 * (i % 7))
                opened.record_outcome(outcome)
                agent.update(decision, outcome.reward)
        yield opened


def test_a_recommender_plays_what_it_would_play(ledger, agent):
    log = Log.read(ledger)
    target = target_probabilities(agent, log)
    assert np.allclose(target.sum(axis=1), 1.0)
    tasks = [task for i, task in enumerate(TASKS) if i != 3]
    assert target == pytest.approx(agent.predict_proba(tasks))


def test_a_recommender_keeps_to_what_was_eligible_then(ledger, agent):
    log = Log.read(ledger)
    eligible = log.eligible.copy()
    others = np.arange(len(log.arm_ids)) != log.columns[:, None]
    eligible[others & (np.arange(len(log.arm_ids)) % 2 == 0)] = False
    less = Log(
        log.X,
        [log.arm_ids[c] for c in log.columns],
        log.rewards,
        log.propensities,
        log.arm_ids,
        eligible,
    )
    target = target_probabilities(agent, less)
    assert (target[~eligible] == 0).all()


def test_another_budget_and_another_catalogue(ledger, agent):
    log = Log.read(ledger)
    cheap = target_probabilities(UnderLimits(agent, compute_budget=0.0), log)
    costs = agent.catalogue.relative_costs()
    assert (cheap[:, costs > 0] == 0).all()
    two = agent.catalogue.ids[:2]
    subset = target_probabilities(UnderLimits(agent, eligible=two), log)
    assert subset[:, :2].sum(axis=1) == pytest.approx(np.ones(11))


def test_a_new_recommender_takes_the_features_of_the_log_as_they_are(ledger, agent):
    log, new = Log.read(ledger), clone(agent)
    started = clone(agent)
    started._start()
    assert target_probabilities(new, log).tolist() == pytest.approx(
        target_probabilities(started, log)
    )
    other = clone(agent).set_params(encoder=clone(agent.encoder).fit(TASKS))
    with pytest.raises(ValueError, match="another encoder"):
        target_probabilities(other, log)


def test_a_policy_that_was_just_set_is_the_one_that_is_judged(ledger, agent):
    log = Log.read(ledger)
    for one in (agent.set_params(policy=Greedy()), UnderLimits(agent)):
        assert target_probabilities(one, log).max(axis=1).tolist() == [1.0] * 11


def test_another_encoder_is_refused(ledger, agent):
    log = Log.read(ledger)
    log.encoder_hash = "another"
    with pytest.raises(ValueError, match="another encoder"):
        target_probabilities(agent, log)


def test_arms_estimators_and_callables(log):
    assert target_probabilities("a", log).tolist() == [[1, 0]] * 3
    assert target_probabilities(["a", "b", "b"], log)[:, 1].tolist() == [0, 1, 1]
    assert target_probabilities(lambda log: "b", log)[:, 1].tolist() == [1, 1, 1]
    bandit = LinearBandit(arms=["b", "a"]).fit(log.X, ["b", "a", "b"], reward=[1, 0, 1])
    target = target_probabilities(bandit, log)
    assert (target[:, ::-1] == bandit.predict_proba(log.X)).all()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("c", "does not know the arms"),
        (["a", "b"], "expected 3 arms"),
        ([[0.5, 0.4]] * 3, "sum to 1"),
        ([[1.5, -0.5]] * 3, "at least 0"),
        ([[np.nan, 1.0]] * 3, "at least 0"),
        ([[1.0]] * 3, "shape"),
    ],
)
def test_targets_that_make_no_sense(log, policy, message):
    with pytest.raises(ValueError, match=message):
        target_probabilities(policy, log)


def test_an_arm_the_log_never_had(log):
    bandit = LinearBandit(arms=["a", "c"]).fit(log.X, ["a", "c", "a"])
    with pytest.raises(ValueError, match="never had"):
        target_probabilities(bandit, log)
