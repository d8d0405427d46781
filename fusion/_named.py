"""Numbers that name what they are of, brought into the expected order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any


def in_order(values: Any, names: Sequence[str], what: str) -> list[float]:
    """Numbers in the order of names; a Series or a dict has names of its own.

    Examples
    --------
    >>> in_order({"b": 0.3, "a": 0.7}, ["a", "b"], "shares")
    [0.7, 0.3]
    """
    if isinstance(values, Set):
        raise TypeError(f"{what} is a set, which has no order; received {values!r}")
    given = None
    if hasattr(values, "iloc"):  # of pandas; labels 0, 1, 2, ... are no names
        given, values = list(values.index), list(values)
        given = None if given == list(range(len(given))) else given
    elif isinstance(values, Mapping):
        given, values = list(values), list(values.values())
    numbers = [float(value) for value in values]
    if given is None:
        return numbers
    if sorted(given, key=str) != sorted(names):
        raise ValueError(f"{what} is of {given}, expected each of {list(names)} once")
    return [numbers[given.index(name)] for name in names]
