"""A log as arrays: who was given what, with which probability, and what it earned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from braidbandit._named import (
    Labels,
    feature_names,
    in_columns,
    in_rows,
    ordered,
    places,
)
from braidbandit.evaluation.contexts import contexts_of, is_table
from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision, Outcome

Array = NDArray[np.float64]
Ints = NDArray[np.intp]
Mask = NDArray[np.bool_]


class Log:
    """Decisions and their rewards, as arrays.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Contexts. If they have row labels, the other columns are brought into the same
        order; if they have column names, estimators are given columns by name.
    arms : array-like of shape (n,)
        The arm that was taken in each context.
    rewards : array-like of shape (n,) in [0, 1]
    propensities : array-like of shape (n,) in (0, 1]
        Probability with which that arm was chosen.
    arm_ids : sequence, optional
        Every arm there is: the columns of target probabilities. By default the arms
        that were taken, sorted.
    eligible : array-like of bool, shape (n, A), optional
        Which arms could be chosen; by default all of them.
    encoder_hash : str, optional
        Hash of the encoder that made ``X``.
    groups : array-like of shape (n,), optional
        What each row is about, such as the prompt, where several rows are about one.
        By default rows with equal ``X`` belong together, unless so few different ones
        come up so often that they must be kinds of tasks.
    feature_names : sequence of str, optional
        Names of the columns of ``X``; by default those of a data frame.
    decision_ids : sequence of str, optional
        Ids of the decisions in a ledger, one per row.

    Attributes
    ----------
    X : ndarray of shape (n, d)
    columns : ndarray of int, shape (n,)
        Position in ``arm_ids`` of the arm that was taken.
    rewards, propensities : ndarrays of shape (n,)
    arm_ids : tuple, length A
    eligible : ndarray of bool, shape (n, A)
    contexts : ndarray of int, shape (n,)
        Number of what each row is about. A reward model that is asked about a row never
        learns from rows of the same number.
    clusters : ndarray of int, shape (n,)
        Rows with the same number are not independent. By default every row is, except
        in a table of every arm on every prompt, where the rows of a prompt are not.
    decision_ids : tuple of str
        Empty for a log that does not come from a ledger.
    asked : ndarray of shape (n,)
        Probability with which a person was asked for the rating; NaN where nobody was.
    n_comparisons : int
        Comparisons of two answers in the ledger that it was read from. They are not
        rows: see :meth:`read`.

    Raises
    ------
    ValueError
        When shapes do not fit, numbers are outside their range, labels are missing or
        of several kinds, or an arm was taken where it was not eligible.

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
        decision_ids: Sequence[str] = (),
    ) -> None:
        labels = Labels.of(X, arms, rewards, propensities, eligible, groups)
        given = {"X": X, "arms": arms, "rewards": rewards}
        contexts, arms, rewards, propensities, groups = in_rows(
            labels, {**given, "propensities": propensities, "groups": groups}
        )
        taken = check_labels(arms)
        n = len(taken)
        self.row_labels = labels
        self.X = _features(contexts, n)
        self.arm_ids = _arm_ids(arm_ids, taken)
        self.columns = _columns(taken, self.arm_ids)
        self.eligible = _eligible(eligible, self.arm_ids, self.columns, labels)
        self.propensities = _propensities(propensities, n)
        self.rewards = check_rewards(rewards, n)
        self.feature_names = _feature_names(feature_names, contexts, self.X.shape[1])
        self.encoder_hash = encoder_hash
        self.n_comparisons = 0
        self.decision_ids = _decision_ids(decision_ids, n)
        self.asked = np.full(n, np.nan)
        self.contexts, self.clusters = _grouped(
            groups, self.X, self.columns, len(self.arm_ids)
        )

    @classmethod
    def read(cls, ledger: Ledger, after: int = 0) -> Log:
        """Read every decision that has an outcome, in the order of the outcomes.

        Decisions without an outcome are left out. This is fair only if whether a reward
        arrives has nothing to do with how good it would have been. What a person chose
        in place of a recommended arm is left out too: nothing was drawn there, and
        people choose so for reasons that the log does not have.

        Where ratings were asked for (:meth:`BraidRecommender.ask`), they come more
        often where they are worth more. Estimates then are of the tasks that were
        rated, not of all; ``asked`` says how likely each was to be asked about. With
        weights ``target / (propensity * asked)`` a self-normalised mean is of all
        tasks again, if those who were asked answer whatever the answer was worth.

        Comparisons of two answers (:meth:`BraidRecommender.prefer`) are counted, and
        left out: they say which answer is better, and not what either is worth, so no
        mean reward of a policy can be made of them. What a recommender learnt from them
        shows in its probabilities, which are judged by the outcomes as any other's.

        Parameters
        ----------
        ledger : Ledger
        after : int
            Read only outcomes with a higher sequence number than this.

        Returns
        -------
        Log

        Raises
        ------
        ValueError
            When there is no outcome, or features come from several encoders.
        """
        pairs = [(d, o) for _, d, o in ledger.pairs(after)]
        n_comparisons = sum(1 for _ in ledger.comparisons(after))
        if not pairs and n_comparisons:
            raise ValueError(
                f"the ledger holds {n_comparisons} comparisons and no outcome: which "
                "of two answers is better does not say what a policy would have "
                "earned. Record outcomes of some decisions"
            )
        log = cls.of(pairs)
        log.n_comparisons = n_comparisons
        return log

    @classmethod
    def of(cls, pairs: Sequence[tuple[Decision, Outcome]]) -> Log:
        """Make a log of decisions and their outcomes, one row per pair.

        Parameters
        ----------
        pairs : sequence of (Decision, Outcome)

        Returns
        -------
        Log
            Its arms are those of all the decisions, in the order of first appearance.

        Raises
        ------
        ValueError
            When there is no pair, or features come from several encoders.

        Examples
        --------
        >>> from braidbandit import BraidRecommender, Catalogue, TaskEncoder
        >>> encoder = TaskEncoder(embedder=lambda texts: np.ones((len(texts), 3)))
        >>> agent = BraidRecommender(Catalogue.build(["a", "b"]), encoder)
        >>> decision = agent.recommend("sort a list")
        >>> log = Log.of([(decision, Outcome(decision.id, 0.9))])
        >>> log.rewards.tolist(), log.decision_ids == (decision.id,)
        ([0.9], True)
        """
        pairs = drawn(pairs)
        if not pairs:
            raise ValueError(
                "there is no outcome to make a log of, of decisions that were drawn"
            )
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
            decision_ids=[decision.id for decision, _ in pairs],
        )
        for row, (decision, _) in enumerate(pairs):
            if decision.asked is not None and decision.asked["asked"]:
                log.asked[row] = decision.asked["probability"]
        return log

    def inputs(self, names: Sequence[Any] | None) -> Any:
        """Return ``X`` in the form that an estimator with these feature names expects.

        Parameters
        ----------
        names : sequence of str, optional
            Feature names of the estimator.

        Returns
        -------
        DataFrame or ndarray of shape (n, d)
            A data frame with its columns in the order of ``names``, or an array where
            pandas is not installed. ``X`` as it is, if the estimator or the log has no
            names.

        Raises
        ------
        ValueError
            When the log has other columns.

        Examples
        --------
        >>> log = Log([[3.0, 5.0]], ["a"], [1.0], [1.0], feature_names=["u", "v"])
        >>> np.asarray(log.inputs(["v", "u"])).tolist()
        [[5.0, 3.0]]
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


def drawn(
    pairs: Iterable[tuple[Decision, Outcome]],
) -> list[tuple[Decision, Outcome]]:
    """Return what a policy decided, without what a person chose in its place.

    Parameters
    ----------
    pairs : iterable of (Decision, Outcome)

    Returns
    -------
    list of (Decision, Outcome)
    """
    return [(d, outcome) for d, outcome in pairs if d.instead_of is None]


def encoder_names(encoder: Any) -> list[str] | None:
    """Return the names of an encoder's features; None before it is fitted.

    Parameters
    ----------
    encoder : TaskEncoder

    Returns
    -------
    list of str or None
    """
    if not encoder.__sklearn_is_fitted__():
        return None
    return [str(name) for name in encoder.get_feature_names_out()]


def _features(X: Any, n: int) -> Array:
    features = as_floats(X, "X")
    if not n or features.ndim != 2 or len(features) != n:
        raise ValueError(
            f"X has shape {features.shape}, expected ({n}, d) with at least one row, "
            "as many as there are arms"
        )
    if not np.isfinite(features).all():
        raise ValueError("X must be finite, received NaN or inf")
    return features


def _arm_ids(arm_ids: Any, taken: Sequence[Any]) -> tuple[Any, ...]:
    """Return every arm there is, in order: as given, or those that were taken."""
    if arm_ids is None:
        return tuple(sorted(set(taken)))
    ids = tuple(check_labels(ordered(arm_ids, "arm_ids"), "entries of arm_ids"))
    check_one_kind([*taken, *ids])
    unknown = sorted({str(arm) for arm in taken if arm not in set(ids)})
    if unknown or len(set(ids)) != len(ids):
        raise ValueError(
            f"unknown arms {unknown} or arms named twice; arm_ids are {ids}"
        )
    return ids


def _columns(taken: Sequence[Any], ids: Sequence[Any]) -> Ints:
    column = {arm: at for at, arm in enumerate(ids)}
    return np.array([column[arm] for arm in taken], dtype=np.intp)


def _eligible(given: Any, ids: Sequence[Any], columns: Ints, labels: Labels) -> Mask:
    shape = (len(columns), len(ids))
    if given is None:
        return np.ones(shape, dtype=bool)
    allowed = in_columns(given, ids, "eligible", labels)
    if allowed.dtype != bool or allowed.shape != shape:
        raise ValueError(
            f"eligible must be boolean of shape {shape}, received "
            f"{allowed.dtype} {allowed.shape}"
        )
    if not allowed[np.arange(len(columns)), columns].all():
        raise ValueError("some arm was taken where eligible says it could not be")
    return allowed


def _propensities(given: Any, n: int) -> Array:
    p = check_propensities(given, n)
    if p is None:
        raise ValueError("propensities are needed: the log must say how it chose")
    return p


def _feature_names(
    given: Sequence[str] | None, X: Any, width: int
) -> tuple[str, ...] | None:
    names = feature_names(X) if given is None else tuple(given)
    if names and len(names) != width:
        raise ValueError(
            f"received {len(names)} feature names for {width} columns of X"
        )
    return names


def _decision_ids(given: Sequence[str], n: int) -> tuple[str, ...]:
    ids = tuple(given)
    if ids and len(ids) != n:
        raise ValueError(f"received {len(ids)} decision_ids for {n} rows")
    return ids


def _grouped(groups: Any, X: Array, columns: Ints, n_arms: int) -> tuple[Ints, Ints]:
    """Return contexts and clusters: from the groups, or else from equal features."""
    if groups is None:
        contexts = contexts_of(X, columns, n_arms)
        if is_table(contexts, columns, n_arms):
            return contexts, contexts
        return contexts, np.arange(len(X))
    labels = np.asarray(check_labels(groups, what="group"))
    if labels.shape != (len(X),):
        raise ValueError(
            f"groups have shape {labels.shape}, expected ({len(X)},): one label a row"
        )
    contexts = np.unique(labels, return_inverse=True)[1]
    return contexts, contexts
