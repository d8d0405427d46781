"""Rows and tables that people give to learn from, checked before anything changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import (
    as_floats,
    check_labels,
    check_propensities,
    check_rewards,
    check_weights,
)
from braidbandit._named import in_columns, in_rows
from braidbandit.bandit.posterior import check_no_gap
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision

Array = NDArray[np.float64]


def arm_ids_of(arms: Iterable[Braid | str]) -> list[str]:
    """Return arm ids from braids or ids.

    Examples
    --------
    >>> arm_ids_of([Braid("a"), "some-id"]) == [Braid("a").id, "some-id"]
    True
    """
    if isinstance(arms, str | Braid):
        raise TypeError(f"expected a collection of arms, received {arms!r}")
    ids = check_labels([arm.id if isinstance(arm, Braid) else arm for arm in arms])
    return [str(arm_id) for arm_id in ids]


def decision_id_of(decision: Decision | str) -> str:
    """Return the id of a decision, which may be given by its id."""
    if isinstance(decision, str):
        return decision
    if isinstance(decision, Decision):
        return decision.id
    raise TypeError(
        f"expected a Decision or its id, received {type(decision).__name__}"
    )


def check_rows(
    X: Any, y: Any, given: Mapping[str, Any], catalogue: Catalogue
) -> tuple[list[int], Array, Array]:
    """Check arms, rewards and weights of tasks.

    Columns with labels are brought into the order of the rows of ``X``.

    Parameters
    ----------
    X : list of n tasks
    y : sequence of n arm ids or Braid
    given : dict
        "reward", "propensity" and "sample_weight", each an array of shape (n,) or None.
    catalogue : Catalogue

    Returns
    -------
    list of n int
        The row of the catalogue that each arm has.
    ndarray of shape (n,)
        Rewards in [0, 1].
    ndarray of shape (n,)
        Weights.

    Raises
    ------
    KeyError
        On an unknown arm.
    TypeError, ValueError
        On what cannot be learnt: other lengths, missing arms, rewards outside [0, 1].
    """
    if isinstance(X, Ledger):
        raise TypeError("a ledger is learnt by sync(ledger); fit takes tasks")
    if y is None:
        raise ValueError("fit needs the arm of each task (y)")
    y, reward, propensity, sample_weight = in_rows(X, {"y": y, **given})
    rows = [catalogue.index(arm_id) for arm_id in arm_ids_of(y)]
    if len(rows) != len(X):
        raise ValueError(
            f"received {len(X)} tasks and {len(rows)} arms; expected equal lengths"
        )
    rewards = check_rewards(reward, len(rows))
    check_propensities(propensity, len(rows))
    return rows, rewards, check_weights(sample_weight, len(rows))


def check_table(
    X: Any, arm_ids: Sequence[str], table: Any, catalogue: Catalogue
) -> tuple[list[int], Array]:
    """Check a table of n tasks that were scored on B arms, or on some of them.

    Returns
    -------
    list of B int
        The row of the catalogue that each arm has.
    ndarray of shape (n, B)
        Scores in [0, 1], in the order of ``X`` and ``arm_ids``; NaN where an arm was
        not scored.

    Raises
    ------
    KeyError
        On an unknown arm.
    ValueError
        Without a task or an arm, on another shape, a score outside [0, 1], an arm that
        is named twice, or a row or column without any score.
    """
    if not len(X) or not len(arm_ids):
        raise ValueError(
            f"received {len(X)} tasks and {len(arm_ids)} arms; give at least one of "
            "each, with a score of each task on each arm"
        )
    _check_lengths(table, len(arm_ids))
    scores = as_floats(in_columns(table, arm_ids, "table", X), "table")
    if scores.shape != (len(X), len(arm_ids)):
        raise ValueError(
            f"table has shape {scores.shape}, expected ({len(X)}, {len(arm_ids)}): one "
            "row per task, one column per arm"
        )
    if not ((scores >= 0) & (scores <= 1) | np.isnan(scores)).all():
        raise ValueError(
            "every score of the table lies in [0, 1], or is NaN where there is none; "
            "received others"
        )
    check_no_gap(scores)
    rows = [catalogue.index(arm_id) for arm_id in arm_ids]
    if len(set(rows)) != len(rows):
        raise ValueError("the arm ids of the table must differ")
    return rows, scores


def _check_lengths(table: Any, n_arms: int) -> None:
    """Refuse lists of several lengths, of which no array can be made."""
    if not isinstance(table, list | tuple):
        return
    lengths = sorted({len(row) for row in table if isinstance(row, list | tuple)})
    if len(lengths) > 1:
        raise ValueError(
            f"the rows of the table have {lengths} scores, expected {n_arms} in each: "
            "one column per arm, NaN where an arm was not scored"
        )
