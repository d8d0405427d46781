"""The smallest change of a call that would lead to another arm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braidbandit.catalogue.costs import relative
from braidbandit.recommender.arm_model import ArmLearner
from braidbandit.recommender.explanation import Counterfactual
from braidbandit.recommender.scoring import Situation

Array = NDArray[np.float64]


def nearest_change(
    learner: ArmLearner, now: Situation, scores: Array, arm: int
) -> Counterfactual | None:
    """Return the nearest change under which another arm would have been chosen.

    First the limits of the call: of the arms with a better score that one limit
    alone rules out, the one that needs the smallest increase, measured as a share of
    the limit. Then the price of compute. Else how much better the runner-up would
    have to be.

    Parameters
    ----------
    learner : ArmLearner
    now : Situation
    scores : ndarray of shape (A,)
        Before masking.
    arm : int
        The chosen one.
    """
    ids, braids = learner.catalogue.ids, learner.catalogue.braids

    def change(kind: str, amount: float, row: int) -> Counterfactual:
        return Counterfactual(kind, float(amount), ids[row], braids[row].label())

    found = _beyond_limits(learner, now, scores, arm)
    if found is not None:
        return change(*found)
    others = np.flatnonzero(now.eligible & (np.arange(len(scores)) != arm))
    if not len(others):
        return None
    best = int(others[np.argmax(scores[others])])
    if scores[best] >= scores[arm]:
        # The arm itself was a random pick: the other needs no change to win.
        return change("quality", 0.0, best)
    return change(*(_by_price(learner, now, scores, arm, others) or
                    ("quality", scores[arm] - scores[best], best)))  # fmt: skip


def _beyond_limits(
    learner: ArmLearner, now: Situation, scores: Array, arm: int
) -> tuple[str, float, int] | None:
    limits, catalogue = now.limits, learner.catalogue
    budget = limits.budget
    used: dict[str, tuple[float, Array]] = {}
    if limits.compute_budget < 1.0:
        costs = catalogue.relative_costs()
        used["compute_budget"] = (limits.compute_budget, costs)
    if budget is not None and budget.flops is not None:
        used["flops"] = (budget.flops, catalogue.costs())
    if budget is not None and budget.memory is not None:
        used["memory"] = (budget.memory, catalogue.memory())
    if budget is not None and budget.latency_ms is not None and now.latency is not None:
        used["latency_ms"] = (budget.latency_ms, now.latency)
    over = {name: values > limit for name, (limit, values) in used.items()}
    broken = np.sum([*over.values(), np.zeros(len(scores))], axis=0)
    ruled_out = np.array([bool(reason) for reason in now.reasons(catalogue)])
    found = []
    for name, (limit, values) in used.items():
        alone = over[name] & (broken == 1) & (scores > scores[arm])
        alone &= ruled_out & ~_otherwise_out(learner, now, name)
        for row in np.flatnonzero(alone):
            need = float(values[row] - limit)
            found.append((need / max(limit, 1e-12), name, need, int(row)))
    return min(found)[1:] if found else None


def _otherwise_out(learner: ArmLearner, now: Situation, name: str) -> NDArray[np.bool_]:
    """Arms that are out for a reason that is no limit of amount."""
    catalogue = learner.catalogue
    out = np.isin(catalogue.ids, [*catalogue.unfit, *now.limits.excluded])
    for mask, text in now.masked:
        if not text.startswith("expected to take"):
            out = out | mask
    return np.asarray(out)


def _by_price(
    learner: ArmLearner,
    now: Situation,
    scores: Array,
    arm: int,
    others: NDArray[np.int64],
) -> tuple[str, float, int] | None:
    """Return the nearest other price of compute with another winner among two."""
    # What the price is put on: measured compute, as soon as there is any.
    compute = learner.expected("compute", now.x)
    cost = relative(learner.catalogue.costs() if compute is None else compute)
    gap = scores[arm] - scores[others]
    extra = cost[arm] - cost[others]
    with np.errstate(divide="ignore", invalid="ignore"):
        # At a price higher by this, the other arm has the same score.
        rise = np.where(extra != 0, gap / extra, np.inf)
    price = -now.costs["compute"].min()
    possible = np.isfinite(rise) & (rise + price >= 0)
    if not possible.any():
        return None
    at = int(np.argmin(np.where(possible, np.abs(rise), np.inf)))
    return "price", float(rise[at]), int(others[at])
