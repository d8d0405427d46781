"""From what was measured to the one number that is maximised.

Quality lies in [0, 1] and is what the posterior learns. The price of compute
enters only when arms are scored, so a changed price needs no relearning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def check_quality(value: Any) -> float:
    """Return ``value`` as a float in [0, 1], or say what is wrong with it.

    Examples
    --------
    >>> check_quality(True)
    1.0
    """
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        quality = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"a reward is a number in [0, 1], received {value!r} "
            f"({type(value).__name__})"
        ) from None
    if not 0.0 <= quality <= 1.0:  # also refuses NaN
        raise ValueError(
            f"a reward lies in [0, 1], received {value!r}; convert it first, for "
            "example a rating of 1 to 5 with stars / 5 (more ways: braidbandit.utility)"
        )
    return quality


def quality_from_bits(bits: float, reference_bits: float) -> float:
    """Quality of a text score in bits per byte against a reference.

    ``clip(1/2 + (b0 - b) / b0, 0, 1)``: the reference itself scores 1/2, half its
    bits score 1, one and a half times its bits score 0.

    Examples
    --------
    >>> quality_from_bits(0.8, 0.8), quality_from_bits(0.4, 0.8)
    (0.5, 1.0)
    """
    if not (math.isfinite(bits) and bits >= 0):
        raise ValueError(f"bits must be finite and at least 0, received {bits!r}")
    if not (math.isfinite(reference_bits) and reference_bits > 0):
        raise ValueError(
            f"reference_bits must be finite and above 0, received {reference_bits!r}"
        )
    gain = (reference_bits - bits) / reference_bits
    return min(max(0.5 + gain, 0.0), 1.0)


def quality_from_stars(stars: float) -> float:
    """Quality of a rating of 1 to 5 stars: ``stars / 5``.

    Examples
    --------
    >>> quality_from_stars(4)
    0.8
    """
    if not 1 <= stars <= 5:
        raise ValueError(f"a rating has 1 to 5 stars, received {stars!r}")
    return stars / 5


def utility(quality: float, relative_cost: float, price: float) -> float:
    """Quality minus the priced cost; ``relative_cost`` lies in [0, 1].

    Examples
    --------
    >>> utility(0.75, 0.5, 0.5)
    0.5
    """
    return check_quality(quality) - check_price(price) * relative_cost


def check_price(price: float) -> float:
    """Return ``price`` if it is finite and at least 0."""
    if not (math.isfinite(price) and price >= 0):
        raise ValueError(
            f"price is the quality one gives up to go from the dearest arm to the "
            f"cheapest; expected a finite number from 0, received {price!r}"
        )
    return float(price)


def as_quality(
    feedback: float | bool | Callable[[Any, Any], float],
    task: Any = None,
    output: Any = None,
) -> float:
    """Turn feedback into quality in [0, 1].

    Parameters
    ----------
    feedback : float, bool or callable
        A number in [0, 1]; True or False for pass or fail; or a callable that
        gets ``(task, output)`` and returns one of these.
    task, output : optional
        Handed to the callable.

    Examples
    --------
    >>> as_quality(lambda task, output: "return" in output, "code", "return 1")
    1.0
    """
    if callable(feedback):
        feedback = feedback(task, output)
    return check_quality(feedback)
