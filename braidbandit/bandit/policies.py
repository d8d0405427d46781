"""Policies: from what is believed about every arm to one arm and its propensity.

With probability ``floor`` a policy picks any eligible arm. Each then has a known
probability above zero, so logged decisions can tell later what other policies would
have earned (Li et al. 2011, *Unbiased offline evaluation of contextual-bandit-based
news article recommendation algorithms*).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_number, check_whole
from braidbandit.bandit.belief import MANY_ARMS, Belief

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Of more than MANY_ARMS, a few pilot draws of all of them find the finalists, and only
# these take part in the draws that decide. The pilots take most of the time: there are
# eight of them up to 4,096 arms, then fewer, down to four.
_FINALISTS = 64
_MOST_NUMBERS, _FEWEST, _ENOUGH = 2**15, 4, 8


class Choice(NamedTuple):
    """What a policy decided.

    Attributes
    ----------
    arm : int
        The arm that was chosen.
    propensity : float
        Probability with which it was chosen.
    propensity_se : float
        Standard error of the propensity; 0 where it is exact.
    exploration : ndarray of shape (A,)
        What exploration added to the mean of each arm.
    probabilities : ndarray of shape (A,)
        Probability with which each arm would have been chosen.
    """

    arm: int
    propensity: float
    propensity_se: float
    exploration: Array
    probabilities: Array


class Policy(Protocol):
    """What is asked of a policy, own ones included.

    Both methods take the same arguments: what is believed about the A arms, what the
    price adds to the mean of each, which of them may be chosen (at least one), and the
    source of random numbers.
    """

    @property
    def floor(self) -> float:
        """Probability of picking any eligible arm."""
        ...

    def select(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Choice:
        """Choose one eligible arm.

        Parameters
        ----------
        belief : Belief
        cost_term : ndarray of shape (A,)
        eligible : ndarray of bool, shape (A,)
        rng : Generator

        Returns
        -------
        Choice
        """
        ...

    def probabilities(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Array:
        """Return the probability with which :meth:`select` chooses each arm.

        Parameters
        ----------
        belief : Belief
        cost_term : ndarray of shape (A,)
        eligible : ndarray of bool, shape (A,)
        rng : Generator

        Returns
        -------
        ndarray of shape (A,)
            Its sum is 1, and it is 0 for arms that are not eligible.
        """
        ...


def check_share(name: str, value: float) -> None:
    """Refuse a share outside [0, 1]."""
    if not 0.0 <= check_number(name, value) <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], received {value!r}")


def mix(shares: Array, eligible: Mask, floor: float) -> Array:
    """Return ``(1 - floor) * shares`` plus ``floor`` evenly over the eligible arms.

    Equation (15).

    Parameters
    ----------
    shares : ndarray of shape (A,)
        Probabilities without the floor.
    eligible : ndarray of bool, shape (A,)
    floor : float in [0, 1]

    Returns
    -------
    ndarray of shape (A,)

    Examples
    --------
    >>> mix(np.array([1.0, 0.0, 0.0]), np.array([True, True, False]), 0.5).tolist()
    [0.75, 0.25, 0.0]
    """
    return (1.0 - floor) * shares + floor / np.count_nonzero(eligible) * eligible


def pick(best: int, eligible: Mask, floor: float, rng: np.random.Generator) -> int:
    """Return ``best``, or with probability ``floor`` any eligible arm.

    Parameters
    ----------
    best : int
    eligible : ndarray of bool, shape (A,)
    floor : float in [0, 1]
    rng : Generator

    Examples
    --------
    >>> pick(2, np.ones(3, dtype=bool), 0.0, np.random.default_rng(0))
    2
    """
    if rng.random() < floor:
        return int(rng.choice(np.flatnonzero(eligible)))
    return best


def check_policy(policy: Any) -> None:
    """Refuse what is no policy; None stands for the default one.

    Raises
    ------
    TypeError
        When it is a class, or lacks one of the two methods of :class:`Policy`.
    """
    methods = ("select", "probabilities")
    able = all(callable(getattr(policy, name, None)) for name in methods)
    if policy is not None and (isinstance(policy, type) or not able):
        raise TypeError(
            "policy is a policy such as LinUCB(), or None, received "
            f"{policy!r} ({type(policy).__name__})"
        )


@dataclass(frozen=True)
class ThompsonSampling:
    """Play each arm as often as it is the best of a draw from the posterior.

    Parameters
    ----------
    scale : float
        Multiplies the posterior standard deviations in the draws. A value of 1
        explores for the worst case; after a warm start, less was better on every table
        tried.
    n_draws : int
        Number of joint draws. The propensity of an arm is the share of them that it
        wins, and its standard error is the Monte-Carlo error of that share. Of more
        than 128 arms, the 64 that come nearest to the best in a few draws, or by their
        mean, are drawn again, and only they can win: the propensity is that given
        these finalists.
    floor : float in [0, 1]
        Probability of picking any eligible arm.

    Raises
    ------
    ValueError, TypeError
        When a setting is outside its range.

    References
    ----------
    Agrawal and Goyal (2013), *Thompson sampling for contextual bandits with
    linear payoffs*.

    Examples
    --------
    >>> belief = Belief(np.eye(2), np.array([0.0, 9.0]), np.eye(2))
    >>> policy = ThompsonSampling(floor=0.1)
    >>> choice = policy.select(
    ...     belief, np.zeros(2), np.ones(2, bool), np.random.default_rng(0))
    >>> choice.arm, round(choice.propensity, 3)
    (1, 0.95)
    """

    scale: float = 0.3
    n_draws: int = 64
    floor: float = 0.005

    def __post_init__(self) -> None:
        check_share("floor", self.floor)
        check_whole("n_draws", self.n_draws, 1)
        if not 0.0 <= check_number("scale", self.scale) < np.inf:
            raise ValueError(f"scale must be at least 0, received {self.scale!r}")

    def select(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Choice:
        """Pick one of the draws and play its best arm, or any: see :class:`Policy`."""
        exploration, winners = self._winners(belief, cost_term, eligible, rng)
        n = len(winners)
        wins = np.bincount(winners, minlength=len(eligible))
        probabilities = mix(wins / n, eligible, self.floor)
        # One of the draws at random, or the floor: given the draws, each arm is chosen
        # with exactly the probability that is reported.
        picked = int(rng.integers(n))
        arm = pick(int(winners[picked]), eligible, self.floor, rng)
        # One win and one loss more: to win every one of a few draws is no certainty.
        share = (wins[arm] + 1) / (n + 2)
        return Choice(
            arm,
            float(probabilities[arm]),
            (1.0 - self.floor) * math.sqrt(share * (1.0 - share) / n),
            exploration(picked),
            probabilities,
        )

    def probabilities(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Array:
        """Return the estimated probability of each arm: see :class:`Policy`."""
        _, winners = self._winners(belief, cost_term, eligible, rng)
        wins = np.bincount(winners, minlength=len(eligible)) / len(winners)
        return mix(wins, eligible, self.floor)

    def _winners(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> tuple[Callable[[int], Array], NDArray[np.intp]]:
        """Draw; return what draw i adds to each arm's mean, and who wins each draw."""
        offset = cost_term if eligible.all() else np.where(eligible, cost_term, -np.inf)
        if len(eligible) <= MANY_ARMS:
            draws = belief.draw(self.n_draws, rng, self.scale, offset)
            return lambda i: draws[i] - belief.mean, np.argmax(draws + offset, axis=1)
        finalists = self._finalists(belief, offset, rng)
        few = belief.among(finalists)
        draws = few.draw(self.n_draws, rng, self.scale, offset[finalists])
        scores = draws + offset[finalists]

        def exploration(i: int) -> Array:
            # An arm that is no finalist keeps its mean, but never beats the winner.
            found = np.minimum(scores[i].max() - belief.mean - cost_term, 0.0)
            found[finalists] = draws[i] - few.mean
            return found

        return exploration, finalists[np.argmax(scores, axis=1)]

    def _finalists(
        self, belief: Belief, offset: Array, rng: np.random.Generator
    ) -> NDArray[np.intp]:
        """Return the arms nearest to the best in a pilot draw, or by their mean."""
        n = min(max(_MOST_NUMBERS // len(offset), _FEWEST), _ENOUGH)
        pilots = belief.draw(n, rng, self.scale, offset)
        scores = np.vstack([pilots, belief.mean]) + offset
        behind = (scores.max(axis=1, keepdims=True) - scores).min(axis=0)
        found = np.argpartition(behind, _FINALISTS)[:_FINALISTS]
        # Where fewer are eligible, some of these are not.
        return np.sort(found[behind[found] < np.inf])


class _ByScore:
    """A policy that plays the arm with the best score, but for the floor."""

    floor: Any

    def bonus(self, belief: Belief) -> Array:
        """Return what is added to the mean of each arm, shape (A,)."""
        return np.zeros(len(belief.mean))

    def select(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Choice:
        """Play an arm with the best score, or any: see :class:`Policy`."""
        bonus = self.bonus(belief)
        probabilities = self._shares(belief.mean + bonus + cost_term, eligible)
        total = probabilities.cumsum()
        # To the right, because an arm of probability 0 ends where the one before does.
        arm = int(total.searchsorted(rng.random() * total[-1], side="right"))
        return Choice(arm, float(probabilities[arm]), 0.0, bonus, probabilities)

    def probabilities(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Array:
        """Return the exact probability of each arm: see :class:`Policy`.

        Uses no random numbers.
        """
        score = belief.mean + self.bonus(belief) + cost_term
        return self._shares(score, eligible)

    def _shares(self, score: Array, eligible: Mask) -> Array:
        """Return the probability of each arm by its score."""
        score = np.where(eligible, score, -np.inf)
        # Ties are shared: an argmax would always favour the first arm.
        best = score == score.max()
        return mix(best / np.count_nonzero(best), eligible, self.floor)


@dataclass(frozen=True)
class LinUCB(_ByScore):
    """Play the arm with the best upper confidence bound.

    Parameters
    ----------
    alpha : float
        Number of posterior standard deviations that are added to the mean.
    floor : float in [0, 1]
        Probability of picking any eligible arm.

    Raises
    ------
    ValueError
        When a setting is outside its range.

    References
    ----------
    Li et al. (2010), *A contextual-bandit approach to personalized news article
    recommendation*.

    Examples
    --------
    >>> belief = Belief(np.eye(2), np.array([0.5, 0.4]), np.diag([0.1, 0.3]))
    >>> LinUCB(alpha=1.0, floor=0.1).probabilities(
    ...     belief, np.zeros(2), np.ones(2, bool), np.random.default_rng(0)).tolist()
    [0.05, 0.9500000000000001]
    """

    alpha: float = 0.5
    floor: float = 0.005

    def __post_init__(self) -> None:
        check_share("floor", self.floor)
        if not 0.0 <= check_number("alpha", self.alpha) < np.inf:
            raise ValueError(f"alpha must be at least 0, received {self.alpha!r}")

    def bonus(self, belief: Belief) -> Array:
        """Return ``alpha`` posterior standard deviations of each arm, shape (A,)."""
        return self.alpha * belief.sd


@dataclass(frozen=True)
class SquareCB(_ByScore):
    """Play every arm the less often, the further it is behind the best.

    Of A eligible arms, one that is expected to be worse than the best by g has
    probability ``1 / (A + gamma g)``, and the best has what remains: inverse-gap
    weighting, equation (16). It needs means only, and its propensities are exact.

    Parameters
    ----------
    gamma : float
        How fast the probability falls with the gap.
    floor : float in [0, 1]
        Probability of picking any eligible arm, on top.

    Raises
    ------
    ValueError
        When a setting is outside its range.

    References
    ----------
    Foster and Rakhlin (2020), *Beyond UCB: optimal and efficient contextual
    bandits with regression oracles*.

    Examples
    --------
    A gap of 0.1 between two arms: 1 / (2 + 80 * 0.1) = 0.1.

    >>> belief = Belief(np.eye(2), np.array([0.5, 0.4]), np.eye(2))
    >>> SquareCB(gamma=80, floor=0).probabilities(
    ...     belief, np.zeros(2), np.ones(2, bool), np.random.default_rng(0)).round(9)
    array([0.9, 0.1])
    """

    gamma: float = 2000.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        check_share("floor", self.floor)
        if not 0.0 < check_number("gamma", self.gamma) < np.inf:
            raise ValueError(f"gamma must be above 0, received {self.gamma!r}")

    def _shares(self, score: Array, eligible: Mask) -> Array:
        score = np.where(eligible, score, -np.inf)
        best, n = int(score.argmax()), np.count_nonzero(eligible)
        shares = 1.0 / (n + self.gamma * (score[best] - score))
        shares[best] = 0.0
        shares[best] = 1.0 - shares.sum()
        return mix(shares, eligible, self.floor)


@dataclass(frozen=True)
class EpsilonGreedy(_ByScore):
    """Play the arm with the best mean, and any with probability ``floor``.

    Parameters
    ----------
    floor : float in [0, 1]
        Probability of picking any eligible arm.

    Raises
    ------
    ValueError
        When the floor is outside its range.

    References
    ----------
    Sutton and Barto (2018), *Reinforcement learning: an introduction*, section 2.2.

    Examples
    --------
    >>> belief = Belief(np.eye(2), np.array([0.5, 0.4]), np.eye(2))
    >>> EpsilonGreedy(floor=0.5).probabilities(
    ...     belief, np.zeros(2), np.ones(2, bool), np.random.default_rng(0)).tolist()
    [0.75, 0.25]
    """

    floor: float = 0.1

    def __post_init__(self) -> None:
        check_share("floor", self.floor)


@dataclass(frozen=True)
class Greedy(_ByScore):
    """Play the arm with the best mean, without exploration unless ``floor`` says so.

    Parameters
    ----------
    floor : float in [0, 1]
        Probability of picking any eligible arm.

    Raises
    ------
    ValueError
        When the floor is outside its range.

    Examples
    --------
    A price of 0.2 for the first arm puts the second ahead:

    >>> belief = Belief(np.eye(2), np.array([0.5, 0.4]), np.eye(2))
    >>> Greedy().probabilities(belief, np.array([-0.2, 0.0]), np.ones(2, bool),
    ...     np.random.default_rng(0)).tolist()
    [0.0, 1.0]
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        check_share("floor", self.floor)


@dataclass(frozen=True)
class Uniform(_ByScore):
    """Play every eligible arm equally often: the control of an experiment.

    Parameters
    ----------
    floor : float
        Always 1.

    Raises
    ------
    ValueError
        When the floor is not 1.

    Examples
    --------
    >>> belief = Belief(np.eye(2), np.array([0.5, 0.4]), np.eye(2))
    >>> Uniform().probabilities(
    ...     belief, np.zeros(2), np.ones(2, bool), np.random.default_rng(0)).tolist()
    [0.5, 0.5]
    """

    floor: float = 1.0

    def __post_init__(self) -> None:
        if self.floor != 1.0:
            raise ValueError(f"Uniform has floor 1, received {self.floor!r}")
