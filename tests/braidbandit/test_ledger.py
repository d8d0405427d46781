import dataclasses
import sys

import numpy as np
import pytest
from sklearn.base import clone

from braidbandit import Ledger, Outcome

TASKS = [{"text": f"task {i}", "type": "code"} for i in range(12)]


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.db") as opened:
        yield opened


def live(agent, ledger, tasks=TASKS):
    """Decide all, then learn in another order: late, out-of-order rewards."""
    decisions = [agent.recommend(task) for task in tasks]
    for decision in decisions:
        ledger.record_decision(decision)
    for i in np.random.default_rng(0).permutation(len(tasks))[:-2]:
        reward = 0.1 * (i % 7)
        ledger.record_outcome(Outcome(decisions[i].id, reward))
        agent.update(decisions[i], reward)
    return decisions


def test_fit_on_the_ledger_equals_the_live_stream_bit_for_bit(agent, ledger):
    live(agent, ledger)
    again = clone(agent).fit(ledger)
    assert again.posterior_.mean.tobytes() == agent.posterior_.mean.tobytes()
    assert again.posterior_.factor.tobytes() == agent.posterior_.factor.tobytes()
    assert again.n_updates_ == agent.n_updates_ == 10


def test_forgetting_is_replayed_too(agent, ledger):
    agent.set_params(forgetting=0.99)
    live(agent, ledger, [f"t{i}" for i in range(120)])
    again = clone(agent).fit(ledger)
    assert again.posterior_.factor.tobytes() == agent.posterior_.factor.tobytes()


def test_catch_up_applies_only_what_is_new(agent, ledger, tmp_path, encoder):
    live(agent, ledger)
    behind = clone(agent).catch_up(ledger)
    assert behind.ledger_position_ == 10
    behind.save(tmp_path / "state")
    decision = ledger.pending()[0]
    ledger.record_outcome(Outcome(decision.id, 0.9))
    agent.update(decision, 0.9)
    behind = type(agent).load(tmp_path / "state", encoder=encoder).catch_up(ledger)
    assert behind.posterior_.mean.tobytes() == agent.posterior_.mean.tobytes()
    mean = agent.posterior_.mean.tobytes()
    assert agent.catch_up(ledger).posterior_.mean.tobytes() == mean


def test_outcomes_are_recorded_once(agent, ledger):
    decision = agent.recommend("x")
    assert ledger.record_decision(decision, text="x")
    assert not ledger.record_decision(decision)
    with pytest.raises(ValueError, match="another decision"):
        ledger.record_decision(dataclasses.replace(decision, propensity=0.5))
    outcome = Outcome(decision.id, 0.5, latency_ms=3.0)
    assert ledger.record_outcome(outcome)
    assert not ledger.record_outcome(Outcome(decision.id, 0.5, latency_ms=3.0))
    with pytest.raises(ValueError, match="already"):
        ledger.record_outcome(Outcome(decision.id, 0.6))
    with pytest.raises(KeyError, match="unknown decision"):
        ledger.record_outcome(Outcome("nope", 0.5))
    with pytest.raises(KeyError, match="unknown decision"):
        ledger.decision("nope")


def test_counts_pending_and_reopening(agent, tmp_path):
    path = tmp_path / "l.db"
    with Ledger(path) as ledger:
        first, second = agent.recommend("a"), agent.recommend("b")
        ledger.record_decision(first)
        ledger.record_decision(second)
        ledger.record_outcome(Outcome(second.id, 1.0))
    with Ledger(f"sqlite:///{path}") as ledger:
        assert ledger.counts() == {"decisions": 2, "outcomes": 1, "pending": 1}
        assert ledger.pending() == [first]
        assert ledger.decision(second.id) == second
        [(sequence, decision, outcome)] = ledger.pairs()
        assert (decision, outcome.reward) == (second, 1.0)
        assert list(ledger.pairs(after=sequence)) == []


def test_sqlite_is_durable(ledger):
    with ledger._engine.connect() as connection:
        read = connection.exec_driver_sql
        assert read("PRAGMA journal_mode").scalar() == "wal"
        assert read("PRAGMA synchronous").scalar() == 2
        assert read("PRAGMA busy_timeout").scalar() > 0


def test_a_newer_format_is_refused(tmp_path):
    with Ledger(tmp_path / "l.db") as ledger, ledger._engine.begin() as connection:
        connection.execute(ledger._meta.update().values(value="99"))
    with pytest.raises(ValueError, match="upgrade"):
        Ledger(tmp_path / "l.db")


def test_missing_package_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ImportError, match=r"braidbandit\[full\]"):
        Ledger("x.db")
