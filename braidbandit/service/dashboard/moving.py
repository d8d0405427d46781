"""Arms whose rewards have moved away from what was expected of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from braidbandit.ledger.records import Decision, Outcome
from braidbandit.recommender.drift import DriftMonitor

# Less noise than this is not believed: a few equal rewards have none.
_LEAST_NOISE = 0.05


class Moved(NamedTuple):
    """An alarm.

    Attributes
    ----------
    arm_id : str
    better : bool
        Whether rewards are higher than expected.
    rewards_since : int
        Rewards of the arm since the alarm.
    """

    arm_id: str
    better: bool
    rewards_since: int


def moved(
    pairs: Sequence[tuple[Decision, Outcome]], monitor: DriftMonitor | None = None
) -> tuple[Moved, ...]:
    """Return the newest alarm of each arm that had one.

    Parameters
    ----------
    pairs : sequence of (Decision, Outcome)
        In the order of the outcomes.
    monitor : DriftMonitor, optional
    """
    monitor = DriftMonitor() if monitor is None else monitor
    surprises: dict[str, list[float]] = defaultdict(list)
    for decision, outcome in pairs:
        surprise = outcome.reward - decision.expected_quality
        surprises[decision.braid.id].append(surprise)
    found: list[Moved] = []
    for arm_id, values in surprises.items():
        # From one reward to the next, so that the move itself is not taken for noise.
        steps = np.diff(values)
        noise = float(np.sqrt((steps**2).mean() / 2)) if len(steps) else 1.0
        sums = np.zeros((2, 1))
        for at, value in enumerate(values):
            sums, alarm = monitor.watch(sums, 0, value / max(noise, _LEAST_NOISE))
            if alarm:
                alarmed = Moved(arm_id, value > 0, len(values) - 1 - at)
                found = [one for one in found if one.arm_id != arm_id] + [alarmed]
    return tuple(found)
