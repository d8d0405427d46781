"""Checks of what people give: labels, rewards, weights, settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6
"""Bounds of a weight: beyond them one reward would drown all others in rounding."""

# A missing value after a conversion to text.
_WRITTEN_OUT = frozenset({"", "nan", "NaN", "None", "<NA>", "NaT"})


def check_labels(labels: Any, of: str = "rows", what: str = "arm") -> list[Any]:
    """Return the labels of arms as a list; none is missing, all are of one kind.

    None, NaN, NaT, pandas' NA, masked entries and blank text count as missing, and so
    do the texts they are written as. The kinds are text, numbers and truth values: 1
    and "1" could be one arm or two, and an array would silently make them one.

    Examples
    --------
    >>> check_labels(np.array([1.0, 2.0]))
    [1.0, 2.0]
    >>> check_labels(["a", float("nan")])
    Traceback (most recent call last):
    ValueError: 1 rows have no arm, of 2 (None, NaN, NaT, masked or blank); leave ...
    """
    if isinstance(labels, str | bytes):
        raise ValueError(
            f"expected the label of its {what} for each row, received {labels!r}"
        )
    is_array = hasattr(labels, "__array__") and not np.ma.isMaskedArray(labels)
    entries = np.asarray(labels) if is_array else labels
    if getattr(entries, "ndim", 1) != 1:
        raise ValueError(
            f"{what}s have shape {entries.shape}, expected (n,): one label a row"
        )
    found = [_plain(label) for label in entries]
    missing = sum(map(is_missing, found))
    if missing:
        raise ValueError(
            f"{missing} {of} have no {what}, of {len(found)} (None, NaN, NaT, masked "
            f"or blank); leave them out, or say which {what} they had"
        )
    check_one_kind(found, what)
    return found


def check_one_kind(labels: Iterable[Any], what: str = "arm") -> None:
    """Refuse labels of several kinds, which may be meant to be equal or not."""
    kinds = {_kind(label): label for label in labels}
    if len(kinds) > 1:
        raise ValueError(
            f"labels of {what}s are of several kinds, such as {list(kinds.values())}; "
            "make them all text, or all numbers"
        )


def is_missing(label: Any) -> bool:
    """Whether a label says that there is none.

    Examples
    --------
    >>> is_missing(None), is_missing(float("nan")), is_missing("nan"), is_missing(0)
    (True, True, True, False)
    """
    if isinstance(label, str):
        return label.strip() in _WRITTEN_OUT
    if label is None or label is np.ma.masked:
        return True
    try:
        return bool(label != label)
    except TypeError:  # pandas' NA is neither equal nor unequal to itself
        return True


def _plain(label: Any) -> Any:
    """Return a label of NumPy as one of Python, which a dictionary can look up."""
    if isinstance(label, list | dict | np.ndarray) and label is not np.ma.masked:
        raise ValueError(f"expected one label for each row, received {label}")
    # Times of nanoseconds would become plain integers, and NaT one of them.
    is_time = isinstance(label, np.datetime64 | np.timedelta64)
    return label.item() if isinstance(label, np.generic) and not is_time else label


def _kind(label: Any) -> str:
    if isinstance(label, bool):
        return "truth value"
    return "number" if isinstance(label, Number) else type(label).__name__


def as_floats(values: Any, name: str) -> Array:
    """Return an array of floats; masked values are refused, as they have no number."""
    if np.ma.is_masked(values):
        raise ValueError(
            f"{int(np.ma.getmaskarray(values).sum())} values of {name} are masked; "
            "leave these rows out"
        )
    try:
        return np.asarray(values, dtype=np.float64)
    except OverflowError:
        raise ValueError(
            f"{name}: received a whole number beyond all floats, expected numbers up "
            "to 1.8e308; scale them first"
        ) from None


def as_float(value: Any) -> float:
    """Return a number as a float; a whole number beyond all floats is infinite.

    Examples
    --------
    >>> as_float(3), as_float(10**400), as_float(-(10**400))
    (3.0, inf, -inf)
    """
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_number(name: str, value: Any) -> float:
    """Return a setting as `as_float` does; text and truth values are no numbers.

    Examples
    --------
    >>> check_number("alpha", 3)
    3.0
    >>> check_number("alpha", "3")
    Traceback (most recent call last):
    TypeError: alpha is a number, received '3' (str)
    """
    try:
        if isinstance(value, str | bytes | bool | np.bool_):
            raise TypeError
        return as_float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} is a number, received {value!r} ({type(value).__name__})"
        ) from None


def check_reward(value: Any) -> float:
    """Return ``value`` as a float in [0, 1], or say what is wrong with it.

    Examples
    --------
    >>> check_reward(True)
    1.0
    """
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        reward = as_float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"a reward is a number in [0, 1], received {value!r} "
            f"({type(value).__name__})"
        ) from None
    if not 0.0 <= reward <= 1.0:  # also refuses NaN
        raise ValueError(
            f"a reward lies in [0, 1], received {value!r}; convert it first, for "
            "example a rating of 1 to 5 with stars / 5 (more ways: "
            "braidbandit.recommender.objectives)"
        )
    return reward


def check_rewards(reward: ArrayLike | None, n: int) -> Array:
    """Return rewards as floats in [0, 1], shape (n,); None means 1 for every row.

    Examples
    --------
    >>> check_rewards(None, 2).tolist()
    [1.0, 1.0]
    """
    if reward is None:
        return np.ones(n)
    rewards = as_floats(reward, "reward")
    if rewards.shape != (n,):
        raise ValueError(f"reward has shape {rewards.shape}, expected ({n},)")
    if not ((rewards >= 0) & (rewards <= 1)).all():  # also refuses NaN
        wrong = rewards[~((rewards >= 0) & (rewards <= 1))][0]
        raise ValueError(
            f"a reward lies in [0, 1], received {wrong}; scale rewards first"
        )
    return rewards


def check_propensities(propensity: ArrayLike | None, n: int) -> Array | None:
    """Return propensities as floats in (0, 1], shape (n,), or None."""
    if propensity is None:
        return None
    p = as_floats(propensity, "propensity")
    if p.shape != (n,):
        raise ValueError(f"propensity has shape {p.shape}, expected ({n},)")
    if not ((p > 0) & (p <= 1)).all():
        wrong = p[~((p > 0) & (p <= 1))][0]
        raise ValueError(f"a propensity lies in (0, 1], received {wrong}")
    return p


def check_weight(weight: float) -> float:
    """Return the weight of one reward as a float, or say what is wrong with it.

    Examples
    --------
    >>> check_weight(2)
    2.0
    """
    if isinstance(weight, str | bytes):
        raise TypeError(f"weight is a number, received {weight!r}")
    return float(check_weights([as_float(weight)], 1, "weight", zero=False)[0])


def check_strength(strength: Any) -> float:
    """Return the strength of a comparison as a float in (0, 1].

    Examples
    --------
    >>> check_strength(1)
    1.0
    """
    try:
        if isinstance(strength, str | bytes | bool):
            raise TypeError
        value = as_float(strength)
    except (TypeError, ValueError):
        raise TypeError(
            f"strength is a number above 0 and at most 1, received {strength!r} "
            f"({type(strength).__name__})"
        ) from None
    if not LEAST_WEIGHT <= value <= 1.0:  # also refuses NaN
        raise ValueError(
            f"strength lies between {LEAST_WEIGHT:g} and 1, received {strength!r}: 1 "
            "for a plain statement, less for one that is less sure. Of two answers "
            "that are equally good there is nothing to say: leave it out"
        )
    return value


def check_source(source: Any) -> str:
    """Return the name of who judged, which must be there to be told from others.

    Examples
    --------
    >>> check_source("judge")
    'judge'
    """
    if not isinstance(source, str):
        raise TypeError(
            f"source names who judged and is text, received {source!r} "
            f"({type(source).__name__}); for example source='user'"
        )
    if is_missing(source):
        raise ValueError(
            f"source names who judged, received {source!r}; for example source='user'"
        )
    return source


def check_weights(
    sample_weight: ArrayLike | None,
    n: int,
    name: str = "sample_weight",
    zero: bool = True,
) -> Array:
    """Return weights as floats, shape (n,); None means 1 for every row.

    A weight of 0 leaves a row out, where ``zero`` allows it.
    """
    if sample_weight is None:
        return np.ones(n)
    weights = as_floats(sample_weight, name)
    if weights.shape != (n,):
        raise ValueError(f"{name} has shape {weights.shape}, expected ({n},)")
    fine = (weights >= LEAST_WEIGHT) & (weights <= MOST_WEIGHT)  # also refuses NaN
    if zero:
        fine |= weights == 0
    if not fine.all():
        raise ValueError(
            f"{name} lies between {LEAST_WEIGHT:g} and {MOST_WEIGHT:g}"
            f"{', or is 0' if zero else ''}; received {weights[~fine][0]}. Divide "
            "weights by their mean"
        )
    return weights


def same(one: Any, other: Any) -> bool:
    """Whether two values of a setting are equal; arrays and lists by content.

    Examples
    --------
    >>> same([1, 2], [1, 2]), same(1, np.int64(1)), same(1, 1.0)
    (True, True, False)
    """
    one, other = (v.item() if isinstance(v, np.generic) else v for v in (one, other))
    if one is other:
        return True
    equal = type(one) is type(other)
    return equal and bool(np.array_equal(np.asarray(one), np.asarray(other)))


def check_whole(name: str, value: Any, least: int) -> int:
    """Return a setting as an int, if it is a whole number and at least ``least``.

    Examples
    --------
    >>> check_whole("n_draws", np.int64(3), 1)
    3
    """
    if not isinstance(value, int | Integral) or isinstance(value, bool):
        raise TypeError(f"{name} is a whole number, received {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, received {value!r}")
    return int(value)
