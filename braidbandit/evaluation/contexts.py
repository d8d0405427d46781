"""Which rows of a log are about the same thing.

Two rows about one prompt must not end up on both sides of a split: a reward model would
be asked about a prompt that it has already seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.intp]

FOLDS = 5
"""Parts that cross-fitting cuts a log into."""

# More rows per context and arm than this, and a context is a kind of task, not a task.
_OFTEN = 2


def contexts_of(X: Array, arms: Ints, n_arms: int) -> Ints:
    """Number the rows by context: rows with equal features get the same number.

    There are two exceptions, in which every row gets a number of its own because the
    features describe kinds of tasks, none of which may be missing from a fold: when
    there are fewer than two contexts per fold, and when each context occurs many times
    with arms that were drawn at random.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    arms : ndarray of int, shape (n,)
        Column of the arm that was taken in each row.
    n_arms : int

    Returns
    -------
    ndarray of int, shape (n,)

    Examples
    --------
    >>> X, arms = np.repeat(np.arange(10.0), 2)[:, None], np.arange(20) % 2
    >>> contexts_of(X, arms, 2)[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    known: dict[bytes, int] = {}
    # Adding 0 turns -0.0 into 0.0, so that the two have the same bytes.
    numbers = [known.setdefault(row.tobytes(), len(known)) for row in X + 0.0]
    contexts = np.array(numbers, dtype=np.intp)
    often = len(X) > _OFTEN * n_arms * len(known)
    if len(known) < 2 * FOLDS or (often and not is_table(contexts, arms, n_arms)):
        return np.arange(len(X))
    return contexts


def is_table(contexts: Ints, arms: Ints, n_arms: int) -> bool:
    """Whether each context met its arms equally often, as in a table of scores.

    Arms that somebody drew would not come out so even.

    Parameters
    ----------
    contexts, arms : ndarrays of int, shape (n,)
    n_arms : int

    Returns
    -------
    bool

    Examples
    --------
    >>> is_table(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), 2)
    True
    >>> is_table(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 0]), 2)
    False
    """
    cells, counts = np.unique(contexts * n_arms + arms, return_counts=True)
    first = run_starts(cells // n_arms)
    least = np.minimum.reduceat(counts, first)
    most = np.maximum.reduceat(counts, first)
    return bool((least == most).all())


def run_starts(labels: Ints) -> Ints:
    """Return the rows whose label differs from that of the row before, 0 included.

    Parameters
    ----------
    labels : ndarray of int, shape (n,), n at least 1

    Returns
    -------
    ndarray of int

    Examples
    --------
    >>> run_starts(np.array([3, 3, 1, 3])).tolist()
    [0, 2, 3]
    """
    return np.append(0, np.flatnonzero(np.diff(labels)) + 1)
