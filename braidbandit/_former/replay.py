"""Moved to ``braidbandit.evaluation.replay``."""

from braidbandit.evaluation.replay import *  # noqa: F403
