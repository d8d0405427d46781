"""The file of a ledger, read as it is: opening a Ledger would bring it up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from braidbandit.cli.machine.doctor.finding import Finding, error, ok, warning
from braidbandit.ledger.schema import REVISION


class LedgerFile:
    """What an SQLite file of a ledger says of itself.

    Parameters
    ----------
    file : Path
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def damage(self) -> str | None:
        """Return what is wrong with the file, None where it is whole."""
        try:
            with self._opened() as connection:
                said = connection.execute("PRAGMA quick_check").fetchone()[0]
                self._revision(connection)
        except (sqlite3.Error, ValueError) as problem:
            return str(problem)
        return None if said == "ok" else str(said)

    def revision(self) -> str | None:
        """Return the revision of its tables, None for an empty file."""
        with self._opened() as connection:
            return self._revision(connection)

    def counts(self) -> dict[str, int]:
        """Return how many decisions it has, and events about them."""
        names = {"decisions": "decisions", "events": "outcome_events"}
        with self._opened() as connection:
            tables = _tables(connection)
            return {
                what: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
                for what, name in names.items()
                if name in tables
            }

    def encoders(self) -> dict[str, int]:
        """Return how many decisions were made with which encoder, by its hash."""
        query = (
            "SELECT json_extract(body, '$.encoder_hash') AS encoder, count(*) "
            "FROM decisions GROUP BY encoder ORDER BY max(sequence) DESC"
        )
        with self._opened() as connection:
            if "decisions" not in _tables(connection):
                return {}
            return {str(name): n for name, n in connection.execute(query)}

    @contextmanager
    def _opened(self) -> Generator[sqlite3.Connection, None, None]:
        address = self.file.absolute().as_uri()
        # Where nobody is writing, SQLite is told so: else it puts files beside it.
        journal = self.file.with_name(f"{self.file.name}-wal")
        still = not journal.exists() or not journal.stat().st_size
        how = "immutable=1" if still else "mode=ro"
        connection = sqlite3.connect(f"{address}?{how}", uri=True)
        with closing(connection):
            yield connection

    def _revision(self, connection: sqlite3.Connection) -> str | None:
        tables = _tables(connection)
        if "alembic_version" in tables:
            row: Any = connection.execute("SELECT version_num FROM alembic_version")
            found = row.fetchone()
            return None if found is None else str(found[0])
        if "meta" in tables:  # 0.1.0 counted by itself
            return "1"
        if tables:
            raise ValueError("it holds tables that are not a ledger's")
        return None


def check_ledger(file: Path) -> Finding:
    """Check that a ledger is whole, and not of a newer version."""
    if not file.exists():
        return ok("ledger", "none yet; the first decision makes one")
    ledger = LedgerFile(file)
    damage = ledger.damage()
    if damage is not None:
        return error(
            "ledger",
            f"{file} is damaged: {damage}",
            f"restore a backup, or save what can be read: sqlite3 {file} .recover",
        )
    revision = ledger.revision()
    if revision is not None and not _is_known(revision):
        return error(
            "ledger",
            f"{file} has schema revision {revision}, this version reads up to "
            f"{REVISION}: a newer braidbandit wrote it",
            "pip install --upgrade braidbandit",
        )
    counts = ledger.counts()
    said = ", ".join(f"{n:,} {what}" for what, n in counts.items()) or "empty"
    if revision not in (None, REVISION):
        return warning(
            "ledger",
            f"{file}: {said}; it has schema revision {revision}",
            "back it up if you like: it is brought up to date when it is next opened",
        )
    return ok("ledger", f"{file}: {said}")


def _is_known(revision: str) -> bool:
    return revision.isdigit() and int(revision) <= int(REVISION)


def _tables(connection: sqlite3.Connection) -> set[str]:
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE "
        "'sqlite_%'"
    )
    return {str(name) for (name,) in connection.execute(query)}
