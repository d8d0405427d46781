"""What comes in: a task, as text or as a dict, becomes the feature row ``x``."""

from __future__ import annotations

from braidbandit.tasks.encoder import (
    TaskEncoder,
    canonical_task,
    task_hash,
    what_is_read,
)
from braidbandit.tasks.packaged import (
    calibration_texts,
    load_tasks,
    task_of,
    without_answer,
)

__all__ = [
    "TaskEncoder",
    "calibration_texts",
    "canonical_task",
    "load_tasks",
    "task_hash",
    "task_of",
    "what_is_read",
    "without_answer",
]
