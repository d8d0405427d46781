"""Alarms on rewards that move, and none on those that do not."""

import numpy as np

from braidbandit import Braid, Outcome
from braidbandit.service.dashboard.moving import Moved, moved


class Made:
    """As much of a decision as is looked at."""

    def __init__(self, arm, expected_quality=0.5):
        self.braid, self.expected_quality = Braid(arm), expected_quality


def pairs(arm, rewards):
    return [(Made(arm), Outcome("d", float(r))) for r in rewards]


def test_steady_rewards_give_no_alarm():
    rng = np.random.default_rng(0)
    assert moved(pairs("a", rng.random(2000) < 0.5)) == ()
    assert moved(pairs("a", [0.5] * 50)) == ()
    assert moved(pairs("a", [1.0])) == moved([]) == ()


def test_a_model_that_became_worse_is_noticed():
    rng = np.random.default_rng(0)
    rewards = [*(0.5 + 0.1 * rng.normal(size=200)), *(0.3 + 0.1 * rng.normal(size=40))]
    both = [*pairs("a", np.clip(rewards, 0, 1)), *pairs("b", [0.5] * 9)]
    [alarm] = moved(both)
    assert alarm == Moved(Braid("a").id, False, alarm.rewards_since)
    assert 0 <= alarm.rewards_since < 40


def test_a_model_that_became_better_is_noticed():
    [alarm] = moved(pairs("a", [0.5, 0.55] * 20 + [0.9, 0.95] * 20))
    assert alarm.better
