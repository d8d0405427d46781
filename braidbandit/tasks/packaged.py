"""The packaged tasks and calibration texts: seven domains, written for this project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from braidbandit._files import parsed_lines

_TASK_KEYS = ("prompt", "type", "complexity", "capabilities")


def load_tasks(split: str | None = None) -> list[dict[str, Any]]:
    """Return the packaged tasks: 24 in each of seven domains.

    Parameters
    ----------
    split : "train" or "test", optional
        None returns both: 18 train and 6 test tasks per domain.

    Returns
    -------
    list of dict
        "id", "type", "complexity", "capabilities", "split", "prompt", "reference",
        and "tests" (code) or "answer" (maths).

    Examples
    --------
    >>> len(load_tasks("train")), len(load_tasks("test"))
    (126, 42)
    """
    if split not in (None, "train", "test"):
        raise ValueError(f"split is 'train', 'test' or None, received {split!r}")
    tasks = _read("tasks.jsonl")
    return [task for task in tasks if split in (None, task["split"])]


def calibration_texts(per_domain: int | None = None) -> list[dict[str, str]]:
    """Return the packaged calibration texts: 26 in each of seven domains.

    Parameters
    ----------
    per_domain : int, optional
        Only the first so many of each domain.

    Returns
    -------
    list of dict
        "domain", "prompt" and "reference"; none of them is one of the tasks.

    Examples
    --------
    >>> len(calibration_texts()), len(calibration_texts(per_domain=2))
    (182, 14)
    """
    texts = _read("calibration.jsonl")
    if per_domain is None:
        return texts
    if per_domain < 1:
        raise ValueError(f"per_domain must be at least 1, received {per_domain!r}")
    taken: Counter[str] = Counter()
    kept = []
    for text in texts:
        taken[text["domain"]] += 1
        if taken[text["domain"]] <= per_domain:
            kept.append(text)
    return kept


def without_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an agent may see of a packaged task: everything but the answer.

    Parameters
    ----------
    row : dict
        One of :func:`load_tasks`.

    Returns
    -------
    dict
        "prompt", "type", "complexity" and "capabilities".

    Examples
    --------
    >>> sorted(without_answer(load_tasks()[0]))
    ['capabilities', 'complexity', 'prompt', 'type']
    """
    return {key: row[key] for key in _TASK_KEYS}


task_of = without_answer
"""Former name of :func:`without_answer`."""


def _read(name: str) -> list[dict[str, Any]]:
    with (files("braidbandit.tasks") / "data" / name).open("rb") as file:
        return [row for _, row in parsed_lines(file)]
