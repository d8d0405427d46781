"""Moved to ``braidbandit.bandit.posterior`` and ``braidbandit.bandit.prior``."""

from braidbandit.bandit.posterior import *  # noqa: F403
from braidbandit.bandit.prior import *  # noqa: F403
