"""A log as arrays, and what another policy would have played in each of its rows."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import (
    as_floats,
    check_labels,
    check_one_kind,
    check_propensities,
    check_rewards,
)
from braidbandit._named import Labels, in_columns, in_rows, ordered, places
from braidbandit._named import feature_names as names_of
from braidbandit.catalogue.limits import Limits
from braidbandit.evaluation.reward_model import contexts_of, is_table
from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision, Outcome
from braidbandit.recommender.fitted import Fitted
from braidbandit.recommender.scoring import assess

Array = NDArray[np.float64]


class Log:
    """Decisions and their rewards, as arrays.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Contexts. Rows of the others are brought into the order of its labels, if it
        has some; estimators get its columns by their names.
    arms : array-like of shape (n,)
        The arm each context was given.
    rewards : array-like of shape (n,) in [0, 1]
    propensities : array-like of shape (n,) in (0, 1]
        Probability with which it was chosen.
    arm_ids : sequence, optional
        Every arm there is: the columns of target probabilities. By default those
        that were taken.
    eligible : array-like of bool, shape (n, A), optional
        Which arms could be chosen; by default all.
    encoder_hash : str, optional
        Of the encoder that made ``X``.
    groups : array-like of shape (n,), optional
        What each row is about, such as the prompt, where several rows are about one.
        By default rows with equal ``X`` are, unless these come again and again.
    feature_names : sequence of str, optional
        Names of the columns of ``X``; by default those of a data frame.

    Attributes
    ----------
    contexts : ndarray of int, shape (n,)
        Which rows are about one thing: what is learnt of a row comes from others.
    clusters : ndarray of int, shape (n,)
        Which rows are not independent: those of one group; by default of one context,
        where arms come equally often, as in a table of every arm on every prompt.
    decision_ids : tuple of str
        Of the decisions of a ledger, in the order of the rows; else empty.

    Examples
    --------
    >>> log = Log([[0.0], [1.0]], ["b", "a"], [1.0, 0.0], [0.5, 0.5])
    >>> log.arm_ids, log.columns.tolist()
    (('a', 'b'), [1, 0])
    """

    def __init__(
        self,
        X: Any,
        arms: Any,
        rewards: Any,
        propensities: Any,
        arm_ids: Any = None,
        eligible: Any = None,
        encoder_hash: str | None = None,
        groups: Any = None,
        feature_names: Sequence[str] | None = None,
    ) -> None:
        self.row_labels = Labels.of(X, arms, rewards, propensities, eligible, groups)
        given = {"X": X, "arms": arms, "rewards": rewards}
        X, arms, rewards, propensities, groups = in_rows(
            self.row_labels, {**given, "propensities": propensities, "groups": groups}
        )
        features, taken = as_floats(X, "X"), check_labels(arms)
        n = len(taken)
        if not n or features.ndim != 2 or len(features) != n:
            raise ValueError(
                f"X has shape {features.shape}, expected ({n}, d) with at least one "
                "row, as many as there are arms"
            )
        if not np.isfinite(features).all():
            raise ValueError("X must be finite, received NaN or inf")
        if arm_ids is None:
            ids = tuple(sorted(set(taken)))
        else:
            given_ids = ordered(arm_ids, "arm_ids")
            ids = tuple(check_labels(given_ids, "entries of arm_ids"))
            check_one_kind([*taken, *ids])
        column = {arm: at for at, arm in enumerate(ids)}
        unknown = sorted({str(arm) for arm in taken if arm not in column})
        if unknown or len(column) != len(ids):
            raise ValueError(
                f"unknown arms {unknown} or arms named twice; arm_ids are {ids}"
            )
        shape = (n, len(ids))
        allowed = np.ones(shape, dtype=bool)
        if eligible is not None:
            allowed = in_columns(eligible, ids, "eligible", self.row_labels)
        if allowed.dtype != bool or allowed.shape != shape:
            raise ValueError(
                f"eligible must be boolean of shape {shape}, received "
                f"{allowed.dtype} {allowed.shape}"
            )
        columns = np.array([column[arm] for arm in taken], dtype=np.intp)
        if not allowed[np.arange(n), columns].all():
            raise ValueError("some arm was taken where eligible says it could not be")
        p = check_propensities(propensities, n)
        if p is None:
            raise ValueError("propensities are needed: the log must say how it chose")
        self.rewards = check_rewards(rewards, n)
        self.X, self.columns, self.propensities = features, columns, p
        self.feature_names = names_of(X)
        if feature_names is not None:
            self.feature_names = tuple(feature_names)
        if self.feature_names and len(self.feature_names) != features.shape[1]:
            raise ValueError(
                f"received {len(self.feature_names)} feature names for "
                f"{features.shape[1]} columns of X"
            )
        self.arm_ids, self.eligible, self.encoder_hash = ids, allowed, encoder_hash
        self.decision_ids: tuple[str, ...] = ()
        if groups is None:
            self.contexts = contexts_of(features, columns, len(ids))
            drawn = not is_table(self.contexts, columns, len(ids))
            self.clusters = np.arange(n) if drawn else self.contexts
        else:
            labels = np.asarray(check_labels(groups, what="group"))
            if labels.shape != (n,):
                raise ValueError(
                    f"groups have shape {labels.shape}, expected ({n},): one label a "
                    "row"
                )
            self.contexts = np.unique(labels, return_inverse=True)[1]
            self.clusters = self.contexts

    @classmethod
    def read(cls, ledger: Ledger, after: int = 0) -> Log:
        """Read every decision that has an outcome, in the order of the outcomes.

        Decisions without an outcome are left out, which is fair only if rewards stay
        away regardless of how good they would have been.

        Parameters
        ----------
        ledger : Ledger
        after : int
            Only outcomes with a higher sequence number.
        """
        return cls.of([(d, o) for _, d, o in ledger.pairs(after)])

    @classmethod
    def of(cls, pairs: Sequence[tuple[Decision, Outcome]]) -> Log:
        """Make a log of decisions and their outcomes, a row for each pair."""
        if not pairs:
            raise ValueError("there is no outcome to make a log of")
        encoders = {decision.encoder_hash for decision, _ in pairs}
        if len(encoders) > 1:
            raise ValueError(
                f"the ledger holds features of {len(encoders)} encoders; read the "
                "outcomes of one with after="
            )
        # A dictionary keeps the order in which arms were first seen.
        ids = tuple(dict.fromkeys(arm for d, _ in pairs for arm in d.arm_ids))
        column = {arm: at for at, arm in enumerate(ids)}
        eligible = np.zeros((len(pairs), len(ids)), dtype=bool)
        for row, (decision, _) in enumerate(pairs):
            at = [column[arm] for arm in decision.arm_ids]
            eligible[row, at] = decision.eligible
        log = cls(
            [decision.x for decision, _ in pairs],
            [decision.braid.id for decision, _ in pairs],
            [outcome.reward for _, outcome in pairs],
            [decision.propensity for decision, _ in pairs],
            ids,
            eligible,
            encoders.pop(),
        )
        log.decision_ids = tuple(decision.id for decision, _ in pairs)
        return log

    def inputs(self, names: Sequence[Any] | None) -> Any:
        """Return ``X`` as an estimator with these feature names has learnt it.

        A data frame with the columns in their order, if pandas is there; ``X`` itself
        where the estimator has no names, or the log has none.
        """
        if names is None or self.feature_names is None:
            return self.X
        order = places(self.feature_names, list(names), "X of the log by column")
        X = self.X if order is None else self.X[:, order]
        try:
            from pandas import DataFrame
        except ImportError:
            return X
        return DataFrame(X, columns=list(names))


def encoder_names(encoder: Any) -> list[str] | None:
    """Return the names of an encoder's features; None before it is fitted."""
    if not encoder.__sklearn_is_fitted__():
        return None
    return [str(name) for name in encoder.get_feature_names_out()]


def target_probabilities(policy: Any, log: Log) -> Array:
    """Return the probability of every arm in every row, shape (n, A).

    Parameters
    ----------
    policy : several kinds
        An arm id: always this arm. An array of shape (n,): the arm of each row. An
        array of shape (n, A): probabilities, columns as ``log.arm_ids``; those of a
        data frame, or a dict of columns, by arm. A
        BraidRecommender on a log of its ledger: what it would do now, among the arms
        that were eligible then. Anything with ``predict_proba`` and ``classes_``. Or
        a callable that takes the log and returns one of these.
    log : Log
    """
    if isinstance(policy, Fitted):
        return _recommended(policy, log, None)
    if hasattr(policy, "predict_proba"):
        contexts = log.inputs(getattr(policy, "feature_names_in_", None))
        return _placed(policy.predict_proba(contexts), policy.classes_, log)
    if callable(policy):
        return target_probabilities(policy(log), log)
    shape = (len(log.X), len(log.arm_ids))
    if isinstance(policy, Mapping) or np.ndim(policy) == 2:
        policy = in_columns(policy, log.arm_ids, "the policy", log.row_labels)
    (policy,) = in_rows(log.row_labels, {"the policy": policy})
    array = np.asarray(policy)
    if array.ndim == 2:
        target = array.astype(np.float64)
        wrong = target.shape != shape or not (target >= 0).all()
        if wrong or not np.allclose(target.sum(axis=1), 1.0, rtol=0, atol=1e-8):
            raise ValueError(
                f"target probabilities must be at least 0, of shape {shape}, and sum "
                f"to 1 in each row, received shape {target.shape}"
            )
        return target
    if array.ndim == 1 and len(array) != shape[0] or array.ndim > 2:
        raise ValueError(f"expected {shape[0]} arms, received shape {array.shape}")
    chosen = np.broadcast_to(array, shape[:1]).tolist()
    unknown = sorted({str(arm) for arm in chosen if arm not in log.arm_ids})
    if unknown:
        raise ValueError(
            f"the log does not know the arms {unknown}; it knows {log.arm_ids}"
        )
    column = {arm: at for at, arm in enumerate(log.arm_ids)}
    return np.eye(shape[1])[[column[arm] for arm in chosen]]


class UnderLimits:
    """A recommender under other limits: another budget, preference or catalogue.

    Parameters
    ----------
    agent : BraidRecommender
    **limits
        As for ``recommend``: ``compute_budget``, ``budget``, ``excluded``,
        ``eligible``, ``preference``, ``accuracy_target``. What is not given is free,
        not what it was in the log.

    Examples
    --------
    What ``agent`` would earn at a fifth of the compute::

        compare({"now": agent, "thrifty": UnderLimits(agent, compute_budget=0.2)}, log)
    """

    def __init__(self, agent: Fitted, **limits: Any) -> None:
        self.agent, self.limits = agent, Limits(**limits)

    def __call__(self, log: Log) -> Array:
        """Return the probability of every arm in every row, shape (n, A)."""
        return _recommended(self.agent, log, self.limits)


def rows_learnt(policy: Any, log: Log) -> int:
    """Return how many rows of a log a policy learnt from, as far as can be known.

    That is for a recommender, under other limits or not, on a log of its ledger.
    """
    agent = policy.agent if isinstance(policy, UnderLimits) else policy
    if not isinstance(agent, Fitted) or not hasattr(agent, "learner_"):
        return 0
    return sum(decision_id in agent.settled_ for decision_id in log.decision_ids)


def _recommended(agent: Fitted, log: Log, limits: Limits | None) -> Array:
    agent._start()  # its settings may be others by now
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
    return _placed(np.array(rows), agent.learner_.catalogue.ids, log)


def row_probabilities(
    agent: Any,
    x: Array,
    arm_ids: Sequence[Any],
    allowed: NDArray[np.bool_],
    limits: Limits | None = None,
) -> Array:
    """Return the probability with which an agent would now choose each of its arms.

    Parameters
    ----------
    agent : BraidRecommender
    x : ndarray of shape (k,)
        Features of one task.
    arm_ids, allowed : sequence and ndarray of bool, of equal length
        The arms of the log and which of them were eligible; what counts without
        ``limits``.
    limits : Limits, optional
    """
    learner = agent.learner_
    if limits is None:
        known = [
            arm
            for arm, able in zip(arm_ids, allowed, strict=True)
            if able and arm in learner.catalogue
        ]
        limits = Limits(eligible=known)
    now = assess(learner, x, limits, agent.price, agent.pacer_.price)
    # The same draws in every row, as in predict_proba.
    rng = copy.deepcopy(agent.rng_)
    policy = learner.policy_now()
    probabilities: Array = policy.probabilities(
        now.belief, now.cost_term, now.eligible, rng
    )
    return probabilities


def _placed(probabilities: Any, arms: Any, log: Log) -> Array:
    """Bring columns in the order of an estimator into that of the log."""
    given = in_columns(probabilities, list(arms), "the policy", log.row_labels)
    target = np.zeros((len(log.X), len(log.arm_ids)))
    column = {arm: at for at, arm in enumerate(log.arm_ids)}
    for at, arm in enumerate(arms):
        if arm in column:
            target[:, column[arm]] = given[:, at]
        elif (given[:, at] > 0).any():
            raise ValueError(f"the policy plays arm {arm!r}, which the log never had")
    return target
