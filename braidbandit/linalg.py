"""Square-root covariance arithmetic in float64 (``docs/math.md`` section 2).

The posterior covariance is kept as one factor ``F`` with ``P = F F'``. The
factor is the only truth: no precision matrix and no inverse is stored beside it.
Every function is pure: it returns new arrays and leaves its arguments alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dger

Array = NDArray[np.float64]


def _plus_outer(factor: Array, alpha: float, left: Array, right: Array) -> Array:
    """``factor + alpha * outer(left, right)`` in one copy and one BLAS pass."""
    # dger wants column-major storage; the transpose of a C array is just that.
    return dger(alpha, right, left, a=factor.T, overwrite_a=0).T


def condition(
    mean: Array, factor: Array, phi: Array, residual: float, variance: float
) -> tuple[Array, Array, float]:
    """Condition a Gaussian on one noisy linear observation (Potter's form).

    Parameters
    ----------
    mean : ndarray of shape (p,)
    factor : ndarray of shape (p, p)
        ``F`` with covariance ``F F'``, C order.
    phi : ndarray of shape (p,)
        The observation is ``phi' theta + noise``.
    residual : float
        Observed value minus ``phi' mean``.
    variance : float
        Variance of the noise, above zero.

    Returns
    -------
    mean, factor : new arrays
        Equations (5) and (6) of ``docs/math.md``.
    predicted : float
        Variance that the observed value had before it was seen.

    References
    ----------
    Bierman, G. J. (1977), *Factorization Methods for Discrete Sequential
    Estimation*, section V.3 (Potter's algorithm).

    Examples
    --------
    Prior N(0, 1), one reward of 1 with unit noise: N(1/2, 1/2).

    >>> mean, factor, _ = condition(np.zeros(1), np.eye(1), np.ones(1), 1.0, 1.0)
    >>> float(mean[0]), round(float((factor @ factor.T)[0, 0]), 12)
    (0.5, 0.5)
    """
    v = phi @ factor
    total = float(v @ v) + variance
    gain = factor @ v
    beta = 1.0 / (total + np.sqrt(variance * total))
    mean = mean + gain * (residual / total)
    return mean, _plus_outer(factor, -beta, gain, v), total


def uncondition(
    mean: Array, factor: Array, phi: Array, residual: float, variance: float
) -> tuple[Array, Array]:
    """Take one observation back: the exact inverse of :func:`condition`.

    ``residual`` is the observed value minus ``phi' mean`` at the *current* mean.
    Equations (7) and (8) of ``docs/math.md``.

    Raises
    ------
    ValueError
        When the covariance would stop being positive definite, which means the
        observation was never part of this posterior.

    Examples
    --------
    >>> mean, factor, _ = condition(np.zeros(1), np.eye(1), np.ones(1), 1.0, 1.0)
    >>> back, root = uncondition(mean, factor, np.ones(1), 1.0 - mean[0], 1.0)
    >>> abs(round(float(back[0]), 12)), round(float(root[0, 0]), 12)
    (0.0, 1.0)
    """
    v = phi @ factor
    total = variance - float(v @ v)
    # An observation that is in the posterior leaves total > 0 strictly; the margin
    # keeps rounding from turning a refusal into a garbage factor.
    if not total > 1e-12 * variance:
        raise ValueError(
            "this observation cannot be taken back: removing it would leave a "
            f"covariance that is not positive definite (margin {total:.3g}, "
            "expected above 0). Take back only observations that were added, once, "
            "with the same features and weight, and not after forgetting."
        )
    gain = factor @ v
    beta = 1.0 / (total + np.sqrt(variance * total))
    return mean - gain * (residual / total), _plus_outer(factor, beta, gain, v)


def root(covariance: Array) -> Array:
    """Lower triangular root of a covariance, tolerant of rounding.

    Examples
    --------
    >>> root(np.array([[4.0, 0.0], [0.0, 9.0]])).tolist()
    [[2.0, 0.0], [0.0, 3.0]]
    """
    scale = float(np.max(np.diag(covariance), initial=0.0))
    if scale == 0.0:
        return np.zeros_like(covariance)
    for jitter in (0.0, 1e-14, 1e-12, 1e-10, 1e-8):
        try:
            padded = covariance + jitter * scale * np.eye(len(covariance))
            return np.asarray(np.linalg.cholesky(padded), dtype=np.float64)
        except np.linalg.LinAlgError:
            continue
    raise ValueError("the matrix is not a covariance: it has a negative eigenvalue")


def gaussian_draws(
    mean: Array, lower: Array, n_draws: int, rng: np.random.Generator
) -> Array:
    """Joint draws of N(mean, lower lower'), shape (n_draws, len(mean)).

    Examples
    --------
    >>> gaussian_draws(np.zeros(2), np.eye(2), 3, np.random.default_rng(0)).shape
    (3, 2)
    """
    noise = rng.standard_normal((n_draws, lower.shape[1]))
    return np.asarray(mean + noise @ lower.T, dtype=np.float64)
