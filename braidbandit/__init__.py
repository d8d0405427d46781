"""Learn which braid of language models to use for each task.

Six names to begin with:

- :class:`MetaBraider`, the agent: it takes a task, builds a braid and learns from the
  reward.
- :class:`BraidRecommender`, which only recommends: whoever calls it runs the models.
- :class:`LinearBandit`, the same learner for rows of numbers, a scikit-learn estimator.
- :class:`Catalogue`, the braids that can be chosen, with their costs.
- :class:`Ledger`, the database of decisions and rewards.
- :class:`TaskEncoder`, which makes numbers of a task.

The rest of ``__all__`` are what these take and return, and what compares policies on
logged rewards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from braidbandit.agent.endpoint import EndpointError
    from braidbandit.agent.measuring import profile
    from braidbandit.agent.meta_braider import MetaBraider
    from braidbandit.agent.served_model import ServedModel
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
    from braidbandit.bandit.prior import PriorScales
    from braidbandit.catalogue.braid import Braid
    from braidbandit.catalogue.cards import ModelCard
    from braidbandit.catalogue.catalogue import Catalogue
    from braidbandit.catalogue.limits import Budget
    from braidbandit.catalogue.profile import Profile
    from braidbandit.evaluation.log import Log
    from braidbandit.evaluation.offpolicy import compare, evaluate
    from braidbandit.evaluation.probe_plan import ProbePlan, plan_probe
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

# Modules are found under their former paths too.
__path__.append(f"{__path__[0]}/_former")

# A module is imported when one of its names is first used (Scientific Python's SPEC 1):
# whoever only asks for the version does not wait a second for scikit-learn.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "agent.endpoint": ["EndpointError"],
        "agent.meta_braider": ["MetaBraider"],
        "agent.measuring": ["profile"],
        "agent.served_model": ["ServedModel"],
        "bandit.guard": ["ConservativePolicy", "DeclineToDefault"],
        "bandit.linear_bandit": ["LinearBandit"],
        "bandit.policies": [
            "EpsilonGreedy",
            "Greedy",
            "LinUCB",
            "SquareCB",
            "ThompsonSampling",
            "Uniform",
        ],
        "bandit.prior": ["PriorScales"],
        "catalogue.braid": ["Braid"],
        "catalogue.cards": ["ModelCard"],
        "catalogue.catalogue": ["Catalogue"],
        "catalogue.limits": ["Budget"],
        "catalogue.profile": ["Profile"],
        "evaluation.log": ["Log"],
        "evaluation.offpolicy": ["compare", "evaluate"],
        "evaluation.probe_plan": ["ProbePlan", "plan_probe"],
        "evaluation.reward_table": ["build_table"],
        "evaluation.target_policies": ["UnderLimits"],
        "evaluation.tuning": ["tune"],
        "ledger.ledger": ["Ledger"],
        "ledger.records": ["Decision", "Outcome"],
        "ledger.transfer": ["export_ledger", "import_ledger"],
        "recommender.drift": ["DriftMonitor", "DriftWarning"],
        "recommender.explanation": ["Explanation"],
        "recommender.recommender": ["BraidRecommender"],
        "tasks.encoder": ["TaskEncoder"],
    },
)

__all__ = [
    "Braid",
    "BraidRecommender",
    "Budget",
    "Catalogue",
    "ConservativePolicy",
    "Decision",
    "DeclineToDefault",
    "DriftMonitor",
    "DriftWarning",
    "EndpointError",
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
    "ProbePlan",
    "Profile",
    "ServedModel",
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
    "plan_probe",
    "profile",
    "tune",
]
