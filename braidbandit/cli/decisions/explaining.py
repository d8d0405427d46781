"""Why a decision was made: as it was recorded, and as it looks by now."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision, Outcome

if TYPE_CHECKING:
    from braidbandit.recommender.explanation import Explanation
    from braidbandit.recommender.recommender import BraidRecommender

_SHOWN = 8


class Recorded(NamedTuple):
    """What the ledger says of a decision.

    Attributes
    ----------
    decision : Decision
    text : str or None
        Of the task, if it was kept.
    outcome : Outcome or None
        The feedback in force.
    """

    decision: Decision
    text: str | None
    outcome: Outcome | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data, without the features of the task."""
        whole = self.decision.to_dict()
        left_out = ("x", "arm_ids", "scores", "eligible")
        kept = {key: value for key, value in whole.items() if key not in left_out}
        made = self.decision
        arms = zip(made.arm_ids, made.scores, made.eligible, strict=True)
        return {
            **kept,
            "arm": made.braid.id,
            "label": made.braid.label(),
            "arms": [
                {"arm": arm, "score": score, "eligible": may}
                for arm, score, may in arms
            ],
            "text": self.text,
            "outcome": None if self.outcome is None else self.outcome.to_dict(),
        }


def recorded(ledger: Ledger, decision_id: str) -> Recorded:
    """Read a decision and its feedback."""
    last = ledger.last_sequence() + 1
    return Recorded(
        ledger.decision(decision_id),
        ledger.text(decision_id),
        ledger.said_before(decision_id, last),
    )


def best_rows(
    found: Recorded, labels: dict[str, str], most: int = _SHOWN
) -> list[tuple[Any, ...]]:
    """Return the arms with the best scores, the chosen one among them.

    Parameters
    ----------
    found : Recorded
    labels : dict of str
        Of arms, by id; an arm without one is shown by its id.
    most : int

    Returns
    -------
    list of (mark, label, score, why it could not be chosen)
    """
    made = found.decision
    scores = np.array(made.scores, dtype=float)
    may = np.array(made.eligible, dtype=bool)
    order = np.lexsort((-scores, ~may)).tolist()
    chosen = made.arm_ids.index(made.braid.id)
    rows = order[:most] if chosen in order[:most] else [*order[: most - 1], chosen]
    return [
        (
            ">" if row == chosen else "",
            labels.get(made.arm_ids[row], made.arm_ids[row]),
            float(scores[row]),
            "" if may[row] else "could not be chosen",
        )
        for row in rows
    ]


def now_of(policy: BraidRecommender, decision: Decision) -> Explanation | None:
    """Explain the arm of a decision by what a policy knows now.

    The score has no exploration in it: nothing is drawn.

    Returns
    -------
    Explanation or None
        None where the arm is gone, or the decision was made with another encoder.
    """
    from braidbandit.bandit.policies import Choice
    from braidbandit.catalogue.limits import Budget, Limits
    from braidbandit.recommender.explanation import ChoiceView
    from braidbandit.recommender.scoring import assess

    arm, model = decision.braid.id, policy.arm_model_
    if arm not in policy.arm_ids_ or decision.encoder_hash != policy.encoder_hash_:
        return None
    given = dict(decision.budget)
    budget = Budget(**{k: given.get(k) for k in ("flops", "memory", "latency_ms")})
    limits = Limits(
        given.get("compute_budget", 1.0),
        budget,
        preference=given.get("preference"),
        accuracy_target=given.get("accuracy_target"),
    )
    x, row = np.array(decision.x), policy.arm_ids_.index(arm)
    now = assess(model, x, limits, policy.price, policy.pacer_.price)
    chances = policy.choice_probabilities(x, limits)
    choice = Choice(row, float(chances[row]), 0.0, np.zeros(len(chances)), chances)
    explained = ChoiceView(model, now, choice, None).explanation()
    best = explained.top(1)[0]
    said = "it has the best score still"
    if best.score > explained.chosen.score:
        said = f"{best.label} has a better score by now"
    return replace(explained, sentence=f"{explained.chosen.label}: {said}")
