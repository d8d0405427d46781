"""Policies: from what is believed about each arm to one arm and its propensity.

A uniform share ``floor`` over the eligible arms gives each of them a known probability
above zero, so that logged decisions can be evaluated for other policies later (Li et
al. 2011, *Unbiased offline evaluation*).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_whole
from braidbandit.bandit.belief import MANY_ARMS, Belief

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# More than MANY_ARMS are drawn in two stages: a few draws of all of them, and the arms
# that come nearest to the best in any of these go on to the draws that decide. Eight
# draws up to 4,096 arms, then fewer, but not below four: they are what takes time.
_FINALISTS = 64
_MOST_NUMBERS, _FEWEST, _ENOUGH = 2**15, 4, 8


class Choice(NamedTuple):
    """What a policy decided.

    Attributes
    ----------
    arm : int
    propensity : float
        Probability with which ``arm`` was chosen.
    propensity_se : float
        Standard error of the propensity; 0 where it is exact.
    exploration : ndarray of shape (A,)
        What exploration added to each arm's mean.
    probabilities : ndarray of shape (A,)
    """

    arm: int
    propensity: float
    propensity_se: float
    exploration: Array
    probabilities: Array


class Policy(Protocol):
    """What the recommender asks of a policy."""

    @property
    def floor(self) -> float:
        """Uniform share over the eligible arms."""
        ...

    def select(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Choice:
        """Choose one eligible arm."""
        ...

    def probabilities(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Array:
        """Return the selection probability of each arm, shape (A,)."""
        ...


def check_share(name: str, value: float) -> None:
    """Refuse a share outside [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], received {value!r}")


def mix(shares: Array, eligible: Mask, floor: float) -> Array:
    """(1 - floor) of the given shares plus ``floor`` uniform over eligible arms."""
    return (1.0 - floor) * shares + floor / np.count_nonzero(eligible) * eligible


def pick(best: int, eligible: Mask, floor: float, rng: np.random.Generator) -> int:
    """Return ``best``, or with probability ``floor`` a uniform eligible arm."""
    if rng.random() < floor:
        return int(rng.choice(np.flatnonzero(eligible)))
    return best


_CHOOSES = ("select", "probabilities")


def check_policy(policy: Any) -> None:
    """Refuse what cannot choose; None is the default policy."""
    able = all(callable(getattr(policy, name, None)) for name in _CHOOSES)
    if policy is not None and (isinstance(policy, type) or not able):
        raise TypeError(
            "policy is a policy such as LinUCB(), or None, received "
            f"{policy!r} ({type(policy).__name__})"
        )


@dataclass(frozen=True)
class ThompsonSampling:
    """Play each arm as often as it is the best of a posterior draw.

    Parameters
    ----------
    scale : float
        Multiplies the posterior standard deviations that are drawn with. A full
        posterior (1) explores for the worst case; after a warm start, less was
        better on every table tried.
    n_draws : int
        Joint draws; the propensity is the share of them an arm wins, and its
        standard error is the Monte-Carlo error of that share. Of more than 128 arms,
        the 64 that are nearest to the best in a few draws, or by their mean, are
        drawn again, and only they can win: the propensity is that given these
        finalists.
    floor : float in [0, 1]
        Uniform share over the eligible arms.

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
        if not (np.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"scale must be at least 0, received {self.scale!r}")

    def select(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Choice:
        """Pick one of the draws and play its best arm, or a uniform one."""
        exploration, winners = self._winners(belief, cost_term, eligible, rng)
        n = len(winners)
        wins = np.bincount(winners, minlength=len(eligible))
        probabilities = mix(wins / n, eligible, self.floor)
        # One of the draws at random, or the uniform share: given the draws, each
        # arm is chosen with exactly the probability reported.
        picked = int(rng.integers(n))
        arm = pick(int(winners[picked]), eligible, self.floor, rng)
        # One win and one loss more: all of a few draws is no certainty.
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
        """Return the estimated selection probability of each arm."""
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
            # An arm that did not get this far keeps its mean, below the winner.
            found = np.minimum(scores[i].max() - belief.mean - cost_term, 0.0)
            found[finalists] = draws[i] - few.mean
            return found

        return exploration, finalists[np.argmax(scores, axis=1)]

    def _finalists(
        self, belief: Belief, offset: Array, rng: np.random.Generator
    ) -> NDArray[np.intp]:
        n = min(max(_MOST_NUMBERS // len(offset), _FEWEST), _ENOUGH)
        pilots = belief.draw(n, rng, self.scale, offset)
        scores = np.vstack([pilots, belief.mean]) + offset
        behind = (scores.max(axis=1, keepdims=True) - scores).min(axis=0)
        found = np.argpartition(behind, _FINALISTS)[:_FINALISTS]
        # Where fewer are eligible, some of these are not.
        return np.sort(found[behind[found] < np.inf])


class _ByScore:
    """A policy that plays the arm with the best score, up to the floor."""

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
        """Play an arm with the best score, or a uniform one."""
        bonus = self.bonus(belief)
        probabilities = self._shares(belief.mean + bonus + cost_term, eligible)
        total = probabilities.cumsum()
        # Strictly above: an arm of probability 0 ends where the one before it does.
        arm = int(total.searchsorted(rng.random() * total[-1], side="right"))
        return Choice(arm, float(probabilities[arm]), 0.0, bonus, probabilities)

    def probabilities(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Array:
        """Return the exact selection probability of each arm; draws nothing."""
        score = belief.mean + self.bonus(belief) + cost_term
        return self._shares(score, eligible)

    def _shares(self, score: Array, eligible: Mask) -> Array:
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
        Posterior standard deviations added to the mean.
    floor : float in [0, 1]
        Uniform share over the eligible arms.

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
        if not (np.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be at least 0, received {self.alpha!r}")

    def bonus(self, belief: Belief) -> Array:
        """``alpha`` posterior standard deviations."""
        return self.alpha * belief.sd


@dataclass(frozen=True)
class SquareCB(_ByScore):
    """Play every arm with a probability inverse to how far it is behind.

    An arm that is expected to be worse than the best one by g is played with
    probability ``1 / (A + gamma g)``, the best arm with what remains (inverse-gap
    weighting). Needs means only, and its propensities are exact.

    Parameters
    ----------
    gamma : float
        How fast the probability falls with the gap.
    floor : float in [0, 1]
        Uniform share over the eligible arms, on top.

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
        if not (np.isfinite(self.gamma) and self.gamma > 0):
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
    """Play the best mean, and a uniform arm with probability ``floor``."""

    floor: float = 0.1

    def __post_init__(self) -> None:
        check_share("floor", self.floor)


@dataclass(frozen=True)
class Greedy(_ByScore):
    """Play the best mean, with no exploration unless ``floor`` is above 0."""

    floor: float = 0.0

    def __post_init__(self) -> None:
        check_share("floor", self.floor)


@dataclass(frozen=True)
class Uniform(_ByScore):
    """Play every eligible arm equally often: the control for experiments."""

    floor: float = 1.0

    def __post_init__(self) -> None:
        if self.floor != 1.0:
            raise ValueError(f"Uniform has floor 1, received {self.floor!r}")
