"""The posterior of many rewards at once, solved from the sums over them.

Given the shared parameters ``theta`` the arms are independent, so the posterior is kept
as the Gaussian of ``theta`` and, per arm, of its own parameters ``b_a`` given
``theta``: exact, and never larger than p x p and A x d x p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from braidbandit.bandit.sufficient_statistics import SufficientStatistics

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """A posterior in the form that is kept; means are counted from the prior mean.

    Attributes
    ----------
    mean : ndarray of shape (p,)
        Of ``theta``.
    factor : ndarray of shape (p, p)
        Square root of the covariance of ``theta``, ``P = factor @ factor.T``.
    own_mean : ndarray of shape (A, d)
    own_covariance : ndarray of shape (A, d, d)
    own_gain : ndarray of shape (A, d, p)
        ``b_a`` given ``theta`` is N(own_mean - own_gain theta, own_covariance).
    log_determinant : float
        Log of the determinant of the prior covariance over that of the posterior.
    """

    mean: Array
    factor: Array
    own_mean: Array
    own_covariance: Array
    own_gain: Array
    log_determinant: float


def solve(
    sums: SufficientStatistics, sd: Array, own_sd: Array, variance: float
) -> Solution:
    """Return the posterior under independent normal priors: equation (4).

    Parameters
    ----------
    sums : SufficientStatistics
    sd : ndarray of shape (p,)
        Prior standard deviations of the shared parameters.
    own_sd : ndarray of shape (d,) or (A, d)
        Those of the own parameters, for all arms alike or for each.
    variance : float
        Variance of the noise.

    Returns
    -------
    Solution

    Raises
    ------
    numpy.linalg.LinAlgError
        When rounding leaves no positive definite precision.

    Examples
    --------
    One shared parameter, no own ones, prior N(0, 1), one reward of 1, noise 1:

    >>> sums = SufficientStatistics(np.eye(1), np.zeros((1, 0, 1)),
    ...     np.zeros((1, 0, 0)), np.ones(1), np.zeros((1, 0)), 1.0, 1.0)
    >>> found = solve(sums, np.ones(1), np.ones(0), 1.0)
    >>> round(float(found.mean[0]), 12), round(float(found.factor[0, 0] ** 2), 12)
    (0.5, 0.5)
    """
    arms, d, p = sums.cross.shape
    seen = sums.seen
    own_mean, own_gain = np.zeros((arms, d)), np.zeros((arms, d, p))
    own_sd = np.broadcast_to(own_sd, (arms, d))
    own_covariance = own_sd[:, :, None] ** 2 * np.eye(d)
    # Arms first: whitened by the prior, so that every spectrum starts at 1.
    rows, columns = own_sd[seen][:, :, None], own_sd[seen][:, None]
    inner = rows * sums.own[seen] * columns / variance + np.eye(d)
    cov = symmetric(rows * np.linalg.inv(inner) * columns)
    gain = cov @ sums.cross[seen] / variance
    arm_mean = np.einsum("ade,ae->ad", cov, sums.own_moment[seen]) / variance
    own_covariance[seen], own_gain[seen], own_mean[seen] = cov, gain, arm_mean
    # What is left for the shared parameters.
    cross = sums.cross[seen].reshape(-1, p)
    precision = (sums.gram - cross.T @ gain.reshape(-1, p)) / variance
    moment = (sums.moment - cross.T @ arm_mean.ravel()) / variance
    shared = sd[:, None] * symmetric(precision) * sd
    shared[np.diag_indices_from(shared)] += 1.0
    try:
        lower = scipy.linalg.cholesky(shared, lower=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise np.linalg.LinAlgError(
            "features or weights differ too much in size for floating-point numbers; "
            "standardise the features, and keep weights near 1"
        ) from error
    half = scipy.linalg.solve_triangular(lower, np.diag(sd), lower=True)
    factor = np.ascontiguousarray(half.T)
    log_determinant = 2 * np.log(np.diag(lower)).sum()
    log_determinant += np.linalg.slogdet(inner)[1].sum()
    return Solution(
        factor @ (half @ moment),
        factor,
        own_mean,
        own_covariance,
        own_gain,
        float(log_determinant),
    )


def symmetric(matrices: NDArray[Any]) -> Array:
    """Return the symmetric part of square matrices, shape (..., n, n).

    A computed inverse is symmetric up to rounding only. No reward corrects what is not
    symmetric in a covariance, and it grows from one forgetting to the next.

    Examples
    --------
    >>> symmetric(np.array([[1.0, 2.0], [4.0, 1.0]])).tolist()
    [[1.0, 3.0], [3.0, 1.0]]
    """
    return np.asarray(0.5 * (matrices + np.swapaxes(matrices, -1, -2)))
