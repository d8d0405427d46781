"""What the service remembers of answers: which decision wrote what, and who rated it.

It is a file beside the ledger. The ledger is the truth about rewards; without this file
nothing that was learnt is lost, but ratings that come later find their answers no more.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

_MOST_ANSWERS = 200_000
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    decision TEXT PRIMARY KEY, fingerprint TEXT, chat TEXT, message TEXT,
    latency_ms REAL, compute REAL, at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS by_fingerprint ON answers (fingerprint, at);
CREATE INDEX IF NOT EXISTS by_message ON answers (chat, message);
CREATE INDEX IF NOT EXISTS by_time ON answers (at);
CREATE TABLE IF NOT EXISTS signals (
    id TEXT PRIMARY KEY, decision TEXT, said TEXT NOT NULL, at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS changes (decision TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""


class Remembered(NamedTuple):
    """What is known of an answer.

    Attributes
    ----------
    decision : str
    latency_ms, compute : float, optional
        What it took.
    """

    decision: str
    latency_ms: float | None
    compute: float | None


class Memory:
    """Answers and signals in an SQLite file. Several threads may use it.

    Parameters
    ----------
    path : Path or ":memory:"
    """

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            path, check_same_thread=False, isolation_level=None, timeout=30
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_TABLES)
        self._added = 0

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def note_answer(
        self,
        decision: str,
        *,
        fingerprint: str | None = None,
        chat: str | None = None,
        message: str | None = None,
        latency_ms: float | None = None,
        compute: float | None = None,
    ) -> None:
        """Remember which decision wrote an answer, and what that took."""
        row = (decision, fingerprint, chat, message, latency_ms, compute, time.time())
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", row
            )
            self._added += 1
            if self._added % 1000 == 0:
                self._db.execute(
                    "DELETE FROM answers WHERE at < (SELECT at FROM answers "
                    "ORDER BY at DESC LIMIT 1 OFFSET ?)",
                    (_MOST_ANSWERS,),
                )

    def answer(self, decision: str) -> Remembered | None:
        """Return what is known of a decision's answer."""
        return self._one("decision = ?", (decision,))

    def of_message(self, chat: str, message: str) -> str | None:
        """Return the decision that wrote a message of a chat, the first if several."""
        found = self._one("chat = ? AND message = ? ORDER BY at", (chat, message))
        return found and found.decision

    def of_text(self, fingerprint: str) -> str | None:
        """Return the one decision that wrote a text; None if none or several did."""
        with self._lock:
            rows = self._db.execute(
                "SELECT decision FROM answers WHERE fingerprint = ? LIMIT 2",
                (fingerprint,),
            ).fetchall()
        return rows[0][0] if len(rows) == 1 else None

    def said(self, signal: str) -> str | None:
        """Return what a signal said last, as text; None if it never came."""
        with self._lock:
            row = self._db.execute(
                "SELECT said FROM signals WHERE id = ?", (signal,)
            ).fetchone()
        return None if row is None else row[0]

    def note_signal(self, signal: str, decision: str | None, said: str) -> None:
        """Remember what a signal said."""
        with self._lock:
            self._db.execute(
                "INSERT OR REPLACE INTO signals VALUES (?, ?, ?, ?)",
                (signal, decision, said, time.time()),
            )

    def unmatched(self) -> int:
        """Return how many signals are of no decision that is known here."""
        with self._lock:
            row = self._db.execute(
                "SELECT COUNT(*) FROM signals WHERE decision IS NULL"
            ).fetchone()
        return int(row[0])

    def changes(self, decision: str) -> int:
        """Return how often the reward of a decision was changed."""
        with self._lock:
            row = self._db.execute(
                "SELECT count FROM changes WHERE decision = ?", (decision,)
            ).fetchone()
        return 0 if row is None else int(row[0])

    def note_change(self, decision: str) -> None:
        """Count one more change of a decision's reward."""
        with self._lock:
            self._db.execute(
                "INSERT INTO changes VALUES (?, 1) "
                "ON CONFLICT (decision) DO UPDATE SET count = count + 1",
                (decision,),
            )

    def _one(self, where: str, values: Sequence[Any]) -> Remembered | None:
        query = f"SELECT decision, latency_ms, compute FROM answers WHERE {where} "
        with self._lock:
            row = self._db.execute(query + "LIMIT 1", values).fetchone()
        return None if row is None else Remembered(*row)
