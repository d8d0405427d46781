"""Off-policy estimators and their intervals, on arrays.

Every estimator is given as n terms whose mean is the estimate, so that one bootstrap
serves them all. Weights are ``w = target probability / propensity`` of the arm that was
taken, ``q`` the predicted reward of that arm, ``direct`` the predicted reward averaged
over the target's probabilities. Equations (25) to (29) of ``docs/math.md``.
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
        By name, in the order of ``ESTIMATORS``. SNIPS has its linearised terms, all
        NaN where every weight is 0.

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

    The one among quantiles of the weights with the least bound on the mean squared
    error: the variance of what is kept over n, plus the square of the target's share
    beyond the threshold, which bounds the bias as rewards lie in [0, 1].

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
    # Of equal thresholds the highest: it changes least.
    error = (variance + bias**2)[::-1]
    return float(grid[::-1][np.argmin(error)])


def effective_sample_size(weights: Array) -> float:
    """Return how many equally weighted rows would say as much (Kish 1965).

    Examples
    --------
    (2 + 1 + 1)^2 / (4 + 1 + 1)

    >>> round(effective_sample_size(np.array([2.0, 1.0, 1.0, 0.0])), 3)
    2.667
    """
    square = float((weights**2).sum())
    return float(weights.sum() ** 2 / square) if square > 0 else 0.0


def cluster_terms(values: Array, clusters: NDArray[np.intp], about: float) -> Array:
    """Return one term a cluster, from those of its rows, with the same mean.

    What its rows are off the value ``about`` is summed, so that of clusters of many
    sizes the sizes themselves add no spread.

    Examples
    --------
    Two rows of 1 and 0, and one of 0.5, about their mean:

    >>> cluster_terms(np.array([1.0, 0.0, 0.5]), np.array([0, 0, 1]), 0.5).tolist()
    [0.5, 0.5]
    """
    sums = np.bincount(clusters, weights=values - about)
    return np.asarray(about + len(sums) / len(values) * sums, dtype=np.float64)


def bootstrap_intervals(
    terms: dict[str, Array],
    level: float,
    n_resamples: int,
    rng: np.random.Generator,
) -> dict[str, tuple[float, float]]:
    """Return studentised bootstrap intervals of the means, cut to [0, 1].

    The terms are independent: one a cluster where rows are not. All estimators see
    the same resamples. Each resampled mean is divided by its own standard error, which
    follows the skew that importance weights bring.

    References
    ----------
    Efron and Tibshirani (1993), *An introduction to the bootstrap*, section 12.5.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bootstrap_intervals({"DM": np.full(9, 0.5)}, 0.95, 200, rng)
    {'DM': (0.5, 0.5)}
    """
    table = np.column_stack(list(terms.values()))
    n = len(table)
    mean = table.mean(axis=0)
    centred = table - mean
    moments = np.hstack([centred, centred**2])
    found = np.empty((n_resamples, moments.shape[1]))
    for row in range(n_resamples):
        counts = np.bincount(rng.integers(n, size=n), minlength=n)
        found[row] = counts @ moments / n
    shift, square = np.split(found, 2, axis=1)
    spread = np.sqrt(np.maximum(square - shift**2, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        # A resample without the rows that carry the weight has no spread, and says
        # that nothing is certain. Terms that are all equal have none anywhere.
        t = np.where(shift == 0.0, 0.0, shift / spread)
    tails = [(1 + level) / 2, (1 - level) / 2]
    high_low = np.quantile(t, tails, axis=0, method="nearest")
    scale = table.std(axis=0)
    with np.errstate(invalid="ignore"):
        bounds = np.where(scale > 1e-12, mean - high_low * scale, mean)
    bounds = np.clip(bounds, 0.0, 1.0)
    return {
        name: (float(low), float(high))
        for name, low, high in zip(terms, *bounds, strict=True)
    }


def confidence_sequence(
    outcomes: Array, least_propensity: float, level: float = 0.95
) -> tuple[Array, Array]:
    """Return bounds on the mean that hold at all times at once, also when adaptive.

    Empirical Bernstein bounds with predictable steps on doubly robust
    pseudo-outcomes. They ask for no independent rows: the policy that wrote the log
    may have learnt from it, and one may stop looking whenever one likes.

    Parameters
    ----------
    outcomes : ndarray of shape (n,)
        Terms of DR in the order of the log, with rewards and predictions in [0, 1],
        where the prediction of a row used earlier rows only.
    least_propensity : float in (0, 1]
        A bound below every propensity of the log that was known beforehand. The
        outcomes then lie in ``[1 - 1/p, 1/p]``.
    level : float in (0, 1)

    Returns
    -------
    low, high : ndarrays of shape (n,)
        After each row; never widening.

    References
    ----------
    Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro (2024), *Anytime-valid
    off-policy inference for contextual bandits*; Waudby-Smith and Ramdas (2024),
    *Estimating means of bounded random variables by betting*; Fan, Grama and Liu
    (2015), *Exponential inequalities for martingales with applications*.

    Examples
    --------
    >>> low, high = confidence_sequence(np.full(1000, 0.5), 1.0)
    >>> bool(low[-1] < 0.5 < high[-1]), bool(high[-1] - low[-1] < 0.1)
    (True, True)
    """
    low = _lower_bounds(outcomes, least_propensity, (1 - level) / 2)
    # One minus the outcome is the outcome of one minus the reward: same range.
    high = 1.0 - _lower_bounds(1.0 - outcomes, least_propensity, (1 - level) / 2)
    return low, high


def _lower_bounds(outcomes: Array, least_propensity: float, alpha: float) -> Array:
    n = len(outcomes)
    before = np.arange(n)
    scale = 1.0 / least_propensity
    xi = outcomes / scale
    # What the past says of the mean; half a row of 1/2 stands for no past.
    past = np.concatenate([[0.0], np.cumsum(outcomes)[:-1]])
    centre = np.clip((0.25 + past) / (before + 0.5), 0.0, 1.0) / scale
    # The outcome is at least 1 - scale and the centre at most 1 / scale, so that
    # xi - centre >= -1, which the inequality of Fan et al. asks for.
    squares = (xi - centre) ** 2
    seen = np.concatenate([[0.0], np.cumsum(squares)[:-1]])
    variance = (0.25 / scale + seen) / (before + 1.0)
    t = before + 1.0
    steps = np.sqrt(2 * np.log(1 / alpha) / (variance * t * np.log(1 + t)))
    steps = np.minimum(steps, 0.5)
    loss = np.log(1 / alpha) + np.cumsum((-np.log1p(-steps) - steps) * squares)
    bounds = scale * (np.cumsum(steps * xi) - loss) / np.cumsum(steps)
    return np.clip(np.maximum.accumulate(bounds), 0.0, 1.0)
