"""Tuning: settings of a recommender, chosen by what they would have earned on a log.

Equation (30) of ``docs/math.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from braidbandit.bandit.policies import LinUCB, ThompsonSampling
from braidbandit.evaluation.frames import frame_of, text_of
from braidbandit.evaluation.log import Log, drawn
from braidbandit.evaluation.reward_model import cross_fitted
from braidbandit.evaluation.target_policies import row_probabilities
from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision, Event, Outcome

if TYPE_CHECKING:
    from pandas import DataFrame

Array = NDArray[np.float64]

# The share of rows whose acceptance is cut short: more learn faster and bias more.
_CUT = 0.1
# A candidate that learnt from fewer rows says nothing about learning.
_LEAST_LEARNT = 20


@dataclass(frozen=True)
class Candidate:
    """Settings, and what they would have earned.

    Attributes
    ----------
    alpha, n_components, forgetting : float or int
    value : float
        Mean quality minus priced compute, by the doubly robust estimate.
    error : float
        Its standard error.
    learnt : int
        Rows of the log that it could learn from.
    """

    alpha: float
    n_components: int
    forgetting: float
    value: float
    error: float
    learnt: int


@dataclass(frozen=True)
class Tuning:
    """Candidates, the best first.

    Attributes
    ----------
    candidates : tuple of Candidate
    n : int
        Rows of the log.

    Examples
    --------
    >>> found = Tuning((Candidate(0.3, 8, 1.0, 0.61, 0.02, 140),), 400)
    >>> found.best.alpha
    0.3
    >>> found.to_frame()[["alpha", "value", "error"]].to_numpy().tolist()
    [[0.3, 0.61, 0.02]]
    """

    candidates: tuple[Candidate, ...]
    n: int

    @property
    def best(self) -> Candidate:
        """The settings with the highest value; look at the errors too."""
        return self.candidates[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the candidates as JSON-able data."""
        return {"candidates": [asdict(c) for c in self.candidates], "n": self.n}

    def to_frame(self) -> DataFrame:
        """Return the candidates as a data frame, the best first.

        Returns
        -------
        DataFrame
            A column for each attribute of :class:`Candidate`.

        Raises
        ------
        ImportError
            When pandas is not installed.
        """
        return frame_of(self.candidates)

    def __str__(self) -> str:
        columns = ("alpha", "n_components", "forgetting", "value", "error", "learnt")
        return f"{text_of(self.candidates, columns)}\nthe log has {self.n} rows"


def tune(
    agent: Any,
    ledger: Ledger,
    *,
    alpha: Sequence[float] | None = None,
    n_components: Sequence[int] | None = None,
    forgetting: Sequence[float] | None = None,
    random_state: int = 0,
    n_jobs: int = 1,
) -> Tuning:
    """Compare settings on a ledger: every combination learns from it and is judged.

    Each candidate starts from the agent's warm start and walks through the log. In each
    row it is judged by the doubly robust estimate, and then it learns the row with a
    probability for which all that it learns looks like a history of its own choices. So
    exploration costs, and pays off, as it would in use. Comparisons of two answers are
    left out.

    Parameters
    ----------
    agent : BraidRecommender
        It is not changed.
    ledger : Ledger
        The agent's own, with decisions that explored.
    alpha : sequence of float, optional
        ``LinUCB(alpha=...)``, or ``ThompsonSampling(scale=...)``.
    n_components : sequence of int, optional
        Embedding directions of ``TaskEncoder``, at most as many as the agent has: the
        others are left out of the features.
    forgetting : sequence of float in (0, 1], optional
    random_state : int
        Decides which rows are learnt.
    n_jobs : int
        Processes, as for joblib.

    Returns
    -------
    Tuning
        A setting that is not given stays as the agent has it.

    Raises
    ------
    ValueError
        When the log is deterministic, or too short for any candidate to learn, or on
        another policy than LinUCB and ThompsonSampling.

    References
    ----------
    Dudik, Erhan, Langford and Li (2012), *Sample-efficient nonstationary policy
    evaluation for contextual bandits*.

    Examples
    --------
    ::

        found = tune(agent, ledger, alpha=(0.1, 0.3, 1.0), forgetting=(1.0, 0.999))
        agent.set_params(forgetting=found.best.forgetting)
    """
    agent.start()
    # Read only once: a reward that arrives between two readings would make the log and
    # the decisions differ.
    pairs = drawn((decision, outcome) for _, decision, outcome in ledger.pairs())
    log = Log.of(pairs)
    _refuse_certain(log)
    grid = _grid(agent, alpha, n_components, forgetting)
    learners = [_beginner(agent, one) for one in grid]
    decisions = [decision for decision, _ in pairs]
    q = cross_fitted(log.X, log.columns, log.rewards, len(log.arm_ids), log.contexts)
    run: Any = Parallel(n_jobs=n_jobs)
    walks: list[Walk] = run(
        delayed(walk_through)(learner, log, decisions, q, one[1], random_state)
        for learner, one in zip(learners, grid, strict=True)
    )
    found = [Candidate(*one, *walk) for one, walk in zip(grid, walks, strict=True)]
    most = max(c.learnt for c in found)
    if most < _LEAST_LEARNT:
        raise ValueError(
            f"of {len(log.X)} rows a candidate could learn {most} at most, "
            f"{_LEAST_LEARNT} are needed; log longer, or explore more"
        )
    ranked = sorted(found, key=lambda c: (c.learnt < _LEAST_LEARNT, -c.value))
    return Tuning(tuple(ranked), len(log.X))


class Walk(NamedTuple):
    """What a recommender would have earned that learns its way through a log.

    Attributes
    ----------
    value, error : float
        Mean quality minus priced compute, and its standard error.
    learnt : int
        Rows that were learnt.
    """

    value: float
    error: float
    learnt: int


def walk_through(
    agent: Any,
    log: Log,
    decisions: Sequence[Decision],
    predicted: Array,
    n_components: int,
    random_state: int,
) -> Walk:
    """Let a recommender learn its way through a log, and judge it as it goes.

    Parameters
    ----------
    agent : BraidRecommender
        As it is before the first row; it learns.
    log : Log
    decisions : sequence of Decision, length n
        Those of the rows.
    predicted : ndarray of shape (n, A)
        Predicted rewards of every arm in every row.
    n_components : int
        Embedding directions that count; the others are taken to be 0.
    random_state : int
        Decides which rows are learnt.

    Returns
    -------
    Walk
    """
    X = log.X * _kept(agent, n_components)
    relative = agent.arm_model_.catalogue.relative_costs()
    acceptance = _Acceptance(float(log.propensities.min()), random_state)
    terms, weights, learnt = np.zeros(len(X)), np.zeros(len(X)), 0
    for row, decision in enumerate(decisions):
        chances = row_probabilities(agent, X[row], log.arm_ids, log.eligible[row])
        target = _in_columns(chances, agent.arm_ids_, log.arm_ids)
        taken = log.columns[row]
        ratio = float(target[taken] / log.propensities[row])
        q, weights[row] = predicted[row], acceptance.factor
        terms[row] = target @ q + ratio * (log.rewards[row] - q[taken])
        terms[row] -= agent.price * float(chances @ relative)
        if acceptance.draw(ratio):
            # The ledger holds each decision once, so it is new however old it is.
            shorter = replace(decision, x=tuple(X[row]))
            outcome = Outcome(decision.id, float(log.rewards[row]))
            agent.learn_event(Event(row + 1, shorter, "outcome", outcome))
            learnt += 1
    value = float(weights @ terms / weights.sum())
    off = np.bincount(log.clusters, weights=weights * (terms - value))
    error = float(np.sqrt((off**2).sum()) / weights.sum())
    return Walk(value, error, learnt)


class _Acceptance:
    """Which rows are learnt: so that they look like a history of own choices.

    Attributes
    ----------
    factor : float
        A row is learnt with this times the probability of its arm over its propensity.
    """

    def __init__(self, smallest: float, random_state: int) -> None:
        self.factor = self._smallest = smallest
        self._rng = np.random.default_rng(random_state)
        self._inverse: list[float] = []

    def draw(self, ratio: float) -> bool:
        """Whether a row of this ratio is learnt; the factor may change for the next."""
        accepted = self._rng.random() < self.factor * ratio
        if ratio > 0:
            self._inverse.append(1.0 / ratio)
            n = len(self._inverse)
            if n & (n - 1) == 0:  # whenever they have doubled
                cut = float(np.quantile(self._inverse, _CUT))
                self.factor = max(self._smallest, cut)
        return bool(accepted)


def _refuse_certain(log: Log) -> None:
    if float((log.propensities >= 1.0).mean()) > 0.5:
        raise ValueError(
            "the log is deterministic: most of its choices had probability 1. Log with "
            "a policy that explores (floor above 0)"
        )


def _grid(
    agent: Any,
    alpha: Sequence[float] | None,
    n_components: Sequence[int] | None,
    forgetting: Sequence[float] | None,
) -> list[tuple[float, int, float]]:
    """Return every combination; what is not given stays as the agent has it."""
    own = _alpha_of(agent.policy)
    width = sum(name.startswith("embedding:") for name in _names(agent))
    sizes = _numbers(n_components) or [width]
    for size in sizes:
        if not (1 <= size <= width and float(size).is_integer()):
            raise ValueError(
                f"n_components is a whole number of 1 to {width}, the agent's; "
                f"received {size!r}"
            )
    return list(
        product(
            _numbers(alpha) or [own],
            sizes,
            _numbers(forgetting) or [agent.forgetting],
        )
    )


def _beginner(agent: Any, settings: tuple[float, int, float]) -> Any:
    """Return an agent with these settings that has learnt the warm start only."""
    alpha, _, forgetting = settings
    field = "alpha" if isinstance(agent.policy, LinUCB) else "scale"
    policy = replace(agent.policy or ThompsonSampling(), **{field: float(alpha)})
    return agent.replica(policy=policy, forgetting=forgetting)


def _kept(agent: Any, n_components: int) -> NDArray[np.bool_]:
    """Return which features count, shape (k,): not the last embedding directions."""

    def counts(name: str) -> bool:
        kind, _, number = name.partition(":")
        return kind != "embedding" or int(number) < n_components

    return np.array([counts(name) for name in _names(agent)])


def _names(agent: Any) -> list[str]:
    return [str(name) for name in agent.encoder_.get_feature_names_out()]


def _in_columns(chances: Array, ids: Sequence[Any], arm_ids: Sequence[Any]) -> Array:
    """Return probabilities of the arms ``ids`` in the columns of the log."""
    column = {arm: at for at, arm in enumerate(arm_ids)}
    target = np.zeros(len(arm_ids))
    for arm, chance in zip(ids, chances, strict=True):
        if arm in column:
            target[column[arm]] = chance
    return target


def _numbers(values: Sequence[float] | None) -> list[Any]:
    """Return numbers of any sequence, arrays too, as numbers of Python."""
    return [] if values is None else list(np.asarray(values).tolist())


def _alpha_of(policy: Any) -> float:
    if policy is None or isinstance(policy, ThompsonSampling):
        return float((policy or ThompsonSampling()).scale)
    if isinstance(policy, LinUCB):
        return float(policy.alpha)
    raise ValueError(
        f"tune knows LinUCB and ThompsonSampling, received {type(policy).__name__}"
    )
