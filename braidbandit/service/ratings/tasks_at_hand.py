"""The tasks of the newest decisions, kept in memory only, for explanations."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

_MOST = 1000
_LONGEST = 20_000  # characters


class TasksAtHand:
    """The newest 1,000 tasks by decision. Several threads may use it.

    Examples
    --------
    >>> tasks = TasksAtHand()
    >>> tasks.keep("d1", {"text": "Sort a list."})
    >>> tasks.task("d1"), tasks.task("d2")
    ({'text': 'Sort a list.'}, None)
    """

    def __init__(self) -> None:
        self._tasks: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, decision_id: str, task: dict[str, Any]) -> None:
        """Keep a task, unless it is very long."""
        if len(task.get("text", "")) > _LONGEST:
            return
        with self._lock:
            self._tasks[decision_id] = task
            while len(self._tasks) > _MOST:
                self._tasks.popitem(last=False)

    def task(self, decision_id: str) -> dict[str, Any] | None:
        """Return the task of a decision; None where it is no longer at hand."""
        with self._lock:
            return self._tasks.get(decision_id)
