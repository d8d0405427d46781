"""Overrides: a person picks another arm than the one that was recommended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit.ledger.records import Decision, new_id, now
from braidbandit.recommender.arm_model import ArmModel

PERSON = "person"
"""The policy of a decision that a person made."""


def chosen_by_person(
    model: ArmModel, first: Decision, row: int, scores: NDArray[np.float64]
) -> Decision:
    """Return the decision that a person makes in place of a recommended one.

    Parameters
    ----------
    model : ArmModel
    first : Decision
        As it was recommended.
    row : int
        The arm that the person chose. It need not have been eligible.
    scores : ndarray of shape (A,)
        Of every arm, for a decision that was kept without them.
    """
    braid, x = model.catalogue.braids[row], np.array(first.x)
    belief, latency = model.believe(x), model.expected("latency", x)
    label, cost = model.labels[row], float(model.relative_costs[row])
    mean, sd = float(belief.mean[row]), belief.sd_of(row)
    known: dict[str, Any] = {}
    if braid.id not in first.arm_ids:
        known = {
            "arm_ids": model.catalogue.ids,
            "scores": scores,
            "eligible": model.catalogue.mask(),
        }
    return replace(
        first,
        **known,
        id=new_id(),
        created_at=now(),
        braid=braid,
        propensity=1.0,
        propensity_se=0.0,
        expected_quality=mean,
        uncertainty=sd,
        relative_cost=cost,
        policy=PERSON,
        version=len(model.versions.get(braid.id, ())),
        expected_latency_ms=None if latency is None else float(latency[row]),
        sentence=(
            f"a person chose {label} in place of {first.braid.label()}, which was "
            f"recommended; expected quality {mean:.2f} +- {sd:.2f}, cost {cost:.2f} of "
            "the dearest"
        ),
        conversation=_turn(first, braid.id),
        instead_of=first.id,
        asked=None,
    )


def _turn(first: Decision, arm_id: str) -> dict[str, Any] | None:
    """Return the turn of a conversation that the choice is in place of."""
    if first.conversation is None:
        return None
    return {
        **first.conversation,
        "stayed": first.conversation["held"] == arm_id,
        "other": arm_id,
        "expected_gain": None,
        "why": "a person chose",
    }
