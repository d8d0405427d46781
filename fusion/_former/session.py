"""Moved to ``fusion.calibration.store``."""

from fusion.calibration.store import *  # noqa: F403
from fusion.calibration.store import CalibrationStore as Session
from fusion.calibration.store import identity as who
from fusion.calibration.texts import plain_text

__all__ = ["Session", "plain_text", "who"]
