"""Logged rows: checks of rewards and propensities, and the value of other choices."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def check_rewards(reward: ArrayLike | None, n: int) -> Array:
    """Return rewards as floats in [0, 1], shape (n,); None means 1 for every row.

    Examples
    --------
    >>> check_rewards(None, 2).tolist()
    [1.0, 1.0]
    """
    if reward is None:
        return np.ones(n)
    rewards = np.asarray(reward, dtype=np.float64)
    if rewards.shape != (n,):
        raise ValueError(f"reward has shape {rewards.shape}, expected ({n},)")
    if not ((rewards >= 0) & (rewards <= 1)).all():  # also refuses NaN
        wrong = rewards[~((rewards >= 0) & (rewards <= 1))][0]
        raise ValueError(
            f"a reward lies in [0, 1], received {wrong}; scale rewards first"
        )
    return rewards


def check_propensities(propensity: ArrayLike | None, n: int) -> Array | None:
    """Return propensities as floats in (0, 1], shape (n,), or None."""
    if propensity is None:
        return None
    p = np.asarray(propensity, dtype=np.float64)
    if p.shape != (n,):
        raise ValueError(f"propensity has shape {p.shape}, expected ({n},)")
    if not ((p > 0) & (p <= 1)).all():
        wrong = p[~((p > 0) & (p <= 1))][0]
        raise ValueError(f"a propensity lies in (0, 1], received {wrong}")
    return p


def logged_value(
    predicted: ArrayLike,
    taken: ArrayLike,
    reward: ArrayLike | None = None,
    propensity: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Self-normalised inverse propensity value of predicted arms on logged rows.

    ``sum(w m r / p) / sum(w m / p)``, with m = 1 where the predicted arm is the one
    that was taken. Without rewards the (weighted) share of such rows; without
    propensities an arm's share of the rows. NaN when no row agrees.

    References
    ----------
    Swaminathan and Joachims (2015), *The self-normalized estimator for
    counterfactual learning*.

    Examples
    --------
    Arm "a" was taken with probability 1/4 and 1/2, and earned 1 and 0:
    (1 x 4 + 0 x 2) / (4 + 2).

    >>> logged_value(["a", "a", "b"], ["a", "a", "a"], [1, 0, 1], [0.25, 0.5, 1.0])
    0.6666666666666666
    """
    y = np.asarray(taken)
    match = (np.asarray(predicted) == y).astype(np.float64)
    rewards = check_rewards(reward, len(y))
    p = check_propensities(propensity, len(y))
    weights = np.ones(len(y))
    if sample_weight is not None:
        weights = np.asarray(sample_weight, dtype=np.float64)
    if reward is None:
        return float(weights @ match / weights.sum())
    if p is None:
        _, inverse, counts = np.unique(y, return_inverse=True, return_counts=True)
        p = counts[inverse] / len(y)
    match = weights * match
    total = float((match / p).sum())
    return float((match * rewards / p).sum() / total) if total > 0 else float("nan")
