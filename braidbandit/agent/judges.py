"""Judges of answers, from ``fusion``: imported when the first one is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def exact_match(answer: str) -> Callable[[Any, str], float]:
    """Return a judge that asks for one answer; of a number, for the last one written.

    Parameters
    ----------
    answer : str

    Returns
    -------
    callable
        ``(task, output) -> 0.0 or 1.0``.
    """
    from fusion.judging.rewards import ExactMatch, last_number

    is_number = last_number(answer).strip() == answer.strip()
    return ExactMatch(answer, last_number if is_number else None)


def unit_tests(tests: Sequence[str], prefix: str = "") -> Callable[[Any, str], float]:
    """Return a judge that runs tests of Python code in a sandbox.

    Parameters
    ----------
    tests : sequence of str
    prefix : str
        In front of the output: a signature, if it goes on from one.

    Returns
    -------
    callable
        ``(task, output) -> share of passed tests``.
    """
    from fusion.judging.rewards import UnitTests

    return UnitTests(tests, prefix)
