"""Exact replay on tables that hold the reward of every arm on every prompt.

The reward of whatever a policy chooses is known, so that no estimate is needed. All
policies see the same shuffles of the same prompts. Some prompts are reserved as the
probe table of a warm start. The order of the arms is permuted in each shuffle, so that
no policy gains by how it breaks ties.
"""

from __future__ import annotations

import gzip
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray

from braidbandit._checks import as_floats, check_labels, check_whole
from braidbandit._files import parsed_lines
from braidbandit._named import column_names, in_columns, in_rows, ordered
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.recommender.recommender import BraidRecommender
from braidbandit.tasks.encoder import TaskEncoder

Array = NDArray[np.float64]

_ARRAYS = ("rewards", "embeddings", "arms", "prompts", "source")


@dataclass(frozen=True)
class Table:
    """Prompts and what every arm earned on each.

    Attributes
    ----------
    rewards : ndarray of shape (n, A)
        In [0, 1].
    embeddings : ndarray of shape (n, w)
    catalogue : Catalogue
        The arms, one per column of ``rewards``.
    probed : ndarray of int
        Columns of the arms that the warm start is told about.
    origin, unit : float
        What was measured is ``origin + unit * rewards``.
    prompts : tuple of n str, optional
    source : tuple of n str, optional
        Kind of each prompt, such as the data set that it is from.
    """

    rewards: Array
    embeddings: Array
    catalogue: Catalogue
    probed: NDArray[np.intp]
    origin: float = 0.0
    unit: float = 1.0
    prompts: tuple[str, ...] | None = None
    source: tuple[str, ...] | None = None

    def task(self, row: int, typed: bool = False) -> Any:
        """Return the task in a row, for an encoder from :func:`encoder_of`.

        A dict with its text, and with its source as type if ``typed``; its embedding
        where the table has neither prompts nor a source.
        """
        if self.prompts is None and self.source is None:
            return self.embeddings[row]
        task = {"text": self._text(row)}
        if typed and self.source is not None:
            task["type"] = self.source[row]
        return task

    def _text(self, row: int) -> str:
        return f"row {row}" if self.prompts is None else self.prompts[row]

    @classmethod
    def scaled(
        cls,
        measured: Array,
        embeddings: Array,
        catalogue: Catalogue,
        probed: NDArray[np.intp],
        low: float,
        high: float,
    ) -> Table:
        """Return a table of what was measured between ``low`` and ``high``.

        Examples
        --------
        >>> catalogue = Catalogue([ModelCard("a")], [Braid("a")])
        >>> table = Table.scaled(np.array([[3.0], [1.0]]), np.eye(2), catalogue,
        ...                      np.arange(1), 1.0, 5.0)
        >>> table.rewards.tolist(), table.origin, table.unit
        ([[0.5], [0.0]], 1.0, 4.0)
        """
        rewards = (measured - low) / (high - low)
        return cls(rewards, embeddings, catalogue, probed, low, high - low)


def encoder_of(
    table: Table,
    rows: ArrayLike | None = None,
    typed: bool = False,
    letters: bool = True,
) -> TaskEncoder:
    """Return an encoder of a table's tasks, fitted without any reward.

    Its embeddings are those of the table.

    Parameters
    ----------
    table : Table
    rows : array of int, optional
        What it is fitted on, such as the probe prompts; by default all rows.
    typed : bool
        Whether it reads the source of a prompt as its type.
    letters : bool
        Whether it reads the prompts themselves too, where the table has them.

    Returns
    -------
    TaskEncoder

    Examples
    --------
    >>> table = table_of(np.eye(6)[:, :2], np.eye(6), source=[*"aabbcc"])
    >>> encoder = encoder_of(table, typed=True)
    >>> encoder.types, encoder.transform([table.task(3, typed=True)]).shape
    (('a', 'b', 'c'), (1, 24))
    """
    chosen = np.arange(len(table.rewards)) if rows is None else np.asarray(rows)
    types = tuple(sorted(set(table.source))) if typed and table.source else ()
    if table.prompts is None and table.source is None:
        return TaskEncoder(types=types).fit(table.embeddings[chosen])
    place = {table.task(i)["text"]: i for i in range(len(table.rewards))}
    encoder = TaskEncoder(
        embedder=lambda texts: table.embeddings[[place[text] for text in texts]],
        types=types,
        n_letters=TaskEncoder().n_letters if letters and table.prompts else 0,
        window=None,
    )
    return encoder.fit([table.task(i, typed) for i in chosen.tolist()])


def table_of(
    rewards: Any,
    embeddings: Any,
    names: Any = None,
    *,
    prompts: Sequence[str] | None = None,
    source: Sequence[str] | None = None,
) -> Table:
    """Return a table of single models; a prompt that occurs again is left out.

    Without ``prompts``, two of the same embedding are one.

    Parameters
    ----------
    rewards : array-like of shape (n, A), or data frame, or dict of columns
        Rewards outside [0, 1] are scaled, so that the lowest is 0 and the highest 1.
    embeddings : array-like of shape (n, w)
        If both have row labels, the rewards are brought into the order of these rows.
    names : sequence of A names, optional
        Of the models. By default the column names of ``rewards``, or else numbers.
    prompts, source : sequence of n str, optional
        The prompts, and the kind of each, in the order of ``embeddings``.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        When shapes do not fit, or numbers are not finite or masked.

    Examples
    --------
    >>> table_of([[0, 2], [1, 0], [1, 0]], [[1.0], [2.0], [2.0]]).rewards.tolist()
    [[0.0, 1.0], [0.5, 0.0]]
    """
    rewards, names = _in_order(rewards, embeddings, names)
    rewards, embeddings = (
        as_floats(rewards, "rewards"),
        as_floats(embeddings, "embeddings"),
    )
    if rewards.ndim != 2 or embeddings.ndim != 2 or len(rewards) != len(embeddings):
        raise ValueError(
            f"received rewards {rewards.shape} and embeddings {embeddings.shape}, "
            "expected (n, A) and (n, w)"
        )
    if not rewards.size:
        raise ValueError(
            f"a table has a cell at least, received rewards {rewards.shape}"
        )
    if not (np.isfinite(rewards).all() and np.isfinite(embeddings).all()):
        raise ValueError("rewards and embeddings must be finite, received NaN or inf")
    n_arms = rewards.shape[1]
    named = range(n_arms) if names is None else names
    models = [str(name) for name in check_labels(named, "columns")]
    if len(models) != n_arms:
        raise ValueError(
            f"received {len(models)} names for {n_arms} columns of rewards"
        )
    prompts = _texts("prompts", prompts, len(rewards))
    source = _texts("source", source, len(rewards))
    told = embeddings if prompts is None else np.array(prompts)
    first = np.sort(np.unique(told, axis=0, return_index=True)[1])
    catalogue = Catalogue(map(ModelCard, models), map(Braid, models))
    low, high = min(0.0, float(rewards.min())), max(1.0, float(rewards.max()))
    table = Table.scaled(
        rewards[first], embeddings[first], catalogue, np.arange(n_arms), low, high
    )
    return replace(
        table,
        prompts=None if prompts is None else tuple(prompts[i] for i in first),
        source=None if source is None else tuple(source[i] for i in first),
    )


def _texts(name: str, given: Sequence[str] | None, n: int) -> list[str] | None:
    if given is None:
        return None
    texts = [str(text) for text in given]
    if len(texts) != n or not all(text.strip() for text in texts):
        raise ValueError(
            f"{name} is one text for each of {n} rows, none of them empty; received "
            f"{len(texts)}"
        )
    return texts


def read_table(path: str | Path) -> Table:
    """Read a table from an ``.npz`` file.

    Parameters
    ----------
    path : str or Path
        Holds ``rewards`` (n, A) and ``embeddings`` (n, w) as for :func:`table_of`, and
        optionally ``arms`` (A,), the names of the models, ``prompts`` (n,) and
        ``source`` (n,). Prompts may also be in a file beside it, ``NAME_prompts.jsonl``
        or ``.jsonl.gz``: on each line a JSON text, or an object with "prompt", in the
        order of the rows.

    Returns
    -------
    Table

    Raises
    ------
    KeyError
        When an array is missing.
    ValueError
        When it is no such file, or a damaged one.
    """
    found: dict[str, Any]
    try:
        # Opened here: NumPy leaves a file that it cannot read open.
        with Path(path).open("rb") as file:
            opened = np.load(file, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise ValueError("one array alone")
            found = {name: opened[name] for name in _ARRAYS if name in opened.files}
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        # What NumPy says is how to read it unsafely.
        raise ValueError(
            f"{path} is no table, or damaged; expected an .npz file with numbers "
            "'rewards' and 'embeddings', and 'arms', such as `braidbandit probe "
            "--save` writes"
        ) from error
    missing = {"rewards", "embeddings"} - set(found)
    if missing:
        raise KeyError(f"{path} lacks {sorted(missing)}; it has {opened.files}")
    prompts = found.get("prompts")
    if prompts is None:
        prompts = _prompts_beside(Path(path))
    return table_of(
        found["rewards"],
        found["embeddings"],
        found.get("arms"),
        prompts=prompts,
        source=found.get("source"),
    )


def _prompts_beside(path: Path) -> list[str] | None:
    """Return the prompts in a file of their own; None where there is none."""
    for suffix in ("_prompts.jsonl", "_prompts.jsonl.gz"):
        file = path.with_name(path.stem + suffix)
        if file.exists():
            opened: Any = gzip.open if suffix.endswith(".gz") else open
            with opened(file, "rb") as lines:
                rows = [row for _, row in parsed_lines(lines, file)]
            return [row["prompt"] if isinstance(row, dict) else row for row in rows]
    return None


@dataclass(frozen=True)
class Shuffle:
    """One order of prompts and arms.

    Attributes
    ----------
    seed : int
    probe, run : ndarrays of int
        Rows of the table: the reserved prompts, and those of the rounds in order.
    arms : ndarray of int, shape (A,)
        Columns of the table. A policy knows an arm by its position in this array.
    """

    seed: int
    probe: NDArray[np.intp]
    run: NDArray[np.intp]
    arms: NDArray[np.intp]

    def probe_arms(self, table: Table) -> NDArray[np.intp]:
        """Return the positions of the arms that the warm start is told about."""
        return np.flatnonzero(np.isin(self.arms, table.probed))


def shuffles(
    table: Table, rounds: int, seeds: int, probes: int = 40
) -> Iterator[Shuffle]:
    """Yield one shuffle per seed.

    Parameters
    ----------
    table : Table
    rounds : int
        Prompts to play; fewer where the table has no more.
    seeds : int
        Number of shuffles: their seeds are 0, 1, 2, ...
    probes : int
        Prompts reserved for the warm start.

    Yields
    ------
    Shuffle

    Raises
    ------
    ValueError
        When all prompts would be reserved, or no round would be played.

    Examples
    --------
    >>> table = table_of(np.eye(6)[:, :2], np.arange(6.0)[:, None])
    >>> one = next(shuffles(table, 4, 1, probes=2))
    >>> sorted([*one.probe, *one.run]) == list(range(6)), sorted(one.arms.tolist())
    (True, [0, 1])
    """
    prompts, arms = table.rewards.shape
    rounds, probes = check_whole("rounds", rounds, 1), check_whole("probes", probes, 0)
    if prompts <= probes:
        raise ValueError(f"{prompts} prompts cannot spare {probes} for the probe")
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(prompts)
        run = order[probes : probes + rounds]
        yield Shuffle(seed, order[:probes], run, rng.permutation(arms))


class Player(Protocol):
    """A policy that is replayed: chooses an arm by position, then learns its reward."""

    def choose(self, row: int) -> int:
        """Choose an arm for the prompt in this row of the table."""
        ...

    def learn(self, row: int, arm: int, reward: float) -> None:
        """Learn what the chosen arm earned."""
        ...


@dataclass(frozen=True)
class Run:
    """What one player earned on one shuffle.

    Attributes
    ----------
    rewards : ndarray of shape (T,)
        As measured, before they were brought to [0, 1].
    regret : float
        What the arm that is best over all rounds earned, minus what was earned.
    last_quarter : float
        Mean reward of the last quarter of the rounds.
    ms : float
        Median milliseconds of one choice and one update.
    """

    rewards: Array
    regret: float
    last_quarter: float
    ms: float


def replay(
    table: Table,
    shuffle: Shuffle,
    player: Player,
    on_round: Callable[[], Any] = lambda: None,
) -> Run:
    """Play every round of a shuffle: one choice, one update.

    Parameters
    ----------
    table : Table
    shuffle : Shuffle
    player : Player
    on_round : callable, optional
        Called without arguments after every round.

    Returns
    -------
    Run

    Examples
    --------
    Arm 1 always earns 1, arm 0 never. Whoever plays arm 0 first and then arm 1
    loses one reward in four rounds.

    >>> class Second:
    ...     played = 0
    ...     def choose(self, row): return 1 if self.played else 0
    ...     def learn(self, row, arm, reward): self.played += 1
    >>> table = table_of(np.tile([0.0, 1.0], (4, 1)), np.arange(4.0)[:, None])
    >>> order = Shuffle(0, np.arange(0), np.arange(4), np.arange(2))
    >>> run = replay(table, order, Second())
    >>> run.rewards.tolist(), run.regret, run.last_quarter
    ([0.0, 1.0, 1.0, 1.0], 1.0, 1.0)
    """
    earned, spent = np.zeros(len(shuffle.run)), np.zeros(len(shuffle.run))
    for t, row in enumerate(shuffle.run.tolist()):
        start = time.perf_counter()
        arm = player.choose(row)
        chosen = time.perf_counter()
        earned[t] = table.rewards[row, shuffle.arms[arm]]
        again = time.perf_counter()
        player.learn(row, arm, float(earned[t]))
        spent[t] = time.perf_counter() - again + chosen - start
        on_round()
    return score(table, shuffle, earned, 1e3 * float(np.median(spent)))


def replay_all(
    table: Table,
    make: Callable[[Shuffle], Player],
    rounds: int,
    seeds: int,
    probes: int = 40,
    n_jobs: int = 1,
) -> list[Run]:
    """Play several shuffles in parallel, each with a player of its own.

    Parameters
    ----------
    table : Table
    make : callable
        ``shuffle -> player``.
    rounds, seeds, probes : int
        See :func:`shuffles`.
    n_jobs : int
        Processes, as for joblib; the result does not depend on it.

    Returns
    -------
    list of Run
        One per shuffle.

    Examples
    --------
    >>> class First:
    ...     def choose(self, row): return 0
    ...     def learn(self, row, arm, reward): pass
    >>> table = table_of(np.ones((6, 1)), np.arange(6.0)[:, None])
    >>> [r.regret for r in replay_all(table, lambda shuffle: First(), 3, 2, probes=1)]
    [0.0, 0.0]
    """
    run: Any = Parallel(n_jobs=n_jobs)
    runs: list[Run] = run(
        delayed(_play)(table, make, shuffle)
        for shuffle in shuffles(table, rounds, seeds, probes)
    )
    return runs


def score(table: Table, shuffle: Shuffle, earned: Array, ms: float) -> Run:
    """Score what was earned on a shuffle.

    Parameters
    ----------
    table : Table
    shuffle : Shuffle
    earned : ndarray of shape (T,)
        Reward of each round, in [0, 1].
    ms : float
        Median milliseconds of a round.

    Returns
    -------
    Run
        In the units in which the table was measured.

    Examples
    --------
    Two prompts, of which arm 0 solves both; one was solved.

    >>> table = table_of(np.array([[1.0, 0.0], [1.0, 1.0]]), np.eye(2))
    >>> order = Shuffle(0, np.arange(0), np.arange(2), np.arange(2))
    >>> score(table, order, np.array([0.0, 1.0]), 0.1).regret
    1.0
    """
    best = float(table.rewards[shuffle.run].sum(axis=0).max())
    quarter = max(len(earned) // 4, 1)
    return Run(
        table.origin + table.unit * earned,
        table.unit * (best - float(earned.sum())),
        table.origin + table.unit * float(earned[-quarter:].mean()),
        ms,
    )


class BraidPlayer:
    """A :class:`BraidRecommender` in its default settings that ignores costs.

    Parameters
    ----------
    table : Table
    shuffle : Shuffle
    encoder : TaskEncoder
        From :func:`encoder_of`, or one that is fitted on the table's embeddings.
    warm : bool
        Whether it is told the probe table, if prompts are reserved for one.
    **settings
        Of BraidRecommender.
    """

    def __init__(
        self,
        table: Table,
        shuffle: Shuffle,
        encoder: TaskEncoder,
        warm: bool = True,
        **settings: Any,
    ) -> None:
        known = table.catalogue
        catalogue = Catalogue(
            known.cards.values(), [known.braids[column] for column in shuffle.arms]
        )
        self._rows = {arm_id: row for row, arm_id in enumerate(catalogue.ids)}
        self._task = partial(table.task, typed=bool(len(encoder.types)))
        self.agent = BraidRecommender(
            catalogue, encoder, price=0.0, random_state=shuffle.seed, **settings
        )
        if warm and len(shuffle.probe):
            arms = shuffle.probe_arms(table)
            tasks = [self._task(row) for row in shuffle.probe.tolist()]
            self.agent.warm_start(
                np.array(tasks) if isinstance(tasks[0], np.ndarray) else tasks,
                [catalogue.ids[arm] for arm in arms],
                table.rewards[np.ix_(shuffle.probe, shuffle.arms[arms])],
            )

    def choose(self, row: int) -> int:
        """Choose by ``recommend``."""
        self._decision = self.agent.recommend(self._task(row))
        return self._rows[self._decision.braid.id]

    def learn(self, row: int, arm: int, reward: float) -> None:
        """Learn by ``update``."""
        self.agent.update(self._decision, reward)


def _in_order(
    rewards: Any, embeddings: Any, names: Any
) -> tuple[Any, list[Any] | None]:
    """Return rewards in the order of embeddings and names, and the names, if any."""
    if names is None:
        names = column_names(rewards)
    if names is None and isinstance(rewards, Mapping):
        names = list(rewards)
    if names is None:
        return in_rows(embeddings, {"rewards": rewards})[0], None
    names = ordered(names, "names")
    return in_columns(rewards, names, "rewards", embeddings), names


def _play(table: Table, make: Callable[[Shuffle], Player], shuffle: Shuffle) -> Run:
    return replay(table, shuffle, make(shuffle))
