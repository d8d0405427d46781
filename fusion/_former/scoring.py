"""Moved to ``fusion.judging.scoring``."""

from fusion.judging.scoring import *  # noqa: F403
