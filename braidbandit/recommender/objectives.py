"""Objectives: what is measured, what it is worth, and the one number maximised.

Quality lies in [0, 1] and is what the posterior learns. The price of compute and of
latency enters only when arms are scored, so that another price needs no relearning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_number, check_reward
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import GROUPS, PriorScales, parameter_groups

Array = NDArray[np.float64]

OBJECTIVES = ("quality", "latency", "compute")
# Scales of log measurements. The intercept carries the unit, which is anything.
_LOG_SCALES = PriorScales(
    mean=0.0,
    intercept=20.0,
    task=0.2,
    braid=0.3,
    knob=0.3,
    pair=0.3,
    gain=0.1,
    arm_intercept=0.3,
    noise=0.3,
)
_PACE = 0.05
_MAKE_UP = 200.0
_HIGHEST_PRICE = 10.0


@dataclass(frozen=True)
class Preference:
    """What latency and compute are worth in quality.

    Parameters
    ----------
    latency, compute : float
        Quality given up to go from the slowest to the fastest arm, and from the
        dearest to the cheapest; at least 0.

    Examples
    --------
    >>> Preference.read({"quality": 2, "latency": 0.4})
    Preference(latency=0.2, compute=0.0)
    """

    latency: float = 0.0
    compute: float = 0.0

    @classmethod
    def read(
        cls, weights: Mapping[str, float] | None, price: float = 0.0
    ) -> Preference:
        """Read weights such as ``{"quality": 1, "latency": 0.2, "compute": 0.1}``.

        Only ratios to the weight of quality matter. None is the price on compute.

        Raises
        ------
        KeyError
            On an unknown objective.
        ValueError
            On a weight that is negative or not finite, or no weight on quality.
        """
        if weights is None:
            return cls(compute=check_price(price))
        weights = dict(weights)  # a Series iterates over its values
        unknown = sorted(set(weights) - set(OBJECTIVES))
        if unknown:
            raise KeyError(f"unknown objectives {unknown}; known are {OBJECTIVES}")
        given = {k: check_number(f"preference for {k}", v) for k, v in weights.items()}
        values = {"quality": 1.0, **given}
        if not all(math.isfinite(v) and v >= 0 for v in values.values()):
            raise ValueError(
                f"preference weights are finite and at least 0, received {weights}"
            )
        if values["quality"] == 0:
            raise ValueError(
                "quality needs a weight above 0; for the cheapest arm whatever its "
                "quality use compute_budget=0"
            )
        parts = [values.get(k, 0.0) / values["quality"] for k in OBJECTIVES[1:]]
        if not all(map(math.isfinite, parts)):
            raise ValueError(
                f"preference weights relative to quality are finite, received {weights}"
            )
        return cls(*parts)


class CostModel:
    """Posterior of a positive measurement (latency, compute) of every arm.

    ``log value = log(estimated operations) + z' W x + b_a + noise``: before the first
    measurement an arm costs what its models' sizes say, up to an unknown unit;
    every measurement teaches the unit, and how an arm differs from its estimate.
    Task features move every arm alike.

    Parameters
    ----------
    columns : sequence of str, length m
        Descriptor columns.
    width : int
        Number of task features k.
    n_arms : int

    Attributes
    ----------
    posterior : Posterior
    n : int
        Measurements in the posterior.

    Examples
    --------
    >>> model = CostModel(["bias"], 1, 2)
    >>> Z, one = np.ones((2, 1)), np.ones(1)
    >>> model.learn(0, Z[0], one, 500.0, operations=10.0)
    >>> model.expected(Z, one, np.array([10.0, 20.0])).round(-1).tolist()
    [500.0, 1000.0]
    """

    def __init__(self, columns: Sequence[str], width: int, n_arms: int) -> None:
        groups = parameter_groups(columns, width)
        groups[groups[:, 0] != GROUPS.index("intercept"), 1:] = -1
        self.posterior = Posterior(groups, _LOG_SCALES, n_arms, own_width=1)
        self.n = 0

    def learn(
        self,
        arm: int,
        z: Array,
        x: Array,
        value: float,
        operations: float,
        weight: float = 1.0,
    ) -> None:
        """Learn one measurement."""
        y = math.log(value) - math.log(operations)
        self.posterior.update(arm, z, x, y, weight)
        self.n += 1

    def unlearn(
        self,
        arm: int,
        z: Array,
        x: Array,
        value: float,
        operations: float,
        weight: float = 1.0,
    ) -> None:
        """Take one measurement back."""
        y = math.log(value) - math.log(operations)
        self.posterior.downdate(arm, z, x, y, weight)
        self.n -= 1

    @classmethod
    def resume(cls, posterior: Posterior, n: int) -> CostModel:
        """Return the model with a posterior of n measurements."""
        model = object.__new__(cls)
        model.posterior, model.n = posterior, n
        return model

    def carry_over(self, change: Callable[[Posterior], Posterior]) -> None:
        """Go on with the posterior that a change returns: other arms or columns."""
        self.posterior = change(self.posterior)

    def widen(self, arm: int, share: float) -> None:
        """Take an arm for changed; see :meth:`Posterior.widen`."""
        self.posterior.widen(arm, share)

    def expected(self, Z: Array, x: Array, operations: Array) -> Array:
        """Return the median of what each arm will measure, shape (A,)."""
        mean = self.posterior.means(Z, x[None, :])[0]
        return np.asarray(np.exp(mean + np.log(operations)))


def check_measurement(name: str, value: Any) -> float | None:
    """Return a measurement as a float above 0, or None."""
    if value is None:
        return None
    number = check_number(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} is finite and above 0, or None; received {value!r}")
    return number


@dataclass
class Pacer:
    """Price of compute that holds a long-run mean cost.

    A primal-dual step per decision: the price rises while decisions cost more than
    the mean, and falls while they cost less. What was overspent so far is to be
    made up for over the next 200 decisions, so that the mean over all decisions,
    not only the present one, comes to the target. Nothing is saved up while the
    price is zero: cheap times give no licence to overspend later.

    Attributes
    ----------
    price : float
        Quality given up to go from the dearest arm to the cheapest.
    overspent : float
        Relative costs beyond the mean, summed over the decisions.

    References
    ----------
    Badanidiyuru, Kleinberg and Slivkins (2013), *Bandits with knapsacks*.

    Examples
    --------
    >>> pacer = Pacer()
    >>> pacer.spend(1.0, mean_cost=0.4)
    >>> round(pacer.price, 5), pacer.overspent
    (0.03015, 0.6)
    """

    price: float = 0.0
    overspent: float = 0.0

    def spend(self, cost: float, mean_cost: float) -> None:
        """Note the relative cost of one decision, in [0, 1]."""
        self.overspent += cost - mean_cost
        step = _PACE * (cost - mean_cost + self.overspent / _MAKE_UP)
        self.price = min(max(self.price + step, 0.0), _HIGHEST_PRICE)
        if self.price == 0.0:
            self.overspent = max(self.overspent, 0.0)
        elif self.price == _HIGHEST_PRICE:
            self.overspent = min(self.overspent, _MAKE_UP)


def quality_from_bits(bits: float, reference_bits: float) -> float:
    """Quality of a text score in bits per byte against a reference.

    ``clip(1/2 + (b0 - b) / b0, 0, 1)``: the reference itself scores 1/2, half its
    bits score 1, one and a half times its bits score 0.

    Examples
    --------
    >>> quality_from_bits(0.8, 0.8), quality_from_bits(0.4, 0.8)
    (0.5, 1.0)
    """
    if not (math.isfinite(bits) and bits >= 0):
        raise ValueError(f"bits must be finite and at least 0, received {bits!r}")
    if not (math.isfinite(reference_bits) and reference_bits > 0):
        raise ValueError(
            f"reference_bits must be finite and above 0, received {reference_bits!r}"
        )
    gain = (reference_bits - bits) / reference_bits
    return min(max(0.5 + gain, 0.0), 1.0)


def quality_from_stars(stars: float) -> float:
    """Quality of a rating of 1 to 5 stars: ``stars / 5``.

    Examples
    --------
    >>> quality_from_stars(4)
    0.8
    """
    if not 1 <= stars <= 5:
        raise ValueError(f"a rating has 1 to 5 stars, received {stars!r}")
    return stars / 5


def utility(quality: float, relative_cost: float, price: float) -> float:
    """Quality minus the priced cost; ``relative_cost`` lies in [0, 1].

    Examples
    --------
    >>> utility(0.75, 0.5, 0.5)
    0.5
    """
    return check_reward(quality) - check_price(price) * relative_cost


def check_price(price: float) -> float:
    """Return ``price`` if it is finite and at least 0."""
    if not 0 <= check_number("price", price) < math.inf:
        raise ValueError(
            f"price is the quality one gives up to go from the dearest arm to the "
            f"cheapest; expected a finite number from 0, received {price!r}"
        )
    return float(price)


def as_quality(
    feedback: float | bool | Callable[[Any, Any], float],
    task: Any = None,
    output: Any = None,
) -> float:
    """Turn feedback into quality in [0, 1].

    Parameters
    ----------
    feedback : float, bool or callable
        A number in [0, 1]; True or False for pass or fail; or a callable that
        gets ``(task, output)`` and returns one of these.
    task, output : optional
        Handed to the callable.

    Examples
    --------
    >>> as_quality(lambda task, output: "return" in output, "code", "return 1")
    1.0
    """
    if callable(feedback):
        feedback = feedback(task, output)
    return check_reward(feedback)
