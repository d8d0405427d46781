"""Three intervals for the mean of an estimator's terms.

By empirical likelihood (equation (31) of ``docs/math.md``), by the bootstrap, and as a
confidence sequence that holds at all times (equation (28)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

Array = NDArray[np.float64]

# Weight of the barrier that keeps unseen outcomes possible; it can only widen.
_BARRIER = 1e-3
# How exactly the ends of an interval are found.
_EXACTLY = 1e-5
# Newton steps, and the gain below which another one is not worth it.
_STEPS, _GAIN = 60, 1e-7
# Spread below which all terms are taken to be equal.
_NO_SPREAD = 1e-12


def likelihood_interval(
    terms: Array, weights: Array, support: Array, level: float, rows_worth: float
) -> tuple[float, float]:
    """Return an interval for the mean of the terms by empirical likelihood.

    It holds every mean that some distribution over *possible* outcomes can have, if the
    log is not too unlikely under that distribution and the mean weight is 1, as it is
    known to be. So what happens not to be in the log, such as one more rare and heavy
    row, counts as possible; and where the weights of the log came out too light or too
    heavy, the terms that go with them are corrected.

    Parameters
    ----------
    terms : ndarray of shape (n,)
        Terms whose mean is the estimate, such as those of DR.
    weights : ndarray of shape (n,)
        Importance weights of the rows; their true mean is 1.
    support : ndarray of shape (k, 2)
        Pairs (term, weight) of which every possible pair is a mixture.
    level : float in (0, 1)
    rows_worth : float
        Number of rows that bear on the mean. A quantile of the F distribution with one
        degree of freedom less replaces that of the chi-square distribution, which is
        right for many rows only.

    Returns
    -------
    low, high : float in [0, 1]

    Notes
    -----
    The statistic is the logarithm of the dual likelihood ratio of a martingale. It does
    not need independent rows, only terms whose mean is right given the past (Mykland
    1995).

    References
    ----------
    Owen (2001), *Empirical likelihood*; Karampatziakis, Langford and Mineiro (2020),
    *Empirical likelihood for contextual bandits*; Mykland (1995), *Dual likelihood*.

    Examples
    --------
    Nine ones in ten rewards with weight 1:

    >>> rewards = np.repeat([1.0, 0.0], [90, 10])
    >>> edges = np.array([[0.0, 1.0], [1.0, 1.0]])
    >>> low, high = likelihood_interval(rewards, np.ones(100), edges, 0.95, 100)
    >>> round(low, 2), round(high, 2)
    (0.83, 0.95)
    """
    pairs = np.column_stack([terms, weights])
    rows, inverse = np.unique(pairs, axis=0, return_inverse=True)
    counts = np.bincount(inverse.ravel()).astype(np.float64)
    freedom = max(rows_worth - 1.0, 1.0)
    threshold = float(stats.f.ppf(level, 1, freedom)) / 2
    free, multiplier = _dual(rows[:, 1:] - 1.0, counts, support[:, 1:] - 1.0)
    most = free + 2 * threshold

    def excess(mean: float) -> float:
        """How much less likely a mean is than the threshold allows, up to a bound."""
        shift = np.array([mean, 1.0])
        value = _dual(rows - shift, counts, support - shift, most)[0]
        return min(value, most) - free - threshold

    centre = _likeliest(rows, counts, support, float(multiplier[0]))
    return _edge(excess, centre, 0.0), _edge(excess, centre, 1.0)


def bootstrap_intervals(
    terms: dict[str, Array],
    level: float,
    n_resamples: int,
    rng: np.random.Generator,
) -> dict[str, tuple[float, float]]:
    """Return studentised bootstrap intervals of the means, cut to [0, 1].

    Each resampled mean is divided by its own standard error, which follows the skew
    that importance weights bring; ``scipy.stats.bootstrap`` offers no such interval.
    All estimators see the same resamples.

    Parameters
    ----------
    terms : dict of ndarray of shape (n,)
        Independent terms by estimator: one per cluster, where rows are not independent.
    level : float in (0, 1)
    n_resamples : int
    rng : Generator

    Returns
    -------
    dict of (float, float)
        Low and high end by estimator.

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
    mean, scale = table.mean(axis=0), table.std(axis=0)
    shift, square = _resampled(table - mean, n_resamples, rng)
    spread = np.sqrt(np.maximum(square - shift**2, 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        # A resample without the rows that carry the weight has no spread, and says
        # that nothing is certain. Terms that are all equal have none anywhere.
        t = np.where(shift == 0.0, 0.0, shift / spread)
    tails = [(1 + level) / 2, (1 - level) / 2]
    high_low = np.quantile(t, tails, axis=0, method="nearest")
    with np.errstate(invalid="ignore"):
        bounds = np.where(scale > _NO_SPREAD, mean - high_low * scale, mean)
    bounds = np.clip(bounds, 0.0, 1.0)
    return {
        name: (float(low), float(high))
        for name, low, high in zip(terms, *bounds, strict=True)
    }


def confidence_sequence(
    outcomes: Array, least_propensity: float, level: float = 0.95
) -> tuple[Array, Array]:
    """Return bounds on the mean that hold at all times at once.

    Rows need not be independent: the policy that wrote the log may have learnt from it,
    and one may stop looking at any time, for any reason. These are empirical Bernstein
    bounds with predictable steps.

    Parameters
    ----------
    outcomes : ndarray of shape (n,)
        Terms of DR in the order of the log, with rewards and predictions in [0, 1],
        where each prediction was made from earlier rows only.
    least_propensity : float in (0, 1]
        No propensity of the log is below this, and that was known beforehand. The
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


def _likeliest(rows: Array, counts: Array, support: Array, multiplier: float) -> float:
    """Return the mean of the log when it is reweighted to a mean weight of 1."""
    shares = counts / (1.0 + (rows[:, 1] - 1.0) * multiplier)
    unseen = _BARRIER / (1.0 + (support[:, 1] - 1.0) * multiplier)
    centre = float(shares @ rows[:, 0] + unseen @ support[:, 0])
    centre /= float(shares.sum() + unseen.sum())
    return min(max(centre, 0.0), 1.0)


def _edge(excess: Callable[[float], float], inside: float, outside: float) -> float:
    """Return where means stop being likely, between the centre and an end."""
    if excess(outside) <= 0:
        return outside
    if excess(inside) >= 0:  # the centre itself was cut to [0, 1]
        return inside
    edge: Any = brentq(excess, inside, outside, xtol=_EXACTLY)
    return float(edge)


def _dual(
    rows: Array, counts: Array, support: Array, enough: float = np.inf
) -> tuple[float, Array]:
    """Maximise ``sum log(1 + v' row)``, with ``1 + v' s`` positive on the support.

    Newton's method with a logarithmic barrier; returns the value and v. Where no
    mixture of the support will do, the value grows without end: ``enough`` ends it.
    """
    v = np.zeros(rows.shape[1])
    value = 0.0
    for _ in range(_STEPS):
        seen, unseen = 1.0 + rows @ v, 1.0 + support @ v
        near, edge = rows / seen[:, None], support / unseen[:, None]
        slope = counts @ near + _BARRIER * edge.sum(axis=0)
        bend = (near * counts[:, None]).T @ near + _BARRIER * edge.T @ edge
        bend[np.diag_indices_from(bend)] += 1e-12 * (1.0 + np.trace(bend))
        step = np.linalg.solve(bend, slope)
        gain = float(slope @ step)
        if gain < _GAIN or value > enough:
            break
        size = 1.0
        while size > 1e-9:
            better = _value(rows, counts, support, v + size * step)
            if better > value + 1e-4 * size * gain:
                break
            size /= 2
        else:
            break
        v, value = v + size * step, better
    return value, v


def _value(rows: Array, counts: Array, support: Array, v: Array) -> float:
    seen, unseen = 1.0 + rows @ v, 1.0 + support @ v
    if seen.min() <= 0 or unseen.min() <= 0:
        return -np.inf
    return float(counts @ np.log(seen) + _BARRIER * np.log(unseen).sum())


def _resampled(
    centred: Array, n_resamples: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return means and mean squares in each resample, both (n_resamples, columns)."""
    n = len(centred)
    moments = np.hstack([centred, centred**2])
    found = np.empty((n_resamples, moments.shape[1]))
    for row in range(n_resamples):
        counts = np.bincount(rng.integers(n, size=n), minlength=n)
        found[row] = counts @ moments / n
    shift, square = np.split(found, 2, axis=1)
    return shift, square


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
