"""Moved to ``braidbandit.ledger.records`` and ``braidbandit.tasks.encoder``."""

from braidbandit.ledger.records import *  # noqa: F403
from braidbandit.tasks.encoder import *  # noqa: F403
