"""What another policy would have played in each row of a log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braidbandit._named import in_columns, in_rows
from braidbandit.catalogue.limits import Budget, Limits
from braidbandit.evaluation.log import Log, encoder_names
from braidbandit.recommender.recommender import BraidRecommender

Array = NDArray[np.float64]


class UnderLimits:
    """A recommender under other limits: another budget, preference or set of arms.

    Takes the limits that :meth:`BraidRecommender.recommend` takes. A limit that is not
    given does not apply, whatever it was when the log was written; in particular, arms
    that were not eligible then may be played.

    Parameters
    ----------
    agent : BraidRecommender
    compute_budget : float in [0, 1]
        Highest relative cost: 0 allows the cheapest arms only.
    budget : Budget, optional
        Absolute limits.
    excluded : iterable of arm ids
    eligible : collection of arm ids, or array of bool of shape (A,), optional
        The only arms that may be played.
    preference : dict, optional
        What counts, such as ``{"quality": 1, "latency": 0.2}``.
    accuracy_target : float in [0, 1], optional
        Leaves only arms that may reach this quality.

    Examples
    --------
    What ``agent`` would earn at a fifth of the compute::

        compare({"now": agent, "thrifty": UnderLimits(agent, compute_budget=0.2)}, log)
    """

    def __init__(
        self,
        agent: BraidRecommender,
        compute_budget: float = 1.0,
        budget: Budget | None = None,
        excluded: Iterable[str] = (),
        *,
        eligible: ArrayLike | None = None,
        preference: Mapping[str, float] | None = None,
        accuracy_target: float | None = None,
    ) -> None:
        self.agent = agent
        self.limits = Limits(
            compute_budget=compute_budget,
            budget=budget,
            excluded=excluded,
            eligible=eligible,
            preference=preference,
            accuracy_target=accuracy_target,
        )

    def __call__(self, log: Log) -> Array:
        """Return the probability of every arm in every row.

        Parameters
        ----------
        log : Log
            Of the recommender's ledger, or with features of its encoder.

        Returns
        -------
        ndarray of shape (n, A)
            Columns as in ``log.arm_ids``.

        Raises
        ------
        ValueError
            When the log has features of another encoder, when no arm is left under the
            limits, or when an arm that the log never had would be played.
        """
        return _recommended(self.agent, log, self.limits)


def target_probabilities(policy: Any, log: Log) -> Array:
    """Return the probability with which a policy plays each arm in each row.

    Parameters
    ----------
    policy : several kinds
        - an arm id: always this arm;
        - an array of shape (n,): the arm of each row;
        - an array of shape (n, A): probabilities, with columns as in ``log.arm_ids``; a
          data frame or a dict of columns is read by the names of the arms;
        - a BraidRecommender, on a log of its ledger: what it would do now, among the
          arms that were eligible then;
        - anything with ``predict_proba`` and ``classes_``;
        - a callable that takes the log and returns one of these.
    log : Log

    Returns
    -------
    ndarray of shape (n, A)
        Rows sum to 1.

    Raises
    ------
    ValueError
        When the policy plays arms that the log never had, or has another shape, or when
        a recommender has another encoder than the log.

    Examples
    --------
    >>> log = Log([[0.0], [1.0]], ["b", "a"], [1.0, 0.0], [0.5, 0.5])
    >>> target_probabilities("b", log).tolist()
    [[0.0, 1.0], [0.0, 1.0]]
    >>> target_probabilities({"b": [0.25, 1.0], "a": [0.75, 0.0]}, log).tolist()
    [[0.75, 0.25], [0.0, 1.0]]
    """
    if isinstance(policy, BraidRecommender):
        return _recommended(policy, log, None)
    if hasattr(policy, "predict_proba"):
        contexts = log.inputs(getattr(policy, "feature_names_in_", None))
        return _placed(policy.predict_proba(contexts), policy.classes_, log)
    if callable(policy):
        return target_probabilities(policy(log), log)
    if isinstance(policy, Mapping) or np.ndim(policy) == 2:
        policy = in_columns(policy, log.arm_ids, "the policy", log.row_labels)
    (policy,) = in_rows(log.row_labels, {"the policy": policy})
    array = np.asarray(policy)
    return _as_given(array, log) if array.ndim == 2 else _always(array, log)


def row_probabilities(
    agent: BraidRecommender,
    x: Array,
    arm_ids: Sequence[Any],
    allowed: NDArray[np.bool_],
    limits: Limits | None = None,
) -> Array:
    """Return the probability with which an agent would now choose each of its arms.

    Parameters
    ----------
    agent : BraidRecommender
        Not changed: its generator is copied.
    x : ndarray of shape (k,)
        Features of one task.
    arm_ids, allowed : sequence and ndarray of bool, both of length A
        The arms of the log, and which of them were eligible. They decide what may be
        chosen where no ``limits`` are given.
    limits : Limits, optional

    Returns
    -------
    ndarray
        One probability per arm of the agent's catalogue.
    """
    if limits is None:
        able = {a for a, is_able in zip(arm_ids, allowed, strict=True) if is_able}
        limits = Limits(eligible=[arm for arm in agent.arm_ids_ if arm in able])
    return agent.choice_probabilities(x, limits)


def rows_learnt(policy: Any, log: Log) -> int:
    """Return how many rows of a log a policy is known to have learnt from.

    It can be known only of a recommender, under other limits or not, on a log of its
    ledger; of any other policy the answer is 0. Of decisions that were compared with
    another, the newest 500 are known.

    Parameters
    ----------
    policy : as for :func:`target_probabilities`
    log : Log

    Returns
    -------
    int

    Examples
    --------
    >>> rows_learnt("b", Log([[0.0]], ["b"], [1.0], [0.5]))
    0
    """
    agent = policy.agent if isinstance(policy, UnderLimits) else policy
    if not isinstance(agent, BraidRecommender) or not hasattr(agent, "arm_model_"):
        return 0
    learnt = agent.arm_model_.log.compared_decisions()
    return sum(name in agent.settled_ or name in learnt for name in log.decision_ids)


def _recommended(agent: BraidRecommender, log: Log, limits: Limits | None) -> Array:
    agent.start()  # its settings may have been changed since
    if log.encoder_hash not in (None, agent.encoder_.projection_hash()):
        raise ValueError(
            "the log holds features of another encoder than the recommender's; give "
            "a recommender with the encoder of the log"
        )
    contexts = np.asarray(log.inputs(encoder_names(agent.encoder_)))
    rows = [
        row_probabilities(agent, x, log.arm_ids, allowed, limits)
        for x, allowed in zip(contexts, log.eligible, strict=True)
    ]
    return _placed(np.array(rows), agent.arm_ids_, log)


def _placed(probabilities: Any, arms: Sequence[Any], log: Log) -> Array:
    """Return probabilities of a policy's own arms in the columns of the log."""
    given = in_columns(probabilities, list(arms), "the policy", log.row_labels)
    target = np.zeros((len(log.X), len(log.arm_ids)))
    column = {arm: at for at, arm in enumerate(log.arm_ids)}
    for at, arm in enumerate(arms):
        if arm in column:
            target[:, column[arm]] = given[:, at]
        elif (given[:, at] > 0).any():
            raise ValueError(f"the policy plays arm {arm!r}, which the log never had")
    return target


def _as_given(array: NDArray[Any], log: Log) -> Array:
    """Check an array of probabilities."""
    target, shape = array.astype(np.float64), (len(log.X), len(log.arm_ids))
    wrong = target.shape != shape or not (target >= 0).all()
    if wrong or not np.allclose(target.sum(axis=1), 1.0, rtol=0, atol=1e-8):
        raise ValueError(
            f"target probabilities must be at least 0, of shape {shape}, and sum "
            f"to 1 in each row, received shape {target.shape}"
        )
    return target


def _always(array: NDArray[Any], log: Log) -> Array:
    """Return probabilities of 1: of one arm, or of the arm of each row."""
    n = len(log.X)
    if array.ndim > 2 or (array.ndim == 1 and len(array) != n):
        raise ValueError(f"expected {n} arms, received shape {array.shape}")
    chosen = np.broadcast_to(array, (n,)).tolist()
    column = {arm: at for at, arm in enumerate(log.arm_ids)}
    unknown = sorted({str(arm) for arm in chosen if arm not in column})
    if unknown:
        raise ValueError(
            f"the log does not know the arms {unknown}; it knows {log.arm_ids}"
        )
    return np.eye(len(column))[[column[arm] for arm in chosen]]
