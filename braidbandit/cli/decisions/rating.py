"""Feedback that is written to the ledger, where whoever opens the agent learns it.

Neither a model nor the policy is loaded: the ledger is the truth, and an agent or a
service that has the folder open learns what others wrote with the next event.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from braidbandit.cli.shell.place import Place
from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision, Outcome


class Said(NamedTuple):
    """What came of some feedback.

    Attributes
    ----------
    decision : Decision
    reward : float or None
        In force now; None where it was taken back.
    change : str
        "learnt", "revised", "retracted", or "repeated" where nothing is new.
    """

    decision: Decision
    reward: float | None
    change: str


def rate(place: Place, ledger: Ledger, outcome: Outcome, *, revise: bool) -> Said:
    """Write how good an answer was.

    Parameters
    ----------
    place : Place
    ledger : Ledger
    outcome : Outcome
    revise : bool
        Replace the reward that was given before.

    Raises
    ------
    KeyError
        When there is no such decision, or nothing to revise.
    ValueError
        When the decision has another reward already, or the agent could not learn it.
    """
    decision = _learnable(place, ledger, outcome.decision_id)
    if revise:
        event = ledger.revise(decision, outcome.reward, source=outcome.source)
        change = "revised"
    else:
        known = ledger.said_before(decision.id, ledger.last_sequence() + 1)
        if known is not None and known.reward != outcome.reward:
            raise ValueError(
                f"decision {decision.id} has the reward {known.reward:g} already; "
                "replace it with --revise, or take it back with --retract"
            )
        if known is not None:
            return Said(decision, known.reward, "repeated")
        event, change = ledger.record_outcome(outcome, decision), "learnt"
    return Said(decision, outcome.reward, change if event else "repeated")


def take_back(place: Place, ledger: Ledger, decision_id: str) -> Said:
    """Take back what was said of a decision, which then waits for feedback again.

    Raises
    ------
    KeyError
        When there is no such decision, or it never had feedback.
    """
    decision = _learnable(place, ledger, decision_id)
    event = ledger.retract(decision)
    return Said(decision, None, "retracted" if event else "repeated")


def _learnable(place: Place, ledger: Ledger, decision_id: str) -> Decision:
    """Return a decision, unless the agent of the folder could not learn of it."""
    decision = ledger.decision(decision_id)
    manifest: dict[str, Any] = place.manifest() or {}
    encoder = manifest.get("encoder_hash", decision.encoder_hash)
    if encoder != decision.encoder_hash:
        raise ValueError(
            f"decision {decision.id} was made with encoder {decision.encoder_hash}, "
            f"the policy in {place.folder} has {encoder}; open the folder that the "
            "decision was made in"
        )
    unfit = manifest.get("catalogue", {}).get("unfit", {})
    if decision.braid.id in unfit:
        raise ValueError(
            f"{decision.braid.label()} is unfit ({unfit[decision.braid.id]}) and was "
            f"not shown: {decision.braid.anchor} alone answered. Nothing is learnt of "
            "it, and it is not chosen again"
        )
    return decision
