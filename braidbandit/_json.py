"""Records and settings as JSON: one canonical text, and the hash of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the text that content hashes are of."""
    return _CANONICAL.encode(value)


def content_hash(value: Any, length: int = 16) -> str:
    """First ``length`` hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def unboxed(value: Any) -> Any:
    """Return a number of NumPy as one of Python, which JSON can hold."""
    return value.item() if isinstance(value, np.generic) else value


def plain(record: Any) -> dict[str, Any]:
    """Return the fields of a record, tuples as lists."""
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def known_fields(cls: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values for a record; unknown keys are a KeyError."""
    known = {f.name for f in fields(cls)}
    if set(data) - known:
        raise KeyError(
            f"unknown keys {sorted(set(data) - known)} for {cls.__name__}; known keys "
            f"are {sorted(known)}"
        )
    return dict(data)
