"""Prior scales and noise from the rewards themselves: empirical Bayes.

The scales maximise the marginal likelihood of the rewards, their evidence, times a weak
hyperprior (MacKay 1992, *Bayesian interpolation*).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from braidbandit.bandit.solution import solve
from braidbandit.bandit.sufficient_statistics import SufficientStatistics

Array = NDArray[np.float64]

HYPER_SD = 1.5
"""Standard deviation of the normal hyperprior of every log scale.

A few dozen tasks say little about the scales, so they stay near where they start.
"""

_BOUNDS = (np.log(1e-3), np.log(3.0))
# What the search is told where nothing can be computed, so that it turns back.
_NOWHERE = 1e12


def find_scales(
    sums: SufficientStatistics,
    labels: NDArray[np.int64],
    own_labels: NDArray[np.int64],
    start: Array,
    centre: Array,
    own_change: Array | float = 0.0,
    shared_change: Array | None = None,
) -> Array:
    """Return the log scales that maximise evidence times hyperprior: equation (11).

    Parameters
    ----------
    sums : SufficientStatistics
    labels, own_labels : ndarrays of shape (p,) or (p, 2), and (d,) or (d, 2)
        Which scales each parameter's prior standard deviation is the product of; -1 for
        none.
    start, centre : ndarrays of shape (g + 1,)
        Log scales, the noise last: where to start, and where the hyperprior is.
    own_change : ndarray of shape (A, d), optional
        Prior variance that arms' own parameters have beside their scale.
    shared_change : ndarray of shape (p,), optional
        The same of the shared parameters, where any has some.

    Returns
    -------
    ndarray of shape (g + 1,)

    Raises
    ------
    numpy.linalg.LinAlgError
        When the sums overflow.
    """
    change = np.broadcast_to(own_change, sums.own_moment.shape)
    found = minimize(
        negative_log_evidence,
        np.clip(start, *_BOUNDS),
        # Arms without a reward say nothing about the scales, and may be thousands.
        args=(
            sums.of_seen(),
            labels,
            own_labels,
            centre,
            change[sums.seen],
            shared_change,
        ),
        jac=True,
        method="L-BFGS-B",
        bounds=[_BOUNDS] * len(start),
        options={"maxiter": 40, "ftol": 1e-7},
    )
    if not np.isfinite(found.x).all():
        raise np.linalg.LinAlgError(
            "no prior scales were found, because the sums over the rewards overflow"
        )
    return np.asarray(found.x, dtype=np.float64)


def negative_log_evidence(
    log_scales: Array,
    sums: SufficientStatistics,
    labels: NDArray[np.int64],
    own_labels: NDArray[np.int64],
    centre: Array,
    own_change: Array | float = 0.0,
    shared_change: Array | None = None,
) -> tuple[float, Array]:
    """Return minus the log of evidence times hyperprior, and its gradient.

    Without constants; the gradient is equation (12). Scales that no parameter has stay
    at the centre of the hyperprior.

    Parameters
    ----------
    log_scales : ndarray of shape (g + 1,)
        The noise last.
    sums, labels, own_labels, centre, own_change, shared_change
        As in :func:`find_scales`.

    Returns
    -------
    value : float
    gradient : ndarray of shape (g + 1,)
    """
    scales, variance = np.exp(log_scales[:-1]), float(np.exp(2 * log_scales[-1]))
    sd, of_scale = products(scales, labels), products(scales, own_labels) ** 2
    by_scale: Array | float = 1.0
    if shared_change is not None:
        sd, by_scale = np.sqrt(sd**2 + shared_change), sd**2 / (sd**2 + shared_change)
    change = np.broadcast_to(own_change, sums.own_moment.shape)
    try:
        found = solve(sums, sd, np.sqrt(of_scale + change), variance)
    except np.linalg.LinAlgError:
        # Where features repeat each other and the scales are far off, rounding is all
        # that is left, and the search must turn back.
        return _NOWHERE, np.zeros_like(log_scales)
    seen = sums.seen
    own_prior = of_scale + change[seen]
    b = found.own_mean[seen] - found.own_gain[seen] @ found.mean
    explained = float(sums.moment @ found.mean + (sums.own_moment[seen] * b).sum())
    away = (log_scales - centre) / HYPER_SD
    value = 0.5 * (
        sums.count * np.log(variance)
        + found.log_determinant
        + (sums.square - explained) / variance
        + float(away @ away)
    )
    # Per parameter 1 - (posterior variance + squared mean) / prior variance.
    kept = np.einsum("ij,ij->i", found.factor, found.factor) / sd**2
    coupling = found.own_gain[seen] @ found.factor
    own_variance = np.einsum("add->ad", found.own_covariance[seen])
    own_kept = (own_variance + np.einsum("adp,adp->ad", coupling, coupling)) / own_prior
    own_slopes = (1.0 - own_kept - b**2 / own_prior) * of_scale / own_prior
    slopes = _sums_of(
        labels, (1.0 - kept - (found.mean / sd) ** 2) * by_scale, len(scales)
    )
    slopes += _sums_of(own_labels, own_slopes.sum(axis=0), len(scales))
    fitted = float((1.0 - kept).sum() + (1.0 - own_kept).sum())
    quadratic = (
        found.mean @ sums.gram @ found.mean
        + 2 * np.einsum("ad,adp,p->", b, sums.cross[seen], found.mean)
        + np.einsum("ad,ade,ae->", b, sums.own[seen], b)
    )
    error = sums.square - 2 * explained + float(quadratic)
    gradient = np.append(slopes, sums.count - fitted - error / variance)
    return float(value), gradient + away / HYPER_SD


def products(scales: Array, labels: NDArray[np.int64]) -> Array:
    """Return the standard deviation of each parameter, a product of its scales.

    Parameters
    ----------
    scales : ndarray of shape (g,)
    labels : ndarray of shape (p,) or (p, 2)
        -1 for none.

    Returns
    -------
    ndarray of shape (p,)

    Examples
    --------
    >>> products(np.array([0.5, 4.0]), np.array([[0, -1], [0, 1]])).tolist()
    [0.5, 2.0]
    """
    found = np.append(scales, 1.0)[labels]
    return np.asarray(found if labels.ndim == 1 else found.prod(axis=1))


def _sums_of(labels: NDArray[np.int64], values: Array, n: int) -> Array:
    """Return the sum of the values of each label; those of -1 are left out."""
    found = np.zeros(n)
    for column in labels.T if labels.ndim == 2 else [labels]:
        there = column >= 0
        found += np.bincount(column[there], weights=values[there], minlength=n)
    return found
