"""Is choosing paying? What was earned, against always taking the same arm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from braidbandit.evaluation.estimators import cluster_terms, estimator_terms
from braidbandit.evaluation.intervals import bootstrap_intervals
from braidbandit.evaluation.log import Log, drawn
from braidbandit.evaluation.offpolicy import check_support, evaluate
from braidbandit.evaluation.reward_model import cross_fitted
from braidbandit.evaluation.target_policies import target_probabilities
from braidbandit.ledger.records import Decision, Outcome

Array = NDArray[np.float64]
Pairs = Sequence[tuple[Decision, Outcome]]

# Rewards of an arm below which nothing is said of it, and of how many arms it is said.
_OFTEN_ENOUGH, _MOST = 5, 8
# Rows' worth of evidence from which on intervals hold what they promise.
_ENOUGH = 30.0
_LEVEL, _RESAMPLES = 0.95, 1000


class Rival(NamedTuple):
    """What always taking one arm would have earned.

    Attributes
    ----------
    arm_id : str
    value, low, high : float
        Estimated mean reward, with its 95 % interval.
    gain, gain_low, gain_high : float
        What choosing earned beyond that, on the same tasks, with its interval.
    rows : int
        Rated answers where the arm could have been taken.
    effective_n : float
        How many of its own answers would say as much.
    """

    arm_id: str
    value: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    rows: int
    effective_n: float


class Paying(NamedTuple):
    """Whether choosing pays.

    Attributes
    ----------
    rows : int
        Rated answers whose arm was drawn.
    earned, low, high : float
        Their mean reward, with its 95 % interval.
    rivals : tuple of Rival
        The one that is hardest to beat first.
    refused : dict of str
        Why nothing can be said of some arms, by arm id.
    """

    rows: int
    earned: float
    low: float
    high: float
    rivals: tuple[Rival, ...]
    refused: dict[str, str]

    @property
    def verdict(self) -> str:
        """ "pays", "costs", "open", or "early" while there is too little evidence."""
        if not self.rivals or self.rivals[0].effective_n < _ENOUGH:
            return "early"
        best = self.rivals[0]
        if best.gain_low > 0:
            return "pays"
        return "costs" if best.gain_high < 0 else "open"


def paying(pairs: Pairs) -> Paying | None:
    """Estimate what choosing earned beyond the best single arm.

    Of decisions where something was drawn: an arm that was asked for by name, or was
    the only one, says nothing about choosing. An arm is judged on the decisions where
    it could have been taken.

    Parameters
    ----------
    pairs : sequence of (Decision, Outcome)

    Returns
    -------
    Paying or None
        None when there is no such decision.
    """
    kept = [
        (d, o) for d, o in drawn(pairs) if d.propensity < 1.0 and sum(d.eligible) > 1
    ]
    if not kept:
        return None
    # Features of another encoder cannot be compared.
    newest = kept[-1][0].encoder_hash
    kept = [(d, o) for d, o in kept if d.encoder_hash == newest]
    rewards = np.array([o.reward for _, o in kept])
    low, high = _interval(rewards)
    rivals: list[Rival] = []
    refused: dict[str, str] = {}
    taken = Counter(d.braid.id for d, _ in kept)
    for arm_id, count in taken.most_common(_MOST):
        if count < _OFTEN_ENOUGH:
            break
        try:
            rivals.append(_rival(arm_id, [p for p in kept if _could(p[0], arm_id)]))
        except ValueError as error:
            refused[arm_id] = str(error)
    # The ones with too little evidence last: their estimates are wild.
    rivals.sort(key=lambda r: (r.effective_n < _ENOUGH, r.gain))
    return Paying(len(kept), float(rewards.mean()), low, high, tuple(rivals), refused)


def _rival(arm_id: str, pairs: Pairs) -> Rival:
    log = Log.of(pairs)
    found = evaluate(arm_id, log, level=_LEVEL, n_resamples=_RESAMPLES)
    estimate = next(row for row in found if row.estimator == "DR")
    gains = log.rewards - _terms(arm_id, log)
    gain = float(gains.mean())
    low, high = _interval((cluster_terms(gains, log.clusters, gain) + 1) / 2)
    return Rival(
        arm_id,
        estimate.value,
        estimate.low,
        estimate.high,
        gain,
        2 * low - 1,
        2 * high - 1,
        estimate.n,
        estimate.effective_n,
    )


def _terms(arm_id: str, log: Log) -> Array:
    """Return what each row says of the arm, of which DR is the mean."""
    rows, target = np.arange(len(log.X)), target_probabilities(arm_id, log)
    q = cross_fitted(log.X, log.columns, log.rewards, len(log.arm_ids), log.contexts)
    direct = (target * q).sum(axis=1)
    weights = check_support(target, log)
    return estimator_terms(weights, log.rewards, q[rows, log.columns], direct)["DR"]


def _interval(terms: Array) -> tuple[float, float]:
    """Return the interval of a mean in [0, 1]."""
    if len(terms) < 2:
        return 0.0, 1.0
    rng = np.random.default_rng(0)
    return bootstrap_intervals({"": terms}, _LEVEL, _RESAMPLES, rng)[""]


def _could(decision: Decision, arm_id: str) -> bool:
    """Whether an arm could have been taken."""
    try:
        return bool(decision.eligible[decision.arm_ids.index(arm_id)])
    except ValueError:
        return False
