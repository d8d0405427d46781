"""Moved to ``braidbandit.bandit.prior``."""

from braidbandit.bandit.prior import *  # noqa: F403
