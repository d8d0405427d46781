"""What is told of a task beside its text, as numbers: capabilities and named features.

Names are not known beforehand, and new ones come at any time. Each has a fixed code, a
row of signs that follows from its hash; what a task has is the sum of their codes.
Codes of different names are nearly orthogonal, so a linear model tells as many names
apart as codes are long, and more of them roughly (Weinberger et al. 2009, *Feature
hashing for large scale multitask learning*).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import as_float

Array = NDArray[np.float64]

# As large as the column of a type that a task states.
_LENGTH = 2.0


def check_features(features: Any) -> dict[str, str | float]:
    """Return named features as they are read, or say what is wrong with them.

    Parameters
    ----------
    features : mapping of str to number, text or bool

    Returns
    -------
    dict
        By name: text for a category, a float for a number. What is None is left out.

    Examples
    --------
    >>> check_features({"channel": "email", "attachments": 2, "urgent": True})
    {'channel': 'email', 'attachments': 2.0, 'urgent': 'True'}
    """
    if not isinstance(features, Mapping):
        raise TypeError(
            "features is a dict of numbers and categories by name, such as "
            f"{{'channel': 'email', 'attachments': 2}}, received {features!r}"
        )
    read: dict[str, str | float] = {}
    for name, value in features.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"a feature has a name that is text, received {name!r}")
        if value is None:
            continue
        if isinstance(value, bool | np.bool_ | str):
            read[name] = str(value)
        elif isinstance(value, Real):
            number = as_float(value)
            if not math.isfinite(number):
                raise ValueError(f"feature {name!r} must be finite, received {value!r}")
            # Without the sign of a zero.
            read[name] = number + 0.0
        else:
            raise TypeError(
                f"feature {name!r} is a number, text or bool, received {value!r}"
            )
    return read


def details_of(
    capabilities: Sequence[str], features: Mapping[str, str | float], width: int
) -> Array:
    """Return what is told of a task as numbers.

    A category counts 1; a number its logarithm ``log(1 + |value|)``, with its sign, so
    that no unit drowns the others.

    Parameters
    ----------
    capabilities : sequence of str
    features : mapping
        From :func:`check_features`.
    width : int
        Length of the codes.

    Returns
    -------
    ndarray of shape (width,)

    Examples
    --------
    >>> one, other = (details_of([], {"n": n}, 4) for n in (1.0, 3.0))
    >>> bool(np.allclose(other, 2 * one))
    True
    """
    found = np.zeros(width)
    for name in sorted(set(capabilities)):
        found += code_of(f"capability={name}", width)
    for name, value in features.items():
        if isinstance(value, str):
            found += code_of(f"{name}={value}", width)
        else:
            size = math.copysign(math.log1p(abs(value)), value)
            found += size * code_of(name, width)
    return found


@lru_cache(maxsize=4096)
def code_of(name: str, width: int) -> Array:
    """Return the code of a name: signs that follow from its hash, of length 2."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    signs = np.random.default_rng(seed).integers(0, 2, width) * 2.0 - 1.0
    code = np.asarray(signs * (_LENGTH / math.sqrt(width)), dtype=np.float64)
    code.setflags(write=False)  # every caller gets this very array
    return code
