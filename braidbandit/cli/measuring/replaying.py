"""A table of rewards, played: learning beside the best arm of the probe and chance."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit.cli.shell.progress import progress
from braidbandit.evaluation.replay import (
    BraidPlayer,
    Run,
    Shuffle,
    Table,
    read_table,
    replay,
    score,
    shuffles,
)
from braidbandit.tasks.encoder import TaskEncoder

Array = NDArray[np.float64]
_MOST_PROBES = 40


@dataclass(frozen=True)
class Row:
    """What one policy earned, on average over the shuffles.

    Attributes
    ----------
    name : str
    mean, error : float
        Mean reward of a round, and its standard error over shuffles; NaN of one.
    last_quarter : float
    regret, regret_error : float
        Against the arm that is best over all rounds.
    """

    name: str
    mean: float
    error: float
    last_quarter: float
    regret: float
    regret_error: float

    @classmethod
    def of(cls, name: str, runs: list[Run]) -> Row:
        """Average some runs."""
        means = np.array([run.rewards.mean() for run in runs])
        regrets = np.array([run.regret for run in runs])
        return cls(
            name,
            float(means.mean()),
            _error(means),
            float(np.mean([run.last_quarter for run in runs])),
            float(regrets.mean()),
            _error(regrets),
        )


@dataclass(frozen=True)
class Replayed:
    """What every policy earned on a table.

    Attributes
    ----------
    rows : list of Row
    rounds, arms, seeds, probes : int
    """

    rows: list[Row]
    rounds: int
    arms: int
    seeds: int
    probes: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)


def replayed(file: Path, rounds: int, seeds: int, probes: int | None) -> Replayed:
    """Play a table.

    Parameters
    ----------
    file : Path
        See :func:`braidbandit.evaluation.replay.read_table`.
    rounds, seeds : int
    probes : int, optional
        Prompts that the policy is told on all arms; by default a fifth of them, at
        most 40.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        When the table cannot be read, or is too small.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no table {file}")
    table = read_table(file)
    prompts, arms = table.rewards.shape
    told = min(prompts // 5, _MOST_PROBES) if probes is None else probes
    # Without any reward: what kinds of prompts there are is known beforehand.
    encoder = TaskEncoder().fit(table.embeddings)
    orders = list(shuffles(table, rounds, seeds, told))
    learnt: list[Run] = []
    best: list[Run] = []
    chance: list[Run] = []
    with progress("playing", sum(len(order.run) for order in orders)) as advance:
        for order in orders:
            player = BraidPlayer(table, order, encoder)
            learnt.append(replay(table, order, player, advance))
            best.append(_always_best_of_probe(table, order))
            chance.append(_by_chance(table, order))
    rows = [Row.of("learnt", learnt), Row.of("random arm", chance)]
    if told:
        rows.insert(1, Row.of("always the best arm of the probe", best))
    return Replayed(rows, len(orders[0].run), arms, seeds, told)


def _always_best_of_probe(table: Table, order: Shuffle) -> Run:
    known = table.rewards[order.probe]
    arm = int(known.mean(axis=0).argmax()) if len(known) else 0
    return score(table, order, table.rewards[order.run, arm], 0.0)


def _by_chance(table: Table, order: Shuffle) -> Run:
    """What a random arm earns is the mean of all."""
    return score(table, order, table.rewards[order.run].mean(axis=1), 0.0)


def _error(values: Array) -> float:
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1) / np.sqrt(len(values)))
