"""A ledger under pressure: many writers at once, a full disk, damage."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from braidbandit import Ledger, Outcome
from braidbandit.ledger.records import dumps

WRITER = Path(__file__).with_name("ledger_writer.py")


def test_many_write_at_once_and_nothing_is_lost_or_doubled(agent, ledger_url):
    """Four processes of eight threads, and one that reads as they write."""
    shared = agent.recommend("shared")
    with Ledger(ledger_url) as ledger:
        ledger.record_decision(shared)
        template = dumps(shared)
        started = [
            subprocess.Popen(
                [sys.executable, WRITER, ledger_url, str(process), shared.id, template],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for process in range(4)
        ]
        seen, last = [], 0
        while any(process.poll() is None for process in started):
            for event in ledger.events(after=last):
                seen.append((event.decision.id, event.kind))
                last = event.sequence
            time.sleep(0.01)
        results = []
        for process in started:
            output, error = process.communicate(timeout=60)
            assert process.returncode == 0, error
            results.append(json.loads(output))
        seen += [(e.decision.id, e.kind) for e in ledger.events(after=last)]
        counts = ledger.counts()
        revised = {d.id: o.reward for _, d, o in ledger.pairs()}
    wrote = {key: sum(row[key] for row in results) for key in results[0]}
    assert wrote == {"decision": 96, "outcome": 96, "shared": 1, "revision": 32}
    assert counts == {"decisions": 97, "outcomes": 97, "pending": 0}
    # A reader that only looks forward has missed nothing, and saw nothing twice.
    assert len(seen) == len(set(seen)) == 96 + 1 + 32
    assert revised["2-5-0"] == 0.21


def fill(ledger, agent):
    """Write until there is no room; returns what was acknowledged."""
    written = []

    def write_on():
        while True:
            decision = agent.recommend("x")
            agent.pending_.clear()
            ledger.record_decision(decision, text="t" * 20_000)
            written.append(decision)

    with pytest.raises(OSError, match="full: nothing was written"):
        write_on()
    return written


def check(path, written):
    """Every acknowledged decision is there; with room again, writing goes on."""
    with Ledger(path) as ledger:
        assert [d.id for d, _ in ledger.decisions()] == [d.id for d in written]
        ledger.record_outcome(Outcome(written[-1].id, 0.5))
        assert ledger.counts()["outcomes"] == 1
        with ledger.database.engine.connect() as connection:
            sound = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
        assert sound == "ok"


def test_a_full_database(agent, tmp_path):
    with Ledger(tmp_path / "l.db") as ledger:

        def limit(connection, *_):
            connection.execute("PRAGMA max_page_count=100")

        sa.event.listen(ledger.database.engine, "connect", limit)
        ledger.database.engine.dispose()
        written = fill(ledger, agent)
        outcome = Outcome(written[0].id, 0.5)
        ledger.record_outcome(outcome)  # little things may still fit
        ledger.retract(written[0].id)
    check(tmp_path / "l.db", written)


def test_a_full_disk(agent, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"a small disk cannot be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        with Ledger(folder / "l.db") as ledger:
            written = fill(ledger, agent)
            agent.arm_model_.surprises = np.zeros((2, 10**6))
            with pytest.raises(OSError, match="No space left"):
                agent.save(folder / "policy")
            assert not (folder / "policy" / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)
        check(folder / "l.db", written)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_an_agent_whose_ledger_is_full_decides_nothing(agent, tmp_path, monkeypatch):
    from braidbandit import MetaBraider

    cards = list(agent.catalogue.cards.values())
    with Ledger(tmp_path / "l.db") as ledger:
        braider = MetaBraider(
            cards, recommender=agent, ledger=ledger, folder=tmp_path / "agent"
        )
        first = braider.forward("x")
        with monkeypatch.context() as patch:
            patch.setattr(ledger.database, "writing", lambda **_: _full())
            with pytest.raises(OSError, match="full"):
                braider.forward("y")
            with pytest.raises(OSError, match="full"):
                braider.learn_from_feedback("x", first, 0.5)
        assert list(agent.pending_) == [first.id]
        assert agent.n_updates_ == 0
        braider.learn_from_feedback("x", first, 0.5)
        assert agent.settled_ == {first.id: 0.5}
        braider.close()


class _full:
    def __enter__(self):
        raise OSError(28, "the disk of the ledger is full")

    def __exit__(self, *exc):
        return False
