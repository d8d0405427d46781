"""Embeddings on disk: one SQLite database of raw bytes, of bounded size.

Nothing is unpickled. Several processes may share the file, it may be deleted at any
time, and what is damaged in it is computed again.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from braidbandit._files import WRITING

Array = NDArray[np.float64]
_Row = tuple[bytes, bytes, int, int]
_Result = TypeVar("_Result")

NAME = "braidbandit-embeddings.sqlite"
"""Name of the database in its folder."""

SQLITE = b"SQLite format 3\0"
"""How every SQLite database begins."""
# Stands in the header of every such database, whatever the file is called.
_APPLICATION, _APPLICATION_AT = b"BrEm", slice(68, 72)
_FORMAT = 1
# Two embeddings of 384 numbers. Larger pages would be fuller, and slower to write.
_PAGE = 8 * 2**10
# What an insert may add to the trees besides the embeddings themselves.
_SPARE = 8 * _PAGE
_EVICTED_AT_ONCE = 8
_PATIENCE = 2.0  # seconds
_DAY = 86_400
_JOURNALS = ("-journal", "-wal", "-shm")
# Earlier versions wrote every embedding to a file of its own.
_FORMER = re.compile(r"[0-9a-f]{32}\.npy")
_SCHEMA = (
    "CREATE TABLE embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL,"
    " checksum INTEGER NOT NULL, day INTEGER NOT NULL)",
    "CREATE INDEX by_day ON embeddings (day)",
)

logger = logging.getLogger(__name__)


class EmbeddingFile:
    """The database of a folder; one thread at a time.

    Trouble with the file (no rights, a full disk, another process that holds it for
    long) is logged and never raised: an embedding can be computed again.

    Parameters
    ----------
    folder : Path
        Made when the first embedding is written.
    most_bytes : int
        Largest size of the file. What was not used for longest (counted in days) is
        deleted to make room. Below 256 KiB it holds nothing.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = EmbeddingFile(Path(folder), 2**20)
    ...     file.write({"0a": np.array([0.5, 2.0])})
    ...     found = file.read(["0a", "0b"])
    ...     file.close()
    >>> {key: vector.tolist() for key, vector in found.items()}
    {'0a': [0.5, 2.0]}
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.path = folder / NAME
        self.most_bytes = most_bytes
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._told = False

    def read(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return those embeddings that are there, by key.

        Parameters
        ----------
        keys : sequence of str
            Hashes in hexadecimal.
        """
        if not self.path.exists():
            return {}
        return self._attempt(lambda db: _read(db, keys)) or {}

    def write(self, embeddings: Mapping[str, Array]) -> None:
        """Write embeddings, each of shape (d,), in place of those of the same key."""
        today = _today()
        rows = [_row(key, vector, today) for key, vector in embeddings.items()]
        self._attempt(lambda db: _write(db, rows, self.most_bytes))

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def __del__(self) -> None:
        self.close()

    def _attempt(
        self, action: Callable[[sqlite3.Connection], _Result]
    ) -> _Result | None:
        """Do something with the database; None when it cannot be done."""
        try:
            try:
                return action(self._open())
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self.close()
                _remove(self.path)
                return action(self._open())
        except (sqlite3.Error, OSError) as error:
            self.close()
            if not self._told:
                logger.warning("cannot keep embeddings in %s: %s", self.path, error)
            self._told = True
            return None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._is_replaced():
            self.close()
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = _connect(self.path)
            _prepare(self._connection, self.path.parent, self.most_bytes)
            self._inode = self.path.stat().st_ino
        return self._connection

    def _is_replaced(self) -> bool:
        """Whether somebody has deleted the file, or put another in its place."""
        try:
            return self.path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True


def holds_embeddings(file: Path) -> bool:
    """Whether a file is such a database, under whatever name, or one of its journals.

    So are the files of earlier versions, of one embedding each.
    """
    if file.name.startswith(NAME) or _FORMER.fullmatch(file.name):
        return True
    with file.open("rb") as opened:
        head = opened.read(72)
    return head.startswith(SQLITE) and head[_APPLICATION_AT] == _APPLICATION


def forget(file: Path) -> None:
    """Delete the embeddings in a file for which :func:`holds_embeddings` is true.

    A database is emptied in place, as another process may be using it; no byte of an
    embedding stays in it. Any other file is removed.

    Raises
    ------
    sqlite3.OperationalError
        When another process holds the database for longer than two seconds.
    """
    of_another = any(
        file.name == NAME + end and file.with_name(NAME).exists() for end in _JOURNALS
    )
    if of_another:
        return  # it goes with its database
    if file.name != NAME:
        file.unlink(missing_ok=True)
        return
    connection = _connect(file)
    try:
        _prepare(connection, file.parent, 0)
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("DELETE FROM embeddings")
        connection.execute("VACUUM")
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        _remove(file)
    finally:
        connection.close()


def forget_folder(folder: Path) -> None:
    """Delete the embeddings in a ``cache_dir``, and leave all other files alone."""
    if folder.is_dir():
        for file in _former_files(folder):
            file.unlink(missing_ok=True)
        if (folder / NAME).is_file():
            forget(folder / NAME)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )


def _prepare(db: sqlite3.Connection, folder: Path, most_bytes: int) -> None:
    """Make the table where there is none; a database of another kind is damaged."""
    # No waiting for the disk: what a power failure damages is computed again.
    db.execute("PRAGMA synchronous = OFF")
    application = int.from_bytes(_APPLICATION, "big")
    if _number(db, "application_id") != application:
        db.execute(f"PRAGMA page_size = {_PAGE}")
        with db:
            db.execute("BEGIN IMMEDIATE")
            if _number(db, "application_id") != application:  # made by no one meanwhile
                _create(db, application)
                for file in _former_files(folder):
                    file.unlink(missing_ok=True)
    if _number(db, "user_version") != _FORMAT:
        raise sqlite3.DatabaseError("of another format")
    if most_bytes and _number(db, "page_count") * _size(db) > most_bytes:
        with db:
            db.execute("BEGIN IMMEDIATE")
            _make_room(db, 0, most_bytes)
        db.execute("VACUUM")


def _create(db: sqlite3.Connection, application: int) -> None:
    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise sqlite3.DatabaseError("of another program")
    for statement in _SCHEMA:
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {application}")
    db.execute(f"PRAGMA user_version = {_FORMAT}")


def _read(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    not_today: list[tuple[int, bytes]] = []
    today = _today()
    with db:
        db.execute("BEGIN")
        for key in keys:
            row: _Row | None = db.execute(
                "SELECT key, vector, checksum, day FROM embeddings WHERE key = ?"
                " AND typeof(vector) = 'blob' AND length(vector) % 8 = 0",
                (bytes.fromhex(key),),
            ).fetchone()
            if row is None or _checksum(row[0], row[1]) != row[2]:
                continue
            found[key] = np.frombuffer(row[1], dtype="<f8")
            if row[3] != today:
                not_today.append((today, row[0]))
    if not_today:
        # What was found counts also where nobody may write, or another does just now.
        with suppress(sqlite3.OperationalError), db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("UPDATE embeddings SET day = ? WHERE key = ?", not_today)
    return found


def _write(db: sqlite3.Connection, rows: Sequence[_Row], most_bytes: int) -> None:
    for some, size in _in_parts(rows, most_bytes // 16):
        with db:
            db.execute("BEGIN IMMEDIATE")
            if _make_room(db, size + _SPARE, most_bytes):
                db.executemany(
                    "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?, ?)", some
                )


def _in_parts(
    rows: Sequence[_Row], most_bytes: int
) -> Iterator[tuple[list[_Row], int]]:
    """Split rows into parts of limited size, each with the bytes that it takes."""
    part: list[_Row] = []
    size = 0
    for row in rows:
        # The worst case: a row of just over half a page has a page to itself.
        takes = 2 * (len(row[1]) + 128)
        if part and size + takes > most_bytes:
            yield part, size
            part, size = [], 0
        part.append(row)
        size += takes
    if part:
        yield part, size


def _make_room(db: sqlite3.Connection, size: int, most_bytes: int) -> bool:
    """Evict until ``size`` more bytes fit into the limit; False if they never will.

    SQLite uses free pages again, and so the file does not grow.
    """
    page = _size(db)
    while True:
        used = _number(db, "page_count") - _number(db, "freelist_count")
        if used * page + size <= most_bytes:
            return True
        evicted = db.execute(
            "DELETE FROM embeddings WHERE rowid IN"
            " (SELECT rowid FROM embeddings ORDER BY day, rowid LIMIT ?)",
            (_EVICTED_AT_ONCE,),
        ).rowcount
        if not evicted:
            return False


def _row(key: str, vector: Array, today: int) -> _Row:
    name, blob = bytes.fromhex(key), vector.astype("<f8").tobytes()
    return name, blob, _checksum(name, blob), today


def _checksum(key: bytes, blob: bytes) -> int:
    return zlib.crc32(blob, zlib.crc32(key))


def _today() -> int:
    return int(time.time()) // _DAY


def _number(db: sqlite3.Connection, pragma: str) -> int:
    return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])


def _size(db: sqlite3.Connection) -> int:
    return _number(db, "page_size")


def _remove(path: Path) -> None:
    for end in ("", *_JOURNALS):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _former_files(folder: Path) -> list[Path]:
    """What earlier versions kept in a folder, or left there half written."""
    return [
        file
        for file in folder.iterdir()
        if (_FORMER.fullmatch(file.name) or file.name.startswith(WRITING))
        and file.is_file()
    ]
