"""What is known when one choice is made: beliefs, costs, and what may be chosen."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braidbandit._named import as_array, in_columns
from braidbandit.bandit.belief import Belief
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.catalogue.costs import relative
from braidbandit.catalogue.limits import NO_LIMITS, Limits
from braidbandit.recommender.arm_model import ArmModel
from braidbandit.recommender.objectives import Preference

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


LATENCY = "latency_ms"
"""The limit that only a recommender can apply; see :class:`RuledOut`."""


class RuledOut(NamedTuple):
    """Arms that one limit rules out.

    Attributes
    ----------
    by : str
        Which limit.
    arms : ndarray of bool, shape (A,)
    reason : str
        Why, in words.
    """

    by: str
    arms: Mask
    reason: str


@dataclass(frozen=True)
class Situation:
    """Everything a policy sees, and what an explanation needs beside it.

    Attributes
    ----------
    limits : Limits
    x : ndarray of shape (k,)
    belief : Belief
    costs : dict of ndarray of shape (A,)
        Added to the scores for "compute", "latency" and "pacing".
    cost_term : ndarray of shape (A,)
        Their sum.
    eligible : ndarray of bool, shape (A,)
    masked : tuple of RuledOut
        Arms that were ruled out here rather than by the catalogue.
    latency : ndarray of shape (A,), optional
        Expected milliseconds; None until some were measured.
    missed_target : bool
        No arm is believed to reach the accuracy target.
    """

    limits: Limits
    x: Array
    belief: Belief
    costs: dict[str, Array]
    cost_term: Array
    eligible: Mask
    masked: tuple[RuledOut, ...] = ()
    latency: Array | None = None
    missed_target: bool = False

    def reasons(self, catalogue: Catalogue) -> list[str]:
        """Return why each arm is masked; empty text where it is eligible."""
        reasons = catalogue.eligibility(self.limits).reasons()
        for _, out, text in self.masked:
            reasons = [
                why or (text if gone else "")
                for why, gone in zip(reasons, out, strict=True)
            ]
        return reasons


def cost_terms(
    model: ArmModel,
    measured: Mapping[str, Array | None],
    preference: Preference,
    dual: float,
) -> dict[str, Array]:
    """Return what compute, latency and the long-run budget add to every score.

    Parameters
    ----------
    model : ArmModel
    measured : dict of ndarray of shape (A,)
        What each arm is expected to take, by objective; nothing before it was measured.
    preference : Preference
    dual : float
        The price that holds a long-run mean cost.
    """
    estimated = model.relative_costs
    compute, latency = measured.get("compute"), measured.get("latency")
    priced = estimated if compute is None else relative(compute)
    waiting = np.zeros(len(estimated)) if latency is None else relative(latency)
    return {
        "compute": -preference.compute * priced,
        "latency": -preference.latency * waiting,
        "pacing": -dual * estimated,
    }


def cost_of(model: ArmModel, x: Array, price: float, dual: float) -> Array:
    """Return what costs add to every score when only compute has a price, (A,)."""
    measured = {name: model.expected(name, x) for name in model.costs}
    parts = cost_terms(model, measured, Preference(compute=price), dual)
    return parts["compute"] + parts["latency"] + parts["pacing"]


def assess(
    model: ArmModel, x: Array, limits: Limits, price: float, dual: float
) -> Situation:
    """Gather what is believed about every arm for one task, and what is allowed.

    Parameters
    ----------
    model : ArmModel
    x : ndarray of shape (k,)
    limits : Limits
    price : float
        Of compute, where the limits say no preference.
    dual : float
        The price that holds a long-run mean cost.

    Raises
    ------
    ValueError
        When no arm is left, or a limit makes no sense.
    """
    catalogue = model.catalogue
    if limits is NO_LIMITS and model.fit is not None:
        eligible = model.fit
    else:
        eligible = catalogue.allowed(limits)
    preference = Preference(compute=price)
    if limits.preference is not None:
        preference = Preference.read(limits.preference)
    measured = {name: model.expected(name, x) for name in model.costs}
    latency = measured.get("latency")
    masked = _ruled_out(limits, catalogue, latency)
    for ruled_out in masked:
        eligible = eligible & ~ruled_out.arms
        if not eligible.any():
            raise ValueError(
                f"no arm is left: all that remained are {ruled_out.reason}. Raise the "
                f"budget or allow more arms{limits.told_excluded}"
            )
    belief, missed = model.believe(x), False  # last: it may make the posterior
    if limits.accuracy_target is not None:
        short, missed = _falls_short(belief, eligible, limits.accuracy_target)
        masked, eligible = (*masked, short), eligible & ~short.arms
    costs = cost_terms(model, measured, preference, dual)
    cost_term = costs["compute"] + costs["latency"] + costs["pacing"]
    return Situation(
        limits, x, belief, costs, cost_term, eligible, masked, latency, missed
    )


def _ruled_out(
    limits: Limits, catalogue: Catalogue, latency: Array | None
) -> tuple[RuledOut, ...]:
    found = []
    if limits.eligible is not None:
        given = _given(limits.eligible, catalogue)
        found.append(RuledOut("eligible", ~given, "not among the eligible arms"))
    longest = None if limits.budget is None else limits.budget.latency_ms
    if longest is not None and latency is not None:
        reason = f"expected to take over {longest:g} ms"
        found.append(RuledOut(LATENCY, latency > longest, reason))
    return tuple(found)


def _falls_short(
    belief: Belief, eligible: Mask, target: float
) -> tuple[RuledOut, bool]:
    """Return the arms that cannot reach a quality, and whether none can.

    One standard deviation of optimism: an arm that may still turn out good enough is
    tried, one that is known to fall short is not. Where none can, the nearest is left.
    """
    reach = np.where(eligible, belief.mean + belief.sd, -np.inf)
    missed = bool(reach.max() < target)
    short = reach < (reach.max() if missed else target)
    return RuledOut("quality", short, f"not expected to reach {target:g}"), missed


def _given(eligible: ArrayLike, catalogue: Catalogue) -> Mask:
    """Read a per-call mask: booleans by name or in catalogue order, or arm ids."""
    array = as_array(list(eligible) if isinstance(eligible, Set) else eligible)
    if array.dtype == bool or isinstance(eligible, Mapping):
        array = in_columns(eligible, catalogue.ids, "eligible")
        if array.dtype != bool or array.shape != (len(catalogue),):
            raise ValueError(
                f"eligible must be boolean of shape ({len(catalogue)},), received "
                f"{array.dtype} {array.shape}"
            )
        return array
    if array.ndim != 1:
        raise TypeError(f"eligible is arm ids or booleans, received {eligible!r}")
    if len(set(array.tolist())) != len(array):
        raise ValueError(f"eligible names an arm twice: {array.tolist()}")
    mask = np.zeros(len(catalogue), dtype=bool)
    for arm_id in array.tolist():
        mask[catalogue.index(arm_id)] = True
    return mask
