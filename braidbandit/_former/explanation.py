"""Moved to ``braidbandit.recommender.explanation``."""

from braidbandit.recommender.explanation import *  # noqa: F403
