"""Which of one's own prompts to score on which arms, before a warm start.

A cell is one prompt on one arm. Scoring whole rows, every arm on every prompt, spends
as many cells on arms that are known to be worse by then as on those that may be best.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_whole
from braidbandit.bandit.cell_belief import CellBelief
from braidbandit.bandit.online_posterior import OnlinePosterior
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.task_noise import task_covariance
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard, as_cards
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.evaluation.reward_table import Scorer, with_bar
from braidbandit.evaluation.score_file import ScoreFile, task_keys
from braidbandit.tasks.encoder import TaskEncoder

Array = NDArray[np.float64]
logger = logging.getLogger(__name__)

# Share of the noise that is common to a task, before any score, and for how many
# comparisons within tasks that stands.
_COMMON, _COMMON_COUNTS = 0.3, 8
# Prior scales are found at so many scores, and then at a quarter more each time.
_SCALES_FROM, _SCALES_GROW = 8, 1.25
# New prompts that a cell may be on, beside those that were begun.
_NEW = 8
# Prompts that a choice is judged by; and cells of these prompts times cells that are
# compared, which holds a step below a second.
_FEWEST_JUDGED, _MOST_JUDGED = 16, 64
_FEWEST_TRIED, _MOST_PAIRS = 256, 3_000_000
# Draws that say which arms may be best; and the part that all arms share alike,
# as what is believed may be wrong.
_DRAWS_OF_BEST, _SHARED = 200, 0.25
_MOST_PROMPTS, _MOST_KINDS, _PROMPTS_PER_KIND = 2_000, 8, 5
_DRAWS = 1_000


@dataclass(frozen=True)
class Forecast:
    """What the next cells of a plan are expected to buy.

    Attributes
    ----------
    cells : list of (task, Braid)
        The cells, the most informative first.
    gain : float
        Expected rise of the mean reward of the best arm for each prompt, over prompts
        like these.
    error : float
        Standard error of the gain, from the draws it is the mean of.
    """

    cells: list[tuple[Any, Braid]]
    gain: float
    error: float


def plan_probe(
    catalogue: Catalogue | Iterable[ModelCard | Mapping[str, Any] | str],
    prompts: Sequence[Any],
    *,
    encoder: TaskEncoder | None = None,
    path: str | Path | None = None,
    random_state: int = 0,
) -> ProbePlan:
    """Plan which prompts to score on which arms, cell by cell.

    Parameters
    ----------
    catalogue : Catalogue, or list of models
        Of a list of models, each is scored alone. Arms that are unfit are left out.
    prompts : list of tasks, or ndarray of shape (n, d)
        Of the kind that will come, a few dozen to a few hundred; they must all differ,
        and cost nothing until they are scored.
    encoder : TaskEncoder, optional
        One that is not fitted is copied, and fitted on the prompts.
    path : str or Path, optional
        File of the scores, as of :func:`build_table`, which scores what the plan has
        left out; what it holds is known. By default they are in memory only.
    random_state : int
        Seed of the order of equally good cells, and of draws.

    Returns
    -------
    ProbePlan

    Examples
    --------
    >>> embed = lambda texts: np.eye(4)[[len(text) % 4 for text in texts]]
    >>> plan = plan_probe(["a", "b"], ["one", "three", "seven"],
    ...                   encoder=TaskEncoder(embedder=embed))
    >>> score = lambda braid, task: 0.9 if braid.anchor == "b" else 0.2
    >>> plan.measure(score, most=4, progress=False).n_scored
    4
    """
    if not isinstance(catalogue, Catalogue):
        cards = as_cards(catalogue)
        catalogue = Catalogue(cards, [Braid(card.name) for card in cards])
    return ProbePlan(catalogue, prompts, encoder, path, random_state)


class ProbePlan:
    """A table of scores that is filled where it tells most; from :func:`plan_probe`.

    Each score is kept before the next cell is chosen. Whoever stops after any cell and
    makes the same plan again from the same file goes on as if nothing had happened.

    Parameters
    ----------
    catalogue, prompts, encoder, path, random_state
        As for :func:`plan_probe`.

    Attributes
    ----------
    catalogue : Catalogue
    encoder : TaskEncoder
        Fitted on all prompts: give it to the recommender that will learn the table.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        prompts: Sequence[Any],
        encoder: TaskEncoder | None = None,
        path: str | Path | None = None,
        random_state: int = 0,
    ) -> None:
        self._keys = task_keys(prompts)
        if not self._keys:
            raise ValueError("received no prompts, expected a few dozen or more")
        self._seed = check_whole("random_state", random_state, 0)
        is_array = isinstance(prompts, np.ndarray)
        self._prompts: Any = prompts if is_array else list(prompts)
        self.catalogue = catalogue
        ids = enumerate(catalogue.ids)
        self._arms = [row for row, arm_id in ids if arm_id not in catalogue.unfit]
        if not self._arms:
            raise ValueError(
                "every arm of the catalogue is unfit; calibrate them again"
            )
        self.encoder = _fitted(encoder, prompts)
        self._X = self.encoder.features(prompts)
        Z, self._columns = catalogue.descriptors()
        self._Z = np.ascontiguousarray(Z[self._arms])
        self._order = spread(self._X, self._seed)
        judged = _MOST_PAIRS // (len(self._arms) * _FEWEST_TRIED)
        judged = min(max(judged, _FEWEST_JUDGED), _MOST_JUDGED)
        self._judged = self._order[:judged]
        self._file = ScoreFile(path)
        self._found: tuple[int, Posterior, float] | None = None
        self._known: tuple[int, CellBelief] | None = None

    # ---- what is known ----

    @property
    def tasks(self) -> Any:
        """The prompts with a score: rows of the table."""
        rows = [i for i, row in enumerate(self._there()) if row.any()]
        if isinstance(self._prompts, np.ndarray):
            return self._prompts[rows]
        return [self._prompts[i] for i in rows]

    @property
    def arm_ids(self) -> list[str]:
        """The arms with a score: columns of the table."""
        columns = np.flatnonzero(self._there().any(axis=0))
        return [self.catalogue.ids[self._arms[j]] for j in columns]

    @property
    def table(self) -> Array:
        """The scores, NaN where there is none: what ``warm_start`` takes."""
        scores = self._scores()
        there = ~np.isnan(scores)
        return scores[np.ix_(there.any(axis=1), there.any(axis=0))]

    @property
    def n_scored(self) -> int:
        """Number of cells with a score."""
        return int(self._there().sum())

    # ---- what comes next ----

    def forecast(self, n: int) -> Forecast:
        """Return the next n cells, and what they are expected to buy.

        The gain is that of choosing the best arm for each prompt by what is then
        believed, over choosing by what is believed now. Once scores come in, others may
        turn out to be the better next ones, and the gain is then larger.

        Parameters
        ----------
        n : int
            At least 1; fewer where the table has no more cells.

        Returns
        -------
        Forecast
        """
        check_whole("n", n, 1)
        believed, there = self._belief().copy(), self._there()
        mean = believed.quality(self._judged)
        cells: list[tuple[int, int]] = []
        moves: list[Array] = []
        while len(cells) < n and not there.all():
            task, arm = self._choose(believed, there)
            moves.append(believed.foresee(task, arm, self._judged))
            cells.append((task, arm))
            there[task, arm] = True
        gain, error = _gain(mean, np.array(moves), self._seed)
        prompts, arms = self._prompts, self._arms
        named = [(prompts[i], self.catalogue.braids[arms[j]]) for i, j in cells]
        return Forecast(named, gain, error)

    def next_cell(self) -> tuple[Any, Braid] | None:
        """Return the prompt and the braid to score next; None when all are scored."""
        there = self._there()
        if there.all():
            return None
        task, arm = self._choose(self._belief(), there)
        return self._prompts[task], self.catalogue.braids[self._arms[arm]]

    def record(self, prompt: Any, braid: Braid | str, score: Any) -> None:
        """Note a score; it is in the file when this returns.

        Parameters
        ----------
        prompt : str, dict or ndarray
            One of the prompts.
        braid : Braid or arm id
        score : float in [0, 1]

        Raises
        ------
        KeyError
            When this is no prompt or arm of the plan.
        ValueError, TypeError
            When the score is no number in [0, 1], or the cell has one.
        """
        key = task_keys([prompt])[0]
        if key not in self._keys:
            raise KeyError(f"{prompt!r} is none of the {len(self._keys)} prompts")
        arm_id = braid.id if isinstance(braid, Braid) else braid
        if self.catalogue.index(arm_id) not in self._arms:
            raise KeyError(f"arm {arm_id!r} is unfit, and no part of the plan")
        if (key, arm_id) in self._file.scores:
            raise ValueError(
                f"{prompt!r} on arm {arm_id!r} has the score "
                f"{self._file.scores[key, arm_id]} already"
            )
        self._file.add((key, arm_id), score)

    def measure(
        self,
        scorer: Scorer,
        *,
        most: int | None = None,
        least_gain: float = 0.0,
        ahead: int | None = None,
        progress: bool = True,
    ) -> ProbePlan:
        """Score cell after cell, the most informative first.

        Parameters
        ----------
        scorer : callable
            ``(braid, task) -> quality`` in [0, 1].
        most : int, optional
            Stop when so many cells have a score, those of before counted; by default
            all of them.
        least_gain : float
            Stop when the next ``ahead`` cells are expected to buy less than this, in
            mean reward per prompt.
        ahead : int, optional
            By default as many as there are arms, from 16 to 64.
        progress : bool
            Show a bar, which needs tqdm.

        Returns
        -------
        ProbePlan
            Itself.

        Raises
        ------
        TypeError, ValueError
            When a score is no number in [0, 1]. What was scored before is kept.
        """
        total = len(self._keys) * len(self._arms)
        most = total if most is None else min(check_whole("most", most, 0), total)
        ahead = min(max(len(self._arms), 16), 64) if ahead is None else ahead
        ahead, begun = check_whole("ahead", ahead, 1), self.n_scored
        cells = self._cells(most, least_gain, ahead)
        for prompt, braid in with_bar(cells, max(most - begun, 0), progress):
            self.record(prompt, braid, scorer(braid, prompt))
        return self

    # ---- inside ----

    def _cells(
        self, most: int, least_gain: float, ahead: int
    ) -> Iterator[tuple[Any, Braid]]:
        begun = self.n_scored
        while self.n_scored < most:
            if least_gain > 0.0 and (self.n_scored - begun) % ahead == 0:
                coming = self.forecast(ahead)
                logger.info("the next %d cells buy %.4f", ahead, coming.gain)
                if coming.gain < least_gain:
                    return
            cell = self.next_cell()
            if cell is None:
                return
            yield cell

    def _places(self) -> list[tuple[int, int, float]]:
        """Return row, column and score of each known cell, in the order they came."""
        rows = {key: i for i, key in enumerate(self._keys)}
        columns = {self.catalogue.ids[arm]: j for j, arm in enumerate(self._arms)}
        return [
            (rows[key], columns[arm_id], score)
            for (key, arm_id), score in self._file.scores.items()
            if key in rows and arm_id in columns
        ]

    def _scores(self, most: int | None = None) -> Array:
        scores = np.full((len(self._keys), len(self._arms)), np.nan)
        for row, column, score in self._places()[:most]:
            scores[row, column] = score
        return scores

    def _there(self) -> NDArray[np.bool_]:
        return ~np.isnan(self._scores())

    def _belief(self) -> CellBelief:
        """Return what is believed now; scales are those of a number of scores ago."""
        places = self._places()
        prior, common, anew = self._scales(len(places))
        known = self._known
        if known is None or anew or known[0] > len(places):
            known = (0, CellBelief(prior, self._Z, self._X, common))
        for task, arm, score in places[known[0] :]:
            known[1].learn(task, arm, score)
        self._known = (len(places), known[1])
        return known[1]

    def _scales(self, n: int) -> tuple[Posterior, float, bool]:
        """Return a posterior with the scales for n scores, and whether it is anew.

        They depend on the scores and their order alone, not on when a plan was made.
        """
        first, step = 0, float(_SCALES_FROM)
        while int(step) <= n:
            first, step = int(step), step * _SCALES_GROW
        if self._found is not None and self._found[0] == first:
            return self._found[1], self._found[2], False
        width, arms = self._X.shape[1], len(self._arms)
        last = self.encoder.blocks()
        blocks = np.append(np.zeros(width - len(last), dtype=np.int64), last)
        online = OnlinePosterior.start(self._columns, width, arms, blocks=blocks)
        prior = online.posterior
        common = _COMMON
        if first:
            scores = self._scores(first)
            there = ~np.isnan(scores)
            rows, columns = there.any(axis=1), np.flatnonzero(there.any(axis=0))
            R = scores[rows][:, columns]
            prior.start_from_table(columns.tolist(), self._Z[columns], self._X[rows], R)
            common = _common(R)
        self._found = (first, prior, common)
        return prior, common, True

    def _choose(
        self, believed: CellBelief, there: NDArray[np.bool_]
    ) -> tuple[int, int]:
        """Return the cell that is worth most: of prompts begun, and of the next new."""
        begun = np.asarray(there.any(axis=1))
        new = self._order[~begun[self._order]][:_NEW]
        rows = np.append(self._order[begun[self._order]], new)
        places, arms = np.nonzero(~there[rows])
        pairs = len(self._judged) * len(self._arms)
        most = max(_MOST_PAIRS // pairs, _FEWEST_TRIED)
        rng = np.random.default_rng([self._seed, int(there.sum())])
        if len(places) > most:
            some = rng.choice(len(places), most, replace=False)
            places, arms = places[some], arms[some]
        tasks = rows[places]
        chances = believed.chances(self._judged, _DRAWS_OF_BEST, rng)
        chances = (1.0 - _SHARED) * chances + _SHARED / len(self._arms)
        worth = believed.worth(tasks, arms, self._judged, chances)
        best = int(worth.argmax())
        return int(tasks[best]), int(arms[best])


def spread(X: Array, seed: int = 0) -> NDArray[np.intp]:
    """Order tasks so that the first few have each kind about as often as all have.

    Kinds are clusters of the features. Which task stands for a kind is drawn: those
    near a centre are purer than tasks are, and say less about the others.

    Parameters
    ----------
    X : ndarray of shape (n, k)
        Features. Of more than 2,000 tasks, so many are drawn.
    seed : int

    Returns
    -------
    ndarray of int

    Examples
    --------
    Two kinds, of which one is twice as frequent:

    >>> X = np.append(np.linspace(0, 1, 20), np.linspace(9, 10, 10))[:, None]
    >>> int((spread(X)[:9] >= 20).sum())
    3
    """
    rows = np.random.default_rng(seed).permutation(len(X))[:_MOST_PROMPTS]
    distinct = len(np.unique(X[rows], axis=0))
    kinds = min(_MOST_KINDS, max(distinct // _PROMPTS_PER_KIND, 1), distinct)
    # Imported here: it takes as long as the rest of the package.
    from sklearn.cluster import KMeans

    kind = np.asarray(KMeans(kinds, random_state=seed).fit_predict(X[rows]))
    share = np.bincount(kind, minlength=kinds) / len(rows)
    waiting = [list(rows[kind == one]) for one in range(kinds)]
    taken, order = np.zeros(kinds), list[int]()
    for step in range(1, len(rows) + 1):
        best = int(np.argmax(share * step - taken))
        taken[best] += 1.0
        order.append(int(waiting[best].pop()))
    return np.array(order, dtype=np.intp)


def _common(R: Array) -> float:
    """Return the share of the noise that is common to a task, as scores tell it."""
    n, arms = R.shape
    compared = int((~np.isnan(R)).sum()) - n - arms + 1
    if compared < 1 or min(n, arms) < 2:
        return _COMMON
    found = float(task_covariance(R)[0, -1])
    return (_COMMON_COUNTS * _COMMON + compared * found) / (_COMMON_COUNTS + compared)


def _gain(mean: Array, moves: Array, seed: int) -> tuple[float, float]:
    """Return expected gain of the best arm, (A, e), when means move, (n, A, e)."""
    if not len(moves):
        return 0.0, 0.0
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((_DRAWS // 2, len(moves)))
    gains = np.zeros(len(half))
    for sign in (1.0, -1.0):
        moved = np.tensordot(sign * half, moves, axes=1) + mean
        gains += 0.5 * moved.max(axis=1).mean(axis=1)
    gains -= mean.max(axis=0).mean()
    # Draws in pairs of opposite sign: each pair is one draw of the error.
    # Where nothing moves, rounding must not make a loss of it.
    gain = max(float(gains.mean()), 0.0)
    return gain, float(gains.std(ddof=1) / np.sqrt(len(gains)))


def _fitted(encoder: TaskEncoder | None, prompts: Any) -> TaskEncoder:
    encoder = TaskEncoder() if encoder is None else encoder
    if encoder.__sklearn_is_fitted__():
        return encoder
    from sklearn.base import clone

    copied: Any = clone(encoder)
    return copied.fit(prompts)
