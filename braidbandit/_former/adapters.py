"""Moved to ``braidbandit.evaluation.importers``."""

from braidbandit.evaluation.importers import *  # noqa: F403
