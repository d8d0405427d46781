"""A reward model fitted to some rows of a log and asked about others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Arms = NDArray[np.intp]

FOLDS = 5
# Rows of a context for each arm beyond which it is a kind of task.
_OFTEN = 2
# Prior variances relative to the noise: the level and the slopes common to all arms
# are learnt freely, an arm's own level and slopes are held back.
_COMMON, _OWN_LEVEL, _OWN_SLOPE = 1.0, 0.1, 0.02


def predict_rewards(
    X: Array, arms: Arms, rewards: Array, new: Array, n_arms: int
) -> Array:
    """Predict the reward of every arm in new contexts, in [0, 1], shape (n, A).

    Ridge regression common to all arms, then one on what is left for each arm, held
    back toward the common one; an arm that was never taken is predicted by the common
    one alone.

    Parameters
    ----------
    X : ndarray of shape (m, d)
        Contexts of the rows that are learnt; none predicts 1/2.
    arms : ndarray of int, shape (m,)
    rewards : ndarray of shape (m,) in [0, 1]
    new : ndarray of shape (n, d)
    n_arms : int

    Examples
    --------
    >>> X = np.zeros((40, 1))
    >>> arms = np.arange(40) % 2
    >>> predict_rewards(X, arms, arms * 1.0, X[:1], 3).round(1).tolist()
    [[0.2, 0.8, 0.5]]
    """
    if not len(X):
        return np.full((len(new), n_arms), 0.5)
    rows, asked = map(_design, _standardised(X, new))
    level = rewards.mean()
    left = rewards - level
    common = _ridge(rows, left, np.full(rows.shape[1], _COMMON))
    left = left - rows @ common
    predicted = np.repeat((level + asked @ common)[:, None], n_arms, axis=1)
    variances = np.full(rows.shape[1], _OWN_SLOPE)
    variances[0] = _OWN_LEVEL
    for arm in np.unique(arms):
        taken = arms == arm
        predicted[:, arm] += asked @ _ridge(rows[taken], left[taken], variances)
    return np.clip(predicted, 0.0, 1.0)


def contexts_of(X: Array, arms: Arms, n_arms: int) -> Arms:
    """Number the rows by context: rows with equal features have one number.

    Unless these are kinds of tasks rather than tasks, of which none can be spared:
    fewer than two for each fold, or each again and again with arms that were drawn.
    Then every row has a number of its own.

    Examples
    --------
    >>> X, arms = np.repeat(np.arange(10.0), 2)[:, None], np.arange(20) % 2
    >>> contexts_of(X, arms, 2)[:6].tolist()
    [0, 0, 1, 1, 2, 2]
    """
    known: dict[bytes, int] = {}
    # Adding 0 makes one number of 0.0 and -0.0.
    rows = [known.setdefault(row.tobytes(), len(known)) for row in X + 0.0]
    contexts = np.array(rows, dtype=np.intp)
    again = len(X) > _OFTEN * n_arms * len(known)
    if len(known) < 2 * FOLDS or again and not is_table(contexts, arms, n_arms):
        return np.arange(len(X))
    return contexts


def is_table(contexts: Arms, arms: Arms, n_arms: int) -> bool:
    """Whether each context met its arms equally often, so that they were not drawn.

    Examples
    --------
    >>> is_table(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), 2)
    True
    >>> is_table(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 0]), 2)
    False
    """
    cells, counts = np.unique(contexts * n_arms + arms, return_counts=True)
    first = run_starts(cells // n_arms)
    least, most = (f.reduceat(counts, first) for f in (np.minimum, np.maximum))
    return bool((least == most).all())


def cross_fitted(
    X: Array,
    arms: Arms,
    rewards: Array,
    n_arms: int,
    contexts: Arms | None = None,
) -> Array:
    """Predict every arm in every row from the other fifths of the log, shape (n, A).

    Whole contexts are dealt to the folds, at random and always alike: in any other
    order a fold could hold the very rows that its model lacks, such as all of one arm.

    Parameters
    ----------
    X, arms, rewards, n_arms
        As for :func:`predict_rewards`.
    contexts : ndarray of int, shape (n,), optional
        Numbers of the contexts; by default :func:`contexts_of`.

    References
    ----------
    Chernozhukov et al. (2018), *Double/debiased machine learning*.
    """
    contexts = contexts_of(X, arms, n_arms) if contexts is None else contexts
    dealt = np.random.default_rng(0).permutation(int(contexts.max()) + 1) % FOLDS
    predicted, fold = np.empty((len(X), n_arms)), dealt[contexts]
    for k in range(FOLDS):
        out, kept = fold == k, fold != k
        predicted[out] = predict_rewards(
            X[kept], arms[kept], rewards[kept], X[out], n_arms
        )
    return predicted


def from_the_past(
    X: Array,
    arms: Arms,
    rewards: Array,
    n_arms: int,
    clusters: Arms | None = None,
) -> Array:
    """Predict every arm in every row from earlier rows only, shape (n, A).

    The model is fitted again whenever the rows have doubled; rows of one cluster that
    follow each other see the same past.
    """
    clusters = np.arange(len(X)) if clusters is None else clusters
    ends = np.append(run_starts(clusters)[1:], len(X))
    predicted = np.empty((len(X), n_arms))
    start, stop = 0, 16
    while start < len(X):
        stop = int(ends[min(int(np.searchsorted(ends, stop)), len(ends) - 1)])
        predicted[start:stop] = predict_rewards(
            X[:start], arms[:start], rewards[:start], X[start:stop], n_arms
        )
        start, stop = stop, 2 * stop
    return predicted


def run_starts(labels: Arms) -> Arms:
    """Return where a row has another label than the row before it.

    Examples
    --------
    >>> run_starts(np.array([3, 3, 1, 3])).tolist()
    [0, 2, 3]
    """
    return np.append(0, np.flatnonzero(np.diff(labels)) + 1)


def _standardised(X: Array, new: Array) -> tuple[Array, Array]:
    """Return both in deviations from X's means, whatever the units of a column.

    By its largest value first, so that no square is too large or too small: a constant
    is then 1 exactly, and has no spread. Beyond 1e9 of these, predictions are 0 or 1.
    """
    unit = np.abs(X).max(axis=0)
    unit = np.where(unit > 0, unit, 1.0)
    X = X / unit
    mean, spread = X.mean(axis=0), X.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    with np.errstate(over="ignore"):
        asked = (new / unit - mean) / spread
    return (X - mean) / spread, np.clip(asked, -1e9, 1e9)


def _design(X: Array) -> Array:
    return np.column_stack([np.ones(len(X)), X])


def _ridge(rows: Array, targets: Array, variances: Array) -> Array:
    gram = rows.T @ rows
    gram[np.diag_indices_from(gram)] += 1.0 / variances
    return np.linalg.solve(gram, rows.T @ targets)
