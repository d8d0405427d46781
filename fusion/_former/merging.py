"""Moved to ``fusion.strands.merging``."""

from fusion.strands.merging import *  # noqa: F403
