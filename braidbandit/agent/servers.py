"""The served models of an agent: which are out, and what their answers took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import NamedTuple

from braidbandit.agent.endpoint import Endpoint, EndpointError
from braidbandit.agent.served_model import ServedModel, Usage
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard

_MOST_USED = 1000  # decisions, as many as a recommender waits for
_FIRST_OUT = 60.0  # seconds; twice as long after each failure that follows
_LONGEST_OUT = 960.0


class Outage(NamedTuple):
    """Why an arm is out, and how long.

    Attributes
    ----------
    until : float
        On the monotonic clock.
    reason : str
    failures : int
        In a row.
    """

    until: float
    reason: str
    failures: int


class Servers:
    """Connections to servers, outages, and what was used for which decision.

    Parameters
    ----------
    cards : iterable of ModelCard
        Of the pool; those of local models are passed over.
    clock : callable
        Gives seconds.

    Attributes
    ----------
    cards : dict of ModelCard
        Of the served models, by name.
    outages : dict of Outage
        By arm id, also those that are over until the arm answers again.
    used : dict of Usage
        By decision id, the newest 1,000.
    """

    def __init__(
        self,
        cards: Iterable[ModelCard],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cards = {card.name: card for card in cards if card.is_served}
        self.outages: dict[str, Outage] = {}
        self.used: dict[str, Usage] = {}
        self._clock = clock
        self._endpoints: dict[str, Endpoint] = {}
        # Taken again by the same thread where an iterator is dropped in between.
        self._lock = threading.RLock()

    def model(
        self,
        braid: Braid,
        decision_id: str | None,
        gave_up: Callable[[str], None],
    ) -> ServedModel:
        """Return the model of an arm.

        ``gave_up`` gets the id of a decision that was given no answer.
        """
        card = self.cards[braid.anchor]
        with self._lock:
            if card.name not in self._endpoints:
                self._endpoints[card.name] = Endpoint(card)
            endpoint = self._endpoints[card.name]
        return ServedModel(
            card,
            endpoint,
            answered=partial(self._answered, braid.id, decision_id),
            failed=partial(self._failed, braid, decision_id, gave_up),
        )

    def out(self) -> dict[str, str]:
        """Return the arms that are out now, with the reason."""
        with self._lock:
            now, outages = self._clock(), dict(self.outages)
        found: dict[str, str] = {}
        for arm_id, outage in outages.items():
            left = outage.until - now
            if left > 0:
                at = datetime.now(timezone.utc) + timedelta(seconds=left)
                found[arm_id] = f"out until {at:%H:%M:%S} UTC, as {outage.reason}"
        return found

    def close(self) -> None:
        """Close all connections."""
        for endpoint in list(self._endpoints.values()):
            endpoint.close()

    def after_fork(self) -> None:
        """Leave the parent process its connections and locks."""
        self._lock = threading.RLock()
        for endpoint in self._endpoints.values():
            endpoint.after_fork()

    def _answered(self, arm_id: str, decision_id: str | None, usage: Usage) -> None:
        with self._lock:
            self.outages.pop(arm_id, None)
            if decision_id is not None:
                before = self.used.pop(decision_id, Usage())
                self.used[decision_id] = before.plus(usage)
                while len(self.used) > _MOST_USED:
                    del self.used[next(iter(self.used))]

    def _failed(
        self,
        braid: Braid,
        decision_id: str | None,
        gave_up: Callable[[str], None],
        error: EndpointError,
    ) -> None:
        with self._lock:
            now, before = self._clock(), self.outages.get(braid.id)
            failures = 1 if before is None else before.failures
            if before is not None and before.until <= now:
                failures += 1  # else it is the same outage, of another request
            seconds = min(_FIRST_OUT * 2.0 ** min(failures - 1, 10), _LONGEST_OUT)
            self.outages[braid.id] = Outage(now + seconds, str(error), failures)
            rated = decision_id in self.used  # or may be: an answer was given before
        if decision_id is not None and not rated:
            gave_up(decision_id)
