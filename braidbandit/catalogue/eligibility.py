"""Eligibility: which arms may be chosen, and why the others may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Reason = str | Callable[[int], str]
"""Why an arm is ruled out: one text, or a function of the arm's row."""


@dataclass(frozen=True)
class Eligibility:
    """The rules that rule out arms, in order: the first that applies is the reason.

    Parameters
    ----------
    n_arms : int
        A, the number of arms.
    rules : tuple of (ndarray of bool of shape (A,), reason)
        True where an arm is ruled out.

    Examples
    --------
    >>> all_of = Eligibility(3)
    >>> some = all_of.without(np.array([True, False, True]), "too dear")
    >>> some = some.without(np.array([True, True, False]), lambda row: f"row {row}")
    >>> some.mask.tolist(), some.reasons()
    ([False, False, False], ['too dear', 'row 1', 'too dear'])
    """

    n_arms: int
    rules: tuple[tuple[Mask, Reason], ...] = ()

    def without(self, out: Mask, reason: Reason) -> Eligibility:
        """Return a copy with one more rule, after the others."""
        return Eligibility(self.n_arms, (*self.rules, (out, reason)))

    @property
    def mask(self) -> Mask:
        """Which arms may be chosen, shape (A,)."""
        allowed = np.ones(self.n_arms, dtype=bool)
        for out, _ in self.rules:
            allowed &= ~out
        return allowed

    def reasons(self) -> list[str]:
        """Return why each arm is ruled out; empty text where it may be chosen."""
        found = [""] * self.n_arms
        for out, reason in self.rules:
            for row in np.flatnonzero(out).tolist():
                if not found[row]:
                    found[row] = reason if isinstance(reason, str) else reason(row)
        return found
