"""The arms as callers see them: their names, and which can answer now."""

from __future__ import annotations

import threading
import time
from typing import Any, Literal, get_args

from braidbandit.agent.meta_braider import MetaBraider
from braidbandit.catalogue.braid import Braid
from braidbandit.service.errors import ApiError

AUTO = "auto"
State = Literal["waiting", "loading", "ready", "unfit", "failed", "out"]
_REASONS = {
    "waiting": "not built yet",
    "loading": "being built",
    "failed": "could not be built",
    "out": "its server gave no answer lately",
}
_STATUS = {"ready": "loaded", "loading": "loading"}


class Arms:
    """Names and states of an agent's arms. Several threads may use it.

    Parameters
    ----------
    agent : MetaBraider

    Examples
    --------
    A model alone is called as the pool calls it, and a braid by its arm id. Both may
    be asked for by the arm id, or by the label that people read.
    """

    def __init__(self, agent: MetaBraider) -> None:
        self._agent = agent
        self._states: dict[str, State] = {}
        self._lock = threading.Lock()
        self.since = int(time.time())

    def named(self, name: str) -> Braid | None:
        """Return the braid of a name; None for "auto".

        Raises
        ------
        ApiError
            When there is none.
        """
        if name == AUTO:
            return None
        catalogue = self._agent.catalogue
        if name in catalogue:
            return catalogue[name]
        for braid in catalogue:
            if name in (self.name_of(braid), braid.label()):
                return braid
        raise ApiError(
            404,
            f"there is no model {name[:100]!r}; /v1/models lists them, and 'auto' "
            "chooses one",
            code="model_not_found",
            param="model",
        )

    def name_of(self, braid: Braid) -> str:
        """Return what an arm is called in answers."""
        return braid.anchor if braid.is_single else braid.id

    def is_served(self, braid: Braid) -> bool:
        """Whether it answers behind a URL."""
        card = self._agent.catalogue.cards.get(braid.anchor)
        return card is not None and card.is_served

    def state(self, braid: Braid) -> State:
        """Return how far an arm is."""
        if braid.id in self._agent.catalogue.unfit:
            return "unfit"
        if self.is_served(braid):
            return "out" if braid.id in self._agent.outages else "ready"
        return self._states.get(braid.id, "waiting")

    def set_state(self, braid: Braid, state: State) -> None:
        """Note how far an arm is."""
        with self._lock:
            self._states = {**self._states, braid.id: state}

    def excluded(self, *, endpoints_only: str | None = None) -> dict[str, str]:
        """Return which arms cannot answer now, and why.

        Parameters
        ----------
        endpoints_only : str, optional
            A field of the request that only models behind a URL can do.
        """
        found: dict[str, str] = {}
        for braid in self._agent.catalogue:
            state = self.state(braid)
            if endpoints_only is not None and not self.is_served(braid):
                found[braid.id] = f"does not take {endpoints_only}"
            elif state in _REASONS:
                found[braid.id] = _REASONS[state]
        return found

    @property
    def can_answer(self) -> bool:
        """Whether some arm can answer."""
        return any(self.state(braid) == "ready" for braid in self._agent.catalogue)

    def counts(self) -> dict[str, int]:
        """Return how many arms are in each state."""
        found: dict[str, int] = dict.fromkeys(get_args(State), 0)
        for braid in self._agent.catalogue:
            found[self.state(braid)] += 1
        return found

    def listing(self) -> list[dict[str, Any]]:
        """Return what ``/v1/models`` lists: "auto", and every arm."""
        ready = self.can_answer
        auto = {"value": "loaded" if ready else "loading"}
        return [
            self._entry(AUTO, "chosen for each task", auto),
            *(self.entry(braid) for braid in self._agent.catalogue),
        ]

    def entry(self, braid: Braid) -> dict[str, Any]:
        """Return what ``/v1/models`` says of an arm."""
        state = self.state(braid)
        status: dict[str, Any] = {"value": _STATUS.get(state, "unloaded")}
        if state in ("unfit", "failed", "out"):
            status["failed"] = True
            status["reason"] = self._agent.catalogue.unfit.get(
                braid.id, _REASONS.get(state, state)
            )
        found = self._entry(self.name_of(braid), braid.label(), status)
        return {**found, "arm": braid.id, "served": self.is_served(braid)}

    def _entry(self, name: str, label: str, status: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self.since,
            "owned_by": "braidbandit",
            "name": name if name == AUTO else label,
            "status": status,
        }
