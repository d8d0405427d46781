"""Tuning: settings of a recommender chosen by what they would have earned on a log.

Equation (30) of ``docs/math.md``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from braidbandit.bandit.policies import LinUCB, ThompsonSampling
from braidbandit.evaluation.log import Log
from braidbandit.evaluation.reward_model import cross_fitted
from braidbandit.evaluation.target_policies import row_probabilities
from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision

Array = NDArray[np.float64]

# The share of rows whose acceptance is cut short: more learn faster and bias more.
_CUT = 0.1
# A replay that learnt from fewer rows says nothing about learning.
_LEAST_LEARNT = 20


@dataclass(frozen=True)
class Candidate:
    """Settings and what they would have earned.

    Attributes
    ----------
    alpha, n_components, forgetting : float or int
    value : float
        Mean quality minus priced compute, by the doubly robust estimate.
    error : float
        Its standard error.
    learnt : int
        Rows of the log that its replay could learn from.
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

    Examples
    --------
    >>> print(Tuning((Candidate(0.3, 8, 1.0, 0.61, 0.02, 140),), 400))
    alpha  n_components  forgetting  value +- error    learnt from
    0.3               8           1  0.610 +- 0.020     140 / 400
    """

    candidates: tuple[Candidate, ...]
    n: int

    @property
    def best(self) -> Candidate:
        """The settings with the highest value; look at the errors too."""
        return self.candidates[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON-able data."""
        return {"candidates": [asdict(c) for c in self.candidates], "n": self.n}

    def __str__(self) -> str:
        lines = ["alpha  n_components  forgetting  value +- error    learnt from"]
        lines += [
            f"{c.alpha:<5g}  {c.n_components:12d}  {c.forgetting:10g}  "
            f"{c.value:.3f} +- {c.error:.3f}  {c.learnt:6d} / {self.n}"
            for c in self.candidates
        ]
        return "\n".join(lines)


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

    Each candidate starts from the agent's warm start and walks through the log. In
    every row it is judged by the doubly robust estimate, and learns the row with the
    probability that makes what it has learnt look like a history of its own
    choices. So exploration is paid for, and pays, as it would live.

    Parameters
    ----------
    agent : BraidRecommender
        Nothing in it is changed.
    ledger : Ledger
        Of this agent; its decisions explored.
    alpha : sequence of float, optional
        ``LinUCB(alpha=...)``, or ``ThompsonSampling(scale=...)``.
    n_components : sequence of int, optional
        Embedding directions of ``TaskEncoder``, at most the agent's: the others are
        left out of the features.
    forgetting : sequence of float in (0, 1], optional
    random_state : int
        Of acceptance.
    n_jobs : int
        Processes, as joblib has it.

    Returns
    -------
    Tuning
        What is not given stays as the agent has it.

    Raises
    ------
    ValueError
        When the log is deterministic, or too short for the replays to learn.

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
    agent._start()
    # Read once: what is said meanwhile would move one reading against another.
    pairs = [(decision, outcome) for _, decision, outcome in ledger.pairs()]
    log = Log.of(pairs)
    if float((log.propensities >= 1.0).mean()) > 0.5:
        raise ValueError(
            "the log is deterministic: most of its choices had probability 1. Log with "
            "a policy that explores (floor above 0)"
        )
    width = sum(name.startswith("embedding:") for name in _names(agent))
    grid = list(
        product(
            _numbers(alpha) or [_alpha_of(agent.policy)],
            _numbers(n_components) or [width],
            _numbers(forgetting) or [agent.forgetting],
        )
    )
    for size in {size for _, size, _ in grid}:
        if not 1 <= size <= width:
            raise ValueError(
                f"n_components lies in 1 to {width}, the agent's; received {size!r}"
            )
    agents = [_candidate(agent, a, f) for a, _, f in grid]
    decisions = [decision for decision, _ in pairs]
    q = cross_fitted(log.X, log.columns, log.rewards, len(log.arm_ids), log.contexts)
    found = Parallel(n_jobs=n_jobs)(
        delayed(_replay)(one, log, decisions, q, size, random_state)
        for one, (_, size, _) in zip(agents, grid, strict=True)
    )
    candidates = [
        Candidate(*settings, *result)
        for settings, result in zip(grid, found, strict=True)
    ]
    most = max(c.learnt for c in candidates)
    if most < _LEAST_LEARNT:
        raise ValueError(
            f"of {len(log.X)} rows a replay could learn {most} at most, "
            f"{_LEAST_LEARNT} are needed; log longer, or explore more"
        )
    ranked = sorted(candidates, key=lambda c: (c.learnt < _LEAST_LEARNT, -c.value))
    return Tuning(tuple(ranked), len(log.X))


def _candidate(agent: Any, alpha: float, forgetting: float) -> Any:
    """Return an agent with other settings that has learnt the warm start only."""
    other = copy.deepcopy(agent)
    field = "alpha" if isinstance(agent.policy, LinUCB) else "scale"
    policy = replace(agent.policy or ThompsonSampling(), **{field: float(alpha)})
    other.set_params(policy=policy, forgetting=forgetting)
    other._start()
    other._forget_rewards()
    # In other processes too, the draws are those of the agent.
    other.learner_.bandit.rng_ = copy.deepcopy(agent.rng_)
    return other


def _replay(
    agent: Any,
    log: Log,
    decisions: Sequence[Decision],
    q: Array,
    n_components: int,
    seed: int,
) -> tuple[float, float, int]:
    """Return value, standard error, and how many rows were learnt."""
    kept = np.array([_is_kept(name, n_components) for name in _names(agent)])
    column = {arm: at for at, arm in enumerate(log.arm_ids)}
    ids, relative = agent.arm_ids_, agent._catalogue().relative_costs()
    rng, X = np.random.default_rng(seed), log.X * kept
    # What a row is accepted with, times probability over propensity.
    smallest = factor = float(log.propensities.min())
    ratios: list[float] = []
    terms, weights, learnt = np.zeros(len(X)), np.zeros(len(X)), 0
    for row, decision in enumerate(decisions):
        chances = row_probabilities(agent, X[row], log.arm_ids, log.eligible[row])
        target = np.zeros(len(column))
        target[[column[arm] for arm in ids if arm in column]] = [
            chance for arm, chance in zip(ids, chances, strict=True) if arm in column
        ]
        taken, p = log.columns[row], log.propensities[row]
        ratio = target[taken] / p
        terms[row] = target @ q[row] + ratio * (log.rewards[row] - q[row, taken])
        terms[row] -= agent.price * float(chances @ relative)
        weights[row] = factor
        if rng.random() < factor * ratio:
            # The ledger says each once: it is new, however old it is.
            shorter = replace(decision, x=tuple(X[row]))
            agent._learn(shorter, log.rewards[row], said=True)
            learnt += 1
        if ratio > 0:
            ratios.append(1.0 / ratio)
            if len(ratios) & (len(ratios) - 1) == 0:  # when they have doubled
                factor = max(smallest, float(np.quantile(ratios, _CUT)))
    value = float(weights @ terms / weights.sum())
    off = np.bincount(log.clusters, weights=weights * (terms - value))
    error = float(np.sqrt((off**2).sum()) / weights.sum())
    return value, error, learnt


def _names(agent: Any) -> list[str]:
    return [str(name) for name in agent.encoder_.get_feature_names_out()]


def _is_kept(name: str, n_components: int) -> bool:
    kind, _, number = name.partition(":")
    return kind != "embedding" or int(number) < n_components


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
