"""Arithmetic on square roots of covariances, in float64: ``docs/math.md`` section 2.

A covariance is kept as one factor ``F`` with ``P = F F'``. No precision and no inverse
is stored beside it, which could come to disagree. Every function but :func:`add_outer`
returns new arrays and leaves its arguments alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Compiled modules, which have no stubs.
from scipy.linalg.blas import dger, strmm  # pyright: ignore[reportAttributeAccessIssue]
from scipy.linalg.lapack import dpotrf  # pyright: ignore[reportAttributeAccessIssue]

Array = NDArray[np.float64]

LEAST_LEFT = 1e-7
"""Share of a variance that must be left; of less, fewer than six digits are right."""
_EXACT = 1e4  # what is left must be so many times its rounding


def add_outer(matrix: Array, alpha: float, left: Array, right: Array) -> Array:
    """Return ``matrix + alpha * outer(left, right)``, in one BLAS pass.

    Parameters
    ----------
    matrix : ndarray of shape (n, m)
        Changed in place if it is C-contiguous: a copy would take longer than the sum.
    alpha : float
    left : ndarray of shape (n,)
    right : ndarray of shape (m,)

    Returns
    -------
    ndarray of shape (n, m)

    Examples
    --------
    >>> add_outer(np.eye(2), 2.0, np.array([1.0, 0.0]), np.array([0.0, 1.0])).tolist()
    [[1.0, 2.0], [0.0, 1.0]]
    """
    if not len(matrix):
        return matrix
    # dger wants column-major storage; the transpose of a C array is just that.
    return dger(alpha, right, left, a=matrix.T, overwrite_a=1).T


class Repeats:
    """A matrix whose rows repeat each other in most columns.

    Braids of the same models with the same shares differ in a handful of columns only,
    so most of a quadratic form over a catalogue is the same for many of them. The
    matrix is split into a left part, of which only the distinct rows are kept, and the
    other columns. Columns join the left part, in their order, as long as it has at most
    a quarter as many distinct rows as the matrix.

    Parameters
    ----------
    Z : ndarray of shape (A, m)

    Attributes
    ----------
    left : ndarray of shape (U, s)
        Distinct rows of the left part.
    code : ndarray of int, shape (A,)
        Which of them each row of Z has.
    right : ndarray of shape (A, m - s)
        The other columns.
    columns, others : ndarrays of int, shape (s,) and (m - s,)
        Which columns of Z these are.

    Examples
    --------
    >>> repeats = Repeats(np.array([[1.0, 2.0]] * 8 + [[1.0, 3.0]] * 8))
    >>> len(repeats.left)
    2
    >>> repeats.quadratic(np.diag([1.0, 10.0]))[[0, 8]].round(3).tolist()
    [41.0, 91.0]
    """

    def __init__(self, Z: Array) -> None:
        code, most = np.zeros(len(Z), dtype=np.int64), max(len(Z) // 4, 1)
        first, joined = np.zeros(1, dtype=np.intp), np.zeros(Z.shape[1], dtype=bool)
        for column in range(Z.shape[1]):
            values, level = np.unique(Z[:, column], return_inverse=True)
            _, at, both = np.unique(
                code * len(values) + level, return_index=True, return_inverse=True
            )
            if len(at) <= most:
                code, first, joined[column] = both, at, True
        self.code = code
        self.columns, self.others = np.flatnonzero(joined), np.flatnonzero(~joined)
        self.left = np.ascontiguousarray(Z[np.ix_(first, self.columns)])
        self.right = np.ascontiguousarray(Z[:, self.others])
        self._left = self.left.astype(np.float32)

    def times(self, v: Array) -> Array:
        """Return ``z' v`` of every row.

        Parameters
        ----------
        v : ndarray of shape (..., m)

        Returns
        -------
        ndarray of shape (..., A)
        """
        left = v[..., self.columns] @ self.left.T
        right = v[..., self.others] @ self.right.T
        return np.asarray(np.take(left, self.code, axis=-1) + right)

    def quadratic(self, S: Array) -> Array:
        """Return ``z' S z`` of every row.

        The largest product is taken in single precision, with a root of S. It is a sum
        of squares, so the result is off by about a millionth at most.

        Parameters
        ----------
        S : ndarray of shape (m, m)
            A covariance.

        Returns
        -------
        ndarray of shape (A,)
        """
        columns, others = self.columns, self.others
        lower = root(S[np.ix_(columns, columns)]).astype(np.float32, order="F")
        # Column-major both, as strmm wants them: the transpose of a C array.
        load = strmm(1.0, lower, self._left.T, trans_a=1, lower=1).T
        left = np.einsum("us,us->u", load, load).astype(np.float64)
        both = self.left @ (2.0 * S[np.ix_(columns, others)])
        cross = np.take(both, self.code, axis=0)
        cross += self.right @ S[np.ix_(others, others)]
        return np.asarray(left[self.code] + np.einsum("ar,ar->a", cross, self.right))


def potter(load: Array, variance: float) -> tuple[float, float]:
    """Return the step of a square root when a linear observation is made.

    ``F - beta (F load) load'`` is a square root of the covariance after the
    observation: equation (6).

    Parameters
    ----------
    load : ndarray of shape (p,)
        ``F' phi``, with phi the features of the observation.
    variance : float
        Of the noise.

    Returns
    -------
    total : float
        Variance that the observed value had.
    beta : float

    References
    ----------
    Bierman, G. J. (1977), *Factorization Methods for Discrete Sequential
    Estimation*, section V.3 (Potter's algorithm).

    Examples
    --------
    Prior N(0, 1), unit noise: variance 2 before, 1/2 after.

    >>> total, beta = potter(np.ones(1), 1.0)
    >>> total, round((1 - beta) ** 2, 12)
    (2.0, 0.5)
    """
    total = float(load @ load) + variance
    return total, 1.0 / (total + math.sqrt(variance * total))


def least_left(x: Array, covariance: Array, variance: float) -> float:
    """Return what must be left of a noise for its observation to be taken back.

    Parameters
    ----------
    x : ndarray of shape (k,)
    covariance : ndarray of shape (k, k)
        After the observation.
    variance : float
        Of the noise. What is left of it is ``variance - x' covariance x``.

    Returns
    -------
    float
        Above 0: less than this is rounding, which differs from machine to machine.

    Examples
    --------
    >>> least_left(np.ones(1), np.full((1, 1), 0.5), 1.0) == LEAST_LEFT
    True
    >>> least_left(np.ones(1), np.full((1, 1), 0.5), 1e-12) > 1e-13
    True
    """
    rounding = np.finfo(float).eps * (np.abs(x) @ np.abs(covariance) @ np.abs(x))
    return max(LEAST_LEFT * variance, _EXACT * float(rounding))


def potter_back(load: Array, variance: float) -> tuple[float, float]:
    """Return the step that undoes :func:`potter`: equation (8).

    ``F + beta (F load) load'`` is the square root of before the observation.

    Parameters
    ----------
    load : ndarray of shape (p,)
        ``F' phi`` with the present factor.
    variance : float
        Of the noise.

    Returns
    -------
    total : float
        Variance of the noise minus the one that the observed value has now.
    beta : float

    Raises
    ------
    ValueError
        When the covariance would stop being positive definite: the observation was
        never part of this posterior.

    Examples
    --------
    >>> total, beta = potter_back(np.full(1, 0.5**0.5), 1.0)
    >>> round(total, 12), round(0.5 * (1 + beta / 2) ** 2, 12)
    (0.5, 1.0)
    """
    total = variance - float(load @ load)
    # An observation that is in the posterior leaves total > 0 strictly; the margin
    # keeps rounding from turning a refusal into a garbage factor.
    if not total > LEAST_LEFT * variance:
        raise ValueError(
            "this observation cannot be taken back: removing it would leave a "
            f"covariance that is not positive definite (margin {total:.3g}, "
            "expected above 0). Take back only observations that were added, once, "
            "with the same features and weight, and not after forgetting."
        )
    return total, 1.0 / (total + math.sqrt(variance * total))


def root(covariance: Array) -> Array:
    """Return the lower triangular root of a covariance, tolerant of rounding.

    Parameters
    ----------
    covariance : ndarray of shape (n, n)
        Positive semidefinite, but for rounding.

    Returns
    -------
    ndarray of shape (n, n)

    Raises
    ------
    ValueError
        When an eigenvalue is negative beyond rounding.

    Examples
    --------
    >>> root(np.array([[4.0, 0.0], [0.0, 9.0]])).tolist()
    [[2.0, 0.0], [0.0, 3.0]]
    """
    if not len(covariance):
        return covariance.copy()
    # Symmetric: the transpose is the same, in the storage that LAPACK wants.
    lower, failed = dpotrf(covariance.T, lower=1, clean=1)
    if not failed:
        return np.asarray(lower)
    scale = float(covariance.diagonal().max())
    if scale == 0.0:
        return np.zeros_like(covariance)
    for jitter in (1e-14, 1e-12, 1e-10, 1e-8):
        padded = covariance + jitter * scale * np.eye(len(covariance))
        lower, failed = dpotrf(padded, lower=1, clean=1)
        if not failed:
            return np.asarray(lower)
    raise ValueError("the matrix is not a covariance: it has a negative eigenvalue")


def gaussian_draws(
    mean: Array, lower: Array, n_draws: int, rng: np.random.Generator
) -> Array:
    """Return joint draws of N(mean, lower lower').

    Parameters
    ----------
    mean : ndarray of shape (n,)
    lower : ndarray of shape (n, q)
    n_draws : int
    rng : Generator

    Returns
    -------
    ndarray of shape (n_draws, n)

    Examples
    --------
    >>> gaussian_draws(np.zeros(2), np.eye(2), 3, np.random.default_rng(0)).shape
    (3, 2)
    """
    noise = rng.standard_normal((n_draws, lower.shape[1]))
    return np.asarray(mean + noise @ lower.T, dtype=np.float64)
