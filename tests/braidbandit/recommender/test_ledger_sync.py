"""What a ledger says is what is known: learnt in its order, or all of it anew."""

import copy
from dataclasses import replace
from datetime import datetime, timezone
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learnt import REWARDS, TASKS, assert_same, decide, fingerprint, moments
from toy_embedder import embed

from braidbandit import (
    Braid,
    BraidRecommender,
    Catalogue,
    ConservativePolicy,
    Ledger,
    ModelCard,
    Outcome,
    PriorScales,
    TaskEncoder,
    Uniform,
)

PAIR = Braid("big", ("small",), (0.5, 0.5), ("final",), "router")


@pytest.fixture
def fitted(agent):
    ids = agent.catalogue.ids
    agent.fit(TASKS[:12], [ids[i % len(ids)] for i in range(12)], reward=[0.5] * 12)
    for task in TASKS[:3]:
        agent.update(agent.recommend(task), 0.7)
    agent.recommend("one that waits")
    return agent


@pytest.fixture(scope="module")
def small_agent():
    """Five decisions wait. It is copied, never changed."""
    cards = [
        ModelCard("big", parameters=3000, layers=30, width=10, vocab_size=100),
        ModelCard("small", parameters=1000, layers=18, width=5, vocab_size=40),
    ]
    encoder = TaskEncoder(embedder=embed, n_components=2)
    catalogue = Catalogue(cards, [Braid("big"), Braid("small"), PAIR])
    agent = BraidRecommender(catalogue, encoder, random_state=0)
    decide(agent, 5)
    return agent


def record(ledger, decision, reward):
    ledger.record_decision(decision)
    ledger.record_outcome(Outcome(decision.id, reward))


@pytest.fixture
def ledger(fitted, tmp_path):
    """One outcome that can be learnt, and one of another encoder."""
    with Ledger(tmp_path / "l.db") as ledger:
        decision = fitted.recommend("x")
        record(ledger, decision, 0.9)
        other = replace(decision, id="other", encoder_hash="0")
        record(ledger, other, 0.1)
        yield ledger


def test_a_refused_ledger_changes_nothing(fitted, ledger):
    before = fingerprint(fitted)
    with pytest.raises(ValueError, match="was made with encoder"):
        fitted.sync(ledger, anew=True)
    assert fingerprint(fitted) == before


def test_learning_a_ledger_again_keeps_what_is_open(agent, tmp_path):
    """And so the guard goes on counting departures, whose rewards may all be 0."""
    base, other = agent.catalogue.ids[:2]
    policy = ConservativePolicy(Uniform(), share=0.25, baseline=base)
    agent.set_params(policy=policy)
    with Ledger(tmp_path / "l.db") as ledger:
        for _ in range(20):
            record(ledger, agent.recommend("x", eligible=[base]), 1.0)
        agent.sync(ledger, anew=True)
        waits = agent.recommend("x", eligible=[base, other])
        while waits.braid.id != other:
            agent.update(waits, 1.0)
            ledger.record_decision(waits)
            ledger.record_outcome(Outcome(waits.id, 1.0))
            waits = agent.recommend("x", eligible=[base, other])
        agent.sync(ledger, anew=True)
        assert list(agent.pending_) == [waits.id]
        agent.update(waits.id, 0.5)
        gone = agent.recommend("x", eligible=[base, other])
        agent.expire(datetime.now(timezone.utc))
        expired = agent.savings_.expired
        assert agent.sync(ledger, anew=True).savings_.expired == expired
        assert expired == (() if gone.braid.id == base else (gone.id,))


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
    """18 arms have slopes of their own in 18 x 27 parameters, 19 would not."""
    agent.set_params(max_parameters=18 * 27)
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
    assert agent.posterior_.own_width == 27
    agent.fit(TASKS[:2], agent.classes_[:2])  # from scratch
    assert agent.posterior_.own_width == 1


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


def test_an_event_in_hand_is_learnt_without_reading_it_back(
    agent, twin, tmp_path, monkeypatch
):
    """Unless others wrote before it what was not learnt yet."""
    with Ledger(tmp_path / "l.db") as ledger:
        decisions = decide(agent, 3)
        for decision in decisions:
            ledger.record_decision(decision)
        event = ledger.record_outcome(Outcome(decisions[0].id, 0.5))
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "events", None)
            assert agent.sync(ledger, event=event).settled_ == {decisions[0].id: 0.5}
        ledger.record_outcome(Outcome(decisions[1].id, 0.25))
        event = ledger.record_outcome(Outcome(decisions[2].id, 0.75))
        agent.sync(ledger, event=event)
        assert list(agent.settled_) == [decision.id for decision in decisions]
        assert agent.ledger_position_ == ledger.last_sequence()
        assert_same(agent, twin.sync(ledger))


_WRITES = st.tuples(
    st.sampled_from(["outcome", "outcome", "revise", "retract"]),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.booleans(),
)


def write(ledger, what, decision, reward):
    """Write one event; None where the ledger refuses it, or knew it."""
    try:
        if what == "outcome":
            return ledger.record_outcome(Outcome(decision.id, reward), decision)
        if what == "revise":
            return ledger.revise(decision, reward)
        return ledger.retract(decision)
    except (KeyError, ValueError):
        return None


@settings(max_examples=25)
@given(writes=st.lists(_WRITES, min_size=3, max_size=12))
def test_an_event_in_hand_is_the_same_as_reading_it(small_agent, writes):
    """Whatever comes in whatever order, others writing in between: every bit."""
    one, other = copy.deepcopy(small_agent), copy.deepcopy(small_agent)
    decisions = [copy.deepcopy(d) for d in one.pending_.values()]
    with TemporaryDirectory() as folder, Ledger(f"{folder}/l.db") as ledger:
        for decision in decisions:
            ledger.record_decision(decision)
        for what, at, reward, by_another in writes:
            event = write(ledger, what, decisions[at], reward)
            if not by_another:
                one.sync(ledger, event=event)
                other.sync(ledger)
                assert fingerprint(one) == fingerprint(other)
        known = {
            d.id: d_reward
            for d in decisions
            if (d_reward := one.sync(ledger).settled_.get(d.id)) is not None
        }
        said = {d.id: outcome.reward for _, d, outcome in ledger.pairs()}
        assert known == said
        assert fingerprint(one) == fingerprint(other.sync(ledger))


def test_since_is_a_place_or_a_time(agent, tmp_path):
    with Ledger(tmp_path / "l.db") as ledger:
        for since in (-1, True, "yesterday"):
            with pytest.raises(TypeError, match="since is a sequence number"):
                agent.sync(ledger, since)
        with pytest.raises(ValueError, match="a time with a zone"):
            agent.sync(ledger, datetime(2026, 1, 1))
