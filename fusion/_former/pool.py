"""Moved to ``fusion.strands.pool``."""

from fusion.strands.pool import *  # noqa: F403
