"""Learn which braid of language models to use for each task."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braidbandit.agent.meta_braider import MetaBraider
    from braidbandit.bandit.guard import ConservativePolicy
    from braidbandit.bandit.linear_bandit import LinearBandit
    from braidbandit.bandit.policies import (
        EpsilonGreedy,
        Greedy,
        LinUCB,
        SquareCB,
        ThompsonSampling,
        Uniform,
    )
    from braidbandit.bandit.prior import PriorScales
    from braidbandit.catalogue.braid import Braid
    from braidbandit.catalogue.cards import ModelCard
    from braidbandit.catalogue.catalogue import Catalogue
    from braidbandit.catalogue.limits import Budget
    from braidbandit.evaluation.log import Log
    from braidbandit.evaluation.offpolicy import compare, evaluate
    from braidbandit.evaluation.reward_table import build_table
    from braidbandit.evaluation.target_policies import UnderLimits
    from braidbandit.evaluation.tuning import tune
    from braidbandit.ledger.ledger import Ledger
    from braidbandit.ledger.records import Decision, Outcome
    from braidbandit.ledger.transfer import export_ledger, import_ledger
    from braidbandit.recommender.drift import DriftMonitor, DriftWarning
    from braidbandit.recommender.explanation import Explanation
    from braidbandit.recommender.recommender import BraidRecommender
    from braidbandit.tasks.encoder import TaskEncoder

__version__ = "0.1.0"

# Modules that were shown under another name are found under it too.
__path__.append(f"{__path__[0]}/_former")

# A name brings its module when it is first used (scientific Python's SPEC 1): what only
# asks for help or the version does not wait a second for scikit-learn.
_MODULES = {
    "Braid": "catalogue.braid",
    "BraidRecommender": "recommender.recommender",
    "Budget": "catalogue.limits",
    "Catalogue": "catalogue.catalogue",
    "ConservativePolicy": "bandit.guard",
    "Decision": "ledger.records",
    "DriftMonitor": "recommender.drift",
    "DriftWarning": "recommender.drift",
    "EpsilonGreedy": "bandit.policies",
    "Explanation": "recommender.explanation",
    "Greedy": "bandit.policies",
    "Ledger": "ledger.ledger",
    "LinUCB": "bandit.policies",
    "LinearBandit": "bandit.linear_bandit",
    "Log": "evaluation.log",
    "MetaBraider": "agent.meta_braider",
    "ModelCard": "catalogue.cards",
    "Outcome": "ledger.records",
    "PriorScales": "bandit.prior",
    "SquareCB": "bandit.policies",
    "TaskEncoder": "tasks.encoder",
    "ThompsonSampling": "bandit.policies",
    "UnderLimits": "evaluation.target_policies",
    "Uniform": "bandit.policies",
    "build_table": "evaluation.reward_table",
    "compare": "evaluation.offpolicy",
    "evaluate": "evaluation.offpolicy",
    "export_ledger": "ledger.transfer",
    "import_ledger": "ledger.transfer",
    "tune": "evaluation.tuning",
}

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
    "build_table",
    "compare",
    "evaluate",
    "export_ledger",
    "import_ledger",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'braidbandit' has no attribute {name!r}")
    return getattr(import_module(f"braidbandit.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
