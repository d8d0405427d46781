"""Moved to ``braidbandit.ledger.records`` and ``braidbandit.tasks.reading``."""

from braidbandit.ledger.records import *  # noqa: F403
from braidbandit.tasks.reading import *  # noqa: F403
