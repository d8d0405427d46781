"""What the parts of the dashboard show, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from braidbandit.ledger.records import Decision, Outcome
from braidbandit.service.dashboard.findings import Found
from braidbandit.service.service import Service

_NEWEST = 12


class Line(NamedTuple):
    """A decision in the list of the newest.

    Attributes
    ----------
    id, arm_id, label, at, reason : str
    propensity, cost : float
    reward : float or None
        None while feedback is waited for.
    seconds : float or None
        That the answer took, if it was given by this process.
    finish : str
    """

    id: str
    arm_id: str
    label: str
    at: str
    reason: str
    propensity: float
    cost: float
    reward: float | None
    seconds: float | None
    finish: str


class Warned(NamedTuple):
    """A warning, and what to do.

    Attributes
    ----------
    kind, what, advice : str
    """

    kind: str
    what: str
    advice: str


class Labels:
    """What people call arms; those that are gone by their id.

    Parameters
    ----------
    service : Service
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def __call__(self, arm_id: str) -> str:
        """Return the label of an arm."""
        braid = self._service.braid_of(arm_id)
        return arm_id if braid is None else braid.label()


def status(service: Service) -> dict[str, Any]:
    """Return how far building is, and what goes on."""
    return {
        "ready": service.is_ready,
        "progress": service.progress,
        "arms": service.arms.counts(),
        "gauges": service.gauges(),
        "speed": service.live.summary()["decision_seconds"],
    }


def newest(service: Service) -> list[Line]:
    """Return the newest decisions of the ledger, the newest first."""
    ledger = service.ledger
    answered = {one.decision: one for one in list(service.live.newest)}
    after = ledger.last_sequence() + 1
    found: list[Line] = []
    for decision_id in ledger.ids(most=_NEWEST):
        try:
            decision = ledger.decision(decision_id)
        except KeyError:  # purged meanwhile
            continue
        outcome = ledger.said_before(decision_id, after)
        found.append(_line(decision, outcome, answered.get(decision_id)))
    return found


def cost(service: Service) -> dict[str, Any]:
    """Return what may be spent, and what was."""
    recommender = service.agent.recommender
    return {
        "budget": service.settings.learning.compute_budget,
        "mean_cost": recommender.mean_cost,
        "price": recommender.price,
        "added_price": recommender.pacer_.price,
        "tokens": service.live.summary()["tokens"],
    }


def warned(service: Service, found: Found | None) -> list[Warned]:
    """Return what somebody should look at."""
    label, catalogue = Labels(service), service.agent.catalogue
    warnings = [
        Warned("Fitness", f"{label(arm_id)} is left out: {why}", _UNFIT)
        for arm_id, why in catalogue.unfit.items()
    ]
    warnings += [
        Warned("Server", f"{label(arm_id)}: {why}", _OUT)
        for arm_id, why in service.agent.outages.items()
    ]
    warnings += [
        Warned("Models", f"{braid.label()} could not be built", _FAILED)
        for braid in catalogue
        if service.arms.state(braid) == "failed"
    ]
    for one in () if found is None else found.moved:
        way = "better" if one.better else "worse"
        what = (
            f"{label(one.arm_id)} was rated {way} than expected of it for a while; "
            f"it had {one.rewards_since} ratings since that was noticed"
        )
        warnings.append(Warned("Drift", what, _DRIFT))
    return [*warnings, *_of_feedback(service)]


def _of_feedback(service: Service) -> list[Warned]:
    found: list[Warned] = []
    unmatched, full = service.memory.unmatched(), service.live.full
    if unmatched:
        what = f"{unmatched} ratings are of no answer that is known here"
        found.append(Warned("Feedback", what, _UNMATCHED))
    if full:
        found.append(Warned("Queue", f"{full} requests found the queue full", _FULL))
    return found


def _line(decision: Decision, outcome: Outcome | None, answered: Any) -> Line:
    return Line(
        decision.id,
        decision.braid.id,
        decision.braid.label(),
        decision.created_at,
        decision.sentence,
        decision.propensity,
        decision.relative_cost,
        None if outcome is None else outcome.reward,
        None if answered is None else answered.seconds,
        "" if answered is None else answered.finish,
    )


def plot_data(found: Found | None) -> Mapping[str, list[float]]:
    """Return the columns of the plots."""
    return {"rating": [], "reward": [], "cost": []} if found is None else found.series


_UNFIT = "Its anchor alone answers in its place. More calibration texts may help it."
_OUT = "Other arms answer meanwhile. Look at the server behind its endpoint."
_FAILED = "The log says why; braidbandit doctor names the cause and the fix."
_DRIFT = (
    "If the model behind it was changed, say so with MetaBraider.recommender.retrain."
)
_UNMATCHED = "Let Open WebUI send its ids: ENABLE_FORWARD_USER_INFO_HEADERS=true there."
_FULL = "Raise server.queue, or add a model behind a URL."
