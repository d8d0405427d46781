"""What takes time to find out of the ledger: computed beside everything, and kept."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from braidbandit.ledger.records import Decision, Outcome
from braidbandit.service.dashboard.kinds import Kind, kind_by, kinds
from braidbandit.service.dashboard.moving import Moved, moved
from braidbandit.service.dashboard.paying import Paying, paying
from braidbandit.service.service import Service

_LOG = logging.getLogger(__name__)
# The newest outcomes and waiting decisions that are looked at.
_MOST, _MOST_WAITING = 5000, 2000
# A computation takes at most this share of the time.
_SHARE = 0.05
_LEAST_PAUSE = 1.0
_POINTS, _WINDOW = 500, 20


class Cost(NamedTuple):
    """What decisions cost.

    Attributes
    ----------
    decisions : int
    mean, most : float
        Relative cost, 1 being the dearest arm.
    """

    decisions: int
    mean: float
    most: float


class Found(NamedTuple):
    """What was found.

    Attributes
    ----------
    paying : Paying or None
    kinds : tuple of Kind
    moved : tuple of Moved
    cost : Cost or None
    series : dict
        Columns of the plots: "rating", "reward" and "cost", running means of the newest
        rated answers.
    outcomes : int
        How many outcomes were looked at.
    """

    paying: Paying | None
    kinds: tuple[Kind, ...]
    moved: tuple[Moved, ...]
    cost: Cost | None
    series: dict[str, list[float]]
    outcomes: int


class Findings:
    """Finds anew whenever the ledger has more, and seldom enough; used by one loop.

    Parameters
    ----------
    service : Service
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._found: Found | None = None
        self._of: Any = None
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None

    async def newest(self) -> Found | None:
        """Return what was found last; None before the first time.

        Where the ledger has more by now, finding begins, and this does not wait.
        """
        if self._task is None and time.monotonic() >= self._not_before:
            self._task = asyncio.create_task(self._find())
        return self._found

    async def _find(self) -> None:
        begun = time.monotonic()
        try:
            at = await asyncio.to_thread(self._where)
            if at != self._of:
                self._found = await asyncio.to_thread(find, self._service)
                self._of = at
        except Exception:
            # A page that shows what was found before is better than none.
            if not self._service.stopping:
                _LOG.exception("the dashboard could not be computed")
        finally:
            took = time.monotonic() - begun
            pause = max(_LEAST_PAUSE, took / _SHARE)
            self._not_before = time.monotonic() + pause
            self._task = None

    def _where(self) -> tuple[int, int]:
        ledger = self._service.ledger
        return ledger.last_sequence(), ledger.counts()["decisions"]


def find(service: Service) -> Found:
    """Find everything; takes seconds where there is much."""
    ledger, recommender = service.ledger, service.agent.recommender
    after = max(0, ledger.last_sequence() - _MOST)
    pairs = [(decision, outcome) for _, decision, outcome in ledger.pairs(after)]
    waiting = ledger.pending(_MOST_WAITING)
    decided: list[tuple[Decision, Outcome | None]] = [
        *pairs,
        *((decision, None) for decision in waiting),
    ]
    kind_of = None
    if decided:
        kind_of = kind_by(recommender.encoder_, recommender.encoder_hash_)
    return Found(
        paying(pairs),
        () if kind_of is None else kinds(decided, kind_of),
        moved(pairs),
        _cost([decision for decision, _ in decided]),
        _series(pairs),
        len(pairs),
    )


def _cost(decisions: Sequence[Decision]) -> Cost | None:
    costs = [decision.relative_cost for decision in decisions]
    if not costs:
        return None
    return Cost(len(costs), sum(costs) / len(costs), max(costs))


def _series(pairs: Sequence[tuple[Decision, Outcome]]) -> dict[str, list[float]]:
    newest = pairs[-_POINTS:]
    first = len(pairs) - len(newest) + 1
    rewards = [outcome.reward for _, outcome in newest]
    costs = [decision.relative_cost for decision, _ in newest]
    return {
        "rating": [float(first + at) for at in range(len(newest))],
        "reward": _running(rewards),
        "cost": _running(costs),
    }


def _running(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and those before it, up to a window."""
    found: list[float] = []
    for at in range(len(values)):
        window = values[max(0, at + 1 - _WINDOW) : at + 1]
        found.append(sum(window) / len(window))
    return found
