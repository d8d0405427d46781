"""The account of a guard: what a conservative policy may risk right now."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from braidbandit.bandit.guard import ConservativePolicy, Savings
from braidbandit.bandit.policies import Policy, ThompsonSampling
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.ledger.records import Decision
from braidbandit.recommender.feedback_log import seconds

_MOST_EXPIRED = 500


@dataclass
class GuardAccount:
    """State of a guard between decisions; without one it does nothing.

    Attributes
    ----------
    baseline : str or None
        Id of the best single model of the warm start.
    savings : Savings or None
        What a :class:`ConservativePolicy` may risk; None without one.
    booked_by : tuple of str and float, optional
        Name and share of the guard that booked last.
    """

    baseline: str | None = None
    savings: Savings | None = None
    booked_by: tuple[str, float] | None = None

    def guard_against(self, baseline: str) -> None:
        """Note which arm is the best single model of the warm start."""
        self.baseline = baseline

    def close(self) -> None:
        """Stop keeping account; the baseline stays."""
        self.savings = None

    def open(
        self, policy: Policy | ConservativePolicy | None, catalogue: Catalogue
    ) -> None:
        """Begin to keep account, if there is a guard and its baseline is known.

        Until anything is booked, a warm start may still change the baseline.
        """
        if not isinstance(policy, ConservativePolicy):
            return
        savings, baseline = self.savings, policy.baseline or self.baseline
        if savings is not None and savings != Savings(savings.baseline):
            return
        if baseline is not None and baseline in catalogue:
            self.savings = Savings(baseline)

    def check_kept(
        self,
        before: Policy | ConservativePolicy | None,
        after: Policy | ConservativePolicy | None,
    ) -> None:
        """Refuse another baseline or share than those of what was booked."""
        savings = self.savings
        if not isinstance(after, ConservativePolicy) or savings is None:
            return
        if savings == Savings(savings.baseline):
            return
        baseline = after.baseline or self.baseline or savings.baseline
        booked = before if isinstance(before, ConservativePolicy) else after
        name, share = self.booked_by or (type(booked).__name__, booked.share)
        now = type(after).__name__, baseline, after.share
        if now != (name, savings.baseline, share):
            raise ValueError(
                f"the guard, {name}, has booked rewards against baseline "
                f"{savings.baseline!r} with share {share}; received "
                f"{type(after).__name__}, {baseline!r} and {after.share}. Set them "
                "back, or make a new recommender"
            )

    def forget(self, arm_ids: Collection[str]) -> None:
        """Drop the baseline, and its savings, if its arm was removed."""
        if self.baseline in arm_ids:
            self.baseline = None
        if self.savings is not None and self.savings.baseline in arm_ids:
            self.savings = None

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
        row, savings = catalogue.index(baseline), self.savings or Savings(baseline)
        departures = sum(_departs(baseline, decision) for decision in pending)
        return policy.at(row, savings, departures)

    def book(
        self,
        policy: Policy | ConservativePolicy | None,
        decision: Decision,
        reward: float,
        back: bool = False,
    ) -> None:
        """Book a reward with the guard, or take it back; a person's choice is not."""
        savings = self.savings
        if not isinstance(policy, ConservativePolicy) or savings is None:
            return
        if decision.instead_of is not None:
            return
        arm_id, expected = decision.braid.id, decision.default_quality
        if decision.id in savings.expired:
            left = tuple(name for name in savings.expired if name != decision.id)
            owed = savings.owed - _of_nothing(policy, savings, decision)
            savings = replace(
                policy.book(savings, arm_id, 0.0, expected, back=True),
                expired=left,
                owed=owed if left or savings.forgotten else 0.0,
            )
        if arm_id == savings.baseline or _departs(savings.baseline, decision):
            savings = policy.book(savings, arm_id, reward, expected, back)
            self.booked_by = type(policy).__name__, policy.share
        self.savings = savings

    def expire(
        self, policy: Policy | ConservativePolicy | None, decision: Decision
    ) -> None:
        """Book a departure as if it had earned 0, until its reward comes after all."""
        savings = self.savings
        if savings is None or not isinstance(policy, ConservativePolicy):
            return
        if _departs(savings.baseline, decision):
            expired = (*savings.expired, decision.id)[-_MOST_EXPIRED:]
            made, until = seconds(decision), savings.expired_until
            self.booked_by = type(policy).__name__, policy.share
            self.savings = replace(
                policy.book(savings, decision.braid.id, 0.0, decision.default_quality),
                expired=expired,
                forgotten=savings.forgotten + len(savings.expired) + 1 - len(expired),
                expired_until=made if until is None else max(made, until),
                owed=savings.owed + _of_nothing(policy, savings, decision),
            )

    def may_be_booked(self, decision: Decision) -> bool:
        """Whether a departure may count as expired without being among the newest."""
        savings = self.savings
        if savings is None or savings.expired_until is None or not savings.forgotten:
            return False
        if decision.id in savings.expired or not _departs(savings.baseline, decision):
            return False
        return seconds(decision) <= savings.expired_until

    def owe(self, before: Savings | None) -> None:
        """Carry over the debt of expired decisions when all is learnt again."""
        now = self.savings
        if before is not None and now == Savings(before.baseline):
            count = len(before.expired) + before.forgotten
            self.savings = replace(
                before,
                amount=before.owed,
                departures=min(before.departures, count),  # 0 where none are counted
            )


def _of_nothing(
    policy: ConservativePolicy, savings: Savings, decision: Decision
) -> float:
    """What is booked for a departure that earned 0."""
    alone = Savings(savings.baseline)
    expected = decision.default_quality
    return policy.book(alone, decision.braid.id, 0.0, expected).amount


def _departs(baseline: str, decision: Decision) -> bool:
    """Whether a decision passed over a baseline that could have been chosen."""
    if decision.instead_of is not None:
        return False  # a person's choice
    if decision.braid.id == baseline or baseline not in decision.arm_ids:
        return False
    return decision.eligible[decision.arm_ids.index(baseline)]
