"""Moved to ``braidbandit.recommender.utility``."""

from braidbandit.recommender.utility import *  # noqa: F403
