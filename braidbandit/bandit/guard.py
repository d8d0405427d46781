"""Guards: never fall behind one known arm by more than a stated share.

A :class:`ConservativePolicy` holds for every sequence of rewards in [0, 1], even an
adversary's: each departure from the baseline is paid for at the highest possible price,
because the baseline might have earned 1 there. :class:`DeclineToDefault` pays what the
baseline is believed to earn there, and so departs far more often.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from braidbandit._checks import check_number
from braidbandit.bandit.belief import Belief
from braidbandit.bandit.policies import (
    Array,
    Choice,
    Mask,
    Policy,
    ThompsonSampling,
    check_policy,
    mix,
    pick,
)


@dataclass(frozen=True)
class Savings:
    """How far the rewards so far are above what the guard has to keep.

    Attributes
    ----------
    baseline : str
        Id of the arm that the others are measured by.
    amount : float
        Of a ConservativePolicy, ``share`` times the rewards of the baseline's own
        rounds, minus ``1 - reward`` of every other round: below 0 only after rewards
        were revised or taken back. Of DeclineToDefault, ``share`` of every round, and
        of those of other arms what they earned beyond the baseline's expected reward.
    departures : int
        Rewards of other arms that are booked; counted by DeclineToDefault only.
    expired : tuple of str
        Ids of the newest 500 departures that expired. Until their reward comes they
        are booked as if they had earned 0.
    forgotten : int
        How many expired before these. They stay booked as if they had earned 0.
    expired_until : float, optional
        When the newest of all these was made, in seconds since 1970.
    owed : float
        The part of ``amount`` that is booked for all these.
    """

    baseline: str
    amount: float = 0.0
    expired: tuple[str, ...] = ()
    forgotten: int = 0
    expired_until: float | None = None
    departures: int = 0
    owed: float = 0.0

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
        if not 0.0 < check_number("share", self.share) < 1.0:
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

    def book(
        self,
        savings: Savings,
        arm_id: str,
        reward: float,
        expected: float | None = None,
        back: bool = False,
    ) -> Savings:
        """Return the savings after one reward, or before it.

        Parameters
        ----------
        savings : Savings
        arm_id : str
            The arm that earned it.
        reward : float in [0, 1]
        expected : float, optional
            What the baseline was expected to earn in its place; not used here, as the
            highest reward is assumed.
        back : bool
            Take the reward back.
        """
        booked = savings.before if back else savings.after
        return booked(arm_id, reward, self.share)

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
class DeclineToDefault(ConservativePolicy):
    """Play the default arm unless another is believed better, and that is affordable.

    At every time, the sum of rewards is at least what the default earned in its own
    rounds, plus what it was expected to earn in the others, minus ``share`` per round:
    equation (55). The floor's random rounds come on top. Rewards of the others are
    booked as they come, so a belief that is too good is found out after a few
    departures. Until the savings are ``slack`` standard errors of the booked departures
    (at most ``sqrt(n) / 2``, as rewards lie in [0, 1]), the default is played, except
    for the floor, so that every propensity is above zero.

    Parameters
    ----------
    policy : Policy, optional
        The policy to follow, by default Thompson sampling.
    share : float in (0, 1)
        Reward per round that may be given up in expectation.
    baseline : str, optional
        Id of the default arm, by default the best single model of the warm start.
    slack : float
        At least 0. More declines more often, and falls behind less by bad luck.

    Raises
    ------
    ValueError, TypeError
        As :class:`ConservativePolicy`, and when slack is below 0.

    References
    ----------
    Kazerouni et al. (2017), *Conservative contextual linear bandits*, whose baseline is
    known where here it is believed.

    Examples
    --------
    >>> DeclineToDefault(slack=2).share
    0.003
    """

    share: float = 0.003
    slack: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= check_number("slack", self.slack) < np.inf:
            raise ValueError(f"slack must be at least 0, received {self.slack!r}")

    def book(
        self,
        savings: Savings,
        arm_id: str,
        reward: float,
        expected: float | None = None,
        back: bool = False,
    ) -> Savings:
        """Return the savings: see :meth:`ConservativePolicy.book`.

        Where it is not known what the default was expected to earn, that is 1. A belief
        outside [0, 1], where no reward is, counts as its nearest end.

        Examples
        --------
        >>> guard, saved = DeclineToDefault(share=0.01), Savings("a")
        >>> saved = guard.book(guard.book(saved, "a", 0.2), "b", 0.7, expected=0.6)
        >>> round(saved.amount, 12), saved.departures
        (0.12, 1)
        """
        departs = arm_id != savings.baseline
        gain = self.share
        if departs:
            gain += reward - (1.0 if expected is None else min(max(expected, 0.0), 1.0))
        sign = -1 if back else 1
        return replace(
            savings,
            amount=savings.amount + sign * gain,
            departures=savings.departures + sign * departs,
        )

    def at(self, row: int, savings: Savings, open_departures: int) -> Policy:
        """Return the policy for one decision: see :meth:`ConservativePolicy.at`."""
        # One more may earn 0 where the default was expected to earn 1, and so may all
        # that are still open.
        worst = 1.0 + open_departures
        n = savings.departures + worst
        if savings.amount >= max(worst, self.slack * np.sqrt(n) / 2.0):
            return _Unless(row, self.inner)
        return _Unless(row, self.inner, declined=True)


@dataclass(frozen=True)
class _Unless:
    """One arm, unless another is expected to be better: then another policy."""

    row: int
    otherwise: Policy
    declined: bool = False

    @property
    def floor(self) -> float:
        return self.otherwise.floor

    def _departs(self, belief: Belief, cost_term: Array, eligible: Mask) -> bool:
        score = belief.mean + cost_term
        better = eligible & (score > score[self.row])
        # Where the default may not be chosen there is nothing to fall behind.
        return not eligible[self.row] or (not self.declined and bool(better.any()))

    def select(
        self, belief: Belief, cost_term: Array, eligible: Mask, rng: np.random.Generator
    ) -> Choice:
        if self._departs(belief, cost_term, eligible):
            return self.otherwise.select(belief, cost_term, eligible, rng)
        shares = self._shares(eligible)
        arm = pick(self.row, eligible, self.floor, rng)
        return Choice(arm, float(shares[arm]), 0.0, np.zeros(len(eligible)), shares)

    def probabilities(
        self, belief: Belief, cost_term: Array, eligible: Mask, rng: np.random.Generator
    ) -> Array:
        if self._departs(belief, cost_term, eligible):
            return self.otherwise.probabilities(belief, cost_term, eligible, rng)
        return self._shares(eligible)

    def _shares(self, eligible: Mask) -> Array:
        alone = (np.arange(len(eligible)) == self.row).astype(np.float64)
        return mix(alone, eligible, self.floor)


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
