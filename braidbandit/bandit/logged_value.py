"""What other choices would have earned on logged rows: the value of ``score``."""

from __future__ import annotations

from typing import Any

import numpy as np

from braidbandit._checks import (
    check_labels,
    check_one_kind,
    check_propensities,
    check_rewards,
    check_weights,
)
from braidbandit._named import in_rows


def logged_value(
    predicted: Any,
    taken: Any,
    reward: Any = None,
    propensity: Any = None,
    sample_weight: Any = None,
) -> float:
    """Return the self-normalised inverse propensity value of predicted arms.

    ``sum(w m r / p) / sum(w m / p)``, where m is 1 if the predicted arm is the one that
    was taken, and 0 otherwise.

    Parameters
    ----------
    predicted : array-like of shape (n,)
        The arms whose value is asked for.
    taken : array-like of shape (n,)
        The arms that were chosen when the rows were logged.
    reward : array-like of shape (n,) in [0, 1], optional
        Without it, the weighted share of the rows that agree is returned.
    propensity : array-like of shape (n,) in (0, 1], optional
        Probability with which ``taken`` was chosen; without it, its share of the rows.
    sample_weight : array-like of shape (n,), optional

    Returns
    -------
    float
        In [0, 1]; NaN when no row agrees, or all weights are 0.

    Raises
    ------
    ValueError
        When lengths differ, labels are missing or of several kinds, or a number is
        outside its range.

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
    given = {"predicted": predicted, "taken": taken, "reward": reward}
    given |= {"propensity": propensity, "sample_weight": sample_weight}
    predicted, taken, reward, propensity, sample_weight = in_rows(None, given)
    arms, chosen = check_labels(taken), np.asarray(predicted).tolist()
    if len(chosen) != len(arms):
        raise ValueError(
            f"{len(chosen)} arms are predicted for {len(arms)} rows; expected one each"
        )
    check_one_kind([*arms, *chosen])
    y = np.asarray(arms)
    match = (np.asarray(chosen) == y).astype(np.float64)
    rewards = check_rewards(reward, len(y))
    p = check_propensities(propensity, len(y))
    weights = check_weights(sample_weight, len(y))
    if not weights.any():
        return float("nan")
    if reward is None:
        return float(weights @ match / weights.sum())
    if p is None:
        _, inverse, counts = np.unique(y, return_inverse=True, return_counts=True)
        p = counts[inverse] / len(y)
    match = weights * match
    total = float((match / p).sum())
    return float((match * rewards / p).sum() / total) if total > 0 else float("nan")
