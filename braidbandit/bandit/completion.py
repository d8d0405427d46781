"""What an incomplete table of rewards is expected to hold where nothing was scored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.online_posterior import OnlinePosterior
from braidbandit.bandit.task_noise import precision_of, task_covariance

Array = NDArray[np.float64]


def completed(
    X: Array,
    R: Array,
    shared: bool = False,
    blocks: NDArray[np.int64] | None = None,
) -> Array:
    """Return a table with what is expected in each missing cell: equation (46).

    Each arm is its own, whatever it is made of: its level and what the task features
    say of it, learnt from the cells that are there, and what the scores of the same
    task have in common beyond that.

    Parameters
    ----------
    X : ndarray of shape (n, k)
        Features of the tasks.
    R : ndarray of shape (n, B)
        Rewards in [0, 1], NaN where there is none. No row or column is empty.
    shared : bool
        Whether arms have strands in common.
    blocks : ndarray of int, shape (k,), optional
        In which block of the prior each task feature is, as for ``Posterior``.

    Returns
    -------
    ndarray of shape (n, B)
        In [0, 1]; R itself where nothing is missing.

    Examples
    --------
    Arm 1 is always as good as arm 0, and the last task was easy for that one:

    >>> R = np.array([[0.1, 0.1], [0.9, 0.9], [0.2, 0.2], [0.8, 0.8], [0.9, np.nan]])
    >>> bool(completed(np.ones((5, 1)), R)[4, 1] > 0.7)
    True
    """
    missing = np.isnan(R)
    if not missing.any():
        return R
    n, arms = R.shape
    Z = np.ones((arms, 1))
    online = OnlinePosterior.start(["bias"], X.shape[1], arms, blocks=blocks)
    posterior = online.posterior
    posterior.start_from_table(range(arms), Z, X, R, shared)
    expected = posterior.means(Z, X)
    covariance = task_covariance(R, shared)
    for row in range(n):
        there, gone = np.flatnonzero(~missing[row]), np.flatnonzero(missing[row])
        above = R[row, there] - expected[row, there]
        V = precision_of(covariance[np.ix_(there, there)])
        expected[row, gone] += covariance[np.ix_(gone, there)] @ V @ above
    return np.where(missing, np.clip(expected, 0.0, 1.0), R)
