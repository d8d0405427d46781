"""Which two answers a person compares, as they are given: decisions, or arms beside."""

from __future__ import annotations

from collections.abc import Callable

from braidbandit.catalogue.braid import Braid
from braidbandit.ledger.ledger import check_one_task
from braidbandit.ledger.records import Comparison, Decision, comparison_key
from braidbandit.recommender.arm_model import ArmModel

Answer = Decision | Braid | str
"""A decision or its id, or an arm or its id."""


def compared(
    better: Answer,
    worse: Answer,
    strength: float,
    source: str,
    model: ArmModel,
    find: Callable[[Decision | str], Decision],
) -> tuple[Comparison, Decision]:
    """Return the record of a comparison, and the decision whose task it is about.

    Parameters
    ----------
    better, worse : Decision, Braid or str
    strength : float
    source : str
    model : ArmModel
        It knows the arms, and how often each was retrained.
    find : callable
        Returns a decision by itself or its id; a KeyError where it is unknown.

    Raises
    ------
    KeyError
        On an unknown id.
    TypeError, ValueError
        On what is no comparison of two answers to one task.
    """
    sides = [_side(answer, model, find) for answer in (better, worse)]
    decisions = [side for side in sides if isinstance(side, Decision)]
    check_one_task(decisions)
    arms = [side.braid.id if isinstance(side, Decision) else side for side in sides]
    ids = [side.id if isinstance(side, Decision) else None for side in sides]
    versions = [
        side.version
        if isinstance(side, Decision)
        else len(model.versions.get(side, ()))
        for side in sides
    ]
    comparison = Comparison(
        arms[0], arms[1], ids[0], ids[1], strength, source, versions[0], versions[1]
    )
    return comparison, decisions[0]


def key_of(one: Answer, other: Answer, source: str) -> str:
    """Return the key of what a source said of two answers, in either order."""
    return comparison_key(_name(one), _name(other), source)


def _side(
    answer: Answer, model: ArmModel, find: Callable[[Decision | str], Decision]
) -> Decision | str:
    """Return a decision, or the id of an arm that is or was in the catalogue."""
    if isinstance(answer, Decision):
        answer = find(answer)
        arm_id = answer.braid.id
    elif isinstance(answer, Braid):
        answer = arm_id = answer.id
    elif not isinstance(answer, str):
        raise TypeError(
            "an answer is given as a Decision or a Braid, or by the id of one; "
            f"received {type(answer).__name__}"
        )
    elif answer in model.rows or answer in model.removed:
        arm_id = answer
    else:
        answer = find(answer)
        arm_id = answer.braid.id
    if arm_id not in model.removed:
        model.catalogue.index(arm_id)  # refuses one that is unknown
    if isinstance(answer, Decision):
        model.log.refuse_overridden(answer.id)
    return answer


def _name(answer: Answer) -> str:
    if isinstance(answer, Decision | Braid):
        return answer.id
    if isinstance(answer, str):
        return answer
    raise TypeError(
        "an answer is given as a Decision or a Braid, or by the id of one; received "
        f"{type(answer).__name__}"
    )
