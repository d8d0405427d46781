"""Purging a folder: embeddings, saved policies, and copies and exports of a ledger."""

from __future__ import annotations

import errno
import sqlite3
from datetime import datetime
from functools import partial
from pathlib import Path

from braidbandit._files import LOCK, WRITING
from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.transfer import is_export, purge_export
from braidbandit.recommender.saving import purged, without_decisions
from braidbandit.recommender.state_files import edit_state, is_manifest
from braidbandit.tasks.embedding_file import SQLITE, forget, holds_embeddings

_JOURNALS = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_BEGUN = (".jsonl.part", ".parquet.part")


def purge_folder(
    folder: Path, before: datetime, *, records: bool, besides: Path | None
) -> None:
    """Delete what was decided before a time from all files of a folder.

    All embeddings are deleted, as they do not say which task they belong to. Files in
    other formats are not touched.

    Parameters
    ----------
    folder : Path
    before : datetime
        With a zone.
    records : bool
        Whole records, not only texts.
    besides : Path, optional
        A ledger that is left alone: it is in use.

    Raises
    ------
    OSError
        When something could not be removed; names it, and the rest is done.
    """
    left = []
    for file in sorted(folder.rglob("*")):
        try:
            if not file.is_file() or (besides is not None and file.samefile(besides)):
                continue
            if holds_embeddings(file):
                forget(file)
            elif file.parent == folder / "embeddings" or _is_left_over(file):
                file.unlink(missing_ok=True)
            else:
                _purge_file(file, before, records)
        except Exception as error:  # of any kind: it is reported in the end
            left.append(f"{file} ({error})")
    if left:
        raise OSError(
            errno.EBUSY,
            f"what was purged may still be in {'; '.join(left)}. Remove what is named, "
            "or purge again",
        )


def _is_left_over(file: Path) -> bool:
    """Whether it was never finished, or is a journal without its ledger."""
    # With a lock beside it, somebody may be writing it now; a save clears these away.
    begun = file.name.startswith(WRITING) and not file.with_name(LOCK).exists()
    return begun or file.name.endswith(_BEGUN) or _is_orphan(file)


def _is_orphan(file: Path) -> bool:
    """Whether it is the journal of an SQLite file that is not there."""
    ledger, end = file.name[:-4], file.name[-4:]
    if end != "-wal" or file.with_name(ledger).exists():
        return False
    with file.open("rb") as opened:
        return opened.read(4) in _JOURNALS


def _purge_file(file: Path, before: datetime, records: bool) -> None:
    with file.open("rb") as opened:
        head = opened.read(64)
    if head.startswith(SQLITE) and _is_ledger(file):
        with Ledger(file) as copy:
            copy.purge(
                before, records=records, edit_policy=partial(purged, before=before)
            )
    elif is_export(file, head):
        purge_export(file, before, records=records)
    elif records and is_manifest(head):
        edit_state(file, partial(without_decisions, before=before))


def _is_ledger(file: Path) -> bool:
    connection = sqlite3.connect(file)
    try:
        names = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master")
        }
    finally:
        connection.close()
    return "decisions" in names and bool(names & {"alembic_version", "meta"})
