"""Off-policy evaluation: what another policy would have earned, from a log alone.

Equations (25) to (31) of ``docs/math.md``. Where the log cannot answer, it says why.
Outcomes only are counted: comparisons of two answers say nothing of a mean reward.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_number
from braidbandit.evaluation.comparison import Comparison, Estimate
from braidbandit.evaluation.contexts import run_starts
from braidbandit.evaluation.estimators import (
    cluster_terms,
    effective_sample_size,
    estimator_terms,
)
from braidbandit.evaluation.intervals import (
    bootstrap_intervals,
    confidence_sequence,
    likelihood_interval,
)
from braidbandit.evaluation.log import Log
from braidbandit.evaluation.reward_model import cross_fitted, from_the_past
from braidbandit.evaluation.target_policies import rows_learnt, target_probabilities
from braidbandit.ledger.ledger import Ledger

Array = NDArray[np.float64]
Seed = int | np.random.Generator | None

# With fewer rows' worth of evidence than this an interval says nothing.
_LEAST_ROWS = 10
# A bootstrap of fewer resamples has no tails to speak of.
_LEAST_RESAMPLES = 100
# Standard errors the mean weight may lie from 1.
_WEIGHT_ERRORS = 4.0
# How surely rows must be in another order than that of decisions; the same in
# standard errors.
_ORDER_LEVEL, _TREND_ERRORS = 0.9999, 3.9


def evaluate(
    policy: Any,
    log: Log | Ledger,
    *,
    name: str = "policy",
    level: float = 0.95,
    n_resamples: int = 1000,
    least_propensity: float | None = None,
    random_state: Seed = 0,
) -> tuple[Estimate, ...]:
    """Estimate the mean reward a policy would have earned, by every estimator.

    Parameters
    ----------
    policy : array, estimator, BraidRecommender or callable
        See :func:`target_probabilities`.
    log : Log or Ledger
    name : str
        What the estimates call the policy.
    level : float in (0, 1)
        Of the intervals.
    n_resamples : int
        Of the bootstrap, at least 100.
    least_propensity : float in (0, 1], optional
        A bound below every propensity of the log that was known beforehand, for the
        confidence sequence: ``floor / A`` for a policy with a floor. By default the
        smallest one in the log, which is not quite known beforehand.
    random_state : None, int or Generator
        Of the bootstrap.

    Returns
    -------
    tuple of Estimate
        One per estimator. ``DR`` is the one to read: it alone has a confidence
        sequence, and its interval counts what is not in the log as possible. The
        bootstrap intervals of the others cover less often than they say where
        ``effective_n`` is small (some 30).

    Raises
    ------
    ValueError
        When the log cannot answer; see :func:`check_support`.

    Warns
    -----
    UserWarning
        When a recommender is judged on rows of its ledger that it learnt from.

    Examples
    --------
    Two arms taken by the toss of a coin; "b" always earns 1 and "a" nothing.

    >>> rng = np.random.default_rng(0)
    >>> arms = rng.choice(["a", "b"], 400)
    >>> log = Log(rng.random((400, 1)), arms, arms == "b", np.full(400, 0.5))
    >>> {e.estimator: round(e.value, 2) for e in evaluate("b", log)}["DR"]
    1.0
    """
    log = Log.read(log) if isinstance(log, Ledger) else log
    settings = _Settings.of(log, level, n_resamples, least_propensity, random_state)
    target = target_probabilities(policy, log)
    weights = check_support(target, log)
    _warn_of_learnt(policy, log, name)
    return tuple(_estimates(name, target, weights, log, _Predicted.of(log), settings))


def compare(
    policies: Mapping[str, Any],
    log: Log | Ledger,
    *,
    level: float = 0.95,
    n_resamples: int = 1000,
    least_propensity: float | None = None,
    random_state: Seed = 0,
) -> Comparison:
    """Evaluate several policies on one log.

    Parameters
    ----------
    policies : dict of policies by name
        See :func:`target_probabilities`.
    log : Log or Ledger
    level, n_resamples, least_propensity, random_state
        As for :func:`evaluate`.

    Returns
    -------
    Comparison
        Can be printed, drawn, and made a data frame. Policies on which the log cannot
        answer are listed with the reason.

    Raises
    ------
    ValueError
        When the log can answer on none of them.

    Warns
    -----
    UserWarning
        When a recommender is judged on rows of its ledger that it learnt from.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> arms = rng.choice(["a", "b"], 400)
    >>> log = Log(rng.random((400, 1)), arms, arms == "b", np.full(400, 0.5))
    >>> comparison = compare({"always a": "a", "always b": "b"}, log)
    >>> comparison.best().policy
    'always b'
    """
    if not policies:
        raise ValueError("compare needs at least one policy, received none")
    log = Log.read(log) if isinstance(log, Ledger) else log
    settings = _Settings.of(log, level, n_resamples, least_propensity, random_state)
    predicted = _Predicted.of(log)
    found: list[Estimate] = []
    refused: dict[str, str] = {}
    for name, policy in policies.items():
        try:
            target = target_probabilities(policy, log)
            weights = check_support(target, log)
        except ValueError as error:
            refused[name] = str(error)
            continue
        _warn_of_learnt(policy, log, name)
        found += _estimates(name, target, weights, log, predicted, settings)
    if not found:
        raise ValueError(
            "the log can answer on none of the policies. "
            + " ".join(f"{name}: {reason}." for name, reason in refused.items())
        )
    logged = float(log.rewards.mean())
    return Comparison(tuple(found), refused, logged, log.n_comparisons)


def check_support(target: Array, log: Log) -> Array:
    """Return the weights ``target / propensity`` if the log can answer.

    Parameters
    ----------
    target : ndarray of shape (n, A)
        Probabilities, see :func:`target_probabilities`.
    log : Log

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        When the target plays arms the log could not have taken (not eligible, or
        the choice was certain); when the weights are far from 1 on average, so that
        propensities are wrong or arms were never really possible; or when less than
        ten rows' worth of evidence is left.

    Examples
    --------
    >>> log = Log(np.zeros((20, 1)), ["a", "b"] * 10, np.ones(20), np.full(20, 0.5))
    >>> check_support(np.tile([1.0, 0.0], (20, 1)), log)[:4].tolist()
    [2.0, 0.0, 2.0, 0.0]
    """
    _check_possible(target, log)
    n = len(log.X)
    weights: Array = target[np.arange(n), log.columns] / log.propensities
    mean, largest = float(weights.mean()), float(weights.max())
    # A weight of mean 1 and at most w has a variance of at most w - 1: where arms
    # are rare by design the weights of one log say too little about their own.
    error = np.sqrt(max(float(weights.var()), largest - 1.0, 1e-18) / n)
    if abs(mean - 1.0) > max(_WEIGHT_ERRORS * error, 1e-9):
        raise ValueError(
            f"the mean weight is {mean:.3g}, expected 1 +- {error:.2g}: the "
            "propensities are not those the log was written with, or arms the policy "
            "plays were never really possible"
        )
    rows_left = effective_sample_size(weights)
    if rows_left < min(_LEAST_ROWS, n):
        raise ValueError(
            f"{n} rows say as much about this policy as {rows_left:.1f} of its own "
            f"would, at least {_LEAST_ROWS} are needed; log longer, or explore more"
        )
    return weights


def _check_possible(target: Array, log: Log) -> None:
    """Refuse a target that plays what had probability 0 in the log."""
    possible, certain = log.eligible.copy(), log.propensities >= 1.0
    possible[certain] = False
    possible[np.arange(len(log.X)), log.columns] = True
    missing = float((target * ~possible).sum() / len(log.X))
    if missing <= 1e-9:
        return
    if certain.mean() > 0.5:
        raise ValueError(
            f"the log is deterministic: {certain.mean():.0%} of its choices had "
            f"probability 1, and {missing:.1%} of the policy's choices had none. "
            "Log with a policy that explores (floor above 0)"
        )
    raise ValueError(
        f"{missing:.1%} of the policy's choices had probability 0 in the log; "
        "keep it to the arms that were eligible"
    )


@dataclass(frozen=True)
class _Settings:
    """Checked settings of an evaluation."""

    level: float
    n_resamples: int
    least: float
    random_state: Seed

    @classmethod
    def of(
        cls,
        log: Log,
        level: float,
        n_resamples: int,
        least_propensity: float | None,
        random_state: Seed,
    ) -> _Settings:
        if not 0.0 < check_number("level", level) < 1.0:
            raise ValueError(f"level lies in (0, 1), received {level!r}")
        if n_resamples < _LEAST_RESAMPLES:
            raise ValueError(
                f"n_resamples must be at least {_LEAST_RESAMPLES}, received "
                f"{n_resamples!r}"
            )
        smallest = float(log.propensities.min())
        least = smallest if least_propensity is None else float(least_propensity)
        if not 0.0 < least <= smallest:
            raise ValueError(
                f"least_propensity lies in (0, {smallest}], the smallest propensity of "
                f"the log, received {least_propensity!r}"
            )
        return cls(level, n_resamples, least, random_state)


@dataclass(frozen=True)
class _Predicted:
    """Predicted rewards of every arm in every row, (n, A); the same for any policy."""

    from_others: Array
    from_the_past: Array

    @classmethod
    def of(cls, log: Log) -> _Predicted:
        data = (log.X, log.columns, log.rewards, len(log.arm_ids))
        return cls(
            cross_fitted(*data, log.contexts), from_the_past(*data, log.clusters)
        )


def _estimates(
    name: str,
    target: Array,
    weights: Array,
    log: Log,
    predicted: _Predicted,
    settings: _Settings,
) -> list[Estimate]:
    rows, q = np.arange(len(log.X)), predicted.from_others
    direct = (target * q).sum(axis=1)
    terms = estimator_terms(weights, log.rewards, q[rows, log.columns], direct)
    rows_worth = effective_sample_size(cluster_terms(weights, log.clusters, 0.0))
    intervals = bootstrap_intervals(
        {
            key: cluster_terms(values, log.clusters, float(values.mean()))
            for key, values in terms.items()
        },
        settings.level,
        settings.n_resamples,
        np.random.default_rng(settings.random_state),
    )
    support = _possible(weights, q, direct, settings.least)
    intervals["DR"] = _likely(
        terms["DR"], weights, support, log.clusters, settings.level, rows_worth
    )
    always = _at_any_time(target, weights, log, predicted.from_the_past, settings)
    return [
        Estimate(
            policy=name,
            estimator=key,
            value=float(values.mean()),
            low=intervals[key][0],
            high=intervals[key][1],
            n=len(rows),
            effective_n=rows_worth,
            mean_weight=float(weights.mean()),
            largest_weight=float(weights.max()),
            **(always if key == "DR" else {}),
        )
        for key, values in terms.items()
    ]


def _possible(weights: Array, q: Array, direct: Array, least: float) -> Array:
    """Return pairs (term, weight) of which every possible pair is a mixture, (4, 2).

    A term is direct + w (r - q): these are its ends for the lightest and heaviest w.
    """
    most = max(1.0 / least, float(weights.max()))
    return np.array(
        [
            [direct.min(), 0.0],
            [direct.max(), 0.0],
            [direct.min() - most * q.max(), most],
            [direct.max() + most * (1.0 - q.min()), most],
        ]
    )


def _likely(
    terms: Array,
    weights: Array,
    support: Array,
    clusters: NDArray[np.intp],
    level: float,
    rows_worth: float,
) -> tuple[float, float]:
    """Return the interval of DR by empirical likelihood; it holds the estimate."""
    mean, sizes = float(terms.mean()), np.bincount(clusters)
    # As the terms of a cluster are: a large one is further off than a row can be.
    centre = np.array([mean, 1.0])
    low, high = likelihood_interval(
        cluster_terms(terms, clusters, mean),
        cluster_terms(weights, clusters, 1.0),
        centre + sizes.max() / sizes.mean() * (support - centre),
        level,
        rows_worth,
    )
    value = min(max(mean, 0.0), 1.0)
    return min(low, value), max(high, value)


def _at_any_time(
    target: Array, weights: Array, log: Log, past: Array, settings: _Settings
) -> dict[str, float]:
    """Return the ends of the confidence sequence; none if the rows are out of order.

    Neighbouring rows of one cluster are one step. Whatever the past, a step is the
    policy's value on average, early and late. Where steps rise or fall nobody decided
    in this order, and there is no sequence.
    """
    outcomes = (target * past).sum(axis=1)
    outcomes += weights * (log.rewards - past[np.arange(len(log.X)), log.columns])
    starts = run_starts(log.clusters)
    steps = np.add.reduceat(outcomes, starts)
    steps /= np.diff(np.append(starts, len(outcomes)))
    low, high = confidence_sequence(steps, settings.least, settings.level)
    if _sorted_by_arm(log, settings.least) or _rises(steps) or low[-1] > high[-1]:
        return {}
    return {"sequence_low": float(low[-1]), "sequence_high": float(high[-1])}


def _sorted_by_arm(log: Log, least: float) -> bool:
    """Whether an arm follows itself too often for the log's propensities.

    The arm of the row before has some chance p to be taken again, so that "taken again"
    divided by p is at most 1 on average.
    """
    again = np.append(False, log.columns[1:] == log.columns[:-1]) / log.propensities
    # Half of it, as the bounds are of means in [0, 1].
    low, _ = confidence_sequence(again / 2, least, _ORDER_LEVEL)
    return bool(low[-1] > 0.5)


def _rises(steps: Array) -> bool:
    """Whether steps rise, or fall, from the first to the last of them."""
    time = np.arange(len(steps)) - (len(steps) - 1) / 2
    off = time * (steps - steps.mean())
    return bool(abs(off.sum()) > _TREND_ERRORS * np.sqrt((off**2).sum()))


def _warn_of_learnt(policy: Any, log: Log, name: str) -> None:
    learnt = rows_learnt(policy, log)
    if learnt:
        warnings.warn(
            f"{name!r} learnt from {learnt} of the {len(log.X)} rows that it is judged "
            "on, and looks better there than it is. Save it, and judge what was saved "
            "on what came later: Log.read(ledger, after=saved.ledger_position_)",
            stacklevel=3,
        )
