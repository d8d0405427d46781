"""Moved to ``braidbandit.evaluation.reward_model``."""

from braidbandit.evaluation.reward_model import *  # noqa: F403
