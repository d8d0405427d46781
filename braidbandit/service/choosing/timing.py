"""How long arms take here, as far as it was measured."""

from __future__ import annotations

import threading
from typing import NamedTuple

_NEWEST = 0.2  # weight of the newest answer in the running means


class _Pace(NamedTuple):
    first: float  # seconds to the first word, from when writing begins
    each: float  # seconds per token from then on
    length: float  # tokens of an answer


class Timing:
    """Running means of the time that answers took, by arm. Threads may share it.

    Examples
    --------
    >>> timing = Timing()
    >>> timing.note("a", first=1.0, seconds=3.0, tokens=21)
    >>> timing.expected("a", most_tokens=11)
    2.0
    >>> timing.expected("b", most_tokens=11) is None
    True
    """

    def __init__(self) -> None:
        self._paces: dict[str, _Pace] = {}
        self._lock = threading.Lock()

    def note(self, arm_id: str, *, first: float, seconds: float, tokens: int) -> None:
        """Learn from an answer of so many tokens."""
        each = max(seconds - first, 0.0) / max(tokens - 1, 1)
        new = _Pace(first, each, float(tokens))
        with self._lock:
            known = self._paces.get(arm_id)
            if known is not None:
                pairs = zip(known, new, strict=True)
                new = _Pace(*(old + _NEWEST * (now - old) for old, now in pairs))
            self._paces[arm_id] = new

    def expected(self, arm_id: str, most_tokens: int | None = None) -> float | None:
        """Return the seconds that an answer is expected to take; None if unknown."""
        pace = self._paces.get(arm_id)
        if pace is None:
            return None
        length = pace.length if most_tokens is None else min(pace.length, most_tokens)
        return pace.first + pace.each * max(length - 1, 0)

    def mean(self) -> float:
        """Return the seconds of a middling answer; 1 before there was any."""
        known = [self.expected(arm_id) or 0.0 for arm_id in list(self._paces)]
        return sum(known) / len(known) if known else 1.0
