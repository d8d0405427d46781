"""Moved to ``fusion.report.held_out``."""

from fusion.report.held_out import *  # noqa: F403
