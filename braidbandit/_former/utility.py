"""Moved to ``braidbandit.recommender.objectives``."""

from braidbandit.recommender.objectives import *  # noqa: F403
