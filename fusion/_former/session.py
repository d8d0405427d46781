"""Moved to ``fusion.calibration.store``."""

from fusion.calibration.store import *  # noqa: F403
