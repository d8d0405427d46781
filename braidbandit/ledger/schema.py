"""The ledger's tables, and opening a database that has them.

The tables are made and changed by Alembic migrations only (``migrations/``), in one
transaction under a lock, when a ledger is opened.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

REVISION = "2"
"""The schema this version reads and writes: the newest migration."""

_DIALECTS = ("sqlite", "postgresql")
# Any number will do, as long as everybody takes the same one.
_LOCK = 7_246_001
_SCHEME = re.compile(r"[a-z][a-z0-9+_.-]+://", re.IGNORECASE)
# Seconds that a transaction waits for its turn.
_PATIENCE = 30.0
# Seconds that a purge waits for readers; ours take milliseconds.
_BRIEFLY = 2.0
_MISSING = "the ledger needs {}: pip install 'braidbandit[full]'"


class Tables:
    """The tables as SQLAlchemy objects.

    Attributes
    ----------
    decisions : Table
        Rows of 0.1.0 have everything in ``body``; newer ones have the arrays apart,
        and the arm ids in ``arm_sets``.
    outcomes : Table
        Events in the order in which they count: an outcome, its revisions, its
        retraction; the last of a decision is what is true.
    arm_sets, snapshots : Table
    """

    def __init__(self) -> None:
        import sqlalchemy as sa

        data = sa.MetaData()

        def text(name: str, size: int, **options: Any) -> Any:
            return sa.Column(name, sa.String(size), **{"nullable": False, **options})

        def number() -> Any:
            return sa.Column("sequence", sa.Integer, primary_key=True)

        self.decisions = sa.Table(
            "decisions",
            data,
            number(),
            text("id", 64, unique=True),
            text("created_at", 40),
            text("task_hash", 64),
            text("arm_id", 64),
            sa.Column("text", sa.Text),
            sa.Column("body", sa.Text, nullable=False),
            text("arms", 64, nullable=True),
            sa.Column("scores", sa.LargeBinary),
            sa.Column("eligible", sa.LargeBinary),
            text("expired_at", 40, nullable=True),
        )
        self.outcomes = sa.Table(
            "outcome_events",
            data,
            number(),
            sa.Column("decision_id", sa.ForeignKey("decisions.id"), nullable=False),
            sa.Column("revision", sa.Integer, nullable=False),
            text("kind", 16),
            text("created_at", 40),
            sa.Column("reward", sa.Float),
            sa.Column("body", sa.Text, nullable=False),
            sa.UniqueConstraint("decision_id", "revision"),
            sqlite_autoincrement=True,
        )
        self.arm_sets = sa.Table(
            "arm_sets",
            data,
            text("hash", 64, primary_key=True),
            sa.Column("arm_ids", sa.Text, nullable=False),
        )
        self.snapshots = sa.Table(
            "snapshots",
            data,
            number(),
            text("created_at", 40),
            sa.Column("position", sa.Integer, nullable=False),
            sa.Column("manifest", sa.Text, nullable=False),
            sa.Column("arrays", sa.LargeBinary, nullable=False),
            sqlite_autoincrement=True,
        )
        self.metadata = data


def open_engine(url: str | Path) -> Any:
    """Connect to a database and bring its tables to this version's schema.

    Raises
    ------
    ImportError
        When SQLAlchemy or Alembic is missing.
    ValueError
        On another kind of database, or a newer schema than this version knows.
    """
    try:
        import sqlalchemy as sa
    except ImportError as error:
        raise ImportError(_MISSING.format("SQLAlchemy")) from error
    parsed = _url(sa, url)
    if parsed.get_backend_name() not in _DIALECTS:
        raise ValueError(
            f"a ledger is kept in {' or '.join(_DIALECTS)}, received a URL of "
            f"{parsed.get_backend_name()!r}"
        )
    options: dict[str, Any] = {}
    in_memory = is_in_memory(parsed)
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
        sa.event.listen(engine, "connect", _prepare_sqlite)
        begin = _begin_in_memory if in_memory else _begin_sqlite
        sa.event.listen(engine, "begin", begin)
    try:
        _migrate(engine)
    except BaseException as error:
        engine.dispose()
        if "file is not a database" in str(error):
            raise ValueError(f"{url} is not a database; restore a backup") from error
        raise
    return engine


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


def is_in_memory(url: Any) -> bool:
    """Whether a database is SQLite's and in no file."""
    if url.get_backend_name() != "sqlite":
        return False
    if "uri" not in url.query:
        return url.database in (None, "", ":memory:")
    name, _, query = (url.database or "").partition("?")
    settings = dict(url.query) | dict(re.findall(r"([^&=]+)=([^&]*)", query))
    memory = settings.get("mode") == "memory" or settings.get("vfs") == "memdb"
    return memory or name in ("file:", "file::memory:")


def writing(engine: Any, at_once: bool = True) -> Any:
    """Return a transaction that is going to write, as a context manager.

    What is committed outlives the process. It outlives the machine too if it was
    written ``at_once``; else with the next that is, never in another order.
    """
    how = "FULL" if at_once else "NORMAL"
    return engine.execution_options(braidbandit_writes=how).begin()


def sqlite_file(engine: Any) -> Path | None:
    """Return the file of an SQLite database, None of any other and in memory."""
    if engine.dialect.name != "sqlite" or is_in_memory(engine.url):
        return None
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("PRAGMA database_list").all()
    return Path(rows[0].file)


def wipe(engine: Any) -> None:
    """Leave nothing in an SQLite file, or beside it, of what was deleted from it.

    Raises
    ------
    OSError
        When somebody else is using the file, or the disk is full.
    """
    file, why = sqlite_file(engine), None
    if file is None:
        return
    connection = engine.raw_connection()
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
        connection.close()
    if why is not None:
        raise OSError(
            errno.ENOSPC if "full" in why else errno.EBUSY,
            f"what was purged is deleted, but {file} and {file}-wal still hold copies "
            f"of it: {why}. Purge again when that is over",
        )


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


def _migrate(engine: Any) -> None:
    import sqlalchemy as sa

    with engine.connect() as connection:
        if _revision(sa, connection) == REVISION:
            return
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        # Another process may have been faster.
        if _revision(sa, connection) != REVISION:
            _upgrade(connection)


def _revision(sa: Any, connection: Any) -> str | None:
    """Return the schema's revision, None for an empty database."""
    names = sa.inspect(connection).get_table_names()
    found = None
    if "alembic_version" in names:
        query = sa.text("SELECT version_num FROM alembic_version")
        found = connection.execute(query).scalar_one_or_none()
    elif "meta" in names:  # 0.1.0 counted by itself
        query = sa.text("SELECT value FROM meta WHERE key = 'format'")
        found = connection.execute(query).scalar_one_or_none() or "1"
    elif "decisions" in names:
        raise ValueError(
            "the database has a table 'decisions' that is not a ledger's; give a "
            "database or schema of its own"
        )
    if found is not None and not (found.isdigit() and int(found) <= int(REVISION)):
        raise ValueError(
            f"the ledger has schema revision {found}, this version reads up to "
            f"{REVISION}; upgrade braidbandit"
        )
    return None if found is None else str(found)


def _upgrade(connection: Any) -> None:
    import sqlalchemy as sa

    try:
        from alembic.operations import Operations
        from alembic.runtime.migration import MigrationContext
        from alembic.script import ScriptDirectory
    except ImportError as error:
        raise ImportError(_MISSING.format("Alembic")) from error

    script = ScriptDirectory(str(Path(__file__).parent / "migrations"))
    context = MigrationContext.configure(
        connection, opts={"fn": lambda rev, _: script._upgrade_revs(REVISION, rev)}
    )
    tables = sa.inspect(connection).get_table_names()
    if "meta" in tables and "alembic_version" not in tables:
        context.stamp(script, "1")
    with Operations.context(context):
        context.run_migrations()
