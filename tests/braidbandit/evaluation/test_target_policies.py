import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone

from braidbandit import Budget, Greedy, LinearBandit, Log, UnderLimits
from braidbandit.evaluation.target_policies import rows_learnt, target_probabilities


def test_a_recommender_plays_what_it_would_play(ledger, agent, tasks):
    log = Log.read(ledger)
    target = target_probabilities(agent, log)
    assert np.allclose(target.sum(axis=1), 1.0)
    answered = [task for i, task in enumerate(tasks) if i != 3]
    assert target == pytest.approx(agent.predict_proba(answered))


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


def test_a_new_recommender_takes_the_features_of_the_log(ledger, agent, tasks):
    log, new = Log.read(ledger), clone(agent)
    started = clone(agent)
    started.start()
    assert target_probabilities(new, log).tolist() == pytest.approx(
        target_probabilities(started, log)
    )
    other = clone(agent).set_params(encoder=clone(agent.encoder).fit(tasks))
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


@pytest.mark.parametrize(
    "limits",
    [
        {"compute_budget": 0.3},
        {"budget": Budget(memory=5000.0)},
        {"excluded": ["big"]},
        {"preference": {"quality": 1.0, "compute": 0.5}},
        {"accuracy_target": 0.4},
    ],
    ids=lambda limits: next(iter(limits)),
)
def test_a_limit_means_what_it_means_to_recommend(ledger, agent, tasks, limits):
    """A greedy recommender plays the very arm that it recommends, for certain."""
    agent.set_params(policy=Greedy())
    if "excluded" in limits:
        limits = {"excluded": [agent.catalogue.ids[0]]}
    target = target_probabilities(UnderLimits(agent, **limits), Log.read(ledger))
    chosen = agent.recommend(tasks[0], **limits).braid.id
    assert agent.catalogue.ids[int(target[0].argmax())] == chosen
    assert target.max(axis=1).tolist() == [1.0] * 11


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"compute_budget": 2.0}, ValueError),
        ({"budget": 0.5}, TypeError),
        ({"excluded": "big"}, TypeError),
        ({"eligible": "big"}, TypeError),
        ({"accuracy_target": -1.0}, ValueError),
    ],
)
def test_limits_are_checked_at_once(agent, limits, error):
    with pytest.raises(error):
        UnderLimits(agent, **limits)


def test_limits_that_can_be_read_once_hold_in_every_row(ledger, agent):
    ids = agent.catalogue.ids
    one = UnderLimits(agent, excluded=(arm for arm in ids[1:]))
    assert (target_probabilities(one, Log.read(ledger))[:, 0] == 1.0).all()


def test_judging_changes_nothing(ledger, agent):
    log = Log.read(ledger)
    mean = agent.posterior_.mean.tobytes()
    state, pending = agent.rng_.bit_generator.state, dict(agent.pending_)
    for policy in (agent, UnderLimits(agent, compute_budget=0.5)):
        one, two = (target_probabilities(policy, log) for _ in range(2))
        np.testing.assert_array_equal(one, two)
    log.encoder_hash = "another"
    with pytest.raises(ValueError, match="another encoder"):
        target_probabilities(agent, log)
    assert agent.posterior_.mean.tobytes() == mean
    assert agent.rng_.bit_generator.state == state
    assert agent.pending_ == pending


def test_rows_that_were_learnt_are_counted(ledger, agent):
    log = Log.read(ledger)
    assert rows_learnt(agent, log) == 11
    assert rows_learnt(UnderLimits(agent, compute_budget=0.5), log) == 11
    assert rows_learnt(clone(agent), log) == 0
    assert rows_learnt(agent.catalogue.ids[0], log) == 0
    without_ids = Log(log.X, log.columns, log.rewards, log.propensities)
    assert rows_learnt(agent, without_ids) == 0


@given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3))
def test_probabilities_by_name_and_by_place_are_the_same(shares):
    log = Log([[0.0], [1.0], [2.0]], ["b", "a", "b"], [1, 0, 0.5], [0.5, 0.25, 1.0])
    b = np.array(shares)
    by_place = target_probabilities(np.column_stack([1.0 - b, b]), log)
    for named in ({"b": b, "a": 1.0 - b}, pd.DataFrame({"b": b, "a": 1.0 - b})):
        np.testing.assert_array_equal(target_probabilities(named, log), by_place)


def test_a_callable_may_return_anything_a_policy_can_be(log):
    for inner in ("a", ["a"] * 3, [[1.0, 0.0]] * 3, lambda log: "a"):
        found = target_probabilities(lambda log, inner=inner: inner, log)
        assert found.tolist() == [[1.0, 0.0]] * 3
