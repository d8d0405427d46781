"""A guard: never fall behind one known arm by more than a stated share.

It holds for every sequence of rewards in [0, 1], even an adversary's. Each departure
from the baseline is paid for at the highest possible price, because the baseline might
have earned 1 there.
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
    """How far the rewards so far are above what the guard has to keep.

    Attributes
    ----------
    baseline : str
        Id of the arm that the others are measured by.
    amount : float
        ``share`` times the rewards of the baseline's own rounds, minus ``1 - reward``
        of every other round. It is below 0 only after rewards were revised or taken
        back.
    expired : tuple of str
        Ids of the newest 500 departures that expired. Until their reward comes they
        are booked as if they had earned 0.
    forgotten : int
        How many expired before these. They stay booked as if they had earned 0.
    expired_until : float, optional
        When the newest of all these was made, in seconds since 1970.
    """

    baseline: str
    amount: float = 0.0
    expired: tuple[str, ...] = ()
    forgotten: int = 0
    expired_until: float | None = None

    def after(self, arm_id: str, reward: float, share: float) -> Savings:
        """Return the savings after one reward.

        Parameters
        ----------
        arm_id : str
            The arm that earned it.
        reward : float in [0, 1]
        share : float in (0, 1)
            What may be lost.

        Examples
        --------
        >>> saved = Savings("a", 1.0).after("a", 0.5, share=0.1)
        >>> saved.amount, saved.after("b", 0.25, share=0.1).amount
        (1.05, 0.30000000000000004)
        """
        return replace(self, amount=self.amount + self._gain(arm_id, reward, share))

    def before(self, arm_id: str, reward: float, share: float) -> Savings:
        """Return the savings with one reward taken back; arguments as :meth:`after`."""
        return replace(self, amount=self.amount - self._gain(arm_id, reward, share))

    def _gain(self, arm_id: str, reward: float, share: float) -> float:
        return share * reward if arm_id == self.baseline else reward - 1.0


@dataclass(frozen=True)
class ConservativePolicy:
    """Follow a policy while the savings allow it, and play the baseline otherwise.

    With rewards in [0, 1], the sum of rewards never falls below ``1 - share`` times
    what the baseline would have earned on the same tasks, whatever these are. A
    departure is allowed when its loss is covered even if it earns 0 where the baseline
    would have earned 1, so a small share explores seldom. While the savings do not
    allow one, other arms have probability 0.

    Parameters
    ----------
    policy : Policy, optional
        The policy to follow, by default Thompson sampling.
    share : float in (0, 1)
        The share of the baseline's rewards that may be lost.
    baseline : str, optional
        Id of the baseline, by default the best single model of the warm start.

    Raises
    ------
    ValueError
        When share is outside its range.
    TypeError
        When ``policy`` is none, or ``baseline`` is no text.

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
        """Floor of the guarded policy."""
        return self.inner.floor

    @property
    def inner(self) -> Policy:
        """The guarded policy, the default one included."""
        return ThompsonSampling() if self.policy is None else self.policy

    def at(self, row: int, savings: Savings, open_departures: int) -> Policy:
        """Return the policy for one decision.

        Parameters
        ----------
        row : int
            Position of the baseline.
        savings : Savings
        open_departures : int
            Number of decisions for other arms whose reward is not known yet.

        Returns
        -------
        Policy
            The guarded policy, or one that plays the baseline only.

        Examples
        --------
        >>> guard, saved = ConservativePolicy(share=0.1), Savings("a", amount=1.0)
        >>> guard.at(0, saved, open_departures=0) == guard.inner
        True
        >>> guard.at(0, saved, open_departures=1) == guard.inner
        False
        """
        # One more departure may cost 1, and so may each that is still open.
        if savings.amount >= 1.0 + open_departures:
            return self.inner
        return _Only(row, self.inner)


@dataclass(frozen=True)
class _Only:
    """The baseline and nothing else; where it may not be chosen, another policy."""

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
