"""Settings of estimators: what they may be, and whether they are still the same."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np

from braidbandit.prior import PriorScales


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
    """Return a whole number that is at least so much.

    Examples
    --------
    >>> check_whole("n_draws", np.int64(3), 1)
    3
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} is a whole number, received {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, received {value!r}")
    return int(value)


def check_learning(forgetting: Any, prior: Any, max_parameters: Any) -> None:
    """Refuse settings that learning could not go by."""
    if not 0.0 < forgetting <= 1.0:
        raise ValueError(f"forgetting lies in (0, 1], received {forgetting!r}")
    if prior is not None and not isinstance(prior, PriorScales):
        raise TypeError(f"prior is PriorScales(...) or None, received {prior!r}")
    check_whole("max_parameters", max_parameters, 0)


_CHOOSES = ("select", "probabilities")


def check_policy(policy: Any) -> None:
    """Refuse what cannot choose; None is the default policy."""
    able = all(callable(getattr(policy, name, None)) for name in _CHOOSES)
    if policy is not None and (isinstance(policy, type) or not able):
        raise TypeError(
            "policy is a policy such as LinUCB(), or None, received "
            f"{policy!r} ({type(policy).__name__})"
        )


def seeded(random_state: Any) -> np.random.Generator:
    """Return a generator; one of a RandomState or Generator goes on where that is.

    Examples
    --------
    >>> state = np.random.RandomState(0)
    >>> seeded(state).bit_generator is state._bit_generator
    True
    """
    if isinstance(random_state, np.random.RandomState):
        return np.random.Generator(random_state._bit_generator)
    return np.random.default_rng(random_state)
