"""Moved to ``braidbandit.evaluation.reward_model`` and ``.contexts``."""

from braidbandit.evaluation.contexts import *  # noqa: F403
from braidbandit.evaluation.reward_model import *  # noqa: F403
