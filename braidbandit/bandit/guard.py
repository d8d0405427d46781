"""A guard: never fall behind one known arm by more than a stated share.

It holds on every stream of rewards in [0, 1], an adversary's too, because it pays for
every departure from the baseline at its worst possible price: the baseline might have
earned 1 there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from braidbandit.bandit.belief import Belief
from braidbandit.bandit.policies import (
    Array,
    Choice,
    Mask,
    Policy,
    ThompsonSampling,
    check_policy,
)


@dataclass(frozen=True)
class Savings:
    """How far the rewards so far are above what the guard must keep.

    Attributes
    ----------
    baseline : str
        Id of the arm that is guarded against.
    amount : float
        ``share`` times the rewards of the baseline's own rounds, minus
        ``1 - reward`` of every other round. Below 0 only after rewards were revised
        or taken back.
    expired : tuple of str
        Ids of the newest 500 departures that expired: booked as if they had earned
        0, until their reward comes.
    forgotten : int
        How many expired before these: they stay booked as if they had earned 0.
    expired_until : float, optional
        When the newest of all of them was made, in seconds.
    """

    baseline: str
    amount: float = 0.0
    expired: tuple[str, ...] = ()
    forgotten: int = 0
    expired_until: float | None = None

    def after(self, arm_id: str, reward: float, share: float) -> Savings:
        """Return the savings after one reward.

        Examples
        --------
        >>> saved = Savings("a", 1.0).after("a", 0.5, share=0.1)
        >>> saved.amount, saved.after("b", 0.25, share=0.1).amount
        (1.05, 0.30000000000000004)
        """
        return replace(self, amount=self.amount + self._gain(arm_id, reward, share))

    def before(self, arm_id: str, reward: float, share: float) -> Savings:
        """Return the savings with one reward taken back."""
        return replace(self, amount=self.amount - self._gain(arm_id, reward, share))

    def _gain(self, arm_id: str, reward: float, share: float) -> float:
        return share * reward if arm_id == self.baseline else reward - 1.0


@dataclass(frozen=True)
class ConservativePolicy:
    """Follow a policy as long as the baseline's rewards are safe, else the baseline.

    With rewards in [0, 1], the sum of rewards never falls below ``1 - share`` times
    what the baseline would have earned on the same tasks, whatever these are: a
    departure is allowed when its loss is covered even if it earns 0 where the
    baseline would have earned 1. A small share therefore explores seldom. While
    the savings do not allow a departure, other arms have probability 0.

    Parameters
    ----------
    policy : Policy, optional
        Thompson sampling by default.
    share : float in (0, 1)
        What may be lost.
    baseline : str, optional
        Id of the baseline; by default the best single model of the warm start.

    References
    ----------
    Wu et al. (2016), *Conservative bandits*; here for any sequence of rewards.

    Examples
    --------
    >>> ConservativePolicy(share=0.05).floor
    0.005
    """

    policy: Policy | None = None
    share: float = 0.01
    baseline: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"share must lie in (0, 1), received {self.share!r}")
        check_policy(self.policy)
        if self.baseline is not None and not isinstance(self.baseline, str):
            raise TypeError(
                f"baseline is an arm id or None, received {self.baseline!r}"
            )

    @property
    def floor(self) -> float:
        """Uniform share of the guarded policy."""
        return self.inner.floor

    @property
    def inner(self) -> Policy:
        """The guarded policy."""
        return ThompsonSampling() if self.policy is None else self.policy

    def at(self, row: int, savings: Savings, open_departures: int) -> Policy:
        """Return the policy for one decision.

        Parameters
        ----------
        row : int
            Position of the baseline.
        savings : Savings
        open_departures : int
            Decisions for other arms whose reward is not known yet.
        """
        # One more departure may cost 1, and so may each that is still open.
        if savings.amount >= 1.0 + open_departures:
            return self.inner
        return _Only(row, self.inner)


@dataclass(frozen=True)
class _Only:
    """The baseline and nothing else, where it may be chosen."""

    row: int
    otherwise: Policy

    @property
    def floor(self) -> float:
        return self.otherwise.floor

    def select(
        self, belief: Belief, cost_term: Array, eligible: Mask, rng: np.random.Generator
    ) -> Choice:
        # Where the baseline may not be chosen there is nothing to fall behind.
        if not eligible[self.row]:
            return self.otherwise.select(belief, cost_term, eligible, rng)
        shares = self.probabilities(belief, cost_term, eligible, rng)
        return Choice(self.row, 1.0, 0.0, np.zeros(len(eligible)), shares)

    def probabilities(
        self, belief: Belief, cost_term: Array, eligible: Mask, rng: np.random.Generator
    ) -> Array:
        if not eligible[self.row]:
            return self.otherwise.probabilities(belief, cost_term, eligible, rng)
        return (np.arange(len(eligible)) == self.row).astype(np.float64)
