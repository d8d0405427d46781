"""The file of a table of scores: one line per cell, on the disk once it is known."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from braidbandit._checks import check_reward
from braidbandit._files import cut_to_whole_lines, damaged, read_lines
from braidbandit.tasks.encoder import hash_as_given

Cell = tuple[str, str]


def task_keys(tasks: Sequence[Any]) -> list[str]:
    """Return a hash of each task, of all that is in it: a scorer may read it all.

    Raises
    ------
    TypeError
        When this is no list of tasks.
    ValueError
        When two tasks are the same.

    Examples
    --------
    >>> len(task_keys(["one", {"text": "two"}]))
    2
    """
    if isinstance(tasks, str | Mapping) or hasattr(tasks, "columns"):
        raise TypeError(
            f"tasks is a {type(tasks).__name__}; give a list of tasks, or the column "
            "of a table that holds them"
        )
    keys = [hash_as_given(task) for task in tasks]
    if len(set(keys)) != len(keys):
        raise ValueError("some tasks are the same; give each once")
    return keys


class ScoreFile:
    """Scores by task and arm, in the order in which they were measured.

    Parameters
    ----------
    path : str or Path, optional
        What it holds is read; half a line at the end is cut off. Without a path, scores
        are in memory only.

    Attributes
    ----------
    scores : dict from (key of the task, arm id) to float

    Raises
    ------
    ValueError
        When the file is damaged. It stays as it is.

    Examples
    --------
    >>> file = ScoreFile()
    >>> file.add(("a task", "an arm"), 1)
    >>> file.scores
    {('a task', 'an arm'): 1.0}
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = None if path is None else Path(path).expanduser()
        self.scores: dict[Cell, float] = {}
        if self._path is not None:
            self.scores = _read(self._path)

    def add(self, cell: Cell, score: Any) -> None:
        """Add a score; it is on the disk when this returns.

        Raises
        ------
        TypeError, ValueError
            When this is no number in [0, 1]. Nothing was written then.
        """
        reward = check_reward(score)
        if self._path is not None:
            row = {"task": cell[0], "arm": cell[1], "score": reward}
            with self._path.open("ab") as stream:
                stream.write((json.dumps(row) + "\n").encode())
                stream.flush()
                os.fsync(stream.fileno())
        self.scores[cell] = reward


def _read(file: Path) -> dict[Cell, float]:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        return {}
    known: dict[Cell, float] = {}
    advice = "; delete that line and its cell is measured again"
    for number, row in read_lines(file, only_whole=True, advice=advice):
        try:
            known.update([_cell(row)])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(number, file, error, advice) from error
    cut_to_whole_lines(file)
    return known


def _cell(row: Mapping[str, Any]) -> tuple[Cell, float]:
    cell = row["task"], row["arm"]
    if not all(isinstance(name, str) for name in cell):
        raise TypeError(f"a cell is named by text, received {cell}")
    return cell, check_reward(row["score"])
