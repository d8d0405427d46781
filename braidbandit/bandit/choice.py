"""What every policy has: one choice, its propensity, and a uniform share.

A uniform share ``floor`` over the eligible arms gives each of them a known probability
above zero, so that logged decisions can be re-evaluated later (Li et al. 2011,
*Unbiased offline evaluation*).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.belief import Belief

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
