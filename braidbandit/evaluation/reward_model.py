"""A reward model that is fitted to some rows of a log and asked about others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.linear_model import Ridge, ridge_regression
from sklearn.preprocessing import StandardScaler

from braidbandit.evaluation.contexts import FOLDS, contexts_of, run_starts

Array = NDArray[np.float64]
Ints = NDArray[np.intp]

# Prior variances relative to the noise: what all arms have in common is learnt freely,
# an arm's own level and slopes are held back.
_COMMON, _OWN_LEVEL, _OWN_SLOPE = 1.0, 0.1, 0.02
# Spreads from the mean beyond which a prediction is 0 or 1 anyway.
_FAR = 1e9
# Rows that are predicted without having learnt anything; after them, learning begins.
_FIRST = 16


def predict_rewards(
    X: Array, arms: Ints, rewards: Array, new: Array, n_arms: int
) -> Array:
    """Predict the reward of every arm in new contexts.

    One ridge regression for all arms together, then for each arm a second one on what
    the first leaves unexplained, held back more. An arm that was never taken is
    predicted by the first one alone.

    Parameters
    ----------
    X : ndarray of shape (m, d)
        Contexts of the rows to learn from. With none, all predictions are 1/2.
    arms : ndarray of int, shape (m,)
    rewards : ndarray of shape (m,) in [0, 1]
    new : ndarray of shape (n, d)
    n_arms : int

    Returns
    -------
    ndarray of shape (n, n_arms)
        In [0, 1].

    Examples
    --------
    >>> X = np.zeros((40, 1))
    >>> arms = np.arange(40) % 2
    >>> predict_rewards(X, arms, arms * 1.0, X[:1], 3).round(1).tolist()
    [[0.2, 0.8, 0.5]]
    """
    if not len(X) or not len(new):
        return np.full((len(new), n_arms), 0.5)
    # A log is checked once, when it is made: checking it again for each of the many
    # small fits would take longer than the fits.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        rows, asked = _designs(X, new)
        common = Ridge(alpha=1.0 / _COMMON).fit(rows, rewards)
        left = rewards - common.predict(rows)
        predicted = np.repeat(common.predict(asked)[:, None], n_arms, axis=1)
        for arm in np.unique(arms):
            taken = arms == arm
            predicted[:, arm] += _own(rows[taken], left[taken], asked)
    return np.clip(predicted, 0.0, 1.0)


def cross_fitted(
    X: Array,
    arms: Ints,
    rewards: Array,
    n_arms: int,
    contexts: Ints | None = None,
) -> Array:
    """Predict every arm in every row from the other four fifths of the log.

    Whole contexts are dealt to the folds, in a random order that is always the same. In
    the order of the log, a fold could hold the very rows that its model lacks, such as
    all of one arm.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    arms : ndarray of int, shape (n,)
    rewards : ndarray of shape (n,) in [0, 1]
    n_arms : int
    contexts : ndarray of int, shape (n,), optional
        Number of each row's context; by default :func:`contexts_of`.

    Returns
    -------
    ndarray of shape (n, n_arms)

    References
    ----------
    Chernozhukov et al. (2018), *Double/debiased machine learning*.

    Examples
    --------
    Every row earns 1, so the others say 1 of each of them:

    >>> X, arms = np.arange(20.0)[:, None], np.zeros(20, dtype=int)
    >>> cross_fitted(X, arms, np.ones(20), 1).min().round(6)
    np.float64(1.0)
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
    arms: Ints,
    rewards: Array,
    n_arms: int,
    clusters: Ints | None = None,
) -> Array:
    """Predict every arm in every row from earlier rows only.

    The model is fitted again whenever the number of rows has doubled. Neighbouring rows
    of one cluster are predicted from the same past.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        In the order in which the rows were decided.
    arms : ndarray of int, shape (n,)
    rewards : ndarray of shape (n,) in [0, 1]
    n_arms : int
    clusters : ndarray of int, shape (n,), optional
        By default every row is a cluster of its own.

    Returns
    -------
    ndarray of shape (n, n_arms)

    Examples
    --------
    Of the first 16 rows nothing is known, and 1/2 is as good a guess as any.

    >>> X, arms = np.zeros((20, 1)), np.zeros(20, dtype=int)
    >>> from_the_past(X, arms, np.ones(20), 1)[[0, 15, 16], 0].tolist()
    [0.5, 0.5, 1.0]
    """
    clusters = np.arange(len(X)) if clusters is None else clusters
    ends = np.append(run_starts(clusters)[1:], len(X))
    predicted = np.empty((len(X), n_arms))
    start, stop = 0, _FIRST
    while start < len(X):
        stop = int(ends[min(int(np.searchsorted(ends, stop)), len(ends) - 1)])
        predicted[start:stop] = predict_rewards(
            X[:start], arms[:start], rewards[:start], X[start:stop], n_arms
        )
        start, stop = stop, 2 * stop
    return predicted


def _own(rows: Array, left: Array, asked: Array) -> Array:
    """Return what one arm earns more than all arms do, in the contexts asked about."""
    # A ridge penalty of 1 gives every column the prior variance 1: a column that is
    # multiplied by the root of another variance has that one.
    roots = np.full(rows.shape[1], np.sqrt(_OWN_SLOPE))
    roots[0] = np.sqrt(_OWN_LEVEL)
    slopes = ridge_regression(rows * roots, left, 1.0, solver="cholesky")
    return np.asarray(asked @ (roots * slopes))


def _designs(X: Array, new: Array) -> tuple[Array, Array]:
    """Return a column of ones and the standardised contexts, for both, (m, 1 + d).

    Each column is divided by its largest value first, so that no square in its variance
    overflows or vanishes, whatever its units.
    """
    unit = np.abs(X).max(axis=0)
    unit = np.where(unit > 0, unit, 1.0)
    # The ones are there from the start: a scaler refuses contexts without any column.
    with np.errstate(over="ignore"):
        rows, asked = (np.insert(Z / unit, 0, 1.0, axis=1) for Z in (X, new))
        # Arrays, whatever output the caller has set for scikit-learn as a whole.
        scaler = StandardScaler().set_output(transform="default").fit(rows)
        rows, asked = scaler.transform(rows), scaler.transform(asked)
    rows[:, 0] = asked[:, 0] = 1.0
    return rows, np.clip(asked, -_FAR, _FAR)
