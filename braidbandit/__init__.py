"""Learn which braid of language models to use for each task."""

from __future__ import annotations

from typing import Any

from braidbandit.bandit import LinearBandit
from braidbandit.catalogue import Braid, Budget, Catalogue, ModelCard
from braidbandit.decision import Decision, Outcome
from braidbandit.drift import DriftMonitor, DriftWarning
from braidbandit.encoding import TaskEncoder
from braidbandit.explanation import Explanation
from braidbandit.guard import ConservativePolicy
from braidbandit.ledger import Ledger
from braidbandit.offpolicy import compare, evaluate
from braidbandit.policies import (
    EpsilonGreedy,
    Greedy,
    LinUCB,
    SquareCB,
    ThompsonSampling,
    Uniform,
)
from braidbandit.prior import PriorScales
from braidbandit.recommender import BraidRecommender
from braidbandit.targets import Log, UnderLimits

__version__ = "0.1.0"

__all__ = [
    "Braid",
    "BraidRecommender",
    "Budget",
    "Catalogue",
    "ConservativePolicy",
    "Decision",
    "DriftMonitor",
    "DriftWarning",
    "EpsilonGreedy",
    "Explanation",
    "Greedy",
    "Ledger",
    "LinUCB",
    "LinearBandit",
    "Log",
    "MetaBraider",
    "ModelCard",
    "Outcome",
    "PriorScales",
    "SquareCB",
    "TaskEncoder",
    "ThompsonSampling",
    "UnderLimits",
    "Uniform",
    "compare",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    # MetaBraider joins this package to the engine; everything else works without.
    if name == "MetaBraider":
        from braidbandit.meta import MetaBraider

        return MetaBraider
    raise AttributeError(f"module 'braidbandit' has no attribute {name!r}")
