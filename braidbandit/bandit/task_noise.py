"""What the rewards of one task have in common that its features do not say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.solution import symmetric

Array = NDArray[np.float64]


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
    n, arms = R.shape
    if n < 2 or arms < 2:
        return np.eye(arms)
    by_task = R.mean(axis=1, keepdims=True)
    rest = R - by_task - R.mean(axis=0) + R.mean()
    alone = float((rest**2).sum()) / ((n - 1) * (arms - 1))
    common = max(float(by_task.var(ddof=1)) - alone / arms, 0.0)
    # A table without any noise of its own would make the precision infinite.
    rho = min(common / (common + alone), 0.9) if common > 0.0 else 0.0
    # Rewards lie in [0, 1]: below this there is rounding only.
    covariance = _shrunk(rest) if shared and alone > 1e-16 else np.eye(arms)
    return symmetric(np.linalg.inv((1.0 - rho) * covariance + rho))


def _shrunk(rest: Array) -> Array:
    """Return the covariance of the columns, shrunk toward the unit matrix.

    Variances are 1 on average. The intensity is that of Ledoit and Wolf, but at least a
    tenth, because arms may be copies of each other, and at least one over the number
    of tasks, because of two tasks it would be 0.
    """
    unit = rest / np.sqrt((rest**2).mean())
    seen = unit.T @ unit / len(rest)
    alone = np.eye(len(seen))
    scatter = float((unit**2).sum(axis=1) @ (unit**2).sum(axis=1)) / len(rest)
    scatter = (scatter - float((seen**2).sum())) / len(rest)
    away = float(((seen - alone) ** 2).sum())
    least = max(0.1, 1.0 / len(rest))
    intensity = float(np.clip(scatter / away, least, 1.0)) if away > 0.0 else 1.0
    return (1.0 - intensity) * seen + intensity * alone
