"""The guard's book-keeping: what a conservative policy may risk right now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from braidbandit.catalogue import Catalogue
from braidbandit.choice import Policy
from braidbandit.decision import Decision
from braidbandit.guard import ConservativePolicy, Savings
from braidbandit.policies import ThompsonSampling


@dataclass
class Guarding:
    """State of a guard between decisions; without one it does nothing.

    Attributes
    ----------
    baseline : str or None
        Id of the best single model of the warm start.
    savings : Savings or None
        What a :class:`ConservativePolicy` may risk; None until it first decides.
    """

    baseline: str | None = None
    savings: Savings | None = None

    def policy(
        self,
        policy: Policy | ConservativePolicy | None,
        catalogue: Catalogue,
        pending: Iterable[Decision],
    ) -> Policy:
        """Return the policy for the next decision; a guard depends on the past."""
        if not isinstance(policy, ConservativePolicy):
            return ThompsonSampling() if policy is None else policy
        baseline = policy.baseline or self.baseline
        if self.savings is not None:
            baseline = self.savings.baseline
        if baseline is None:
            raise ValueError(
                "ConservativePolicy needs a baseline: call warm_start with a table "
                "that has single models, or give ConservativePolicy(baseline=...)"
            )
        row = catalogue.index(baseline)
        if self.savings is None:
            self.savings = Savings(baseline)
        departures = sum(_departs(baseline, decision) for decision in pending)
        return policy.at(row, self.savings, departures)

    def book(
        self,
        policy: Policy | ConservativePolicy | None,
        decision: Decision,
        reward: float,
        back: bool = False,
    ) -> None:
        """Book a reward with the guard, or take it back."""
        savings = self.savings
        if not isinstance(policy, ConservativePolicy) or savings is None:
            return
        kept = decision.braid.id == savings.baseline
        if kept or _departs(savings.baseline, decision):
            book = savings.before if back else savings.after
            self.savings = book(decision.braid.id, reward, policy.share)


def _departs(baseline: str, decision: Decision) -> bool:
    """Whether a decision passed over a baseline that could have been chosen."""
    if decision.braid.id == baseline or baseline not in decision.arm_ids:
        return False
    return decision.eligible[decision.arm_ids.index(baseline)]
