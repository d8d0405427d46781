"""Policies: from what is believed about each arm to one arm and its propensity.

Every policy mixes in a uniform share ``floor`` over the eligible arms, so that
each of them has a known probability above zero and logged decisions can be
re-evaluated later (Li et al. 2011, *Unbiased offline evaluation*).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from braidbandit.linalg import gaussian_draws, root

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


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


class Belief:
    """Joint Gaussian belief about the quality of the arms for one task.

    Parameters
    ----------
    Z : ndarray of shape (A, m)
        Descriptors of the arms.
    mu : ndarray of shape (m,)
    covariance : ndarray of shape (m, m)
        Mean and covariance of ``W x``.

    Examples
    --------
    >>> belief = Belief(np.eye(2), np.array([0.4, 0.6]), np.eye(2) / 4)
    >>> belief.mean.tolist(), belief.sd.tolist()
    ([0.4, 0.6], [0.5, 0.5])
    """

    def __init__(self, Z: Array, mu: Array, covariance: Array) -> None:
        self._Z, self._covariance = Z, covariance
        self.mean: Array = Z @ mu
        variance = np.einsum("am,am->a", Z @ covariance, Z)
        self.sd: Array = np.sqrt(np.maximum(variance, 0.0))

    def draw(self, n_draws: int, rng: np.random.Generator) -> Array:
        """Draw the quality of all arms jointly, shape (n_draws, A)."""
        # Draws through the smaller of the two covariances, m x m or A x A.
        if len(self._Z) < len(self._covariance):
            half = root(self._Z @ self._covariance @ self._Z.T)
        else:
            half = self._Z @ root(self._covariance)
        return gaussian_draws(self.mean, half, n_draws, rng)


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


@dataclass(frozen=True)
class ThompsonSampling:
    """Play each arm as often as it is the best of a posterior draw.

    Parameters
    ----------
    n_draws : int
        Joint draws; the propensity is the share of them an arm wins, and its
        standard error is the Monte-Carlo error of that share.
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

    n_draws: int = 256
    floor: float = 0.02

    def __post_init__(self) -> None:
        _check_share("floor", self.floor)
        if self.n_draws < 1:
            raise ValueError(f"n_draws must be at least 1, received {self.n_draws!r}")

    def select(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Choice:
        """Pick one of the draws and play its best arm, or a uniform one."""
        draws, winners = self._winners(belief, cost_term, eligible, rng)
        wins = np.bincount(winners, minlength=len(eligible)) / self.n_draws
        probabilities = _mix(wins, eligible, self.floor)
        # One of the draws at random, or the uniform share: given the draws, each
        # arm is chosen with exactly the probability reported.
        picked = int(rng.integers(self.n_draws))
        arm = _pick(int(winners[picked]), eligible, self.floor, rng)
        error = np.sqrt(wins[arm] * (1.0 - wins[arm]) / self.n_draws)
        return Choice(
            arm,
            float(probabilities[arm]),
            float((1.0 - self.floor) * error),
            draws[picked] - belief.mean,
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
        wins = np.bincount(winners, minlength=len(eligible)) / self.n_draws
        return _mix(wins, eligible, self.floor)

    def _winners(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> tuple[Array, NDArray[np.int64]]:
        draws = belief.draw(self.n_draws, rng)
        scores = np.where(eligible, draws + cost_term, -np.inf)
        return draws, np.argmax(scores, axis=1)


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
        probabilities = self.probabilities(belief, cost_term, eligible, rng)
        arm = int(rng.choice(len(eligible), p=probabilities))
        return Choice(
            arm, float(probabilities[arm]), 0.0, self.bonus(belief), probabilities
        )

    def probabilities(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
        rng: np.random.Generator,
    ) -> Array:
        """Return the exact selection probability of each arm; draws nothing."""
        score = np.where(
            eligible, belief.mean + self.bonus(belief) + cost_term, -np.inf
        )
        # Ties are shared: an argmax would always favour the first arm.
        best = score == score.max()
        return _mix(best / best.sum(), eligible, self.floor)


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
    >>> belief = Belief(np.eye(2), np.array([0.5, 0.4]), np.diag([0.01, 0.09]))
    >>> LinUCB(alpha=1.0, floor=0.1).probabilities(
    ...     belief, np.zeros(2), np.ones(2, bool), np.random.default_rng(0)).tolist()
    [0.05, 0.9500000000000001]
    """

    alpha: float = 1.0
    floor: float = 0.05

    def __post_init__(self) -> None:
        _check_share("floor", self.floor)
        if not (np.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be at least 0, received {self.alpha!r}")

    def bonus(self, belief: Belief) -> Array:
        """``alpha`` posterior standard deviations."""
        return self.alpha * belief.sd


@dataclass(frozen=True)
class EpsilonGreedy(_ByScore):
    """Play the best mean, and a uniform arm with probability ``floor``."""

    floor: float = 0.1

    def __post_init__(self) -> None:
        _check_share("floor", self.floor)


@dataclass(frozen=True)
class Greedy(_ByScore):
    """Play the best mean, with no exploration unless ``floor`` is above 0."""

    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_share("floor", self.floor)


@dataclass(frozen=True)
class Uniform(_ByScore):
    """Play every eligible arm equally often: the control for experiments."""

    floor: float = 1.0

    def __post_init__(self) -> None:
        if self.floor != 1.0:
            raise ValueError(f"Uniform has floor 1, received {self.floor!r}")


POLICIES: dict[str, Callable[..., Policy]] = {
    "ThompsonSampling": ThompsonSampling,
    "LinUCB": LinUCB,
    "EpsilonGreedy": EpsilonGreedy,
    "Greedy": Greedy,
    "Uniform": Uniform,
}


def policy_to_dict(policy: Policy) -> dict[str, Any]:
    """Name and settings of a policy, as JSON-able data.

    Examples
    --------
    >>> policy_to_dict(Greedy())
    {'name': 'Greedy', 'floor': 0.0}
    """
    name = type(policy).__name__
    if POLICIES.get(name) is not type(policy):
        raise TypeError(
            f"only the policies of braidbandit can be saved, received {name}; expected "
            f"one of {sorted(POLICIES)}"
        )
    return {"name": name, **asdict(policy)}  # type: ignore[call-overload]


def policy_from_dict(data: dict[str, Any]) -> Policy:
    """Build a policy from :func:`policy_to_dict`."""
    settings = {key: value for key, value in data.items() if key != "name"}
    if data.get("name") not in POLICIES:
        raise ValueError(
            f"unknown policy {data.get('name')!r}; expected one of {sorted(POLICIES)}"
        )
    return POLICIES[data["name"]](**settings)


def _check_share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], received {value!r}")


def _mix(shares: Array, eligible: Mask, floor: float) -> Array:
    """(1 - floor) of the given shares plus ``floor`` uniform over eligible arms."""
    return (1.0 - floor) * shares + floor * eligible / eligible.sum()


def _pick(best: int, eligible: Mask, floor: float, rng: np.random.Generator) -> int:
    if rng.random() < floor:
        return int(rng.choice(np.flatnonzero(eligible)))
    return best
