"""Ratings as people type them: ``4/5``, ``0.8``, ``80%``, ``up``, ``no``."""

from __future__ import annotations

import math
import re

from braidbandit._checks import check_reward

_WORDS = {
    "up": 1.0,
    "good": 1.0,
    "yes": 1.0,
    "pass": 1.0,
    "true": 1.0,
    "+1": 1.0,
    "down": 0.0,
    "bad": 0.0,
    "no": 0.0,
    "fail": 0.0,
    "false": 0.0,
    "-1": 0.0,
}
_NUMBER = re.compile(r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?")


def read_rating(text: str) -> float:
    """Return a rating as a reward in [0, 1].

    Parameters
    ----------
    text : str
        ``4/5`` (of five stars), ``80%``, a number from 0 to 1, or a word: up, down,
        good, bad, yes, no, pass, fail.

    Raises
    ------
    ValueError
        On anything else.

    Examples
    --------
    >>> read_rating("4/5"), read_rating("80%"), read_rating("up")
    (0.8, 0.8, 1.0)
    """
    plain = text.strip().lower()
    if plain in _WORDS:
        return _WORDS[plain]
    try:
        if plain.endswith("%"):
            return check_reward(_number(plain[:-1]) / 100)
        given, slash, most = plain.partition("/")
        if slash:
            return check_reward(_number(given) / _number(most))
        return check_reward(_number(plain))
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"a rating is such as 4/5, 80%, 0.8, up or down; received {text!r}"
        ) from None


def _number(text: str) -> float:
    """Return a plain number; ``-4/-5``, ``4/inf`` and ``1_0`` are slips of the hand."""
    number = float(text) if _NUMBER.fullmatch(text.strip()) else math.inf
    if number == math.inf:
        raise ValueError(text)
    return number
