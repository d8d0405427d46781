"""A table of rewards of one's own models: every braid on every task, measured once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.evaluation.score_file import Cell, ScoreFile, task_keys

Array = NDArray[np.float64]
Scorer = Callable[[Braid, Any], float]
Item = TypeVar("Item")


def build_table(
    catalogue: Catalogue,
    tasks: Sequence[Any],
    scorer: Scorer,
    *,
    path: str | Path | None = None,
    n_jobs: int = 1,
    progress: bool = True,
) -> Array:
    """Score every braid on every task.

    Each score is in the file before the next cell begins. A run that was killed goes on
    when it is started again with the same arguments, and loses only the cells that were
    being measured. Tasks are taken one after the other, each on every braid.

    Parameters
    ----------
    catalogue : Catalogue
        All its braids are scored, those that can never be chosen too.
    tasks : sequence of n tasks
        The scorer is given these as they are; they must all differ.
    scorer : callable
        ``(braid, task) -> quality`` in [0, 1].
    path : str or Path, optional
        File of the scores, one line per cell; by default they are in memory only. It
        belongs to one scorer: another one needs another file.
    n_jobs : int
        Processes that measure at once, as for joblib. With more than one, the scorer is
        sent to them.
    progress : bool
        Show a bar with the time left, which needs tqdm.

    Returns
    -------
    ndarray of shape (n, A)
        Columns in the order of the catalogue.

    Raises
    ------
    ValueError
        When a score is outside [0, 1], two tasks are the same, or the file is damaged.
        Scores that are in the file stay there.

    Examples
    --------
    >>> from braidbandit import ModelCard
    >>> catalogue = Catalogue(map(ModelCard, "ab"), map(Braid, "ab"))
    >>> build_table(catalogue, ["one", "three"], progress=False,
    ...             scorer=lambda braid, task: len(task) / 10 * (braid.anchor == "b"))
    array([[0. , 0.3],
           [0. , 0.5]])
    """
    keys = task_keys(tasks)
    file = ScoreFile(path)
    known = file.scores
    cells = [
        (braid, task, (key, braid.id))
        for task, key in zip(tasks, keys, strict=True)
        for braid in catalogue
        if (key, braid.id) not in known
    ]
    scores = _scores(scorer, cells, n_jobs)
    for cell, score in with_bar(scores, len(cells), progress):
        file.add(cell, score)
    rows = [[known[key, arm_id] for arm_id in catalogue.ids] for key in keys]
    return np.array(rows).reshape(len(keys), len(catalogue.ids))


def _scores(
    scorer: Scorer, cells: Sequence[tuple[Braid, Any, Cell]], n_jobs: int
) -> Iterator[tuple[Cell, float]]:
    if n_jobs == 1:
        return (_score(scorer, *cell) for cell in cells)
    # In the order in which they are ready: a slow cell holds up no other one.
    run: Any = Parallel(
        n_jobs=n_jobs, return_as="generator_unordered", pre_dispatch="n_jobs"
    )
    scores: Iterator[tuple[Cell, float]] = run(
        delayed(_score)(scorer, *cell) for cell in cells
    )
    return scores


def _score(scorer: Scorer, braid: Braid, task: Any, cell: Cell) -> tuple[Cell, float]:
    return cell, scorer(braid, task)


def with_bar(
    items: Iterator[Item], total: int | None, progress: bool
) -> Iterator[Item]:
    """Show how many cells are done while they are taken, if that is wished for."""
    if not progress:
        return items
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            "the bar needs tqdm: pip install 'braidbandit[full]', or progress=False"
        ) from error
    return iter(tqdm(items, total=total, desc="cells", smoothing=0.05))
