"""The database that a ledger is kept in: SQLite or PostgreSQL."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from braidbandit._forks import tell_of_forks
from braidbandit.ledger.schema import MISSING, Tables, is_current, migrate

_DIALECTS = ("sqlite", "postgresql")
_SCHEME = re.compile(r"[a-z][a-z0-9+_.-]+://", re.IGNORECASE)
# Seconds that a transaction waits for its turn.
_PATIENCE = 30.0
# Seconds that a purge waits for readers; ours take milliseconds.
_BRIEFLY = 2.0


class Database:
    """Connections to a database that has the tables of a ledger.

    Parameters
    ----------
    url : str or Path
        See :class:`Ledger`.

    Attributes
    ----------
    engine : sqlalchemy.Engine
        For reading: ``with database.engine.connect() as connection``.
    tables : Tables

    Raises
    ------
    ImportError
        When SQLAlchemy, Alembic or the database's driver is missing.
    ValueError
        On another kind of database, or one whose tables are of a newer version.
    """

    def __init__(self, url: str | Path) -> None:
        self.engine = _engine(url)
        self.tables = Tables()
        self._of_parent: list[Any] = []
        try:
            if not is_current(self.engine):
                with _transaction(self.engine) as connection:
                    migrate(connection)
        except BaseException as error:
            self.close()
            if "file is not a database" in str(error):
                raise ValueError(
                    f"{url} is not a database; restore a backup"
                ) from error
            raise
        tell_of_forks(self)

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database; None of PostgreSQL and in memory."""
        if self.engine.dialect.name != "sqlite" or _is_in_memory(self.engine.url):
            return None
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql("PRAGMA database_list").all()
        return Path(rows[0].file)

    @contextmanager
    def writing(
        self, *, ordered: bool = False, at_once: bool = True
    ) -> Generator[Any, None, None]:
        """Open a transaction that is going to write.

        What is committed outlives the process.

        Parameters
        ----------
        ordered : bool
            Events are written: they are numbered in the order of their commits.
        at_once : bool
            What is written outlives the machine too. Without it, it does so with the
            next transaction that is written at once; never in another order.

        Raises
        ------
        OSError
            When the disk is full; nothing was written.
        """
        from sqlalchemy.exc import OperationalError

        try:
            with _transaction(self.engine, at_once) as connection:
                if ordered and self.engine.dialect.name == "postgresql":
                    # A number is drawn before it is committed: without this a reader
                    # could see the later of two events first, and miss the other.
                    table = self.tables.outcomes.name
                    connection.exec_driver_sql(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                yield connection
        except OperationalError as error:
            if "full" in str(error.orig) or "No space left" in str(error.orig):
                raise OSError(
                    errno.ENOSPC,
                    "the disk or database of the ledger is full: nothing was written; "
                    "make room and record it again",
                ) from error
            raise

    def wipe(self) -> None:
        """Leave nothing in an SQLite file, or beside it, of what was deleted from it.

        Raises
        ------
        OSError
            When somebody else is using the file, or the disk is full.
        """
        file, why = self.file, None
        if file is None:
            return
        connection = self.engine.raw_connection()
        cursor = connection.cursor()
        try:
            cursor.execute(f"PRAGMA busy_timeout={1000 * _BRIEFLY:.0f}")
            # Rows that moved to another page left a copy, which no deletion overwrites.
            cursor.execute("VACUUM")
            # The journal holds pages as they were; this empties it.
            busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                why = "somebody else is reading the ledger"
        except sqlite3.OperationalError as error:
            why = str(error)
        finally:
            cursor.execute(f"PRAGMA busy_timeout={1000 * _PATIENCE:.0f}")
            # An open one would be in the way of the next VACUUM, in this very file.
            cursor.close()
            connection.close()
        if why is not None:
            raise OSError(
                errno.ENOSPC if "full" in why else errno.EBUSY,
                f"what was purged is deleted, but {file} and {file}-wal still hold "
                f"copies of it: {why}. Purge again when that is over",
            )

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    # ---- forks ----

    def before_fork(self) -> None:
        """Nothing is held: another thread may go on writing in the parent."""

    def after_fork(self, in_child: bool) -> None:
        """Leave the parent its connections; a database in memory is copied whole."""
        if in_child and not _is_in_memory(self.engine.url):
            # Kept, as SQLite must not even close a connection of the parent.
            self._of_parent.append(self.engine.pool)
            self.engine.dispose(close=False)


def _engine(url: str | Path) -> Any:
    """Return an engine whose connections are prepared for a ledger."""
    try:
        import sqlalchemy as sa
        from sqlalchemy.event import listen
    except ImportError as error:
        raise ImportError(MISSING.format("SQLAlchemy")) from error
    parsed = _url(sa, url)
    if parsed.get_backend_name() not in _DIALECTS:
        raise ValueError(
            f"a ledger is kept in {' or '.join(_DIALECTS)}, received a URL of "
            f"{parsed.get_backend_name()!r}"
        )
    in_memory = _is_in_memory(parsed)
    options: dict[str, Any] = {}
    if in_memory:
        # Such a database is its connection's: there is one, and threads take turns.
        options = {
            "poolclass": sa.pool.QueuePool,
            "pool_size": 1,
            "max_overflow": 0,
            "pool_timeout": _PATIENCE,
            "connect_args": {"check_same_thread": False},
        }
    try:
        engine = sa.create_engine(parsed, **options)
    except ImportError as error:
        raise ImportError(
            f"no driver for {parsed.drivername}: pip install 'braidbandit[postgres]' "
            "for postgresql+psycopg"
        ) from error
    if engine.dialect.name == "sqlite":
        listen(engine, "connect", _prepare_sqlite)
        begin = _begin_in_memory if in_memory else _begin_sqlite
        listen(engine, "begin", begin)
    return engine


def _transaction(engine: Any, at_once: bool = True) -> Any:
    how = "FULL" if at_once else "NORMAL"
    return engine.execution_options(braidbandit_writes=how).begin()


def _url(sa: Any, url: str | Path) -> Any:
    """Return where a ledger is: text with a scheme is a URL, all else is a path."""
    text = str(url)
    if isinstance(url, str) and _SCHEME.match(text):
        parsed = sa.make_url(text)
    else:
        parsed = sa.URL.create("sqlite", database=text)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return parsed
    if isinstance(url, str) and parsed.database.startswith("file:"):
        return parsed.update_query_dict({"uri": "true"})
    return parsed.set(database=os.path.expanduser(parsed.database))


def _is_in_memory(url: Any) -> bool:
    """Whether a database is SQLite's and in no file."""
    if url.get_backend_name() != "sqlite":
        return False
    if "uri" not in url.query:
        return url.database in (None, "", ":memory:")
    name, _, query = (url.database or "").partition("?")
    settings = dict(url.query) | dict(re.findall(r"([^&=]+)=([^&]*)", query))
    memory = settings.get("mode") == "memory" or settings.get("vfs") == "memdb"
    return memory or name in ("file:", "file::memory:")


def _prepare_sqlite(connection: Any, record: Any) -> None:
    """Durable writes that do not block readers, and waiting instead of failing."""
    # Transactions begin where SQLAlchemy says so, not where the driver guesses.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={1000 * _PATIENCE:.0f}",
        "journal_mode=WAL",
        "foreign_keys=ON",
        "secure_delete=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    how = connection.get_execution_options().get("braidbandit_writes")
    execute = connection.connection.dbapi_connection.execute
    if how is None:
        execute("BEGIN")
        return
    execute(f"PRAGMA synchronous={how}")
    # A writer takes its turn at once: one that has read first could not wait for it.
    execute("BEGIN IMMEDIATE")


def _begin_in_memory(connection: Any) -> None:
    """Take the database for oneself: several ledgers may share one in memory."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.connection.dbapi_connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            # SQLite's own waiting is for files only.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.001)
