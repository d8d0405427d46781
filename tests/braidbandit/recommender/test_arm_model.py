"""Rewards learnt and taken back, and arms that come, change and go."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from learnt import REWARDS, TASKS, assert_same, decide, fingerprint

from braidbandit import (
    Braid,
    BraidRecommender,
    Catalogue,
    ModelCard,
    Uniform,
)
from braidbandit.recommender.arm_model import ArmModel
from braidbandit.recommender.feedback_log import Learnt

PAIR = Braid("big", ("small",), (0.5, 0.5), ("final",), "router")


# ---- rewards ----


def test_nothing_is_believed_before_the_first_task(catalogue):
    model = ArmModel(catalogue)
    with pytest.raises(ValueError, match="before the first task"):
        _ = model.posterior
    x = np.ones(3)
    assert model.expected("latency", x) is None
    belief = model.believe(x)
    np.testing.assert_array_equal(belief.mean, model.means(x[None])[0])
    with pytest.raises(ValueError, match="received 2 task features, expected 3"):
        model.believe(np.ones(2))


def test_a_row_of_no_weight_teaches_nothing(catalogue):
    model, x = ArmModel(catalogue), np.ones((2, 3))
    model.learn_rows([0, 1], x, np.array([0.0, 1.0]), np.array([0.0, 0.0]))
    assert model.quality.n_updates == 0
    model.learn_rows([0, 1], x, np.array([0.0, 1.0]), np.array([0.0, 2.0]))
    assert model.quality.n_updates == 1
    assert model.means(x[:1])[0, 1] > model.means(x[:1])[0, 0]


def test_what_cannot_be_finished_has_not_begun(agent):
    """Every reward so far, and everything that an unfinished batch changed."""
    decisions = decide(agent, 6)
    for decision in decisions[:4]:
        agent.update(decision, 0.5, latency_ms=3.0)
    model, before = agent.arm_model_, fingerprint(agent)

    def interrupted():
        with model.all_or_nothing():
            model.learn(Learnt(decisions[4], 0.9, latency_ms=2.0))
            model.unlearn(model.record_of(decisions[0]))
            model.retrain(decisions[1].braid.id, 0.5)
            model.move_to(99)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert fingerprint(agent) == before
    assert model.versions == {}


def test_a_warning_waits_until_all_is_learnt(agent):
    model = agent.start().arm_model_
    for _ in range(2):
        model.notice("once only")
    with pytest.warns(UserWarning, match="once only") as told:
        model.tell()
    assert len(told) == 1
    model.tell()  # and no second time


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
    Z, columns = agent.arm_model_.descriptors, agent.arm_model_.columns
    column = columns.index("gain:mean")
    relative = Z[-1, column] / Z[catalogue.index(pair.id), column]
    order = [0, 1] if catalogue[singles[0]].anchor == pair.anchor else [1, 0]
    gains = [
        (table.max(axis=1) - table[:, order] @ shares).mean()
        for shares in ([0.76, 0.24], list(pair.shares))
    ]
    assert relative == pytest.approx(gains[0] / gains[1], rel=1e-6)
    assert agent.fit(TASKS[:2], [twin, pair], reward=[0.5, 0.5]).n_updates_ == 2


def test_what_was_not_scored_is_expected_in_what_strands_could_gain(agent, catalogue):
    """Signatures have no hole, and are what was scored where it was."""
    singles = [b.id for b in catalogue if b.is_single]
    table = np.random.default_rng(1).random((40, 2))
    holes = table.copy()
    holes[::3, 0] = holes[1::3, 1] = np.nan
    agent.warm_start(TASKS, singles, holes)
    model = agent.arm_model_
    there = ~np.isnan(holes)
    np.testing.assert_array_equal(model.signatures[there], table[there])
    assert ((model.signatures >= 0) & (model.signatures <= 1)).all()
    assert "gain:mean" in model.columns
    assert model.posterior.count == there.sum()


def test_the_best_model_is_the_best_on_all_tasks_not_on_the_easy_ones(agent, catalogue):
    """The first model was scored on easy tasks only, and is the worse one there."""
    singles = [b.id for b in catalogue if b.is_single]
    hard = np.linspace(0.0, 0.7, 40)
    table = np.column_stack([0.15 + hard, 0.2 + hard])
    table += 0.01 * np.random.default_rng(0).random((40, 2))
    table[:20, 0] = np.nan
    assert np.nanmean(table[:, 0]) > np.nanmean(table[:, 1])
    agent.warm_start(TASKS, singles, table)
    assert agent.baseline_ == singles[1]


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
    monkeypatch.setattr("braidbandit.recommender.feedback_log._MOST_LEARNT", 2)
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
    monkeypatch.setattr("braidbandit.recommender.feedback_log._MOST_LEARNT", 2)
    decisions = decide(agent, 4)
    agent.update(decisions[0], 0.4, **said)
    for decision in decisions[1:]:
        agent.update(decision, 0.4)
    before = fingerprint(agent)
    with pytest.raises(ValueError, match="weights or measurements"):
        agent.retract(decisions[0])
    assert fingerprint(agent) == before


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
