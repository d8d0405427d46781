"""What happened: decisions, outcomes, and the durable record of both."""

from __future__ import annotations

from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision, Event, Outcome
from braidbandit.ledger.transfer import export_ledger, import_ledger

__all__ = ["Decision", "Event", "Ledger", "Outcome", "export_ledger", "import_ledger"]
