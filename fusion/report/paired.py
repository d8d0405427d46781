"""Accuracies, and differences of two models over the same questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.96  # of an interval that holds the truth in 95 of 100 cases


@dataclass(frozen=True)
class Difference:
    """A mean difference and the interval around it.

    Attributes
    ----------
    mean, low, high : float
    """

    mean: float
    low: float
    high: float

    @property
    def told(self) -> str:
        """In points.

        Examples
        --------
        >>> Difference(0.0123, -0.004, 0.0286).told
        '+1.2 [-0.4, +2.9]'
        """
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def accuracy(right: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each set."""
    return {name: float(np.mean(values)) for name, values in right.items()}


def mean_of_sets(right: Mapping[str, Sequence[float]]) -> float:
    """The mean over sets, each of which counts the same.

    Examples
    --------
    >>> mean_of_sets({"a": [1, 0], "b": [1, 1, 1, 1]})
    0.75
    """
    return float(np.mean(list(accuracy(right).values())))


def paired(mine: Sequence[float], other: Sequence[float]) -> Difference:
    """The mean of ``mine - other`` over the same questions.

    The interval is Wald's with half a question added to each of four outcomes, right or
    wrong for either (Agresti and Min, "Simple improved confidence intervals for
    comparing matched proportions", 2005): with few questions, or none on which the two
    differ, it is not too short.

    Examples
    --------
    >>> paired([1, 1, 0, 1], [1, 0, 0, 1]).mean
    0.25
    """
    return over_sets({"": mine}, {"": other})


def over_sets(
    mine: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]
) -> Difference:
    """The mean over sets of paired differences, each counting the same: equation (61).

    Parameters
    ----------
    mine, other : mapping of set to sequence of float
        How right each question is, in the same order.

    Raises
    ------
    ValueError
        Where the two are not of the same questions.
    """
    means, middles, variances = [], [], []
    for name in mine:
        a, b = (np.asarray(side[name], dtype=float) for side in (mine, other))
        if a.shape != b.shape or not len(a):
            raise ValueError(
                f"received {len(a)} and {len(b)} questions of {name!r}; expected the "
                "same ones, at least one"
            )
        difference, n = a - b, len(a) + 2
        middle = difference.sum() / n
        means.append(difference.mean())
        middles.append(middle)
        variances.append(((np.square(difference).sum() + 1) / n - middle**2) / n)
    half = Z * math.sqrt(sum(variances)) / len(means)
    middle = float(np.mean(middles))
    return Difference(float(np.mean(means)), middle - half, middle + half)
