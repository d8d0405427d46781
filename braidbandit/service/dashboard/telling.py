"""One decision, told term by term."""

from __future__ import annotations

from typing import Any, NamedTuple

from braidbandit.ledger.records import Decision, Outcome
from braidbandit.recommender.explanation import ArmRow, Explanation
from braidbandit.service.service import Service

_MOST_ARMS = 10


class Recorded(NamedTuple):
    """An arm as it was when the decision was made.

    Attributes
    ----------
    arm_id : str
    score : float
    eligible, taken : bool
    """

    arm_id: str
    score: float
    eligible: bool
    taken: bool


class Told(NamedTuple):
    """What is told of a decision.

    Attributes
    ----------
    decision : Decision
    outcome : Outcome or None
    text : str or None
        Of the task, where the ledger keeps texts.
    recorded : tuple of Recorded
        The best scores first, with the arm that was taken.
    left_out : int
        Arms beside them.
    why : Explanation or None
        What would be chosen for the same task now; None where that cannot be told.
    rows : tuple of ArmRow
        The best of the explanation's, with its arm and the one that was taken.
    why_not : str
        Why there is no explanation.
    """

    decision: Decision
    outcome: Outcome | None
    text: str | None
    recorded: tuple[Recorded, ...]
    left_out: int
    why: Explanation | None
    rows: tuple[ArmRow, ...]
    why_not: str


def told(service: Service, decision_id: str) -> Told:
    """Tell of a decision; called in the agent's thread.

    Raises
    ------
    KeyError
        When there is none.
    """
    ledger = service.ledger
    decision = ledger.decision(decision_id)
    outcome = ledger.said_before(decision.id, ledger.last_sequence() + 1)
    text = ledger.text(decision.id)
    why, why_not = _explained(service, decision, text)
    recorded = _recorded(decision)
    return Told(
        decision,
        outcome,
        text,
        recorded,
        len(decision.arm_ids) - len(recorded),
        why,
        () if why is None else _rows(why, decision.braid.id),
        why_not,
    )


def _recorded(decision: Decision) -> tuple[Recorded, ...]:
    arms = zip(decision.arm_ids, decision.scores, decision.eligible, strict=True)
    found = [Recorded(a, s, bool(e), a == decision.braid.id) for a, s, e in arms]
    found.sort(key=lambda arm: (not arm.eligible, -arm.score))
    rest = [arm for arm in found[_MOST_ARMS:] if arm.taken]
    return (*found[:_MOST_ARMS], *rest)


def _explained(
    service: Service, decision: Decision, text: str | None
) -> tuple[Explanation | None, str]:
    task: Any = service.tasks.task(decision.id) or text
    if task is None:
        return None, (
            "The task is no longer at hand. With keep_text = true below [learning] in "
            "braid.toml the ledger keeps the texts of tasks, and decisions can be "
            "explained at any time."
        )
    limits = decision.budget
    # Where it was asked for by name, or was the only one, nothing else is compared.
    only = [decision.braid.id] if sum(decision.eligible) == 1 else None
    try:
        why = service.agent.explain(
            task,
            limits.get("compute_budget", 1.0),
            excluded=service.arms.excluded(),
            eligible=only,
            preference=limits.get("preference"),
            accuracy_target=limits.get("accuracy_target"),
        )
    except (ValueError, TypeError, KeyError) as error:
        return None, f"It cannot be explained now: {error.args[0]}"
    return why, ""


def _rows(why: Explanation, taken: str) -> tuple[ArmRow, ...]:
    found = why.top(_MOST_ARMS)
    shown = {row.arm_id for row in found}
    wanted = {why.arm_id, taken} - shown
    return (*found, *(row for row in why.rows if row.arm_id in wanted))
