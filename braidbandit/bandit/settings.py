"""Settings of estimators: what they may be, and whether they are still the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from braidbandit._checks import check_whole
from braidbandit.bandit.prior import PriorScales


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
