"""Moved to ``fusion.report.held_out``."""

from fusion.report.held_out import *  # noqa: F403
from fusion.report.scores import score  # noqa: F401
