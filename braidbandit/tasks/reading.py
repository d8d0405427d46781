"""The canonical form of a task, and the hash by which equal tasks are known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from braidbandit._json import content_hash, unboxed

MOST_CAPABILITIES = 4
"""More of them say no more about a task."""


def canonical_task(task: Any) -> dict[str, Any]:
    """Return a task in the one form that all ways of writing it have in common.

    It holds what decides the task's features.

    Parameters
    ----------
    task : str or dict

    Returns
    -------
    dict
        "text", which without a text or prompt is made of type and capabilities, and
        where they are given "type", "complexity" as a float and "capabilities" as
        their number. What is None is left out; other keys stay as they are.

    Examples
    --------
    >>> canonical_task({"type": "code", "complexity": 1})
    {'type': 'code', 'complexity': 1.0, 'text': 'A code task'}
    >>> canonical_task({"text": "hello", "capabilities": ["tact", "wit"]})
    {'text': 'hello', 'capabilities': 2}
    >>> canonical_task({"prompt": "hello", "type": None}) == canonical_task("hello")
    True
    """
    if isinstance(task, str):
        return {"text": task}
    read = {key: value for key, value in task.items() if value is not None}
    names = read.pop("capabilities", ())
    if "text" not in read:
        read["text"] = read.pop("prompt", None) or _described(read.get("type"), names)
    if isinstance(read.get("complexity"), Real):
        # Without the sign of a zero, which JSON by way of JavaScript drops.
        read["complexity"] = float(read["complexity"]) + 0.0
    if names:
        read["capabilities"] = min(len(names), MOST_CAPABILITIES)
    return read


what_is_read = canonical_task
"""Former name of :func:`canonical_task`."""


def _described(kind: str | None, names: Sequence[str]) -> str:
    needs = f" that needs {', '.join(names)}" if names else ""
    return f"A {kind or 'general'} task{needs}"


def task_hash(task: Any) -> str:
    """Return the hash of a task in its canonical form: equal tasks share it.

    It does not matter how a task is written: as text or in a dict, with a number as 1
    or 1.0, with a key that is None or left out; see :func:`canonical_task`. A numeric
    task is hashed by its float64 bytes. The text is not in the hash, but whoever
    guesses it can tell that it was this one, and a short text is soon guessed.

    Parameters
    ----------
    task : str, dict or ndarray of shape (d,)

    Returns
    -------
    str
        16 hexadecimal digits.

    Examples
    --------
    >>> task_hash({"type": "code", "complexity": 1.0, "capabilities": None})
    '1adfe38e16c204ba'
    >>> task_hash({"complexity": 1, "type": "code"})
    '1adfe38e16c204ba'
    """
    if isinstance(task, str | Mapping):
        return content_hash({k: unboxed(v) for k, v in canonical_task(task).items()})
    return _hash_of_numbers(np.asarray(task, np.float64) + 0.0)


def is_hash_of(found: str, task: Any) -> bool:
    """Whether a hash is of this task, also one of an earlier version."""
    return found in (task_hash(task), hash_as_given(task))


def hash_as_given(task: Any) -> str:
    """Hash of a task key by key: what earlier versions recorded as its hash."""
    if isinstance(task, Mapping):
        return content_hash({key: unboxed(value) for key, value in task.items()})
    if isinstance(task, str):
        return content_hash(task)
    return _hash_of_numbers(np.asarray(task, np.float64))


def _hash_of_numbers(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]
