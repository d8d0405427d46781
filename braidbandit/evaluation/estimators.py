"""Off-policy estimators, on arrays.

Every estimator is given as n terms whose mean is the estimate, so that all of them can
share one bootstrap. In all of them

- ``weights`` are target probability over propensity of the arm that was taken,
- ``q`` is the predicted reward of that arm,
- ``direct`` is the predicted reward of all arms, averaged with the target's
  probabilities.

Equations (25) to (29) of ``docs/math.md``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ESTIMATORS = ("IPS", "clipped IPS", "SNIPS", "DM", "DR", "SWITCH-DR")

# SWITCH picks its threshold among this many quantiles of the weights.
_QUANTILES = 20


def estimator_terms(
    weights: Array, rewards: Array, q: Array, direct: Array
) -> dict[str, Array]:
    """Return the terms of every estimator, each of shape (n,).

    Parameters
    ----------
    weights, rewards, q, direct : ndarrays of shape (n,)

    Returns
    -------
    dict of ndarray
        By name, in the order of ``ESTIMATORS``. SNIPS is no mean of terms: it has
        those of its linearisation, which are NaN if every weight is 0.

    References
    ----------
    Horvitz and Thompson (1952), IPS; Ionides (2008), *Truncated importance sampling*,
    the clip at ``sqrt(n)``; Swaminathan and Joachims (2015), SNIPS; Dudik, Langford
    and Li (2011), *Doubly robust policy evaluation and learning*; Wang, Agarwal and
    Dudik (2017), *Optimal and adaptive off-policy evaluation in contextual bandits*,
    SWITCH.

    Examples
    --------
    Weights 2 and 0, rewards 1 and 0, a model that says 0.5 of everything.

    >>> half = np.array([0.5, 0.5])
    >>> terms = estimator_terms(np.array([2.0, 0.0]), np.array([1.0, 0.0]), half, half)
    >>> {name: float(t.mean().round(3)) for name, t in terms.items()}["DR"]
    1.0
    >>> terms["DR"].tolist()
    [1.5, 0.5]
    """
    clip = np.sqrt(len(weights))
    total = weights.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        value = (weights @ rewards) / weights.sum()
        normalised = value + weights * (rewards - value) / total
    trusted = weights <= switch_threshold(weights, rewards - q)
    return {
        "IPS": weights * rewards,
        "clipped IPS": np.minimum(weights, clip) * rewards,
        "SNIPS": normalised,
        "DM": direct.copy(),
        "DR": direct + weights * (rewards - q),
        "SWITCH-DR": direct + weights * trusted * (rewards - q),
    }


def switch_threshold(weights: Array, residuals: Array) -> float:
    """Return the weight above which SWITCH trusts the reward model instead.

    Of the quantiles of the weights, the one with the lowest bound on the mean squared
    error. The bound is the variance of the terms that are kept, divided by n, plus the
    square of the target's share beyond the threshold: as rewards lie in [0, 1], the
    bias cannot be larger than that share.

    Parameters
    ----------
    weights, residuals : ndarrays of shape (n,)
        Residuals are rewards minus predicted rewards.

    Returns
    -------
    float

    Examples
    --------
    A bias of up to 0.5 costs more than any variance here: nothing is switched off.

    >>> switch_threshold(np.array([1.0, 1.0, 2.0, 0.0]), np.zeros(4))
    2.0
    """
    grid = np.unique(np.quantile(weights, np.linspace(0.0, 1.0, _QUANTILES + 1)))
    kept = weights <= grid[:, None]
    variance = (kept * weights * residuals).var(axis=1) / len(weights)
    bias = (~kept * weights).mean(axis=1)
    # Of equally good thresholds the highest, which changes the fewest rows.
    error = (variance + bias**2)[::-1]
    return float(grid[::-1][np.argmin(error)])


def effective_sample_size(weights: Array) -> float:
    """Return how many rows of equal weight would say as much (Kish 1965).

    Parameters
    ----------
    weights : ndarray of shape (n,)

    Returns
    -------
    float
        Between 1 and n; 0 if every weight is 0.

    Examples
    --------
    (2 + 1 + 1)^2 / (4 + 1 + 1)

    >>> round(effective_sample_size(np.array([2.0, 1.0, 1.0, 0.0])), 3)
    2.667
    """
    square = float((weights**2).sum())
    return float(weights.sum() ** 2 / square) if square > 0 else 0.0


def cluster_terms(values: Array, clusters: NDArray[np.intp], about: float) -> Array:
    """Return one term per cluster from those of its rows; the mean stays the same.

    The deviations of a cluster's rows from ``about`` are summed, not the terms: so
    clusters of different sizes differ only by what is in them.

    Parameters
    ----------
    values : ndarray of shape (n,)
    clusters : ndarray of int, shape (n,)
        Numbers 0 to G - 1.
    about : float
        The mean of the values, or what it is known to be.

    Returns
    -------
    ndarray of shape (G,)

    Examples
    --------
    Two rows of 1 and 0, and one of 0.5, about their mean:

    >>> cluster_terms(np.array([1.0, 0.0, 0.5]), np.array([0, 0, 1]), 0.5).tolist()
    [0.5, 0.5]
    """
    sums = np.bincount(clusters, weights=values - about)
    return np.asarray(about + len(sums) / len(values) * sums, dtype=np.float64)
