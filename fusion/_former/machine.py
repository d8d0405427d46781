"""Moved to ``fusion.strands.machine``."""

from fusion.strands.machine import *  # noqa: F403
