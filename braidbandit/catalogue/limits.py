"""Limits: what one call allows and prefers, and the absolute budget that is part of it.

Whatever takes limits (``recommend``, ``explain``, ``forward``, ``UnderLimits``) makes
one :class:`Limits` of them, which checks all that can be checked without a catalogue.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import ArrayLike

from braidbandit._checks import check_number


@dataclass(frozen=True)
class Budget:
    """Absolute limits for one decision; None, or infinity, means no limit.

    Parameters
    ----------
    flops : float, optional
        Most operations per token written (see :meth:`Catalogue.operations`).
    memory : float, optional
        Most bytes of models in memory (see :meth:`Catalogue.memory`).
    latency_ms : float, optional
        Longest expected time to answer. Only a recommender can tell, and only once
        it was told some latencies; until then every arm is within this limit.

    Raises
    ------
    TypeError
        On a limit that is no number.
    ValueError
        On a limit that is not above 0.

    Examples
    --------
    >>> Budget(memory=2e9).to_dict()
    {'flops': None, 'memory': 2000000000.0, 'latency_ms': None}
    """

    flops: float | None = None
    memory: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for key, value in dict(vars(self)).items():
            if value is None:
                continue
            limit = check_number(key, value)
            if not limit > 0:
                raise ValueError(f"{key} must be above 0 or None, received {value!r}")
            # A decision records plain numbers in JSON, which has no infinity.
            object.__setattr__(self, key, None if math.isinf(limit) else limit)

    def to_dict(self) -> dict[str, float | None]:
        """Return the limits as JSON-able data."""
        return dict(vars(self))


_NO_BUDGET = Budget()
BY_CALLER = "excluded by the caller"
"""Why an arm is excluded, where no reason is given."""


@dataclass(frozen=True)
class Limits:
    """Everything that one call allows and prefers.

    Parameters
    ----------
    compute_budget : float in [0, 1]
        Highest relative cost: 0 allows the cheapest arms only.
    budget : Budget, optional
        Absolute limits.
    excluded : iterable of arm ids, or mapping from arm id to reason
        Kept as a tuple, as an iterator could be read only once; a mapping as a dict,
        whose reasons are what explanations say.
    eligible : collection of arm ids, or array of bool of shape (A,), optional
        The only arms that may be chosen; also a Series or a dict of bool by arm id.
        Sets and iterators are kept as a tuple.
    preference : mapping from objective to weight, optional
        What counts, such as ``{"quality": 1, "latency": 0.2}``.
    accuracy_target : float in [0, 1], optional
        Quality that an arm should be able to reach.

    Raises
    ------
    TypeError
        On a ``budget`` that is a number, a ``compute_budget`` that is a
        :class:`Budget`, text or a truth value in place of a number, or text in place
        of arm ids.
    ValueError
        On a ``compute_budget`` or ``accuracy_target`` outside [0, 1].

    Examples
    --------
    >>> limits = Limits(0.5, Budget(memory=2e9), excluded=(arm for arm in ("a", "b")))
    >>> limits.excluded
    ('a', 'b')
    >>> limits.to_dict()["memory"]
    2000000000.0
    >>> Limits(compute_budget=2.0)
    Traceback (most recent call last):
    ValueError: compute_budget must lie between 0 (only the cheapest arms) and 1 ...
    """

    compute_budget: float = 1.0
    budget: Budget | None = None
    excluded: Iterable[str] = ()
    eligible: ArrayLike | None = None
    preference: Mapping[str, float] | None = None
    accuracy_target: float | None = None
    record: dict[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_budgets(self.compute_budget, self.budget)
        if isinstance(self.excluded, str):
            raise TypeError(
                f"excluded is a collection of arm ids, received text {self.excluded!r}"
            )
        object.__setattr__(self, "excluded", _kept(self.excluded))
        if isinstance(self.eligible, str):
            raise TypeError(
                f"eligible is arm ids or booleans, received text {self.eligible!r}"
            )
        if isinstance(self.eligible, Set | Iterator):
            object.__setattr__(self, "eligible", tuple(self.eligible))
        target, prefers = self.accuracy_target, self.preference
        # Also refuses NaN.
        if target is not None and not (
            0.0 <= check_number("accuracy_target", target) <= 1.0
        ):
            raise ValueError(f"accuracy_target lies in [0, 1], received {target!r}")
        if prefers is not None:
            prefers = {
                key: check_number(f"preference for {key}", weight)
                for key, weight in prefers.items()
            }
        record = {
            "compute_budget": float(self.compute_budget),
            **(self.budget or _NO_BUDGET).to_dict(),
            "preference": prefers,
            "accuracy_target": None if target is None else float(target),
        }
        object.__setattr__(self, "record", record)

    def why_excluded(self, arm_id: str) -> str:
        """Return why an excluded arm is."""
        reasons = self.excluded if isinstance(self.excluded, Mapping) else {}
        return str(reasons.get(arm_id, BY_CALLER))

    @property
    def told_excluded(self) -> str:
        """The reasons of excluded arms, for the end of an error; empty without any."""
        reasons = self.excluded if isinstance(self.excluded, Mapping) else {}
        told = [why for why in dict.fromkeys(reasons.values()) if why != BY_CALLER]
        return f". Excluded: {'; '.join(told)}" if told else ""

    def to_dict(self) -> dict[str, Any]:
        """Return what a decision records, as JSON-able data.

        ``excluded`` and ``eligible`` are left out: a decision records which arms were
        eligible in the end.
        """
        prefers = self.record["preference"]
        return {**self.record, "preference": None if prefers is None else {**prefers}}


def _kept(excluded: Iterable[str]) -> Iterable[str]:
    if not isinstance(excluded, Mapping):
        return tuple(excluded)
    reasons: dict[str, Any] = dict(excluded)
    for why in reasons.values():
        if not isinstance(why, str):
            raise TypeError(
                "excluded is a collection of arm ids, or a mapping from arm id to a "
                f"reason in words; received the reason {why!r}"
            )
    return reasons


def _check_budgets(compute_budget: float, budget: Budget | None) -> None:
    if isinstance(compute_budget, Budget):
        raise TypeError(
            "compute_budget is a number, received a Budget; give it as budget="
        )
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(
            f"budget is a Budget, received {budget!r}; a share of the dearest arm is "
            "compute_budget"
        )
    if not 0.0 <= check_number("compute_budget", compute_budget) <= 1.0:
        raise ValueError(
            "compute_budget must lie between 0 (only the cheapest arms) and 1 (all "
            f"arms), received {compute_budget!r}"
        )


NO_LIMITS = Limits()
"""The limits of a call that gives none."""
