import copy
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
import sklearn
from learnt import REWARDS, assert_same, decide, fingerprint
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_validate

from braidbandit import (
    Braid,
    BraidRecommender,
    Budget,
    Catalogue,
    EpsilonGreedy,
    Greedy,
    LinUCB,
    ModelCard,
    PriorScales,
    TaskEncoder,
    ThompsonSampling,
    Uniform,
)
from braidbandit.recommender.arm_model import ArmModel

TYPES = ("code", "medical", "creative")
TWELVE = [f"task {i}" for i in range(12)]
TASKS = [{"text": f"task {i}", "type": TYPES[i % 3]} for i in range(60)]


def rng_state(agent):
    return agent.rng_.bit_generator.state["state"]


def teach(agent, n=20, reward=0.5):
    for task in TASKS[:n]:
        agent.update(agent.recommend(task), reward)
    return agent


def test_constructor_only_stores(catalogue, encoder):
    agent = BraidRecommender(catalogue, encoder, price=-5.0, forgetting=9.0)
    assert clone(agent).get_params()["price"] == -5.0
    with pytest.raises(ValueError, match="price"):
        agent.recommend("x")
    with pytest.raises(ValueError, match="needs a catalogue"):
        BraidRecommender().recommend("x")


def test_cold_start_serves_and_explores(agent):
    chosen = {agent.recommend(task).braid.id for task in TASKS}
    assert len(chosen) > 5


def test_recommend_records_what_is_needed_later(agent, catalogue):
    decision = agent.recommend(TASKS[0], compute_budget=0.5)
    row = catalogue.index(decision.braid.id)
    assert decision.eligible[row]
    assert 0 < decision.propensity <= 1
    assert decision.relative_cost <= 0.5
    assert decision.arm_ids == catalogue.ids
    assert decision.budget["compute_budget"] == 0.5
    cheap = agent.recommend("x", budget=Budget(flops=2000))
    assert cheap.braid.anchor == "small"


def test_same_seed_same_choices_and_seed_zero_works(catalogue, encoder):
    runs = [
        [
            a.recommend(t).braid.id
            for a in [BraidRecommender(catalogue, encoder, random_state=seed)]
            for t in TASKS
        ]
        for seed in (0, 0, 1, np.random.default_rng(0))
    ]
    assert runs[0] == runs[1] == runs[3]
    assert runs[0] != runs[2]


def test_only_recommend_moves_the_generator(agent):
    decision = agent.recommend("x")
    state, before = rng_state(agent), fingerprint(agent)
    agent.predict(TASKS)
    agent.predict_proba(TASKS[:3])
    agent.decision_function(TASKS)
    agent.explain("y")
    assert (rng_state(agent), fingerprint(agent)) == (state, before)
    agent.update(decision, 0.5)
    assert rng_state(agent) == state
    agent.recommend("y")
    assert rng_state(agent) != state


def test_explain_foretells_the_decision(agent):
    teach(agent)
    for task in TASKS[:10]:
        explanation = agent.explain(task)
        decision = agent.recommend(task)
        assert explanation.arm_id == decision.braid.id
        assert explanation.probability == decision.propensity
        assert explanation.sentence == decision.sentence
        scores = [row.score for row in explanation.rows]
        assert scores == list(decision.scores)


@pytest.mark.parametrize("policy", [ThompsonSampling(), LinUCB(), Greedy()])
def test_explanations_add_up(agent, policy):
    teach(agent.set_params(policy=policy))
    explanation = agent.explain(TASKS[0], compute_budget=0.6)
    for row in explanation.rows:
        assert row.score == row.mean + row.exploration + row.cost + row.mask
        assert (row.mask == 0) == (row.reason == "")
    if not isinstance(policy, ThompsonSampling) and explanation.probability > 0.5:
        assert explanation.chosen.score == max(row.score for row in explanation.rows)
    singles = [r.mean for r in explanation.rows if agent.catalogue[r.arm_id].is_single]
    lead = explanation.chosen.mean - max(singles)
    assert sum(explanation.blocks.values()) == pytest.approx(lead, abs=1e-12)
    assert "because the task is code-related (1.00)" in explanation.sentence


def test_says_when_nothing_is_known_yet(agent):
    unknown = "nothing known yet speaks for another"
    assert unknown in agent.recommend(TASKS[0]).sentence
    for task, reward in zip(TASKS[:10], [0.1, 0.9] * 5, strict=True):
        agent.update(agent.recommend(task), reward)
    assert unknown not in agent.recommend(TASKS[0]).sentence


@pytest.mark.parametrize("task", [["a"], [{"type": "code"}], ("a", "b")])
def test_a_list_is_no_task(agent, task):
    with pytest.raises(TypeError, match="a task is text or a dict with"):
        agent.recommend(task)


@pytest.mark.parametrize("nothing", [[], (), np.zeros(0)])
def test_an_empty_list_is_no_task_and_fixes_no_encoder(agent, nothing):
    with pytest.raises(ValueError, match="a task is text"):
        agent.recommend(nothing)
    assert agent.recommend(TASKS[0])


def test_probabilities_and_predictions(agent):
    teach(agent)
    p = agent.predict_proba(TASKS[:4])
    assert p.shape == (4, len(agent.catalogue))
    np.testing.assert_allclose(p.sum(axis=1), 1)
    best = agent.classes_[agent.decision_function(TASKS).argmax(axis=1)]
    assert (agent.predict(TASKS) == best).all()


def test_price_changes_choices_without_relearning(agent):
    teach(agent)
    before = fingerprint(agent)
    agent.set_params(price=100.0)
    assert {agent.catalogue[a].anchor for a in agent.predict(TASKS)} == {"small"}
    assert fingerprint(agent) == before


def test_unfit_braids_are_masked_at_once(agent):
    teach(agent)
    best = agent.predict(["x"])[0]
    agent.catalogue = agent.catalogue.with_unfit(best, "worse than its anchor")
    assert agent.predict(["x"])[0] != best
    row = agent.catalogue.index(best)
    assert agent.explain("x").rows[row].reason.startswith("unfit")


def test_a_changed_catalogue_is_refused(agent):
    teach(agent, 1)
    agent.catalogue = Catalogue.build(["a", "b"], layer_sets=("final",))
    with pytest.raises(ValueError, match="catalogue changed"):
        agent.recommend("x")


def test_a_changed_encoder_is_refused(agent, encoder):
    teach(agent, 1)
    agent.set_params(encoder=clone(encoder).fit(TASKS))
    with pytest.raises(ValueError, match="encoder changed"):
        agent.recommend("x")


def test_fit_begins_at_the_prior_that_is_set_now(agent):
    agent.recommend("x")
    agent.set_params(prior=PriorScales(mean=0.2), max_parameters=0)
    agent.fit(TASKS[:2], agent.classes_[:2])
    assert agent.posterior_.scales.mean == 0.2
    assert agent.posterior_.own_width == 1


@pytest.mark.parametrize("reward", [1.5, -0.1, float("nan"), "good", None])
def test_rejected_rewards_change_nothing(agent, reward):
    decision = teach(agent).recommend("x")
    before = fingerprint(agent)
    with pytest.raises((ValueError, TypeError), match="reward"):
        agent.update(decision, reward)
    assert fingerprint(agent) == before


def test_other_rejected_calls_change_nothing(agent, encoder):
    decision = teach(agent).recommend("x")
    before, state = fingerprint(agent), rng_state(agent)
    foreign = replace(decision, id="f", braid=Braid("other"))
    drifted = replace(decision, id="d", encoder_hash="0")
    for call, error in [
        (lambda: agent.update("nope", 0.5), KeyError),
        (lambda: agent.update(3, 0.5), TypeError),
        (lambda: agent.update(foreign, 0.5), KeyError),
        (lambda: agent.update(drifted, 0.5), ValueError),
        (lambda: agent.update(decision, 0.5, weight=-1.0), ValueError),
        (lambda: agent.recommend("x", compute_budget=2.0), ValueError),
        (lambda: agent.recommend("x", excluded=["nope"]), KeyError),
        (lambda: agent.recommend({"kind": "x"}), KeyError),
        (lambda: agent.recommend({"type": "code", "capabilities": {"x"}}), TypeError),
        (lambda: agent.partial_fit(["x"], ["nope"]), KeyError),
        (
            lambda: agent.partial_fit(["x"], agent.arm_ids_[:1], reward=[2.0]),
            ValueError,
        ),
        (lambda: agent.partial_fit(["x"], agent.arm_ids_[:2]), ValueError),
        (lambda: agent.partial_fit([" "], agent.arm_ids_[:1]), ValueError),
        (lambda: agent.warm_start(["x"], agent.arm_ids_[:1], [[0.5]]), ValueError),
        (lambda: agent.retract(decision), KeyError),
    ]:
        with pytest.raises(error):
            call()
        assert fingerprint(agent) == before
        assert rng_state(agent) == state


def test_a_second_reward(agent):
    decision = agent.recommend("x")
    agent.update(decision.id, 0.5).update(decision, 0.5)
    before = fingerprint(agent)
    with pytest.raises(ValueError, match="already learnt"):
        agent.update(decision, 0.6)
    assert fingerprint(agent) == before


def test_retract_takes_a_reward_back(agent):
    teach(agent)
    decision = agent.recommend("x")
    before = agent.posterior_.copy()
    agent.update(decision, 0.1).retract(decision)
    np.testing.assert_allclose(agent.posterior_.mean, before.mean, atol=1e-12)
    np.testing.assert_allclose(agent.posterior_.factor, before.factor, atol=1e-12)
    agent.update(decision.id, 0.9)
    assert agent.settled_[decision.id] == 0.9


def test_partial_fits_equal_one_fit(agent):
    arms = [agent.catalogue.ids[i % 5] for i in range(60)]
    rewards = np.linspace(0, 1, 60)
    whole = clone(agent).fit(TASKS, arms, reward=rewards)
    agent.encoder = whole.encoder_
    for i in range(0, 60, 20):
        part = slice(i, i + 20)
        agent.partial_fit(TASKS[part], arms[part], reward=rewards[part])
    np.testing.assert_allclose(agent.posterior_.mean, whole.posterior_.mean, atol=1e-12)
    refit = whole.posterior_.mean.copy()
    np.testing.assert_array_equal(
        whole.fit(TASKS, arms, reward=rewards).posterior_.mean, refit
    )
    zero = clone(agent).fit(TASKS, arms, reward=rewards, sample_weight=np.zeros(60))
    assert zero.n_updates_ == 0


def test_warm_start_learns_the_table(agent, catalogue):
    singles = [b.id for b in catalogue if b.is_single]
    good = {"code": "big", "medical": "small", "creative": "big"}
    anchors = [catalogue[arm].anchor for arm in singles]
    table = [[0.9 if good[t["type"]] == a else 0.3 for a in anchors] for t in TASKS]
    agent.warm_start(TASKS, singles, table)
    assert agent.posterior_.scales.noise < 0.1
    agent.set_params(price=0.0)
    rows = [catalogue.index(arm) for arm in singles]
    scores = agent.decision_function(TASKS)[:, rows]
    assert [anchors[i] for i in scores.argmax(axis=1)] == [
        good[t["type"]] for t in TASKS
    ]
    warm = agent.posterior_.mean.copy()
    teach(agent, 5)
    agent.fit(TASKS[:1], [singles[0]], reward=[0.5], sample_weight=[0.0])
    np.testing.assert_array_equal(agent.posterior_.mean, warm)
    for bad in ([[0.5]], np.full((60, 2), np.nan), np.full((60, 2), 1.2)):
        with pytest.raises(ValueError, match="table"):
            clone(agent).warm_start(TASKS, singles, bad)


@pytest.mark.parametrize("warm", [False, True])
def test_a_reloaded_recommender_is_the_same(agent, catalogue, encoder, tmp_path, warm):
    if warm:
        table = np.random.default_rng(0).random((60, 3))
        agent.warm_start(TASKS, catalogue.ids[:3], table)
    teach(agent.set_params(policy=LinUCB(0.7)))
    waiting = agent.recommend("later")
    agent.save(tmp_path / "s")
    again = BraidRecommender.load(
        tmp_path / "s", catalogue=catalogue, encoder=encoder, resume_rng=True
    )
    assert fingerprint(again) == fingerprint(agent)
    scores = agent.decision_function(TASKS)
    assert again.decision_function(TASKS).tobytes() == scores.tobytes()
    assert [again.recommend(t).braid for t in TASKS] == [
        agent.recommend(t).braid for t in TASKS
    ]
    again.update(waiting.id, 0.5)
    reseeded = BraidRecommender.load(tmp_path / "s", encoder=encoder)
    assert rng_state(reseeded) != rng_state(again)


def test_an_unused_recommender_can_be_saved(agent, encoder, tmp_path):
    agent.save(tmp_path / "s")
    again = BraidRecommender.load(tmp_path / "s", encoder=encoder)
    assert again.posterior_ is None
    assert again.recommend("x").braid in agent.catalogue.braids


def test_mismatched_states_are_refused(agent, encoder, tmp_path):
    teach(agent, 3).save(tmp_path / "s")
    load = BraidRecommender.load
    other = Catalogue.build(["a", "b"], layer_sets=("final",))
    with pytest.raises(ValueError, match="saved for catalogue"):
        load(tmp_path / "s", catalogue=other, encoder=encoder)
    with pytest.raises(ValueError, match="embedder of its own"):
        load(tmp_path / "s")
    narrow = clone(encoder).set_params(n_components=3)
    with pytest.raises(ValueError, match="saved settings"):
        load(tmp_path / "s", encoder=narrow)
    manifest = tmp_path / "s" / "manifest.json"
    data = json.loads(manifest.read_text())
    del data["settled"]
    manifest.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="damaged"):
        load(tmp_path / "s", encoder=encoder)


def test_pending_decisions_are_bounded(agent):
    first = agent.recommend("x")
    for i in range(1000):
        agent.pending_[str(i)] = first
    agent.recommend("y")
    assert len(agent.pending_) == 1000
    assert first.id not in agent.pending_


def test_numbers_as_tasks(catalogue):
    agent = BraidRecommender(catalogue, TaskEncoder(n_components=3), random_state=0)
    X = np.random.default_rng(0).standard_normal((10, 3))
    for row in X:
        agent.update(agent.recommend(row), 0.5)
    assert agent.predict(X).shape == (10,)
    assert agent.explain(X[0]).sentence


@pytest.mark.parametrize(
    "policy",
    [ThompsonSampling(), LinUCB(), EpsilonGreedy()],
    ids=lambda p: type(p).__name__,
)
def test_learning_beats_uniform_choice(policy):
    """Mean reward of the last 150 of 300 rounds, by more than 5 standard errors.

    Each task type has its own best model; a braid earns its share-weighted
    quality plus a little for being a braid.
    """
    names = ("coder", "medic", "poet")
    catalogue = Catalogue.build(
        [ModelCard(n) for n in names], max_strands=2, layer_sets=("output", "final")
    )
    best = dict(zip(TYPES, names, strict=True))

    def run(policy):
        encoder = TaskEncoder(embedder=lambda texts: np.ones((len(texts), 2)))
        agent = BraidRecommender(catalogue, encoder, policy, price=0.0, random_state=0)
        rng, rewards = np.random.default_rng(1), []
        for i in range(300):
            kind = TYPES[rng.integers(3)]
            decision = agent.recommend({"type": kind})
            braid = decision.braid
            share = dict(zip(braid.strands, braid.shares, strict=True))
            quality = 0.3 + 0.4 * share.get(best[kind], 0.0) + 0.1 * bool(braid.donors)
            reward = float(np.clip(quality + 0.1 * rng.standard_normal(), 0, 1))
            agent.update(decision, reward)
            rewards.append(reward if i >= 150 else np.nan)
        return np.array(rewards)[150:]

    learnt, uniform = run(policy), run(Uniform())
    error = np.sqrt((learnt.var() + uniform.var()) / 150)
    assert learnt.mean() - uniform.mean() > 5 * error


def test_copies_are_independent(agent):
    teach(agent, 3)
    other = copy.deepcopy(agent)
    before = fingerprint(agent)
    teach(other, 3)
    assert fingerprint(agent) == before


def test_a_random_pick_is_called_one(catalogue, encoder):
    agent = BraidRecommender(catalogue, encoder, Uniform(), random_state=0)
    teach(agent)
    sentences = [agent.recommend(task).sentence for task in TASKS]
    assert sum("at random" in s for s in sentences) > len(TASKS) / 2
    agent = BraidRecommender(catalogue, encoder, Greedy(), random_state=0)
    assert "at random" not in teach(agent).recommend(TASKS[0]).sentence


def test_model_selection_on_tasks(agent):
    arms = [agent.catalogue.ids[i % 4] for i in range(60)]
    rewards = np.array([0.9 if i % 4 == 1 else 0.2 for i in range(60)])
    logged = {"reward": rewards, "propensity": np.full(60, 0.25)}
    plain = cross_validate(agent, TASKS, arms, cv=3, params={"reward": rewards})
    assert plain["test_score"].shape == (3,)
    with sklearn.config_context(enable_metadata_routing=True):
        names = dict.fromkeys(logged, True)
        agent.set_fit_request(**names).set_score_request(**names)
        found = cross_validate(agent, TASKS, arms, cv=3, params=logged)
        search = GridSearchCV(agent, {"price": [0.0, 100.0]}, cv=3)
        search.fit(TASKS, arms, **logged)
    assert (found["test_score"] > 0.8).all()
    assert search.best_params_ == {"price": 0.0}
    assert search.best_estimator_.predict(TASKS).tolist() == [arms[1]] * 60


def test_columns_of_a_data_frame(agent):
    arms = [agent.catalogue.ids[i % 4] for i in range(12)]
    texts = [f"text {i}" for i in range(12)]
    frame = pd.DataFrame({"prompt": texts, "arm": arms, "reward": [0.5] * 12})
    twin = copy.deepcopy(agent).fit(texts, arms, reward=[0.5] * 12)
    with sklearn.config_context(transform_output="pandas"):
        agent.fit(frame["prompt"], frame["arm"], reward=frame["reward"])
        assert agent.recommend("x").x == twin.recommend("x").x
        scores = agent.decision_function(frame["prompt"].to_numpy())
        assert agent.predict_proba(frame["prompt"]).shape == (
            12,
            len(set(agent.arm_ids_)),
        )
    np.testing.assert_array_equal(scores, twin.decision_function(texts))


def test_the_encoder_sets_its_output(encoder):
    encoder.set_output(transform="default")
    assert encoder.fit_transform(TASKS).shape[0] == 60


@pytest.mark.parametrize("policy", [ThompsonSampling(), LinUCB(), EpsilonGreedy(0.4)])
def test_probabilities_are_those_of_recommend(agent, policy):
    """400 choices: each arm within four standard errors of its probability."""
    teach(agent.set_params(policy=policy))
    agent.pending_.clear()
    expected = agent.predict_proba(["x"])[0]
    counts = np.zeros(len(expected))
    for _ in range(400):
        counts[agent.catalogue.index(agent.recommend("x").braid.id)] += 1
        agent.pending_.clear()
    error = np.sqrt(expected * (1 - expected) / 400 + 0.25 / 256)
    assert (np.abs(counts / 400 - expected) < 4 * error).all()


# ---- rows: all of them, or a refusal that changes nothing ----


@pytest.fixture
def fitted(agent):
    ids = agent.catalogue.ids
    agent.fit(TWELVE, [ids[i % len(ids)] for i in range(12)], reward=[0.5] * 12)
    for task in TWELVE[:3]:
        agent.update(agent.recommend(task), 0.7)
    agent.recommend("one that waits")
    return agent


@pytest.mark.parametrize("bad", [["good", ""], ["good", 3], np.ones((2, 5))])
def test_a_refused_fit_changes_nothing(fitted, bad):
    before = fingerprint(fitted)
    with pytest.raises((ValueError, TypeError)):
        fitted.fit(bad, fitted.catalogue.ids[:2])
    assert fingerprint(fitted) == before


def learn(agent, call, X):
    """Half a reward for the first arm on every row, or for every arm."""
    ids = agent.catalogue.ids
    if call == "warm_start":
        agent.warm_start(X, ids, np.full((len(X), len(ids)), 0.5))
    else:
        getattr(agent, call)(X, [ids[0]] * len(X), reward=[0.5] * len(X))


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("call", ["fit", "partial_fit", "warm_start"])
def test_what_is_refused_while_it_is_learnt_changes_nothing(catalogue, call, warm):
    """An embedding so large that its features cannot be learnt."""
    X = np.random.default_rng(0).standard_normal((30, 4))
    agent = BraidRecommender(catalogue, TaskEncoder().fit(X), random_state=0)
    if warm:
        agent.warm_start(X, agent.catalogue.ids[:1], X[:, :1] > 0)
    elif call != "warm_start":
        learn(agent, "fit", X)
        agent.update(agent.recommend(X[0]), 0.7)
    agent.recommend(X[1])
    before = fingerprint(agent)
    wild = X.copy()
    wild[3] = 9e5
    with pytest.raises(ValueError, match="Scale|large|finite"):
        learn(agent, call, wild)
    assert fingerprint(agent) == before
    learn(agent, call, X)


@pytest.mark.parametrize("call", ["fit", "partial_fit", "warm_start"])
def test_a_stopped_first_batch_leaves_the_encoder_alone(catalogue, call, monkeypatch):
    X = np.random.default_rng(0).standard_normal((30, 4))
    agent = BraidRecommender(catalogue, random_state=0).start()
    before = fingerprint(agent)

    def stop(*given, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ArmModel, "require", stop)
        with pytest.raises(KeyboardInterrupt):
            learn(agent, call, X)
    assert not agent.encoder_.__sklearn_is_fitted__()
    assert fingerprint(agent) == before
    learn(agent, call, X)
    assert agent.encoder_.__sklearn_is_fitted__()


@pytest.mark.parametrize("missing", [None, float("nan"), "", "nan", np.ma.masked])
def test_tasks_without_an_arm_are_counted(fitted, missing):
    """Eight of twelve; a braid stands for its id."""
    known = fitted.catalogue.braids[0]
    arms, before = [missing] * 8 + [known, known.id] * 2, fingerprint(fitted)
    for learn in (fitted.fit, fitted.partial_fit, fitted.score):
        with pytest.raises(ValueError, match="8 rows have no arm, of 12"):
            learn(TWELVE, arms)
    assert fingerprint(fitted) == before
    fitted.partial_fit(TWELVE[8:], arms[8:])


def test_after_a_refused_first_batch_the_next_one_is_the_first(agent):
    ids = [agent.catalogue.ids[0]] * 12
    with pytest.raises(ValueError, match="must not be empty"):
        agent.partial_fit(["good", ""], ids[:2])
    agent.partial_fit(TWELVE, ids, reward=[0.5] * 12)
    assert agent.encoder_.__sklearn_is_fitted__()


# ---- feedback as it arrives ----


def test_the_order_of_rewards_does_not_matter(agent, twin):
    pairs = list(zip(decide(agent), REWARDS, strict=True))
    for decision, reward in pairs:
        agent.update(decision, reward)
    for decision, reward in pairs[::-1]:
        twin.update(decision, reward)
    assert_same(agent, twin)


def test_repeated_feedback_is_ignored_and_reported(agent):
    decision = agent.recommend("x")
    agent.update(decision.id, 0.5)
    mean = agent.posterior_.mean.tobytes()
    agent.update(decision, 0.5).update(decision.id, 0.5)
    assert agent.posterior_.mean.tobytes() == mean
    assert agent.feedback_counts_["learnt"] == 1
    assert agent.feedback_counts_["repeated"] == 2


@pytest.mark.parametrize("forgetting", [1.0, 0.99])
def test_a_revised_reward_is_as_if_it_had_come_first(catalogue, encoder, forgetting):
    def new():
        return BraidRecommender(
            catalogue, encoder, forgetting=forgetting, random_state=0
        )

    agent, twin = new(), new()
    decisions = [agent.recommend(task) for task in TASKS]
    for i, decision in enumerate(decisions):
        agent.update(decision, 0.1 if i == 3 else 0.6)
        twin.update(decision, 0.9 if i == 3 else 0.6)
    agent.revise(decisions[3].id, 0.9)
    assert_same(agent, twin)
    assert agent.settled_[decisions[3].id] == 0.9
    assert agent.feedback_counts_["revised"] == 1
    with pytest.raises(ValueError, match="reward"):
        agent.revise(decisions[3], 1.9)
    with pytest.raises(KeyError, match="no reward"):
        agent.revise("unknown", 0.9)


def test_a_retracted_reward_never_came(agent, twin):
    decisions = decide(agent)
    for i, decision in enumerate(decisions):
        agent.update(decision, REWARDS[i], latency_ms=10.0 + i, compute=1.0)
        if i != 7:
            twin.update(decision, REWARDS[i], latency_ms=10.0 + i, compute=1.0)
    agent.retract(decisions[7].id)
    assert_same(agent, twin)
    for name, model in agent.arm_model_.costs.items():
        other = twin.arm_model_.costs[name]
        assert model.n == other.n == 39
        np.testing.assert_allclose(
            model.posterior.mean, other.posterior.mean, atol=1e-6
        )
    assert agent.n_updates_ == 39
    agent.update(decisions[7].id, 0.5)
    with pytest.raises(KeyError, match="no reward"):
        agent.retract("unknown")


def test_an_old_record_needs_the_decision(agent, monkeypatch):
    monkeypatch.setattr("braidbandit.recommender.feedback_log._MOST_LEARNT", 2)
    decisions = decide(agent, 4)
    before = None
    for decision in decisions:
        agent.update(decision, 0.4)
    with pytest.raises(KeyError, match="Give the Decision itself"):
        agent.retract(decisions[0].id)
    before = agent.n_updates_
    assert agent.retract(decisions[0]).n_updates_ == before - 1
    agent.retrain(decisions[1].braid)
    with pytest.raises(ValueError, match="cannot be taken back exactly"):
        agent.retract(decisions[1])


def test_expired_decisions(agent):
    old, new = decide(agent, 2)
    agent.pending_[old.id] = replace(
        agent.pending_[old.id], created_at="2020-01-01T00:00:00+00:00"
    )
    assert agent.expire(datetime.now(timezone.utc) - timedelta(days=1)) == [old.id]
    assert list(agent.pending_) == [new.id]
    with pytest.raises(KeyError, match="expired"):
        agent.update(old.id, 0.5)
    agent.update(old, 0.5)
    assert agent.feedback_counts_["expired"] == 1
    with pytest.raises(ValueError, match="zone"):
        agent.expire(datetime(2020, 1, 1))


def test_one_decision_may_expire(agent):
    first, second, third = decide(agent, 3)
    assert agent.expire(first) == [first.id]
    assert agent.expire(second.id) == [second.id]
    assert agent.expire(first) == agent.expire("nobody") == []
    assert list(agent.pending_) == [third.id]
    assert agent.feedback_counts_["expired"] == 2


def test_rejected_calls_change_nothing(agent):
    for decision, reward in zip(decide(agent), REWARDS, strict=True):
        agent.update(decision, reward, latency_ms=7.0)
    decision = agent.recommend("y")
    unknown = Braid("nobody")
    gone = agent.recommend("z")
    agent.remove_arms([gone.braid])
    before = fingerprint(agent)
    for call, error in [
        (lambda: agent.update(decision, 0.5, latency_ms=0.0), ValueError),
        (lambda: agent.update(decision, 0.5, compute=float("nan")), ValueError),
        (lambda: agent.update(decision, 0.5, weight=float("nan")), ValueError),
        (lambda: agent.update(replace(decision, id="z", x=(1.0,)), 0.5), ValueError),
        (lambda: agent.update(replace(gone, x=(2.0, *gone.x[1:])), 0.5), ValueError),
        (lambda: agent.add_arms([unknown]), ValueError),
        (lambda: agent.add_arms([unknown], [ModelCard("nobody")]), ValueError),
        (lambda: agent.add_arms([agent.catalogue.braids[0]]), ValueError),
        (lambda: agent.remove_arms([unknown]), KeyError),
        (lambda: agent.remove_arms("text"), TypeError),
        (lambda: agent.remove_arms(agent.classes_), ValueError),
        (lambda: agent.retract(3), TypeError),
        (lambda: agent.recommend("x", eligible=[]), ValueError),
        (lambda: agent.recommend("x", eligible=["nope"]), KeyError),
        (lambda: agent.recommend("x", eligible=[decision.braid.id] * 2), ValueError),
        (lambda: agent.recommend(np.full(12, np.nan)), ValueError),
        (lambda: agent.recommend(np.full(12, np.inf)), ValueError),
        (lambda: agent.recommend(np.ones(2)), ValueError),
        (lambda: agent.recommend("x", eligible=[True]), ValueError),
        (lambda: agent.recommend("x", accuracy_target=2.0), ValueError),
        (lambda: agent.recommend("x", preference={"speed": 1}), KeyError),
        (lambda: agent.recommend("x", preference={"quality": 0}), ValueError),
    ]:
        with pytest.raises(error):
            call()
        assert fingerprint(agent) == before


def test_the_uncertainty_of_a_decision_is_its_arms_width(agent):
    for decision, reward in zip(decide(agent), REWARDS, strict=True):
        agent.update(decision, reward)
    explanation = agent.explain("x")
    width = agent.recommend("x").uncertainty
    assert width == pytest.approx(explanation.chosen.sd, rel=1e-9)


@pytest.mark.parametrize("weight", [1e12, 2e6, 1e-9, 0.0, float("inf")])
def test_weights_beyond_their_range_change_nothing(agent, weight):
    for decision, reward in zip(decide(agent), REWARDS, strict=True):
        agent.update(decision, reward)
    decision = agent.recommend("y")
    before = fingerprint(agent)
    with pytest.raises(ValueError, match="weight"):
        agent.update(decision, 0.5, weight=weight)
    for learn in (agent.fit, agent.partial_fit):
        with pytest.raises(ValueError, match="sample_weight"):
            learn(TASKS[:1], [agent.catalogue.ids[0]], sample_weight=[weight or -1.0])
    assert fingerprint(agent) == before
