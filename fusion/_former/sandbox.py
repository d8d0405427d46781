"""Moved to ``fusion.judging.sandbox``."""

from fusion.judging.sandbox import *  # noqa: F403
