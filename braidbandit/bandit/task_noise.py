"""What the rewards of one task have in common that its features do not say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from braidbandit.bandit.solution import symmetric

Array = NDArray[np.float64]

# A table without any noise of its own would make the precision infinite.
_MOST_COMMON = 0.9


def task_precision(R: Array, shared: bool = False) -> Array:
    """Return the precision of the rewards of one task: equation (13).

    A task that is hard for one arm is hard for all. What moves the rewards of a task
    together counts as noise until the task features explain it, and its share of the
    variance comes from a two-way analysis of variance.

    Parameters
    ----------
    R : ndarray of shape (n, B)
        Rewards of n tasks, each scored on the same B arms.
    shared : bool
        Whether arms have strands in common. What a strand does on a task then shows in
        several rewards, so the rest of them is correlated too.

    Returns
    -------
    ndarray of shape (B, B)
        In units of the precision of one reward; the unit matrix where there are fewer
        than two tasks or two arms.

    References
    ----------
    Ledoit and Wolf (2004), *A well-conditioned estimator for large-dimensional
    covariance matrices*.

    Examples
    --------
    No task is harder than the other:

    >>> task_precision(np.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return precision_of(task_covariance(R, shared))


def precision_of(covariance: Array) -> Array:
    """Return the inverse of a covariance, symmetric to the last bit."""
    return symmetric(np.linalg.inv(covariance))


def task_covariance(R: Array, shared: bool = False) -> Array:
    """Return the covariance of the rewards of one task: equation (13).

    Parameters
    ----------
    R : ndarray of shape (n, B)
        Rewards of n tasks; NaN where an arm was not scored. Every arm has a reward.
    shared : bool
        Whether arms have strands in common.

    Returns
    -------
    ndarray of shape (B, B)
        In units of the variance of one reward; the unit matrix where nothing can be
        told. The rewards that one task has got have the entries of their arms.

    Examples
    --------
    >>> task_covariance(np.array([[0.9, 0.5], [0.1, 0.1]])).round(9).tolist()
    [[1.0, 0.8], [0.8, 1.0]]
    """
    n, arms = R.shape
    if n < 2 or arms < 2:
        return np.eye(arms)
    missing = np.isnan(R)
    if missing.any():
        return _of_incomplete(R, missing, shared)
    by_task = R.mean(axis=1, keepdims=True)
    rest = R - by_task - R.mean(axis=0) + R.mean()
    alone = float((rest**2).sum()) / ((n - 1) * (arms - 1))
    common = max(float(by_task.var(ddof=1)) - alone / arms, 0.0)
    rho = min(common / (common + alone), _MOST_COMMON) if common > 0.0 else 0.0
    # Rewards lie in [0, 1]: below this there is rounding only.
    covariance = _shrunk(rest) if shared and alone > 1e-16 else np.eye(arms)
    return (1.0 - rho) * covariance + rho


def _of_incomplete(R: Array, missing: NDArray[np.bool_], shared: bool) -> Array:
    """Return the covariance where cells are missing: equation (44).

    The share that is common maximises the restricted likelihood, whose solution on a
    complete table is the analysis of variance.
    """
    arms, there = R.shape[1], ~missing
    # Whatever is said of a missing cell has no weight.
    above = np.where(there, R - R[there].mean(), 0.0)
    freedom = int(there.sum()) - arms
    if freedom < 1 or float((above**2).sum()) <= 1e-16 * above.size:
        return np.eye(arms)
    found: Any = minimize_scalar(
        _restricted,
        bounds=(0.0, _MOST_COMMON),
        args=(above, there, freedom),
        method="bounded",
        options={"xatol": 1e-6},
    )
    # The search never tries its bounds.
    tried = [0.0, float(found.x), _MOST_COMMON]
    rho = min(tried, key=lambda share: _restricted(share, above, there, freedom))
    if not shared:
        return (1.0 - rho) * np.eye(arms) + rho
    means, _ = _arm_means(rho, above, there)
    rest = np.where(there, above - means, 0.0)
    rest = np.where(there, rest - (rest.sum(1) / there.sum(1))[:, None], 0.0)
    if float((rest**2).sum()) <= 1e-16 * rest.size:
        return (1.0 - rho) * np.eye(arms) + rho
    return (1.0 - rho) * _shrunk(rest, missing) + rho


def _arm_means(
    rho: float, above: Array, there: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Return generalised least squares of the arms' means, and their precision."""
    weights = rho / (1.0 - rho + rho * there.sum(axis=1))
    mask = there.astype(np.float64)
    precision = np.diag(mask.sum(axis=0)) - mask.T @ (weights[:, None] * mask)
    moment = above.sum(axis=0) - mask.T @ (weights * above.sum(axis=1))
    return np.linalg.solve(precision, moment), precision / (1.0 - rho)


def _restricted(
    rho: float, above: Array, there: NDArray[np.bool_], freedom: int
) -> float:
    """Return minus twice the log of the restricted likelihood, without constants."""
    means, precision = _arm_means(rho, above, there)
    count = there.sum(axis=1)
    rest = np.where(there, above - means, 0.0)
    weights = rho / (1.0 - rho + rho * count)
    square = float((rest**2).sum() - weights @ rest.sum(axis=1) ** 2) / (1.0 - rho)
    sizes = (count - 1) * np.log(1.0 - rho) + np.log(1.0 - rho + rho * count)
    log_determinant = float(np.linalg.slogdet(precision)[1])
    return freedom * np.log(max(square, 1e-300)) + float(sizes.sum()) + log_determinant


def _shrunk(rest: Array, missing: NDArray[np.bool_] | None = None) -> Array:
    """Return the covariance of the columns, shrunk toward the unit matrix.

    Variances are 1 on average. The intensity is that of Ledoit and Wolf, but at least a
    tenth, because arms may be copies of each other, and at least one over the number
    of tasks, because of two tasks it would be 0. A cell that is missing is 0 in
    ``rest`` and has a variance of its own of 1: what was not seen is never correlated.
    """
    if missing is None:
        unit, hidden = rest / np.sqrt((rest**2).mean()), np.zeros(rest.shape)
    else:
        unit, hidden = rest / np.sqrt((rest[~missing] ** 2).mean()), missing * 1.0
    seen = unit.T @ unit / len(rest) + np.diag(hidden.mean(axis=0))
    alone = np.eye(len(seen))
    sizes = (unit**2).sum(axis=1) + hidden.sum(axis=1)
    scatter = float(sizes @ sizes) / len(rest)
    scatter = (scatter - float((seen**2).sum())) / len(rest)
    away = float(((seen - alone) ** 2).sum())
    least = max(0.1, 1.0 / len(rest))
    intensity = float(np.clip(scatter / away, least, 1.0)) if away > 0.0 else 1.0
    return (1.0 - intensity) * seen + intensity * alone
