"""The table of arms: how often each was chosen, how well it did, and at what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision

if TYPE_CHECKING:
    from braidbandit.recommender.recommender import BraidRecommender

# The block of columns that say which type a task states; see TaskEncoder.blocks.
_TYPES = 2
ANY = "any"
"""The kind of tasks of which no kind is known."""


@dataclass
class Record:
    """How one arm did.

    Attributes
    ----------
    arm, label : str
    decisions : int
    rewards : list of float
        In force, one per decision that was rated.
    kinds : dict of list of float
        The same by kind of task.
    expected : float, optional
        Quality that the policy expects now, on average over the tasks so far.
    cost : float, optional
        Relative, from 0 to 1.
    unfit : str
        Why it is not chosen; empty where it is.
    """

    arm: str
    label: str
    decisions: int = 0
    rewards: list[float] = field(default_factory=list[float])
    kinds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    expected: float | None = None
    cost: float | None = None
    unfit: str = ""

    @property
    def mean(self) -> float | None:
        """Mean reward; None without any."""
        return float(np.mean(self.rewards)) if self.rewards else None

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None below two rewards."""
        if len(self.rewards) < 2:
            return None
        return float(np.std(self.rewards, ddof=1)) / sqrt(len(self.rewards))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "arm": self.arm,
            "label": self.label,
            "decisions": self.decisions,
            "rated": len(self.rewards),
            "mean": self.mean,
            "standard_error": self.error,
            "expected": self.expected,
            "relative_cost": self.cost,
            "unfit": self.unfit or None,
            "kinds": {
                kind: {"rated": len(rewards), "mean": float(np.mean(rewards))}
                for kind, rewards in sorted(self.kinds.items())
            },
        }


def records_of(
    ledger: Ledger,
    policy: BraidRecommender | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Record]:
    """Count what the ledger says of every arm, the most chosen first.

    Parameters
    ----------
    ledger : Ledger
    policy : BraidRecommender, optional
        Knows the arms that were never chosen, the kind of a task, and what is expected.
    advance : callable, optional
        Called after each decision, and after each outcome.
    """
    found, sums = _of_policy(policy), _Sums()
    for decision, _ in ledger.decisions():
        arm = decision.braid.id
        record = found.setdefault(arm, Record(arm, decision.braid.label()))
        record.decisions += 1
        sums.add(decision, policy)
        advance()
    for _, decision, outcome in ledger.pairs():
        arm = decision.braid.id
        record = found.setdefault(arm, Record(arm, decision.braid.label()))
        record.rewards.append(outcome.reward)
        kind = kind_of(policy, decision)
        record.kinds.setdefault(kind, []).append(outcome.reward)
        advance()
    _expect(found, policy, sums)
    return sorted(found.values(), key=lambda r: (-r.decisions, r.unfit, r.cost or 0.0))


def kind_of(policy: BraidRecommender | None, decision: Decision) -> str:
    """Return the kind of a decision's task: as stated, else that of its neighbours."""
    if policy is None or decision.encoder_hash != policy.encoder_hash_:
        return ANY
    x, encoder = np.array(decision.x), policy.encoder_
    blocks = encoder.blocks()
    stated = x[-len(blocks) :][blocks == _TYPES]
    if stated.any():
        return str(list(encoder.types)[int(stated.argmax())])
    near = encoder.type_of(None, x)
    return ANY if near is None else near[0]


class _Sums:
    """The mean features of tasks: what is expected of them is linear in these."""

    def __init__(self) -> None:
        self.total: Any = 0.0
        self.n = 0

    def add(self, decision: Decision, policy: BraidRecommender | None) -> None:
        if policy is not None and decision.encoder_hash == policy.encoder_hash_:
            self.total, self.n = self.total + np.array(decision.x), self.n + 1


def _of_policy(policy: BraidRecommender | None) -> dict[str, Record]:
    if policy is None:
        return {}
    model = policy.arm_model_
    catalogue, costs = model.catalogue, model.relative_costs
    return {
        arm: Record(
            arm,
            model.labels[row],
            cost=float(costs[row]),
            unfit=catalogue.unfit.get(arm, ""),
        )
        for row, arm in enumerate(catalogue.ids)
    }


def _expect(
    found: dict[str, Record], policy: BraidRecommender | None, sums: _Sums
) -> None:
    if policy is None or not sums.n or policy.posterior_ is None:
        return
    means = policy.arm_model_.means((sums.total / sums.n)[None, :])[0]
    for row, arm in enumerate(policy.arm_ids_):
        record = found[arm]
        record.expected = float(means[row])
