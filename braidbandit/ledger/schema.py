"""The ledger's tables, and bringing a database to them.

The tables are made and changed by Alembic migrations only (``migrations/``), in one
transaction under a lock, when a ledger is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

REVISION = "3"
"""The schema this version reads and writes: the newest migration."""

MISSING = "the ledger needs {}: pip install 'braidbandit[full]'"

# Any number will do, as long as everybody takes the same one.
_LOCK = 7_246_001


class Tables:
    """The tables as SQLAlchemy objects.

    Attributes
    ----------
    decisions : Table
        Rows of 0.1.0 have everything in ``body``; newer ones have the arrays apart,
        and the arm ids in ``arm_sets``.
    outcomes : Table
        Events in the order in which they count: outcomes, revisions, retractions. The
        last one of a decision is what holds.
    comparisons : Table
        Comparisons and their retractions, numbered in one order with the outcomes.
    arm_sets, snapshots : Table
    record : tuple of Column
        The columns of ``decisions`` that a :class:`Decision` is built from.
    """

    def __init__(self) -> None:
        import sqlalchemy as sa

        data = sa.MetaData()

        def text(name: str, size: int, **options: Any) -> Any:
            settings: dict[str, Any] = {"nullable": False, **options}
            return sa.Column(name, sa.String(size), **settings)

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
        c = self.decisions.c
        self.record = (c.body, c.arms, c.scores, c.eligible)
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
        self.comparisons = _comparisons(sa, data)
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


def _comparisons(sa: Any, data: Any) -> Any:
    return sa.Table(
        "comparisons",
        data,
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("decision_id", sa.ForeignKey("decisions.id"), nullable=False),
        sa.Column("other_id", sa.ForeignKey("decisions.id")),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.UniqueConstraint("key", "revision"),
    )


def is_current(engine: Any) -> bool:
    """Whether a database has the tables of this version.

    Raises
    ------
    ValueError
        When its tables are of a newer version, or not a ledger's.
    """
    with engine.connect() as connection:
        return _revision(connection) == REVISION


def migrate(connection: Any) -> None:
    """Bring a database to this version's tables, within a transaction that writes."""
    import sqlalchemy as sa

    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    # Another process may have been faster.
    if _revision(connection) != REVISION:
        _upgrade(connection)


def _revision(connection: Any) -> str | None:
    """Return the schema's revision, None for an empty database."""
    import sqlalchemy as sa

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
        raise ImportError(MISSING.format("Alembic")) from error

    script = ScriptDirectory(str(Path(__file__).parent / "migrations"))

    def steps(revision: Any, _: Any) -> Any:
        # As Alembic's own documentation of EnvironmentContext does it.
        return script._upgrade_revs(REVISION, revision)  # pyright: ignore[reportPrivateUsage]

    context = MigrationContext.configure(connection, opts={"fn": steps})
    tables = sa.inspect(connection).get_table_names()
    if "meta" in tables and "alembic_version" not in tables:
        context.stamp(script, "1")
    with Operations.context(context):
        context.run_migrations()
