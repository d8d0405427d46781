"""Off-policy evaluation: what another policy would have earned, from a log alone.

Equations (25) to (31) of ``docs/math.md``. A log that cannot answer is refused, with
the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit.evaluation.comparison import Comparison, Estimate
from braidbandit.evaluation.estimators import (
    bootstrap_intervals,
    cluster_terms,
    confidence_sequence,
    effective_sample_size,
    estimator_terms,
)
from braidbandit.evaluation.intervals import likelihood_interval
from braidbandit.evaluation.log import Log, rows_learnt, target_probabilities
from braidbandit.evaluation.reward_model import cross_fitted, from_the_past, run_starts
from braidbandit.ledger.ledger import Ledger

Array = NDArray[np.float64]

# Fewer rows' worth of evidence than this give no interval worth the name.
_LEAST_ROWS = 10
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
    random_state: int | np.random.Generator | None = 0,
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
        Of the bootstrap.
    least_propensity : float in (0, 1], optional
        Below every propensity of the log and known beforehand, for the confidence
        sequence: ``floor / A`` of a policy with a floor. By default the smallest in
        the log, which is not quite known beforehand.
    random_state : None, int or Generator
        Of the bootstrap.

    Returns
    -------
    tuple of Estimate
        One per estimator. ``DR`` is the one to read: it alone has a confidence
        sequence, and its interval counts what was not seen as possible. The bootstrap
        intervals of the others cover less often than they say where ``effective_n``
        is small (some 30).

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
    if not 0.0 < level < 1.0:
        raise ValueError(f"level lies in (0, 1), received {level!r}")
    if n_resamples < 100:
        raise ValueError(f"n_resamples must be at least 100, received {n_resamples!r}")
    log = Log.read(log) if isinstance(log, Ledger) else log
    target = target_probabilities(policy, log)
    weights = check_support(target, log)
    _warn_of_learnt(policy, log, name)
    smallest = float(log.propensities.min())
    least = smallest if least_propensity is None else float(least_propensity)
    if not 0.0 < least <= smallest:
        raise ValueError(
            f"least_propensity lies in (0, {smallest}], the smallest propensity of "
            f"the log, received {least_propensity!r}"
        )
    data = (log.X, log.columns, log.rewards, len(log.arm_ids))
    rows, arms = np.arange(len(log.X)), log.columns
    predicted = cross_fitted(*data, log.contexts)
    direct = (target * predicted).sum(axis=1)
    terms = estimator_terms(weights, log.rewards, predicted[rows, arms], direct)
    rng = np.random.default_rng(random_state)
    together = {
        name: cluster_terms(values, log.clusters, float(values.mean()))
        for name, values in terms.items()
    }
    intervals = bootstrap_intervals(together, level, n_resamples, rng)
    rows_worth = effective_sample_size(cluster_terms(weights, log.clusters, 0.0))
    intervals["DR"] = _likely(
        terms["DR"], weights, predicted, direct, least, level, log.clusters, rows_worth
    )
    past = from_the_past(*data, log.clusters)
    outcomes = (target * past).sum(axis=1)
    outcomes += weights * (log.rewards - past[rows, arms])
    always = _at_any_time(outcomes, log, least, level)
    return tuple(
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
    )


def _likely(
    terms: Array,
    weights: Array,
    predicted: Array,
    direct: Array,
    least: float,
    level: float,
    clusters: NDArray[np.intp],
    rows_worth: float,
) -> tuple[float, float]:
    """Return the interval of DR by empirical likelihood; it holds the estimate."""
    most = max(1.0 / least, float(weights.max()))
    # A term is direct + w (r - q): these are its ends for the lightest and heaviest w.
    support = np.array(
        [
            [direct.min(), 0.0],
            [direct.max(), 0.0],
            [direct.min() - most * predicted.max(), most],
            [direct.max() + most * (1.0 - predicted.min()), most],
        ]
    )
    mean, sizes = float(terms.mean()), np.bincount(clusters)
    # As the terms of a cluster are: a large one is further off than a row can be.
    centre = np.array([mean, 1.0])
    support = centre + sizes.max() / sizes.mean() * (support - centre)
    low, high = likelihood_interval(
        cluster_terms(terms, clusters, mean),
        cluster_terms(weights, clusters, 1.0),
        support,
        level,
        rows_worth,
    )
    value = min(max(mean, 0.0), 1.0)
    return min(low, value), max(high, value)


def _at_any_time(
    outcomes: Array, log: Log, least: float, level: float
) -> dict[str, float]:
    """Return the ends of the confidence sequence, if the rows are in their order.

    Rows of one cluster that follow each other are one step. Whatever the past, the arm
    of the row before has a chance of p to come again, so that what it comes over p is 1
    at most on average, and a step is the policy's value on average, early and late:
    where it is more, or steps rise or fall, as in a table that is sorted by arm or by
    reward, nobody decided in this order, and there is no sequence.
    """
    again = np.append(False, log.columns[1:] == log.columns[:-1]) / log.propensities
    # Half of it, as the bounds are of means in [0, 1].
    often, _ = confidence_sequence(again / 2, least, _ORDER_LEVEL)
    starts = run_starts(log.clusters)
    steps = np.add.reduceat(outcomes, starts)
    steps /= np.diff(np.append(starts, len(outcomes)))
    low, high = confidence_sequence(steps, least, level)
    if often[-1] > 0.5 or _rises(steps) or low[-1] > high[-1]:
        return {}
    return {"sequence_low": float(low[-1]), "sequence_high": float(high[-1])}


def _rises(steps: Array) -> bool:
    """Whether steps rise, or fall, from the first to the last of them."""
    time = np.arange(len(steps)) - (len(steps) - 1) / 2
    off = time * (steps - steps.mean())
    return bool(abs(off.sum()) > _TREND_ERRORS * np.sqrt((off**2).sum()))


def compare(
    policies: Mapping[str, Any], log: Log | Ledger, **settings: Any
) -> Comparison:
    """Evaluate several policies on one log; returns a table that can be drawn.

    Parameters
    ----------
    policies : dict of policies by name
        See :func:`target_probabilities`.
    log : Log or Ledger
    **settings
        As for :func:`evaluate`.

    Returns
    -------
    Comparison
        With the reason beside every policy on which the log cannot answer.

    Raises
    ------
    ValueError
        When it can answer on none of them.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> arms = rng.choice(["a", "b"], 400)
    >>> log = Log(rng.random((400, 1)), arms, arms == "b", np.full(400, 0.5))
    >>> table = compare({"always a": "a", "always b": "b"}, log)
    >>> table.best().policy
    'always b'
    """
    if not policies:
        raise ValueError("compare needs at least one policy, received none")
    log = Log.read(log) if isinstance(log, Ledger) else log
    found: list[Estimate] = []
    refused: dict[str, str] = {}
    for name, policy in policies.items():
        try:
            target = target_probabilities(policy, log)
            check_support(target, log)
        except ValueError as error:
            refused[name] = str(error)
            continue
        _warn_of_learnt(policy, log, name)
        found.extend(evaluate(target, log, name=name, **settings))
    if not found:
        raise ValueError(
            "the log can answer on none of the policies. "
            + " ".join(f"{name}: {reason}." for name, reason in refused.items())
        )
    return Comparison(tuple(found), refused, float(log.rewards.mean()))


def _warn_of_learnt(policy: Any, log: Log, name: str) -> None:
    learnt = rows_learnt(policy, log)
    if learnt:
        warnings.warn(
            f"{name!r} learnt from {learnt} of the {len(log.X)} rows that it is judged "
            "on, and looks better there than it is. Save it, and judge what was saved "
            "on what came later: Log.read(ledger, after=saved.ledger_position_)",
            stacklevel=3,
        )


def check_support(target: Array, log: Log) -> Array:
    """Return the weights ``target / propensity`` if the log can answer, shape (n,).

    Raises
    ------
    ValueError
        When the target plays arms the log could not have taken (not eligible, or
        the choice was certain); when the weights are far from 1 on average, so that
        propensities are wrong or arms were never really possible; or when less than
        ten rows' worth of evidence is left.
    """
    n = len(log.X)
    rows = np.arange(n)
    possible = log.eligible.copy()
    certain = log.propensities >= 1.0
    possible[certain] = False
    possible[rows, log.columns] = True
    missing = float((target * ~possible).sum() / n)
    if missing > 1e-9:
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
    weights: Array = target[rows, log.columns] / log.propensities
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
