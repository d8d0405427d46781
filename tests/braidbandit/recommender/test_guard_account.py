"""What a guard may risk, and why: by hand, and in a recommender that goes on."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from braidbandit import (
    BraidRecommender,
    ConservativePolicy,
    DeclineToDefault,
    Ledger,
    LinUCB,
    Outcome,
    ThompsonSampling,
    Uniform,
)
from braidbandit.bandit.guard import Savings
from braidbandit.recommender.feedback_log import seconds
from braidbandit.recommender.guard_account import GuardAccount
from braidbandit.recommender.saving import policy_from_dict, policy_to_dict

TASKS = [f"task {i}" for i in range(40)]


def singles(catalogue):
    return [braid.id for braid in catalogue if braid.is_single]


def guarded(catalogue, encoder, share=0.1, **settings):
    agent = BraidRecommender(
        catalogue, encoder, ConservativePolicy(Uniform(), share), random_state=0
    )
    table = np.column_stack([np.full(40, 0.6), np.full(40, 0.8)])
    return agent.warm_start(TASKS, singles(catalogue), table)


def test_baseline_is_the_best_single_model_of_the_probe(catalogue, encoder):
    agent = guarded(catalogue, encoder)
    assert agent.baseline_ == singles(catalogue)[1]


def test_a_departure_waits_until_it_can_be_paid_for(catalogue, encoder):
    """At 0.8 a round and a share of 0.1, 13 rounds save 1.04: then one departure."""
    agent = guarded(catalogue, encoder)
    for _ in range(13):
        decision = agent.recommend("x")
        assert decision.braid.id == agent.baseline_
        assert decision.propensity == 1.0
        agent.update(decision, 0.8)
    assert agent.savings_.amount == pytest.approx(1.04)
    first = agent.recommend("x")
    assert first.propensity == pytest.approx(1 / len(catalogue))
    if first.braid.id != agent.baseline_:
        assert agent.recommend("x").propensity == 1.0
        agent.update(first, 0.5)
        assert agent.savings_.amount == pytest.approx(0.54)


@pytest.mark.parametrize("seed", range(3))
def test_no_adversary_costs_more_than_the_share(catalogue, encoder, seed):
    """The adversary pays every other arm 0 and the baseline whatever hurts most."""
    agent = guarded(catalogue, encoder, share=0.1)
    rng = np.random.default_rng(seed)
    earned = baseline = 0.0
    for t in range(300):
        good = float(rng.random() < 0.7)
        decision = agent.recommend(f"adversary {t % 7}")
        departs = decision.braid.id != agent.baseline_
        if departs:
            good = 1.0
        reward = 0.0 if departs else good
        agent.update(decision, reward)
        earned, baseline = earned + reward, baseline + good
        assert earned >= 0.9 * baseline - 1e-9
    assert earned < baseline


def test_the_unguarded_policy_falls_behind_the_same_adversary(catalogue, encoder):
    agent = BraidRecommender(catalogue, encoder, Uniform(), random_state=0)
    baseline = singles(catalogue)[0]
    chosen = [agent.recommend(task).braid.id == baseline for task in TASKS]
    assert sum(chosen) < 0.5 * len(TASKS)


def test_where_the_baseline_is_excluded_nothing_is_booked(catalogue, encoder):
    agent = guarded(catalogue, encoder)
    decision = agent.recommend("x", excluded=[agent.baseline_])
    assert decision.braid.id != agent.baseline_
    agent.update(decision, 0.0)
    assert agent.savings_.amount == 0


def test_a_reward_taken_back_is_taken_out_of_the_savings(catalogue, encoder):
    agent = guarded(catalogue, encoder)
    decision = agent.recommend("x")
    agent.update(decision, 0.8)
    agent.retract(decision)
    assert agent.savings_.amount == 0


def test_saved_and_loaded(catalogue, encoder, tmp_path):
    agent = guarded(catalogue, encoder)
    agent.update(agent.recommend("x"), 0.8)
    agent.save(tmp_path)
    again = BraidRecommender.load(tmp_path, encoder=encoder)
    assert again.savings_ == agent.savings_ == Savings(agent.baseline_, 0.8 * 0.1)
    assert again.baseline_ == agent.baseline_


def test_a_guard_is_saved_with_its_policy():
    policy = ConservativePolicy(LinUCB(0.5), 0.02, "some arm")
    assert policy_from_dict(policy_to_dict(policy)) == policy


def test_without_a_guard_nothing_is_booked(agent):
    account, decision = GuardAccount(), agent.recommend("x")
    for policy in (None, Uniform()):
        account.open(policy, agent.catalogue)
        account.book(policy, decision, 0.0)
        account.expire(policy, decision)
    assert account == GuardAccount()
    assert account.policy(None, agent.catalogue, [decision]) == ThompsonSampling()
    assert not account.may_be_booked(decision)


def test_what_expired_is_booked_once_by_hand(agent):
    """0 at first, which costs 1; then its reward of 0.25, which costs 0.75."""
    base, other = agent.catalogue.ids[:2]
    policy, account = ConservativePolicy(Uniform(), 0.1, base), GuardAccount()
    account.open(policy, agent.catalogue)
    late = agent.recommend("x", excluded=agent.catalogue.ids[2:])
    while late.braid.id != other:
        late = agent.recommend("x", excluded=agent.catalogue.ids[2:])
    account.expire(policy, late)
    assert (account.savings.amount, account.savings.expired) == (-1.0, (late.id,))
    assert account.savings.expired_until == seconds(late)
    account.book(policy, late, 0.25)
    assert (account.savings.amount, account.savings.expired) == (-0.75, ())
    account.book(policy, late, 0.25, back=True)
    assert account.savings.amount == 0.0


def test_a_debt_stays_when_everything_is_learnt_anew():
    """Of nine departures six expired; they alone are left."""
    before = Savings("base", 3.0, ("a", "b"), forgotten=4, departures=9, owed=-4.5)
    account = GuardAccount(savings=Savings("base"))
    account.owe(before)
    left = replace(before, amount=-4.5, departures=6)
    assert account.savings == left
    account.owe(Savings("base", 9.0))  # something is booked already
    assert account.savings == left


def test_where_departures_are_not_counted_none_are_owed():
    account = GuardAccount(savings=Savings("base"))
    account.owe(Savings("base", 3.0, ("a", "b"), owed=-2.0))
    assert (account.savings.amount, account.savings.departures) == (-2.0, 0)


def test_without_a_baseline_it_says_what_to_do(catalogue, encoder):
    agent = BraidRecommender(catalogue, encoder, ConservativePolicy())
    with pytest.raises(ValueError, match="warm_start"):
        agent.recommend("x")


def test_a_departure_that_expires_is_booked_as_nothing_earned(
    catalogue, encoder, tmp_path
):
    """40 rounds at 1 and a share of 0.1 save 4: four departures, then no more."""
    agent = guarded(catalogue, encoder)
    for task in TASKS:
        agent.update(agent.recommend(task, eligible=[agent.baseline_]), 1.0)
    others = [arm for arm in catalogue.ids if arm != agent.baseline_]
    departures = []
    for task in TASKS:
        decision = agent.recommend(task)
        if decision.braid.id in others:
            departures.append(decision)
        agent.expire(datetime.now(timezone.utc) + timedelta(days=1))
    assert len(departures) == 4
    assert agent.savings_.amount == pytest.approx(0.0)
    agent.save(tmp_path)
    again = BraidRecommender.load(tmp_path, encoder=encoder)
    assert again.savings_ == agent.savings_
    for one in (agent, again):
        one.update(departures[0], 0.75)
        assert one.savings_.amount == pytest.approx(0.75)
        one.retract(departures[0])
        assert one.savings_.amount == pytest.approx(1.0)
        assert one.recommend("x").propensity == 1.0  # it waits again


def test_a_departure_among_too_many_to_wait_for_is_booked_as_nothing_earned(
    catalogue, encoder, monkeypatch
):
    """40 rounds at 1 and a share of 0.1 save 4; then three rounds are waited for."""
    monkeypatch.setattr("braidbandit.recommender.feedback_log.MOST_PENDING", 3)
    agent = guarded(catalogue, encoder)
    for task in TASKS:
        agent.update(agent.recommend(task, eligible=[agent.baseline_]), 1.0)
    decisions = [agent.recommend(task) for task in [*TASKS, *TASKS]]
    departures = [d for d in decisions if d.braid.id != agent.baseline_]
    assert len(departures) == 4
    assert agent.savings_.amount == pytest.approx(0.0)
    agent.update(departures[0], 0.75)
    assert agent.savings_.amount == pytest.approx(0.75)


def test_savings_are_those_of_the_ledger(catalogue, encoder, tmp_path):
    """Learning it, live or from the start, and whatever was asked before."""
    baseline, ledger = singles(catalogue)[0], Ledger(tmp_path / "ledger.db")

    def new():
        policy = ConservativePolicy(Uniform(), 0.5, baseline)
        return BraidRecommender(catalogue, encoder, policy, random_state=0)

    live = new()
    for task in TASKS[:10]:
        decision = live.recommend(task, eligible=[baseline])
        ledger.record_decision(decision)
        ledger.record_outcome(Outcome(decision.id, 0.8))
        live.sync(ledger)
    asked = new()
    asked.predict_proba(["x"])
    for one in (
        live,
        new().sync(ledger, anew=True),
        new().sync(ledger),
        asked.sync(ledger, anew=True),
    ):
        assert one.savings_.amount == pytest.approx(4.0)


def test_what_expired_is_still_owed_when_everything_is_learnt_anew(
    catalogue, encoder, tmp_path
):
    agent, ledger = guarded(catalogue, encoder), Ledger(tmp_path / "ledger.db")
    for task in TASKS:
        decision = agent.recommend(task, eligible=[agent.baseline_])
        ledger.record_decision(decision)
        ledger.record_outcome(Outcome(decision.id, 1.0))
    agent.sync(ledger)
    other = singles(catalogue)[0]
    for _ in range(40):
        agent.recommend("x", eligible=[agent.baseline_, other])
        agent.expire(datetime.now(timezone.utc) + timedelta(days=1))
    assert agent.savings_.amount == pytest.approx(0.0)
    agent.retrain(agent.baseline_)
    ledger.retract(decision.id)
    agent.sync(ledger)
    assert agent.savings_.amount == pytest.approx(3.9 - 4.0)


def test_departures_beyond_the_newest_that_expired_are_owed_and_told_of(
    catalogue, encoder, tmp_path, monkeypatch
):
    """Four expired, two are known by name: all four are owed, live and learnt anew."""
    monkeypatch.setattr("braidbandit.recommender.guard_account._MOST_EXPIRED", 2)
    agent, ledger = guarded(catalogue, encoder), Ledger(tmp_path / "ledger.db")
    for task in TASKS:
        decision = agent.recommend(task, eligible=[agent.baseline_])
        ledger.record_decision(decision)
        ledger.record_outcome(Outcome(decision.id, 1.0))
    agent.sync(ledger)
    other, departures = singles(catalogue)[0], []
    while len(departures) < 4:
        decision = agent.recommend("x", eligible=[agent.baseline_, other])
        if decision.braid.id == other:
            departures.append(decision)
        agent.expire(datetime.now(timezone.utc) + timedelta(days=1))
    agent.save(tmp_path / "state")
    again = BraidRecommender.load(tmp_path / "state", encoder=encoder)
    assert again.savings_ == agent.savings_
    assert again.savings_.expired == tuple(d.id for d in departures[2:])
    for one in (agent, again):
        assert one.sync(ledger, anew=True).savings_.amount == pytest.approx(0.0)
        one.update(departures[3], 0.75)
        assert one.savings_.amount == pytest.approx(0.75)
        with pytest.warns(UserWarning, match="counts it twice"):
            one.update(departures[0], 0.75)
        assert one.savings_.amount == pytest.approx(0.5)
        assert one.sync(ledger, anew=True).savings_.amount == pytest.approx(1.0)


def test_a_ledger_that_is_resumed_owes_for_all_that_are_open(
    catalogue, encoder, tmp_path, monkeypatch
):
    """Of four departures two are waited for; the others count as 0, once."""
    for place in ("feedback_log", "ledger_sync"):
        monkeypatch.setattr(f"braidbandit.recommender.{place}.MOST_PENDING", 2)
    agent, ledger = guarded(catalogue, encoder), Ledger(tmp_path / "ledger.db")
    for task in TASKS:
        decision = agent.recommend(task, eligible=[agent.baseline_])
        ledger.record_decision(decision)
        ledger.record_outcome(Outcome(decision.id, 1.0))
    agent.sync(ledger).save(tmp_path / "state")
    for _ in range(4):
        decision = None
        while decision is None or decision.braid.id == agent.baseline_:
            decision = agent.recommend("x", excluded=())
        ledger.record_decision(decision)
    live = agent.savings_
    for _ in range(2):
        again = BraidRecommender.load(tmp_path / "state", encoder=encoder)
        again.resume(ledger)
        assert again.savings_.amount == pytest.approx(2.0)
        assert len(again.pending_) == 2
        again.save(tmp_path / "state")
    assert again.savings_.expired == live.expired


def test_removing_the_best_model_of_the_probe_leaves_another_baseline(
    catalogue, encoder
):
    """The guard was told its baseline; what it saved and owes stays."""
    other, best = singles(catalogue)
    agent = guarded(catalogue, encoder)
    agent.set_params(policy=ConservativePolicy(Uniform(), 0.1, other))
    assert agent.baseline_ == best
    agent.update(agent.recommend("x", eligible=[other]), 0.5)
    agent.remove_arms([best])
    assert agent.savings_ == Savings(other, 0.05)
    assert agent.baseline_ is None
    with pytest.raises(KeyError, match="unknown arm"):
        agent.remove_arms([other]).recommend("x")
    assert agent.savings_ is None


def test_an_account_is_of_one_baseline_and_one_share(catalogue, encoder):
    other, best = singles(catalogue)
    agent = guarded(catalogue, encoder)
    agent.set_params(policy=ConservativePolicy(Uniform(), 0.1, best))
    agent.set_params(policy=ConservativePolicy(Uniform(), 0.2, best))  # empty yet
    agent.update(agent.recommend("x", eligible=[best]), 0.5)
    before = agent.savings_
    for policy in (
        ConservativePolicy(Uniform(), 0.2, other),
        ConservativePolicy(Uniform(), 0.1, best),
    ):
        for _ in range(2):
            with pytest.raises(ValueError, match="has booked rewards"):
                agent.set_params(policy=policy).recommend("x")
    assert agent.savings_ == before == Savings(best, 0.1)
    agent.set_params(policy=Uniform()).recommend("x")
    agent.set_params(policy=ConservativePolicy(Uniform(), 0.2)).recommend("x")


def test_a_second_warm_start_may_change_the_baseline(catalogue, encoder):
    agent = guarded(catalogue, encoder)
    table = np.column_stack([np.full(40, 0.9), np.full(40, 0.1)])
    agent.warm_start(TASKS, singles(catalogue), table)
    assert agent.recommend("x").braid.id == agent.baseline_ == singles(catalogue)[0]


@pytest.mark.parametrize("guard", [ConservativePolicy, DeclineToDefault])
def test_learning_anew_leaves_the_account_as_it_was(
    catalogue, encoder, guard, tmp_path
):
    """Rewards; rounds that expired, of the default and others; a late reward."""
    agent = BraidRecommender(
        catalogue, encoder, guard(Uniform(), share=0.5), random_state=0
    )
    agent.warm_start(TASKS, singles(catalogue), np.full((40, 2), 0.6))
    expired = []
    with Ledger(tmp_path / "ledger.db") as ledger:
        for i, task in enumerate(TASKS):
            decision = agent.recommend(task)
            ledger.record_decision(decision)
            if i % 4 == 3:
                agent.expire(decision)
                expired.append(decision)
                continue
            said = ledger.record_outcome(Outcome(decision.id, 0.5), decision)
            agent.sync(ledger, event=said)
        late = ledger.record_outcome(Outcome(expired[0].id, 0.75), expired[0])
        agent.sync(ledger, event=late)
        live = agent.savings_
        assert live.expired
        for _ in range(2):
            found = agent.sync(ledger, anew=True).savings_
            assert found.amount == pytest.approx(live.amount)
            assert replace(found, amount=live.amount) == live
        agent.save(tmp_path / "state")
        again = BraidRecommender.load(tmp_path / "state", encoder=encoder)
        assert again.savings_ == found


def test_a_round_of_the_default_is_booked_once_though_it_expired(catalogue, encoder):
    agent = BraidRecommender(catalogue, encoder, DeclineToDefault(share=0.3))
    agent.warm_start(TASKS, singles(catalogue), np.full((40, 2), 0.6))
    decision = agent.recommend("x", eligible=[agent.baseline_])
    agent.expire(decision)
    assert agent.savings_.amount == 0.0
    agent.update(decision, 0.5)
    assert agent.savings_.amount == 0.3


def test_what_one_guard_booked_is_not_for_another(catalogue, encoder, tmp_path):
    """Not by way of a policy that is no guard, either, nor of a saved state."""
    agent = guarded(catalogue, encoder)
    agent.update(agent.recommend("x"), 0.8)
    agent.set_params(policy=Uniform()).recommend("x")
    agent.save(tmp_path)
    for one in (agent, BraidRecommender.load(tmp_path, encoder=encoder)):
        with pytest.raises(ValueError, match="ConservativePolicy, has booked"):
            one.set_params(policy=DeclineToDefault(share=0.1)).recommend("x")
        one.set_params(policy=ConservativePolicy(share=0.1)).recommend("x")


def test_declining_to_the_default_keeps_account(catalogue, encoder, tmp_path):
    """Half of the departures' reward less than expected, until they are given up."""
    agent = BraidRecommender(
        catalogue, encoder, DeclineToDefault(share=0.2), random_state=0
    )
    table = np.column_stack([np.full(40, 0.6), np.full(40, 0.8)])
    agent.warm_start(TASKS, singles(catalogue), table)
    for i in range(30):
        decision = agent.recommend(TASKS[i])
        assert min(agent.choice_probabilities(np.array(decision.x))) > 0
        assert decision.default_quality is not None
        before = agent.savings_
        at_home = decision.braid.id == agent.baseline_
        agent.update(decision, 0.8 if at_home else 0.3)
        gain = 0.2 + (0.0 if at_home else 0.3 - decision.default_quality)
        assert agent.savings_.amount == pytest.approx(before.amount + gain)
    learnt = agent.savings_
    agent.revise(decision, 0.1)
    agent.revise(decision, 0.8 if at_home else 0.3)
    assert agent.savings_.amount == pytest.approx(learnt.amount)
    agent.save(tmp_path)
    loaded = BraidRecommender.load(tmp_path, encoder=encoder)
    assert loaded.savings_ == agent.savings_
    assert loaded.policy == agent.policy
    with pytest.raises(ValueError, match="DeclineToDefault, has booked"):
        agent.set_params(policy=ConservativePolicy(share=0.2)).recommend("x")
