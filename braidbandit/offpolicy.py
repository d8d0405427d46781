"""Off-policy evaluation: what another policy would have earned, from a log alone.

Equations (25) to (31) of ``docs/math.md``. A log that cannot answer is refused, with
the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit.comparison import Comparison, Estimate
from braidbandit.crossfit import cross_fitted, from_the_past
from braidbandit.estimators import (
    bootstrap_intervals,
    confidence_sequence,
    effective_sample_size,
    estimator_terms,
)
from braidbandit.ledger import Ledger
from braidbandit.likelihood import likelihood_interval
from braidbandit.targets import Log, target_probabilities

Array = NDArray[np.float64]

# Fewer rows' worth of evidence than this give no interval worth the name.
_LEAST_ROWS = 10
# Standard errors the mean weight may lie from 1.
_WEIGHT_ERRORS = 4.0


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
    smallest = float(log.propensities.min())
    least = smallest if least_propensity is None else float(least_propensity)
    if not 0.0 < least <= smallest:
        raise ValueError(
            f"least_propensity lies in (0, {smallest}], the smallest propensity of "
            f"the log, received {least_propensity!r}"
        )
    data = (log.X, log.columns, log.rewards, len(log.arm_ids))
    rows, arms = np.arange(len(log.X)), log.columns
    predicted = cross_fitted(*data)
    direct = (target * predicted).sum(axis=1)
    terms = estimator_terms(weights, log.rewards, predicted[rows, arms], direct)
    rng = np.random.default_rng(random_state)
    intervals = bootstrap_intervals(terms, level, n_resamples, rng)
    intervals["DR"] = _likely(terms["DR"], weights, predicted, direct, least, level)
    past = from_the_past(*data)
    outcomes = (target * past).sum(axis=1)
    outcomes += weights * (log.rewards - past[rows, arms])
    low, high = confidence_sequence(outcomes, least, level)
    always = {"sequence_low": float(low[-1]), "sequence_high": float(high[-1])}
    return tuple(
        Estimate(
            policy=name,
            estimator=key,
            value=float(values.mean()),
            low=intervals[key][0],
            high=intervals[key][1],
            n=len(rows),
            effective_n=effective_sample_size(weights),
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
    rows_worth = effective_sample_size(weights)
    low, high = likelihood_interval(terms, weights, support, level, rows_worth)
    value = min(max(float(terms.mean()), 0.0), 1.0)
    return min(low, value), max(high, value)


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
        found.extend(evaluate(target, log, name=name, **settings))
    if not found:
        raise ValueError(
            "the log can answer on none of the policies. "
            + " ".join(f"{name}: {reason}." for name, reason in refused.items())
        )
    return Comparison(tuple(found), refused, float(log.rewards.mean()))


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
