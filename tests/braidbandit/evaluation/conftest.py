"""A small log, and a ledger with its agent."""

import pytest

from braidbandit import Ledger, Log, Outcome


@pytest.fixture
def tasks():
    return [{"text": f"task {i}", "type": "code"} for i in range(12)]


@pytest.fixture
def log():
    return Log([[0.0], [1.0], [2.0]], ["b", "a", "b"], [1, 0, 0.5], [0.5, 0.25, 1.0])


@pytest.fixture
def ledger(tmp_path, agent, tasks):
    """Twelve decisions, of which the fourth has no outcome."""
    with Ledger(tmp_path / "ledger.db") as opened:
        for i, task in enumerate(tasks):
            decision = agent.recommend(task)
            opened.record_decision(decision)
            if i != 3:
                outcome = Outcome(decision.id, 0.1 * (i % 7))
                opened.record_outcome(outcome)
                agent.update(decision, outcome.reward)
        yield opened
