"""Moved to ``fusion.report.controls``."""

from fusion.report.controls import *  # noqa: F403
