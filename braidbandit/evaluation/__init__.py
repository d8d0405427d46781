"""What would have been: other policies on a log, settings, whole tables of rewards."""

from __future__ import annotations

from braidbandit.evaluation.log import Log
from braidbandit.evaluation.offpolicy import compare, evaluate
from braidbandit.evaluation.probe_plan import ProbePlan, plan_probe
from braidbandit.evaluation.reward_table import build_table
from braidbandit.evaluation.target_policies import UnderLimits
from braidbandit.evaluation.tuning import tune

__all__ = [
    "Log",
    "ProbePlan",
    "UnderLimits",
    "build_table",
    "compare",
    "evaluate",
    "plan_probe",
    "tune",
]
