"""What was learnt so long ago that its record is gone: all beyond 20 rewards here."""

from dataclasses import replace

import numpy as np
import pytest
from learnt import TASKS

from braidbandit import BraidRecommender, Ledger, Outcome
from braidbandit.ledger.records import Event, now
from braidbandit.recommender.ledger_sync import LedgerSync

REWARDS = np.random.default_rng(3).random(60).round(3)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr("braidbandit.recommender.feedback_log._MOST_SETTLED", 20)
    monkeypatch.setattr("braidbandit.recommender.feedback_log._MOST_LEARNT", 5)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        yield ledger


def moments(agent):
    p = agent.posterior_
    return [p.mean, p.factor @ p.factor.T, p.own_mean, p.own_covariance]


def assert_as_the_ledger_says(agent, ledger):
    """A new one, which learns what is true now, believes the same."""
    new = BraidRecommender(agent.catalogue, agent.encoder_, prior=agent.prior)
    pairs = list(ledger.pairs())
    for sequence, decision, outcome in pairs:
        new.learn_event(Event(sequence, decision, "outcome", outcome))
    assert agent.n_updates_ == new.n_updates_ == len(pairs)
    new.posterior_.rescale(agent.posterior_.scales)
    for one, two in zip(moments(agent), moments(new), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-9)


def decide(agent, ledger, n=40):
    decisions = [agent.recommend(f"task {i % 9}") for i in range(n)]
    for decision in decisions:
        ledger.record_decision(decision)
    return decisions


def say(ledger, decisions):
    for decision, reward in zip(decisions, REWARDS, strict=False):
        ledger.record_outcome(Outcome(decision.id, reward))


@pytest.fixture
def learnt(agent, ledger):
    """An agent that has learnt 40 rewards from a ledger, and these decisions."""
    decisions = decide(agent, ledger)
    say(ledger, decisions)
    agent.sync(ledger)
    assert len(agent.settled_) == 20
    return agent, decisions


@pytest.mark.parametrize("loaded", [False, True])
def test_a_retraction_in_the_ledger_is_looked_up_there(
    learnt, ledger, tmp_path, loaded
):
    agent, decisions = learnt
    if loaded:
        agent.save(tmp_path / "state")
        agent = BraidRecommender.load(tmp_path / "state", encoder=agent.encoder_)
    ledger.retract(decisions[2].id)
    assert agent.sync(ledger).n_updates_ == 39
    assert_as_the_ledger_says(agent, ledger)
    ledger.record_outcome(Outcome(decisions[2].id, 0.25))
    assert agent.sync(ledger).n_updates_ == 40
    assert_as_the_ledger_says(agent, ledger)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_revision_in_the_ledger_replaces_what_was_learnt(
    learnt, ledger, tmp_path, loaded
):
    agent, decisions = learnt
    if loaded:
        agent.save(tmp_path / "state")
        agent = BraidRecommender.load(tmp_path / "state", encoder=agent.encoder_)
    for reward in (0.9, 0.1):
        ledger.revise(decisions[2].id, reward)
        agent.sync(ledger)
        assert agent.settled_[decisions[2].id] == reward
        assert_as_the_ledger_says(agent, ledger)


def test_old_events_of_every_kind_one_after_the_other(learnt, ledger, monkeypatch):
    """Without learning anew: what the ledger said before is taken back exactly."""
    agent, decisions = learnt
    monkeypatch.setattr(LedgerSync, "read_anew", None)
    ledger.revise(decisions[0].id, 0.5)
    ledger.retract(decisions[0].id)
    ledger.retract(decisions[1].id)
    ledger.record_outcome(Outcome(decisions[1].id, 0.75))
    ledger.revise(decisions[1].id, 0.125)
    agent.sync(ledger)
    assert_as_the_ledger_says(agent, ledger)


def test_a_removed_arm_is_learnt_anew(learnt, ledger):
    agent, decisions = learnt
    agent.remove_arms([decisions[2].braid])
    ledger.retract(decisions[2].id)
    assert agent.sync(ledger).n_updates_ == 39


def test_what_was_learnt_live_is_not_learnt_twice(agent, ledger):
    """Of 40 rewards that the ledger says as well, 20 are known to be repeated."""
    decisions = decide(agent, ledger)
    say(ledger, decisions)
    for decision, reward in zip(decisions, REWARDS, strict=False):
        agent.update(decision, reward)
    agent.sync(ledger)
    assert_as_the_ledger_says(agent, ledger)
    ledger.revise(decisions[0].id, 0.5)
    assert_as_the_ledger_says(agent.sync(ledger), ledger)


def test_a_live_change_that_the_ledger_does_not_know_is_found(learnt, ledger):
    agent, decisions = learnt
    agent.retract(decisions[-1])
    agent.revise(decisions[-2], 0.9)
    later = decide(agent, ledger)
    say(ledger, later)
    agent.sync(ledger)
    ledger.revise(decisions[-2].id, 0.1)
    ledger.retract(decisions[-1].id)
    agent.sync(ledger)
    assert_as_the_ledger_says(agent, ledger)


def test_what_was_taken_back_when_all_was_learnt_anew_is_not_taken_back_again(
    learnt, ledger
):
    agent, decisions = learnt
    agent.retract(decisions[-1])
    ledger.retract(decisions[-1].id)
    ledger.retract(decisions[0].id)
    ledger.retract(decisions[1].id)
    for _ in range(2):
        assert agent.sync(ledger).n_updates_ == 37
        assert agent.ledger_position_ == ledger.last_sequence()
    assert list(ledger.pairs(until=40))[0][1].id == decisions[0].id
    assert_as_the_ledger_says(agent, ledger)


def test_late_rewards_of_old_decisions_are_learnt_once(agent, ledger, monkeypatch):
    """Three of the first decisions get theirs after all others."""
    decisions = decide(agent, ledger)
    say(ledger, decisions[3:])
    agent.pending_.clear()
    agent.sync(ledger)
    monkeypatch.setattr(LedgerSync, "read_anew", None)
    say(ledger, decisions[:3])
    assert agent.sync(ledger).n_updates_ == 40
    assert_as_the_ledger_says(agent, ledger)


def test_what_was_passed_over_is_not_taken_back(agent, ledger, encoder):
    decisions = decide(agent, ledger)
    say(ledger, decisions[:2])
    skipped = ledger.last_sequence()
    for decision in decisions[2:]:
        ledger.record_outcome(Outcome(decision.id, 0.5))
    new = BraidRecommender(agent.catalogue, encoder, random_state=0)
    new.sync(ledger, since=skipped)
    ledger.retract(decisions[0].id)
    before = moments(new)
    with pytest.raises(ValueError, match="passed over"):
        new.sync(ledger, since=skipped)
    for one, two in zip(moments(new), before, strict=True):
        np.testing.assert_array_equal(one, two)
    assert_as_the_ledger_says(new.sync(ledger, anew=True), ledger)


def test_in_memory_an_old_decision_is_refused(agent, tmp_path):
    decisions = [agent.recommend(f"task {i % 9}") for i in range(40)]
    for decision, reward in zip(decisions, REWARDS, strict=False):
        agent.update(decision, reward)
    agent.save(tmp_path / "state")
    again = BraidRecommender.load(tmp_path / "state", encoder=agent.encoder_)
    for one in (agent, again):
        before = [part.copy() for part in moments(one)]
        for change, *said in (
            (one.update, 0.5),
            (one.update, REWARDS[0]),
            (one.revise, 0.5),
            (one.retract,),
        ):
            with pytest.raises(ValueError, match="not known whether"):
                change(decisions[0], *said)
        with pytest.raises(KeyError, match="too old to be known"):
            one.retract(decisions[0].id)
        for part, want in zip(moments(one), before, strict=True):
            np.testing.assert_array_equal(part, want)
        assert one.n_updates_ == 40


def test_in_memory_what_cannot_have_been_learnt_is_learnt(agent):
    """A decision that still waits, however old; and new ones that never waited."""
    waits = agent.recommend("waits")
    decisions = [agent.recommend(f"task {i % 9}") for i in range(40)]
    for decision, reward in zip(decisions, REWARDS, strict=False):
        agent.update(decision, reward)
    agent.update(waits, 0.5)
    other = replace(agent.recommend("x"), id="of another process", created_at=now())
    assert agent.update(other, 0.5).n_updates_ == 42


def test_a_revised_reward_is_among_the_newest(agent):
    decisions = [agent.recommend(f"task {i % 9}") for i in range(21)]
    for decision in decisions[:20]:
        agent.update(decision, 0.5)
    agent.revise(decisions[0], 0.75)
    agent.update(decisions[20], 0.5)
    assert agent.settled_[decisions[0].id] == 0.75
    assert decisions[1].id not in agent.settled_
    assert agent.retract(decisions[0].id).n_updates_ == 20


def test_what_is_learnt_anew_leaves_nothing_to_read(agent, ledger):
    """A reward that was retracted after the last of those that count is not learnt and
    taken back once more: with forgetting, that would count for the others too."""
    agent.set_params(forgetting=0.5)
    decisions = decide(agent, ledger, 50)
    say(ledger, decisions)
    agent.sync(ledger)
    for decision in decisions[20:]:
        ledger.retract(decision.id)
    agent.sync(ledger)
    assert agent.ledger_position_ == ledger.last_sequence()
    before, counts = moments(agent), dict(agent.feedback_counts_)
    agent.sync(ledger)
    assert agent.feedback_counts_ == counts
    for one, two in zip(before, moments(agent), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_is_retracted_waits_again_however_old_it_is(agent, ledger):
    """Learnt anew, as a measurement cannot be taken back without its record."""
    decisions = decide(agent, ledger, 41)
    ledger.record_outcome(Outcome(decisions[40].id, 0.5, latency_ms=9.0))
    say(ledger, decisions[:40])
    agent.sync(ledger)
    for decision in (decisions[2], decisions[-5]):
        ledger.retract(decision.id)
        agent.sync(ledger)
    assert agent.n_updates_ == 39
    assert set(agent.pending_) == {decisions[2].id, decisions[-5].id}


def test_older_states_do_not_say_how_old_their_rewards_are(agent, tmp_path, encoder):
    import json

    decisions = [agent.recommend(f"task {i % 9}") for i in range(40)]
    for decision in decisions:
        agent.update(decision, 0.5)
    agent.save(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["format"] = 3
    del manifest["gone_until"], manifest["as_said"]
    path.write_text(json.dumps(manifest))
    again = BraidRecommender.load(tmp_path, encoder=encoder)
    with pytest.raises(ValueError, match="not known whether"):
        again.update(decisions[0], 0.5)
    assert again.update(again.recommend("new"), 0.5).n_updates_ == 41


def test_every_decision_since_the_saved_state_is_paid_for(
    agent, ledger, tmp_path, monkeypatch
):
    """Of 12, four wait and the records of five rewards are kept."""
    for place in ("feedback_log", "ledger_sync"):
        monkeypatch.setattr(f"braidbandit.recommender.{place}.MOST_PENDING", 4)
    agent.set_params(mean_cost=0.1)
    first = decide(agent, ledger, 3)
    say(ledger, first)
    agent.sync(ledger).save(tmp_path)
    decisions = decide(agent, ledger, 12)
    say(ledger, decisions[:7])
    again = BraidRecommender.load(tmp_path, encoder=agent.encoder_)
    again.resume(ledger)
    assert again.pacer_ == agent.pacer_
    again.save(tmp_path)
    again = BraidRecommender.load(tmp_path, encoder=agent.encoder_)
    again.resume(ledger)
    assert again.pacer_ == agent.pacer_


def test_old_rewards_are_dropped_many_at_once(agent, monkeypatch):
    """Of at most 200, two more are kept until the oldest three go together."""
    monkeypatch.setattr("braidbandit.recommender.feedback_log._MOST_SETTLED", 200)
    ids, sizes = [], []
    for i in range(206):
        decision = agent.recommend(TASKS[i % 40])
        agent.update(decision, 0.5)
        ids.append(decision.id)
        sizes.append(len(agent.settled_))
    assert sizes[199:] == [200, 201, 202, 200, 201, 202, 200]
    assert list(agent.settled_) == ids[-200:]


def test_revised_records_are_as_few_and_as_small_as_learnt_ones(agent, monkeypatch):
    monkeypatch.setattr("braidbandit.recommender.feedback_log._MOST_LEARNT", 2)
    decisions = [agent.recommend(task) for task in TASKS[:6]]
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
