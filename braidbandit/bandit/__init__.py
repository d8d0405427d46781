"""Numbers only: what is believed, how it is learnt, and which arm a policy picks."""

from __future__ import annotations

from braidbandit.bandit.guard import ConservativePolicy, DeclineToDefault
from braidbandit.bandit.linear_bandit import LinearBandit
from braidbandit.bandit.policies import (
    EpsilonGreedy,
    Greedy,
    LinUCB,
    SquareCB,
    ThompsonSampling,
    Uniform,
)
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales, parameter_groups

__all__ = [
    "ConservativePolicy",
    "DeclineToDefault",
    "EpsilonGreedy",
    "Greedy",
    "LinUCB",
    "LinearBandit",
    "Posterior",
    "PriorScales",
    "SquareCB",
    "ThompsonSampling",
    "Uniform",
    "parameter_groups",
]
