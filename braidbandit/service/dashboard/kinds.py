"""Which arm is taken for which kind of task, and how that was rated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from braidbandit.ledger.records import Decision, Outcome

_UNCLEAR = "unclear"
# Of the most similar examples, as many must be of a kind.
_SURE = 0.5
# A best arm is named from so many ratings on.
_OFTEN_ENOUGH = 5


class Kind(NamedTuple):
    """A kind of task.

    Attributes
    ----------
    name : str
    tasks : int
    arm_id : str
        What was taken most often.
    share : float
        How often.
    reward : float or None
        Mean reward of that arm on these tasks; None if it was never rated.
    rated : int
        Ratings behind that mean.
    best_id : str or None
        The arm with the best mean reward of those rated five times.
    best_reward : float or None
    """

    name: str
    tasks: int
    arm_id: str
    share: float
    reward: float | None
    rated: int
    best_id: str | None
    best_reward: float | None


def kinds(
    decided: Sequence[tuple[Decision, Outcome | None]],
    kind_of: Callable[[Decision], str],
) -> tuple[Kind, ...]:
    """Return the kinds of task there were, the most frequent first.

    Parameters
    ----------
    decided : sequence of (Decision, Outcome or None)
    kind_of : callable
        Gives the kind of a decision's task.
    """
    rewards: dict[str, dict[str, list[float | None]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for decision, outcome in decided:
        reward = None if outcome is None else outcome.reward
        rewards[kind_of(decision)][decision.braid.id].append(reward)
    found = [_kind(name, dict(arms)) for name, arms in rewards.items()]
    return tuple(sorted(found, key=lambda kind: (-kind.tasks, kind.name)))


def kind_by(encoder: Any, encoder_hash: str) -> Callable[[Decision], str]:
    """Return what tells the kind of a decision's task, by its features.

    Parameters
    ----------
    encoder : TaskEncoder
    encoder_hash : str
        Decisions with features of another encoder are of kind "unclear".
    """
    names = [str(name) for name in encoder.get_feature_names_out()]
    typed = {at: n[5:] for at, n in enumerate(names) if n.startswith("type:")}

    def kind_of(decision: Decision) -> str:
        if decision.encoder_hash != encoder_hash:
            return _UNCLEAR
        stated = max(typed, key=lambda at: decision.x[at], default=None)
        if stated is not None and decision.x[stated] > 0:
            return typed[stated]
        guessed = encoder.type_of(None, np.array(decision.x))
        if guessed is None or guessed[1] < _SURE:
            return _UNCLEAR
        return str(guessed[0])

    return kind_of


def _kind(name: str, arms: dict[str, list[float | None]]) -> Kind:
    tasks = sum(len(rewards) for rewards in arms.values())
    means = {arm_id: _mean(rewards) for arm_id, rewards in arms.items()}
    most = max(arms, key=lambda arm_id: len(arms[arm_id]))
    rated = {
        a: m for a, (m, n) in means.items() if m is not None and n >= _OFTEN_ENOUGH
    }
    best = max(rated, key=lambda arm_id: rated[arm_id], default=None)
    reward, count = means[most]
    return Kind(
        name,
        tasks,
        most,
        len(arms[most]) / tasks,
        reward,
        count,
        best,
        None if best is None else rated[best],
    )


def _mean(rewards: list[float | None]) -> tuple[float | None, int]:
    rated = [reward for reward in rewards if reward is not None]
    return (sum(rated) / len(rated) if rated else None), len(rated)
