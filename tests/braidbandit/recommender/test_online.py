"""Feedback as it arrives, and arms that come, change and go."""

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from braidbandit import (
    Braid,
    BraidRecommender,
    Catalogue,
    Ledger,
    LinUCB,
    ModelCard,
    Outcome,
    PriorScales,
    Uniform,
)

TYPES = ("code", "medical", "creative")
TASKS = [{"text": f"task {i}", "type": TYPES[i % 3]} for i in range(40)]
REWARDS = np.random.default_rng(0).random(40).round(2)


def moments(agent):
    """Means and covariance: what the factor, which is not unique, stands for."""
    p = agent.posterior_
    order = np.argsort(p.seen)
    own = -p.own_load[order] @ p.factor.T
    return [p.mean, p.factor @ p.factor.T, p.own_mean, p.own_covariance, own]


def assert_same(one, other, tolerance=1e-9):
    for a, b in zip(moments(one), moments(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=tolerance)


def fingerprint(agent):
    p = agent.posterior_
    arrays = [] if p is None else [getattr(p, name).tobytes() for name in p.ARRAYS]
    log = agent.arm_model_.log
    return [
        *arrays,
        agent.n_updates_,
        agent.arm_model_.quality.clock,
        json.dumps([log.settled, list(log.pending), list(log.learnt), log.counts]),
        agent.arm_ids_,
        agent.arm_model_.Z.tobytes(),
        {k: m.posterior.mean.tobytes() for k, m in agent.arm_model_.costs.items()},
    ]


@pytest.fixture
def twin(catalogue, encoder):
    return BraidRecommender(catalogue, encoder, random_state=0)


def decide(agent, n=40):
    return [agent.recommend(task) for task in TASKS[:n]]


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
    tasks = [*TASKS, *TASKS[:20]]
    decisions = [agent.recommend(task) for task in tasks]
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
    monkeypatch.setattr("braidbandit.recommender.feedback._MOST_LEARNT", 2)
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


def test_pending_decisions_spread(catalogue, encoder):
    """LinUCB is deterministic: without the pending pulls it would repeat itself."""
    agent = BraidRecommender(catalogue, encoder, LinUCB(1.0, floor=0.0), price=0.0)
    same = {"type": "code"}
    first = agent.recommend(same)
    before = agent.explain(same).chosen.sd
    chosen = {agent.recommend(same).braid.id for _ in range(9)}
    assert len(chosen) > 4
    row = next(r for r in agent.explain(same).rows if r.arm_id == first.braid.id)
    assert row.sd < before
    means = [r.mean for r in agent.explain(same).rows]
    agent.expire(datetime.now(timezone.utc) + timedelta(days=1))
    calm = [r.mean for r in agent.explain(same).rows]
    np.testing.assert_allclose(means, calm, atol=1e-12)


def test_widths_with_pending_pulls_are_those_after_the_rewards(agent):
    decisions = decide(agent, 6)
    waiting = [row.sd for row in agent.explain("new task").rows]
    for decision in decisions:
        agent.update(decision, 0.5)
    learnt = [row.sd for row in agent.explain("new task").rows]
    np.testing.assert_allclose(waiting, learnt, rtol=1e-9)


# ---- arms ----


def new_braids(catalogue):
    return [
        Braid("big", ("small",), (0.6, 0.4), ("final",), "router"),
        Braid("small", ("big",), (0.6, 0.4), ("output",), "learned_weighted"),
    ]


def test_new_arms_start_from_their_relatives(agent, catalogue):
    agent.set_params(policy=Uniform())
    good = {b.id for b in catalogue if b.anchor == "big" and b.donors}
    for decision in [agent.recommend(t) for t in TASKS * 3]:
        agent.update(decision, 0.9 if decision.braid.id in good else 0.2)
    before = agent.decision_function(TASKS[:5]) + agent.price * (
        agent.catalogue.relative_costs()
    )
    like_good, like_bad = new_braids(catalogue)
    agent.add_arms([like_good, like_bad])
    after = agent.decision_function(TASKS[:5]) + agent.price * (
        agent.catalogue.relative_costs()
    )
    np.testing.assert_allclose(after[:, :-2], before, atol=1e-12)
    assert (after[:, -2] > after[:, -1] + 0.2).all()
    assert agent.classes_[-2:].tolist() == [like_good.id, like_bad.id]
    with pytest.raises(ValueError, match="differ"):
        agent.add_arms([like_good])
    for decision in [agent.recommend(t) for t in TASKS]:
        agent.update(decision, 0.5)


def test_a_new_model_moves_no_old_arm(agent, catalogue):
    for decision in decide(agent, 20):
        agent.update(decision, 0.4, latency_ms=5.0)
    before = agent.explain("x", preference={"quality": 1}).rows
    card = ModelCard("third", parameters=500, layers=6, width=5, vocab_size=40)
    agent.expire(datetime.now(timezone.utc) + timedelta(days=1))
    agent.add_arms([Braid("third"), Braid("third", ("big",), (0.5, 0.5), ("final",),
                                          "router")], [card])  # fmt: skip
    after = agent.explain("x", preference={"quality": 1}).rows
    for old, new in zip(before, after, strict=False):
        assert new.mean == pytest.approx(old.mean, abs=1e-12)
        assert new.sd == pytest.approx(old.sd, abs=1e-9)
    assert "share:third" in agent.arm_model_.columns
    for decision in decide(agent, 20):
        agent.update(decision, 0.6, latency_ms=5.0)


PAIR = Braid("big", ("small",), (0.5, 0.5), ("final",), "router")


def test_the_first_braid_beside_single_models_leaves_these_what_they_were(
    cards, encoder, tmp_path, monkeypatch
):
    """Arms were all there was; what says more of them comes on top, for new ones.

    After 64 rewards the prior's scales are chosen again.
    """
    monkeypatch.setattr("braidbandit.bandit.online_posterior._REFINE_FROM", 32)
    singles = Catalogue(cards, map(Braid, ("big", "small")))
    agent = BraidRecommender(singles, encoder, Uniform(), random_state=0)
    ledger = Ledger(tmp_path / "ledger.db")
    for i in range(40):
        if i == 20:
            agent.add_arms([PAIR])
        decision = agent.recommend(TASKS[i], eligible=singles.ids)
        ledger.record_decision(decision)
        good = decision.braid.anchor == "big"
        ledger.record_outcome(Outcome(decision.id, 0.6 * good + 0.3 * REWARDS[i]))
        agent.sync(ledger)
    agent.save(tmp_path / "state")
    loaded = BraidRecommender.load(tmp_path / "state", encoder=encoder)
    for one in (agent, loaded):
        means = {row.arm_id: row.mean for row in one.explain("x").rows}
        assert means[singles.ids[0]] - means[singles.ids[1]] > 0.4
        live = moments(one)
        for a, b in zip(live, moments(one.sync(ledger, anew=True)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9)


def test_arms_that_came_make_learning_again_no_other_model(agent, tmp_path):
    """18 arms have slopes of their own in 18 x 15 parameters, 19 would not."""
    agent.set_params(max_parameters=18 * 15)
    ledger = Ledger(tmp_path / "ledger.db")
    for i in range(20):
        if i == 10:
            agent.add_arms([replace(PAIR, shares=(0.6, 0.4))])
        decision = agent.recommend(TASKS[i])
        ledger.record_decision(decision)
        ledger.record_outcome(Outcome(decision.id, REWARDS[i]))
        agent.sync(ledger)
    live = moments(agent)
    for a, b in zip(live, moments(agent.sync(ledger, anew=True)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    assert agent.posterior_.own_width == 15
    agent.fit(TASKS[:2], agent.classes_[:2])  # from scratch
    assert agent.posterior_.own_width == 1


@pytest.mark.parametrize("learn", [False, True])
def test_from_scratch_arms_are_described_as_in_a_new_recommender(cards, encoder, learn):
    singles = Catalogue(cards, map(Braid, ("big", "small")))
    agent = BraidRecommender(singles, encoder, random_state=0)
    if learn:
        agent.recommend("x")
    agent.add_arms([PAIR])
    if learn:
        agent.fit(TASKS, np.repeat(singles.ids, 20), reward=REWARDS)
    new = BraidRecommender(agent.catalogue, encoder)
    new.start()
    assert agent.arm_model_.columns == new.arm_model_.columns
    assert agent.Z_.tolist() == new.Z_.tolist()


def test_warm_arms_keep_what_the_probes_said(agent, catalogue):
    singles = [b.id for b in catalogue if b.is_single]
    table = np.random.default_rng(1).random((40, 2))
    agent.warm_start(TASKS, singles, table)
    pair = next(b for b in catalogue if b.donors and b.fusion_layers == ("final",))
    twin = replace(pair, shares=(0.76, 0.24))
    agent.add_arms([twin])
    Z, columns = agent.arm_model_.Z, agent.arm_model_.columns
    column = columns.index("gain:mean")
    relative = Z[-1, column] / Z[catalogue.index(pair.id), column]
    order = [0, 1] if catalogue[singles[0]].anchor == pair.anchor else [1, 0]
    gains = [
        (table.max(axis=1) - table[:, order] @ shares).mean()
        for shares in ([0.76, 0.24], list(pair.shares))
    ]
    assert relative == pytest.approx(gains[0] / gains[1], rel=1e-6)
    assert agent.fit(TASKS[:2], [twin, pair], reward=[0.5, 0.5]).n_updates_ == 2


def test_a_model_that_was_not_probed_is_no_hindrance_to_the_next_braid(
    agent, twin, catalogue
):
    singles = [b.id for b in catalogue if b.is_single]
    card = ModelCard("third", parameters=500, layers=6, width=5, vocab_size=40)
    for one in (agent, twin):
        one.warm_start(TASKS, singles, np.random.default_rng(1).random((40, 2)))
    agent.add_arms([Braid("third")], [card]).add_arms(
        [replace(PAIR, shares=(0.6, 0.4))]
    )
    twin.add_arms([replace(PAIR, shares=(0.6, 0.4))])
    column = agent.arm_model_.columns.index("gain:mean")
    assert agent.Z_[-1, column] == pytest.approx(twin.Z_[-1, column])


def test_removing_arms_keeps_what_they_taught(agent, catalogue):
    decisions = decide(agent)
    for decision, reward in zip(decisions[:30], REWARDS, strict=False):
        agent.update(decision, reward)
    gone = decisions[35].braid
    agent.expire(datetime.now(timezone.utc) + timedelta(days=1))
    before = {r.arm_id: (r.mean, r.sd) for r in agent.explain("x").rows}
    agent.remove_arms([gone])
    assert gone.id not in agent.classes_
    for row in agent.explain("x").rows:
        assert (row.mean, row.sd) == pytest.approx(before[row.arm_id], abs=1e-12)
    mean = agent.posterior_.mean.copy()
    agent.update(decisions[35], 0.0)
    assert agent.posterior_.own_mean.shape[0] == len(catalogue) - 1
    assert not np.array_equal(agent.posterior_.mean, mean)
    with pytest.raises(KeyError, match="unknown arm"):
        agent.remove_arms([gone])
    agent.add_arms([gone])
    assert agent.recommend("x", eligible=[gone.id]).braid == gone


def test_a_removed_arm_is_described_anew_by_the_warm_start(catalogue, encoder):
    """Its shares and cost keep their distance to those of the arms that are there."""
    agent = BraidRecommender(catalogue, encoder.fit(TASKS), Uniform(), random_state=0)
    gone, stays = catalogue.ids[5], catalogue.ids[8]
    late, later = (agent.recommend("x", eligible=[gone]) for _ in range(2))
    columns = agent.arm_model_.columns
    Z = agent.Z_[[catalogue.index(gone), catalogue.index(stays)]]
    before = dict(zip(columns, Z[0] - Z[1], strict=True))
    agent.remove_arms([gone, catalogue.ids[7]])
    singles = [braid.id for braid in agent.catalogue if braid.is_single]
    agent.warm_start(TASKS, singles, np.random.default_rng(0).random((40, 2)))
    row = agent.Z_[agent.catalogue.index(stays)]
    now = agent.arm_model_.removed[gone] - row
    after = dict(zip(agent.arm_model_.columns, now, strict=True))
    assert len(after) > len(before)
    for name in before.keys() & after.keys():
        assert after[name] == pytest.approx(before[name], abs=1e-12)
    assert agent.update(late, 0.5).n_updates_ == 1
    agent.add_arms([catalogue[catalogue.ids[7]]])
    assert agent.update(later, 0.5).n_updates_ == 2
    assert agent.add_arms([catalogue[gone]]).arm_model_.removed == {}


def test_costs_are_learnt_anew_after_a_warm_start(agent):
    """A measurement that was taken back leaves a model of the columns of then."""
    decision = agent.recommend("x")
    agent.update(decision, 0.5, latency_ms=5.0).retract(decision)
    singles = [braid.id for braid in agent.catalogue if braid.is_single]
    agent.warm_start(TASKS, singles, np.random.default_rng(0).random((40, 2)))
    agent.update(agent.recommend("x"), 0.5, latency_ms=5.0)
    assert agent.n_updates_ == len(agent.settled_) == 1


def test_a_removed_arm_counts_as_one_that_nothing_else_is_known_of(agent, twin):
    """Its reward joins with the arm's own effect integrated out."""
    decision = agent.recommend("x", excluded=agent.catalogue.ids[1:])
    twin.start()
    agent.remove_arms([decision.braid])
    agent.update(decision, 0.1)
    twin.update(decision, 0.1)
    twin.remove_arms([decision.braid])
    assert_same(agent, twin)


def test_a_retrained_arm_keeps_its_mean_and_is_wider(agent):
    for decision in [
        agent.recommend(t, eligible=agent.catalogue.ids[:2]) for t in TASKS
    ]:
        agent.update(decision, 0.8)
    arm = agent.classes_[0]
    before = agent.explain("x").rows
    agent.retrain(arm)
    after = agent.explain("x").rows
    for old, new in zip(before, after, strict=True):
        assert new.mean == pytest.approx(old.mean, abs=1e-12)
        if old.arm_id == arm:
            assert new.sd**2 > old.sd**2 + 0.4 * 0.15**2
        else:
            assert new.sd == pytest.approx(old.sd, abs=1e-12)
    with pytest.raises(ValueError, match="share"):
        agent.retrain(arm, share=1.0)
    with pytest.raises(KeyError, match="unknown arm"):
        agent.retrain("nope")
    assert agent.recommend("x", eligible=[arm]).version == 1


def test_learning_again_widens_an_arm_where_it_was_trained_anew(agent, tmp_path):
    """After 10, 20 and 30 rewards: the last time nothing comes after it."""
    arm, ledger = agent.catalogue.ids[0], Ledger(tmp_path / "ledger.db")
    for i, task in enumerate(TASKS[:30]):
        if i in (10, 20):
            agent.retrain(arm, 0.9)
        decision = agent.recommend(task, eligible=[arm])
        ledger.record_decision(decision)
        ledger.record_outcome(Outcome(decision.id, 0.9 if i < 10 else 0.1))
        agent.sync(ledger)
    agent.retrain(arm, 0.3)
    live = [part.copy() for part in moments(agent)]
    agent.save(tmp_path / "state")
    again = BraidRecommender.load(tmp_path / "state", encoder=agent.encoder_)
    for one in (
        agent.sync(ledger, anew=True),
        agent.sync(ledger, anew=True),
        again.sync(ledger, anew=True),
    ):
        for part, want in zip(moments(one), live, strict=True):
            np.testing.assert_allclose(part, want, atol=1e-12)
        assert one.arm_model_.versions == {arm: [0.9, 0.9, 0.3]}


def test_a_reward_of_an_earlier_version_counts_less(agent, twin):
    only = agent.recommend("x", excluded=agent.catalogue.ids[1:])
    twin.start()
    for one in (agent, twin):
        one.retrain(only.braid)
    agent.update(only, 0.0)
    twin.update(replace(only, version=1), 0.0)
    old, new = (one.explain("x").rows[0].mean for one in (agent, twin))
    assert 0.7 > old > new


def test_reordering_the_catalogue_changes_nothing(agent):
    for decision, reward in zip(decide(agent), REWARDS, strict=True):
        agent.update(decision, reward)
    waiting = agent.recommend("later")
    scores = dict(zip(agent.classes_, agent.decision_function(["x"])[0], strict=True))
    known = agent.catalogue
    agent.catalogue = Catalogue(known.cards.values(), known.braids[::-1])
    assert agent.classes_.tolist() != [b.id for b in agent.catalogue]
    again = agent.decision_function(["x"])[0]
    assert agent.classes_.tolist() == [b.id for b in agent.catalogue]
    for arm, score in zip(agent.classes_, again, strict=True):
        assert score == pytest.approx(scores[arm], abs=1e-12)
    agent.update(waiting.id, 0.3)


def test_models_in_another_order_are_refused(agent):
    """What the probes said of a model is found by its place."""
    agent.update(agent.recommend("x"), 0.5)
    known, before = agent.catalogue, fingerprint(agent)
    agent.catalogue = Catalogue(list(known.cards.values())[::-1], known.braids)
    with pytest.raises(ValueError, match="cards in that order"):
        agent.recommend("x")
    agent.catalogue = known
    assert fingerprint(agent) == before


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


def test_old_rewards_are_dropped_many_at_once(agent, monkeypatch):
    """Of at most 200, two more are kept until the oldest three go together."""
    monkeypatch.setattr("braidbandit.recommender.feedback._MOST_SETTLED", 200)
    ids, sizes = [], []
    for i in range(206):
        decision = agent.recommend(TASKS[i % 40])
        agent.update(decision, 0.5)
        ids.append(decision.id)
        sizes.append(len(agent.settled_))
    assert sizes[199:] == [200, 201, 202, 200, 201, 202, 200]
    assert list(agent.settled_) == ids[-200:]


def test_revised_records_are_as_few_and_as_small_as_learnt_ones(agent, monkeypatch):
    monkeypatch.setattr("braidbandit.recommender.feedback._MOST_LEARNT", 2)
    decisions = decide(agent, 6)
    for decision in decisions:
        agent.update(decision, 0.5)
    for decision in decisions[:3]:
        agent.revise(decision, 0.75)
    learnt = agent.arm_model_.log.learnt
    assert list(learnt) == [decision.id for decision in decisions[1:3]]
    assert all(record.decision.scores == () for record in learnt.values())
    agent.retract(decisions[2].id)
    assert agent.n_updates_ == 5


def test_a_pending_decision_keeps_nothing_of_the_other_arms(agent):
    """Not even as the hidden base of a view."""
    agent.recommend(TASKS[0])
    (kept,) = agent.pending_.values()
    for name in ("scores", "eligible"):
        assert vars(kept)[name].base is None
        assert getattr(kept, name) == ()


def test_a_revision_after_forgetting_counts_as_much_as_what_it_replaces(agent):
    agent.set_params(forgetting=0.98)
    decisions = [agent.recommend(task) for task in [*TASKS, *TASKS[:20]]]
    for decision in decisions:
        agent.update(decision, 0.5)
    count = agent.posterior_.count
    agent.revise(decisions[0], 0.7)
    assert agent.posterior_.count == pytest.approx(count, abs=1e-12)
    agent.retract(decisions[0])
    assert agent.posterior_.count == pytest.approx(count - 0.98**50)


@pytest.mark.parametrize("rates", [(1.0, 0.98), (0.98, 1.0), (0.98, 0.95)])
def test_each_reward_fades_at_the_rates_of_its_time(
    agent, twin, rates, tmp_path, monkeypatch
):
    """0.1 is revised to 0.5 after a change of rate: as if 0.5 had come first."""
    monkeypatch.setattr("braidbandit.bandit.online_posterior._REFINE_FROM", 10**9)
    decisions = [agent.recommend(task) for task in TASKS * 3]
    for one in (agent, twin):
        for i, decision in enumerate(decisions):
            one.set_params(forgetting=rates[i > 60])
            one.update(decision, 0.1 if i == 3 and one is agent else 0.5)
        one.set_params(forgetting=0.9)
    agent.save(tmp_path)
    again = BraidRecommender.load(tmp_path, encoder=agent.encoder_)
    for one in (agent, again):
        assert_same(one.revise(decisions[3].id, 0.5), twin)
    assert_same(agent.retract(decisions[3].id), twin.retract(decisions[3].id))


def test_an_old_record_is_gone_once_anything_was_forgotten(agent, monkeypatch):
    monkeypatch.setattr("braidbandit.recommender.feedback._MOST_LEARNT", 2)
    agent.set_params(forgetting=0.98)
    decisions = [agent.recommend(task) for task in [*TASKS, *TASKS[:20]]]
    for decision in decisions:
        agent.update(decision, 0.5)
    with pytest.raises(ValueError, match="forgetting went on"):
        agent.set_params(forgetting=1.0).retract(decisions[0])


@pytest.mark.parametrize("said", [{"latency_ms": 60_000.0}, {"weight": 4.0}])
def test_an_old_record_is_gone_once_one_said_more_than_a_reward(
    agent, monkeypatch, said
):
    monkeypatch.setattr("braidbandit.recommender.feedback._MOST_LEARNT", 2)
    decisions = decide(agent, 4)
    agent.update(decisions[0], 0.4, **said)
    for decision in decisions[1:]:
        agent.update(decision, 0.4)
    before = fingerprint(agent)
    with pytest.raises(ValueError, match="weights or measurements"):
        agent.retract(decisions[0])
    assert fingerprint(agent) == before


def test_what_was_forgotten_altogether_is_learnt_anew(agent, tmp_path):
    """Nothing is left to be taken back by arithmetic."""
    agent.set_params(forgetting=0.01)
    with Ledger(tmp_path / "l.db") as ledger:
        decisions = decide(agent, 40) + decide(agent, 40) + decide(agent, 40)
        for decision in decisions:
            ledger.record_decision(decision)
            ledger.record_outcome(Outcome(decision.id, 0.5))
        agent.sync(ledger)
        with pytest.raises(ValueError, match="is forgotten"):
            agent.retract(decisions[0])
        ledger.retract(decisions[0].id)
        assert agent.sync(ledger).n_updates_ == 119


def test_an_arm_that_comes_back_twice_is_a_third_one(agent):
    arm, decisions = agent.catalogue.braids[5], []
    for _ in range(3):
        decisions.append(agent.recommend("x", eligible=[arm.id]))
        agent.update(decisions[-1], 0.3)
        agent.remove_arms([arm]).add_arms([arm])
    assert [decision.version for decision in decisions] == [0, 1, 2]
    agent.update(agent.recommend("x", eligible=[arm.id]), 1.0)
    for decision in decisions:
        with pytest.raises(ValueError, match="cannot be taken back exactly"):
            agent.retract(decision)


def test_a_reward_from_before_an_arm_left_is_not_taken_from_the_one_that_came_back(
    agent, twin
):
    arm = agent.catalogue.braids[5]
    early, late = (agent.recommend("x", eligible=[arm.id]) for _ in range(2))
    agent.update(early, 0.0)
    agent.remove_arms([arm]).add_arms([arm])
    agent.update(late, 0.4)
    own = agent.recommend("x", eligible=[arm.id])
    agent.update(own, 1.0)
    before = fingerprint(agent)
    for change in (agent.retract, lambda decision: agent.revise(decision, 0.5)):
        with pytest.raises(ValueError, match="cannot be taken back exactly"):
            change(early)
        assert fingerprint(agent) == before
    agent.retract(own).retract(late)
    twin.update(early, 0.0)
    twin.remove_arms([arm]).add_arms([arm])
    for task in TASKS[:3]:
        got, want = agent.decision_function([task]), twin.decision_function([task])
        np.testing.assert_allclose(got, want, atol=1e-9)


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


@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_a_reward_of_the_least_or_most_weight_is_taken_back_exactly(
    agent, twin, weight
):
    decisions = decide(agent)
    agent.update(decisions[0], 0.9, weight=weight, latency_ms=5.0)
    for decision, reward in zip(decisions[1:], REWARDS, strict=False):
        agent.update(decision, reward)
        twin.update(decision, reward)
    assert_same(agent.retract(decisions[0]), twin, 1e-6)


def test_heavy_rewards_end_no_later_ones(agent):
    """Prior scales are chosen at the 64th and the 128th."""
    rng = np.random.default_rng(0)
    for i in range(130):
        decision = agent.recommend(TASKS[i % 40])
        agent.update(decision, rng.random(), weight=10 ** rng.uniform(-6, 6))
    assert agent.n_updates_ == 130
    assert np.isfinite(agent.decision_function(TASKS)).all()


def test_what_cannot_be_taken_back_is_learnt_anew_from_the_ledger(
    agent, twin, tmp_path
):
    """It was learnt with so much weight that rounding has swallowed the rest."""
    agent.set_params(prior=PriorScales(noise=1e-3))
    with Ledger(tmp_path / "l.db") as ledger:
        decisions = decide(agent, 3)
        for decision, reward in zip(decisions, REWARDS, strict=False):
            ledger.record_decision(decision)
            ledger.record_outcome(Outcome(decision.id, reward))
        agent.update(decisions[0], REWARDS[0], weight=1e6, latency_ms=5.0)
        before = fingerprint(agent)
        with pytest.raises(ValueError, match=r"cannot be taken back.*sync\(ledger"):
            agent.retract(decisions[0])
        assert fingerprint(agent) == before
        with pytest.raises(ValueError, match="cannot be taken back"):
            agent.revise(decisions[0], 0.5)
        assert fingerprint(agent) == before
        ledger.retract(decisions[0].id)
        assert agent.sync(ledger).n_updates_ == 2
    twin.set_params(prior=PriorScales(noise=1e-3))
    for decision, reward in zip(decisions[1:], REWARDS[1:], strict=False):
        twin.update(decision, reward)
    assert_same(agent, twin)
