"""What is learnt at once: all of it, or a refusal that changes nothing."""

import dataclasses
from datetime import datetime, timezone

import numpy as np
import pytest

from braidbandit import ConservativePolicy, Ledger, Outcome, Uniform

TASKS = [f"task {i}" for i in range(12)]


@pytest.fixture
def fitted(agent):
    ids = agent.catalogue.ids
    agent.fit(TASKS, [ids[i % len(ids)] for i in range(12)], reward=[0.5] * 12)
    for task in TASKS[:3]:
        agent.update(agent.recommend(task), 0.7)
    agent.recommend("one that waits")
    return agent


def fingerprint(agent):
    """Every fitted array and counter."""
    posterior, log = agent.posterior_, agent.arm_model_.log
    return (
        [getattr(posterior, name).tobytes() for name in posterior.ARRAYS],
        (posterior.square, posterior.count, agent.n_updates_, agent.ledger_position_),
        (list(log.pending), dict(log.settled), list(log.learnt), dict(log.counts)),
        str(agent.rng_.bit_generator.state),
    )


@pytest.mark.parametrize("bad", [["good", ""], ["good", 3], np.ones((2, 5))])
def test_a_refused_fit_changes_nothing(fitted, bad):
    before = fingerprint(fitted)
    with pytest.raises((ValueError, TypeError)):
        fitted.fit(bad, fitted.catalogue.ids[:2])
    assert fingerprint(fitted) == before


@pytest.mark.parametrize("missing", [None, float("nan"), "", "nan", np.ma.masked])
def test_tasks_without_an_arm_are_counted(fitted, missing):
    """Eight of twelve; a braid stands for its id."""
    known = fitted.catalogue.braids[0]
    arms, before = [missing] * 8 + [known, known.id] * 2, fingerprint(fitted)
    for learn in (fitted.fit, fitted.partial_fit, fitted.score):
        with pytest.raises(ValueError, match="8 rows have no arm, of 12"):
            learn(TASKS, arms)
    assert fingerprint(fitted) == before
    fitted.partial_fit(TASKS[8:], arms[8:])


def test_after_a_refused_first_batch_the_next_one_is_the_first(agent):
    ids = [agent.catalogue.ids[0]] * 12
    with pytest.raises(ValueError, match="must not be empty"):
        agent.partial_fit(["good", ""], ids[:2])
    agent.partial_fit(TASKS, ids, reward=[0.5] * 12)
    assert agent.encoder_.__sklearn_is_fitted__()


def record(ledger, decision, reward):
    ledger.record_decision(decision)
    ledger.record_outcome(Outcome(decision.id, reward))


@pytest.fixture
def ledger(fitted, tmp_path):
    """One outcome that can be learnt, and one of another encoder."""
    with Ledger(tmp_path / "l.db") as ledger:
        decision = fitted.recommend("x")
        record(ledger, decision, 0.9)
        other = dataclasses.replace(decision, id="other", encoder_hash="0")
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


def test_a_ledger_that_cannot_be_learnt_anew_changes_nothing(fitted, ledger):
    before = fingerprint(fitted)
    with pytest.raises(ValueError, match="was made with encoder"):
        fitted.sync(ledger, anew=True)
    assert fingerprint(fitted) == before
