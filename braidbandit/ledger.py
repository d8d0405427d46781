"""The ledger: the durable record of decisions and outcomes, in SQL.

The ledger is the truth; a saved recommender is a cache of it. SQLite by default,
any other database SQLAlchemy knows by its URL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from braidbandit.decision import Decision, Outcome

FORMAT = 1
_PAGE = 500


class Ledger:
    """Record of decisions and outcomes.

    Parameters
    ----------
    url : str or Path
        An SQLAlchemy URL, or the path of an SQLite file.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with Ledger(folder.name + "/ledger.db") as ledger:
    ...     ledger.counts()
    {'decisions': 0, 'outcomes': 0, 'pending': 0}
    >>> folder.cleanup()
    """

    def __init__(self, url: str | Path) -> None:
        try:
            import sqlalchemy as sa
        except ImportError as error:
            raise ImportError(
                "the ledger needs SQLAlchemy: pip install 'braidbandit[full]'"
            ) from error
        self._sa = sa
        text = str(url)
        self._engine = sa.create_engine(text if "://" in text else f"sqlite:///{text}")
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _set_pragmas)
        metadata = sa.MetaData()
        self._meta = sa.Table(
            "meta",
            metadata,
            sa.Column("key", sa.String(64), primary_key=True),
            sa.Column("value", sa.Text, nullable=False),
        )
        self._decisions = sa.Table(
            "decisions",
            metadata,
            sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
            sa.Column("id", sa.String(64), nullable=False, unique=True),
            sa.Column("created_at", sa.String(40), nullable=False),
            sa.Column("task_hash", sa.String(64), nullable=False),
            sa.Column("arm_id", sa.String(64), nullable=False),
            sa.Column("text", sa.Text),
            sa.Column("body", sa.Text, nullable=False),
        )
        self._outcomes = sa.Table(
            "outcomes",
            metadata,
            sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
            sa.Column(
                "decision_id",
                sa.String(64),
                sa.ForeignKey("decisions.id"),
                nullable=False,
                unique=True,
            ),
            sa.Column("created_at", sa.String(40), nullable=False),
            sa.Column("reward", sa.Float, nullable=False),
            sa.Column("body", sa.Text, nullable=False),
        )
        try:
            metadata.create_all(self._engine)
            self._check_format()
        except BaseException:
            self._engine.dispose()
            raise

    def record_decision(self, decision: Decision, text: str | None = None) -> bool:
        """Write a decision; call it before the braid runs.

        Durable when it returns. ``text`` is the task in clear and is kept only when
        it is given. The same decision again is ignored.

        Returns
        -------
        bool
            True when written, False when it was there already.

        Raises
        ------
        ValueError
            When another decision has this id.
        """
        body = json.dumps(decision.to_dict(), allow_nan=False)
        row = {
            "id": decision.id,
            "created_at": decision.created_at,
            "task_hash": decision.task_hash,
            "arm_id": decision.braid.id,
            "text": text,
            "body": body,
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(self._decisions.insert().values(row))
        except self._sa.exc.IntegrityError as error:
            if self._body(self._decisions, self._decisions.c.id, decision.id) == body:
                return False
            raise ValueError(
                f"the ledger holds another decision with id {decision.id!r}; every "
                "decision has its own id"
            ) from error
        return True

    def record_outcome(self, outcome: Outcome) -> bool:
        """Write an outcome; call it before the update. Durable when it returns.

        Returns
        -------
        bool
            True when written, False when the same outcome was there already.

        Raises
        ------
        KeyError
            When the decision is unknown.
        ValueError
            When the decision has a different outcome.
        """
        if (
            self._body(self._decisions, self._decisions.c.id, outcome.decision_id)
            is None
        ):
            raise KeyError(
                f"unknown decision {outcome.decision_id!r}; record the decision before "
                "its outcome"
            )
        row = {
            "decision_id": outcome.decision_id,
            "created_at": outcome.created_at,
            "reward": outcome.reward,
            "body": json.dumps(outcome.to_dict(), allow_nan=False),
        }
        try:
            # The insert comes first: the database decides which of two writers wins.
            with self._engine.begin() as connection:
                connection.execute(self._outcomes.insert().values(row))
        except self._sa.exc.IntegrityError as error:
            key = self._outcomes.c.decision_id
            body = self._body(self._outcomes, key, outcome.decision_id)
            if body is None:
                raise
            known = Outcome.from_dict(json.loads(body))
            if known.same_measurement(outcome):
                return False
            raise ValueError(
                f"decision {outcome.decision_id!r} has an outcome already: {known}; "
                f"received {outcome}"
            ) from error
        return True

    def decision(self, decision_id: str) -> Decision:
        """Return one decision; an unknown id is a KeyError."""
        body = self._body(self._decisions, self._decisions.c.id, decision_id)
        if body is None:
            raise KeyError(f"unknown decision {decision_id!r}")
        return Decision.from_dict(json.loads(body))

    def pairs(self, after: int = 0) -> Iterator[tuple[int, Decision, Outcome]]:
        """Iterate over (sequence, decision, outcome) in the order of the outcomes.

        Parameters
        ----------
        after : int
            Only outcomes with a higher sequence number.
        """
        d, o = self._decisions, self._outcomes
        query = (
            self._sa.select(o.c.sequence, d.c.body, o.c.body)
            .join_from(o, d, d.c.id == o.c.decision_id)
            .order_by(o.c.sequence)
            .limit(_PAGE)
        )
        # Page by page: no transaction stays open while the caller learns.
        while True:
            with self._engine.connect() as connection:
                page = connection.execute(query.where(o.c.sequence > after)).all()
            for sequence, decision, outcome in page:
                yield (
                    sequence,
                    Decision.from_dict(json.loads(decision)),
                    Outcome.from_dict(json.loads(outcome)),
                )
                after = sequence
            if len(page) < _PAGE:
                return

    def pending(self) -> list[Decision]:
        """Return the decisions that have no outcome, oldest first."""
        d, o = self._decisions, self._outcomes
        query = (
            self._sa.select(d.c.body)
            .join_from(d, o, d.c.id == o.c.decision_id, isouter=True)
            .where(o.c.sequence.is_(None))
            .order_by(d.c.sequence)
        )
        with self._engine.connect() as connection:
            bodies = connection.execute(query).scalars().all()
        return [Decision.from_dict(json.loads(body)) for body in bodies]

    def counts(self) -> dict[str, int]:
        """Return the number of decisions, outcomes and pending decisions."""
        count = self._sa.func.count()
        with self._engine.connect() as connection:
            decisions, outcomes = (
                int(
                    connection.execute(
                        self._sa.select(count).select_from(table)
                    ).scalar_one()
                )
                for table in (self._decisions, self._outcomes)
            )
        return {
            "decisions": decisions,
            "outcomes": outcomes,
            "pending": decisions - outcomes,
        }

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _body(self, table: Any, key: Any, value: str) -> str | None:
        query = self._sa.select(table.c.body).where(key == value)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one_or_none()

    def _check_format(self) -> None:
        meta = self._meta
        query = self._sa.select(meta.c.value).where(meta.c.key == "format")
        with self._engine.begin() as connection:
            found = connection.execute(query).scalar_one_or_none()
            if found is None:
                connection.execute(
                    meta.insert().values(key="format", value=str(FORMAT))
                )
            elif int(found) > FORMAT:
                raise ValueError(
                    f"the ledger has format {found}, this version reads up to "
                    f"{FORMAT}; upgrade braidbandit"
                )


def _set_pragmas(connection: Any, record: Any) -> None:
    """Durable writes that do not block readers, and waiting instead of failing."""
    cursor = connection.cursor()
    for pragma in (
        "busy_timeout=10000",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
