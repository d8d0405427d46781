"""What is known when one choice is made: beliefs, costs, and what may be chosen."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braidbandit._named import as_array, in_columns
from braidbandit.bandit.belief import Belief
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.catalogue.costs import relative
from braidbandit.catalogue.limits import Limits
from braidbandit.recommender.arm_model import ArmLearner
from braidbandit.recommender.objectives import Preference

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Situation:
    """Everything a policy sees, and what an explanation needs beside it.

    Attributes
    ----------
    limits : Limits
    x : ndarray of shape (k,)
    belief : Belief
    costs : dict of ndarray of shape (A,)
        What is added to the scores for "compute", "latency" and "pacing".
    cost_term : ndarray of shape (A,)
        Their sum.
    eligible : ndarray of bool, shape (A,)
    masked : tuple of (ndarray of bool, str)
        Arms that were ruled out here rather than by the catalogue, and why.
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
    masked: tuple[tuple[Mask, str], ...] = ()
    latency: Array | None = None
    missed_target: bool = False

    def reasons(self, catalogue: Catalogue) -> list[str]:
        """Return why each arm is masked; empty text where it is eligible."""
        reasons = catalogue.mask_reasons(
            self.limits.compute_budget, self.limits.excluded, self.limits.budget
        )
        for out, text in self.masked:
            reasons = [
                why or (text if gone else "")
                for why, gone in zip(reasons, out, strict=True)
            ]
        return reasons


def cost_terms(
    learner: ArmLearner, x: Array, preference: Preference, dual: float
) -> dict[str, Array]:
    """Return what compute, latency and the long-run budget add to every score."""
    estimated = learner.catalogue.relative_costs()
    compute, latency = learner.expected("compute", x), learner.expected("latency", x)
    priced = estimated if compute is None else relative(compute)
    waiting = np.zeros(len(estimated)) if latency is None else relative(latency)
    return {
        "compute": -preference.compute * priced,
        "latency": -preference.latency * waiting,
        "pacing": -dual * estimated,
    }


def assess(
    learner: ArmLearner, x: Array, limits: Limits, price: float, dual: float
) -> Situation:
    """Gather what is believed about every arm for one task, and what is allowed.

    Raises
    ------
    ValueError
        When no arm is left, or a limit makes no sense.
    """
    catalogue = learner.catalogue
    eligible = catalogue.mask(limits.compute_budget, limits.excluded, limits.budget)
    preference = Preference.read(limits.preference, price)
    target = limits.accuracy_target
    if target is not None and not 0.0 <= target <= 1.0:
        raise ValueError(f"accuracy_target lies in [0, 1], received {target!r}")
    given = None if limits.eligible is None else _given(limits.eligible, catalogue)
    belief = learner.believe(x)
    latency = learner.expected("latency", x)
    masked: list[tuple[Mask, str]] = []
    if given is not None:
        masked.append((~given, "not among the eligible arms"))
    longest = None if limits.budget is None else limits.budget.latency_ms
    if longest is not None and latency is not None:
        masked.append((latency > longest, f"expected to take over {longest:g} ms"))
    for out, text in masked:
        eligible = eligible & ~out
        if not eligible.any():
            raise ValueError(
                f"no arm is left: all that remained are {text}. Raise the budget or "
                "allow more arms"
            )
    missed = False
    if target is not None:
        # One standard deviation of optimism: an arm that may still turn out good
        # enough is tried, one that is known to fall short is not.
        hopeful = belief.mean + belief.sd
        reach = np.where(eligible, hopeful, -np.inf)
        missed = bool(reach.max() < target)
        out = reach < (reach.max() if missed else target)
        masked.append((out, f"not expected to reach {target:g}"))
        eligible = eligible & ~out
    costs = cost_terms(learner, x, preference, dual)
    cost_term = costs["compute"] + costs["latency"] + costs["pacing"]
    return Situation(
        limits=limits,
        x=x,
        belief=belief,
        costs=costs,
        cost_term=cost_term,
        eligible=eligible,
        masked=tuple(masked),
        latency=latency,
        missed_target=missed,
    )


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
