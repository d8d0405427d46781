"""An interval for importance-weighted means by their empirical likelihood.

Equation (31) of ``docs/math.md``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

# Weight of the barrier that keeps unseen outcomes possible; it can only widen.
_BARRIER = 1e-3
_STEPS = 14


def likelihood_interval(
    terms: Array, weights: Array, support: Array, level: float, rows_worth: float
) -> tuple[float, float]:
    """Return an interval for the mean of the terms, inside [0, 1].

    All values that some distribution over *possible* outcomes has as its mean, if the
    log is not too unlikely under it and its mean weight is 1, as it is known to be.
    What was not seen, such as one more rare and heavy row, thus counts as possible;
    and where the weights of the log are too light or too heavy, the terms that go with
    them are put right.

    Parameters
    ----------
    terms : ndarray of shape (n,)
        Whose mean is estimated, such as those of DR.
    weights : ndarray of shape (n,)
        Importance weights of the rows; their true mean is 1.
    support : ndarray of shape (k, 2)
        Pairs (term, weight) of which every possible pair is a mixture.
    level : float in (0, 1)
    rows_worth : float
        Rows that bear on the mean: an F quantile with one fewer degrees of freedom
        takes the place of the chi-square one, which is right for many rows only.

    Notes
    -----
    As the log of a martingale's dual likelihood ratio, the statistic asks for no
    independent rows, only for terms whose mean is right given the past (Mykland 1995).

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
    # The most likely mean: that of the log, reweighted so that its mean weight is 1.
    shares = counts / (1.0 + (rows[:, 1] - 1.0) * multiplier[0])
    unseen = _BARRIER / (1.0 + (support[:, 1] - 1.0) * multiplier[0])
    centre = float(shares @ rows[:, 0] + unseen @ support[:, 0])
    centre /= float(shares.sum() + unseen.sum())
    centre = min(max(centre, 0.0), 1.0)

    def unlikely(mean: float) -> bool:
        shift = np.array([mean, 1.0])
        enough = free + threshold
        return _dual(rows - shift, counts, support - shift, enough)[0] > enough

    return _edge(unlikely, centre, 0.0), _edge(unlikely, centre, 1.0)


def _edge(unlikely: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return where likely ends, on the way from the centre to an end."""
    if not unlikely(outside):
        return outside
    for _ in range(_STEPS):
        middle = (inside + outside) / 2
        if unlikely(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _dual(
    rows: Array, counts: Array, support: Array, enough: float = np.inf
) -> tuple[float, Array]:
    """Maximise ``sum log(1 + v' row)``, with ``1 + v' s`` positive on the support.

    Newton's method with a logarithmic barrier; returns the value and v. Where no
    mixture of the support will do, the value grows without end: ``enough`` ends it.
    """
    v = np.zeros(rows.shape[1])
    value = 0.0
    for _ in range(60):
        seen, unseen = 1.0 + rows @ v, 1.0 + support @ v
        near, edge = rows / seen[:, None], support / unseen[:, None]
        slope = counts @ near + _BARRIER * edge.sum(axis=0)
        bend = (near * counts[:, None]).T @ near + _BARRIER * edge.T @ edge
        bend[np.diag_indices_from(bend)] += 1e-12 * (1.0 + np.trace(bend))
        step = np.linalg.solve(bend, slope)
        gain = float(slope @ step)
        if gain < 1e-7 or value > enough:
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
