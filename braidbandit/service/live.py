"""What goes on now: counters and the newest answers, for the dashboard and metrics."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

_NEWEST = 200


@dataclass(frozen=True)
class Answered:
    """One answer that was given.

    Attributes
    ----------
    decision, arm, label, reason : str
    at : float
        Seconds since 1970, when it was asked for.
    decided, first, seconds : float
        Seconds that the decision took, until the first word, and until the last.
    tokens_read, tokens_written : int
    finish : str
        "stop", "length", ..., "gone" where the client hung up, "failed".
    caller : str
        Name of the key.
    propensity : float
        Probability with which the arm was chosen.
    """

    decision: str
    arm: str
    label: str
    reason: str
    at: float
    decided: float
    first: float
    seconds: float
    tokens_read: int
    tokens_written: int
    finish: str
    caller: str
    propensity: float


@dataclass
class Live:
    """Counts since the start. Several threads may write and read it.

    Attributes
    ----------
    since : float
        Seconds since 1970.
    requests : Counter
        By (route, status).
    answers : Counter
        By (arm id, finish).
    tokens : Counter
        By "read" and "written".
    feedback : Counter
        By (kind, result): kinds are "reward", "preference" and "retraction".
    full : int
        Requests that got 429 because the queue was full.
    in_flight : int
        Answers that are waited for or being written.
    decision_seconds, first_seconds : deque of float
        Of the newest 10,000 decisions and answers.
    newest : deque of Answered
        The newest 200.
    """

    since: float = field(default_factory=time.time)
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    feedback: Counter[tuple[str, str]] = field(default_factory=Counter)
    full: int = 0
    in_flight: int = 0
    decision_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    first_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    newest: deque[Answered] = field(default_factory=lambda: deque(maxlen=_NEWEST))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note_request(self, route: str, status: int) -> None:
        """Count a request."""
        with self._lock:
            self.requests[route, status] += 1

    def note_full(self) -> None:
        """Count a request that found the queue full."""
        with self._lock:
            self.full += 1

    def note_place(self, taken: bool) -> None:
        """Count an answer that is waited for, or no longer."""
        with self._lock:
            self.in_flight += 1 if taken else -1

    def note_answer(self, answered: Answered) -> None:
        """Count an answer."""
        with self._lock:
            self.answers[answered.arm, answered.finish] += 1
            self.tokens["read"] += answered.tokens_read
            self.tokens["written"] += answered.tokens_written
            if answered.tokens_written:
                self.first_seconds.append(answered.first)
            self.newest.append(answered)

    def note_decision(self, seconds: float) -> None:
        """Note how long a decision took."""
        with self._lock:
            self.decision_seconds.append(seconds)

    def note_feedback(self, kind: str, result: str) -> None:
        """Count a piece of feedback."""
        with self._lock:
            self.feedback[kind, result] += 1

    def summary(self) -> dict[str, Any]:
        """Return the counts as JSON-able data."""
        with self._lock:
            times = sorted(self.decision_seconds)
            return {
                "since": self.since,
                "requests": {f"{r} {s}": n for (r, s), n in self.requests.items()},
                "answers": {f"{a} {f}": n for (a, f), n in self.answers.items()},
                "tokens": dict(self.tokens),
                "feedback": {f"{k} {r}": n for (k, r), n in self.feedback.items()},
                "full": self.full,
                "in_flight": self.in_flight,
                "decision_seconds": {
                    "median": _at(times, 0.5),
                    "p99": _at(times, 0.99),
                    "count": len(times),
                },
            }


def _at(times: list[float], share: float) -> float | None:
    return times[int(share * (len(times) - 1))] if times else None
