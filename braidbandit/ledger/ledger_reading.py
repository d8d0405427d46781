"""Reading the ledger: decisions, what is true of them now, and what was said before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidbandit._forks import tell_of_forks
from braidbandit.ledger.records import Decision, Event, Outcome
from braidbandit.ledger.rows import decision_of, in_force, in_utc
from braidbandit.ledger.schema import Tables, is_in_memory, open_engine, sqlite_file

if TYPE_CHECKING:
    from typing_extensions import Self

_PAGE = 500


class LedgerReader:
    """What may be asked of a ledger; :class:`Ledger` adds what may be written."""

    def __init__(self, url: str | Path) -> None:
        self._engine = open_engine(url)
        import sqlalchemy as sa

        self._sa = sa
        tables = Tables()
        self._decisions, self._outcomes = tables.decisions, tables.outcomes
        self._arm_sets, self._snapshots = tables.arm_sets, tables.snapshots
        self._arms: dict[str, tuple[str, ...]] = {}
        self._of_parent: list[Any] = []
        tell_of_forks(self)

    # ---- forks ----

    def before_fork(self) -> None:
        """Nothing is held: another thread may go on writing in the parent."""

    def after_fork(self, in_child: bool) -> None:
        """Leave the parent its connections; a database in memory is copied whole."""
        if in_child and not is_in_memory(self._engine.url):
            # Kept, as SQLite must not even close a connection of the parent.
            self._of_parent.append(self._engine.pool)
            self._engine.dispose(close=False)

    @property
    def path(self) -> Path | None:
        """The file of the ledger; None of PostgreSQL and in memory."""
        return sqlite_file(self._engine)

    # ---- reading ----

    def decision(self, decision_id: str) -> Decision:
        """Return one decision; an unknown id is a KeyError."""
        if not isinstance(decision_id, str):
            raise TypeError(
                f"expected the id of a decision, which is text, received "
                f"{decision_id!r} ({type(decision_id).__name__})"
            )
        d = self._decisions
        query = self._sa.select(*self._columns()).where(d.c.id == decision_id)
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise KeyError(
                f"unknown decision {decision_id!r}: it is not in this ledger; expected "
                "the id of one that was made with it, and not purged since"
            )
        return self._decision_of(row)

    def text(self, decision_id: str) -> str | None:
        """Return the text that was kept of a decision's task, if any."""
        d = self._decisions
        query = self._sa.select(d.c.text).where(d.c.id == decision_id)
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise KeyError(
                f"unknown decision {decision_id!r}: it is not in this ledger; expected "
                "the id of one that was made with it, and not purged since"
            )
        return None if row.text is None else str(row.text)

    def pairs(
        self, after: int = 0, until: int | None = None
    ) -> Iterator[tuple[int, Decision, Outcome]]:
        """Iterate over (sequence, decision, outcome): what is true now, in order.

        Outcomes that were taken back are left out; revised ones are given once, as
        they are now. What is said while this is read counts next time.

        Parameters
        ----------
        after : int
            Only what was said after this sequence number.
        until : int, optional
            What was true at this sequence number, whatever is said meanwhile.
        """
        if until is None:
            until = self.last_sequence()
        for event in self._events(after, until):
            if event.outcome is not None:
                yield event.sequence, event.decision, event.outcome

    def events(self, after: int = 0) -> Iterator[Event]:
        """Iterate over outcomes, revisions and retractions as they were said.

        Parameters
        ----------
        after : int
            Only events with a higher sequence number.
        """
        return self._events(after)

    def said_before(self, decision_id: str, sequence: int) -> Outcome | None:
        """Return what was true of a decision before this sequence number, if any."""
        o = self._outcomes
        query = (
            self._sa.select(o.c.kind, o.c.body)
            .where(o.c.decision_id == decision_id, o.c.sequence < sequence)
            .order_by(o.c.revision.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else in_force(row.kind, row.body)

    def last_sequence(self) -> int:
        """Return the sequence number of what was said last, 0 before anything."""
        with self._engine.connect() as connection:
            query = self._sa.select(self._sa.func.max(self._outcomes.c.sequence))
            return int(connection.execute(query).scalar() or 0)

    def history(self, until: int) -> Iterator[Any]:
        """Iterate over the rows of outcomes as they are kept, retracted ones too.

        Up to a sequence number, that one included.
        """
        o, after = self._outcomes, 0
        while True:
            said = o.c.sequence > after, o.c.sequence <= until
            query = self._sa.select(o).where(*said)
            page = self._page(query.order_by(o.c.sequence))
            for row in page:
                yield row
                after = row.sequence
            if len(page) < _PAGE:
                return

    def decisions(self) -> Iterator[tuple[Decision, str | None]]:
        """Iterate over every decision and its text, if it was kept, oldest first."""
        return self._decided(self._sa.true())

    def decided_after(self, time: datetime | None) -> Iterator[Decision]:
        """Iterate over the decisions made after a time, or all, in their order."""
        which = self._sa.true()
        if time is not None:
            which = self._decisions.c.created_at > in_utc(time)
        return (decision for decision, _ in self._decided(which))

    def _decided(self, which: Any) -> Iterator[tuple[Decision, str | None]]:
        d, last = self._decisions, 0
        query = self._sa.select(d.c.sequence, d.c.text, *self._columns()).where(which)
        while True:
            page = self._page(query.where(d.c.sequence > last).order_by(d.c.sequence))
            for row in page:
                yield self._decision_of(row), row.text
                last = row.sequence
            if len(page) < _PAGE:
                return

    def pending(self, newest: int | None = None) -> list[Decision]:
        """Return the decisions that wait for an outcome, oldest first.

        ``newest`` leaves out all but so many.
        """
        d = self._decisions
        query = (
            self._sa.select(*self._columns())
            .where(self._waits() & d.c.expired_at.is_(None))
            .order_by(d.c.sequence.desc())
            .limit(newest)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [self._decision_of(row) for row in reversed(rows)]

    def expired(self) -> dict[str, str]:
        """Return when the ledger stopped waiting, by the ids of such decisions."""
        d = self._decisions
        query = self._sa.select(d.c.id, d.c.expired_at)
        late = query.where(d.c.expired_at.is_not(None)).order_by(d.c.sequence)
        with self._engine.connect() as connection:
            return {row.id: row.expired_at for row in connection.execute(late)}

    def counts(self) -> dict[str, int]:
        """Return the number of decisions, outcomes and decisions that wait for one."""
        sa, d, o = self._sa, self._decisions, self._outcomes
        kinds = {"outcome": 1, "retraction": -1}
        said = sa.func.sum(sa.case(kinds, value=o.c.kind, else_=0))
        gone = sa.func.count(d.c.expired_at)
        # In one statement: each sees the ledger at a time of its own.
        query = sa.select(sa.func.count(), gone, sa.select(said).scalar_subquery())
        with self._engine.connect() as connection:
            row = connection.execute(query.select_from(d)).one()
        decisions, expired, outcomes = (int(number or 0) for number in row)
        return {
            "decisions": decisions,
            "outcomes": outcomes,
            "pending": decisions - expired - outcomes,
        }

    def read_snapshot(self) -> tuple[str, bytes]:
        """Return manifest and arrays of the newest snapshot."""
        s = self._snapshots
        query = self._sa.select(s.c.manifest, s.c.arrays)
        with self._engine.connect() as connection:
            row = connection.execute(
                query.order_by(s.c.sequence.desc()).limit(1)
            ).one_or_none()
        if row is None:
            raise FileNotFoundError("the ledger holds no saved recommender")
        return row.manifest, bytes(row.arrays)

    # ---- life ----

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- inside ----

    def _waits(self) -> Any:
        """Return the condition that a decision has no outcome in force."""
        d, o = self._decisions, self._outcomes.alias()
        return ~self._sa.exists().where(
            (o.c.decision_id == d.c.id) & (o.c.kind != "retraction") & self._is_last(o)
        )

    def _is_last(self, events: Any, until: int | None = None) -> Any:
        """Return the condition that nothing was said after, up to a sequence number."""
        later = self._outcomes.alias()
        follows = (later.c.decision_id == events.c.decision_id) & (
            later.c.revision > events.c.revision
        )
        if until is not None:
            follows &= later.c.sequence <= until
        return ~self._sa.exists().where(follows)

    def _events(self, after: int, until: int | None = None) -> Iterator[Event]:
        """Iterate over events; with ``until``, over the last of each decision then."""
        d, o = self._decisions, self._outcomes
        past = o.alias()
        query = (
            self._sa.select(
                o.c.sequence,
                o.c.kind,
                o.c.body.label("said"),
                past.c.kind.label("kind_before"),
                past.c.body.label("said_before"),
                *self._columns(),
            )
            .join_from(o, d, d.c.id == o.c.decision_id)
            .join(
                past,
                (past.c.decision_id == o.c.decision_id)
                & (past.c.revision == o.c.revision - 1),
                isouter=True,
            )
        )
        if until is not None:
            query = query.where(o.c.sequence <= until, self._is_last(o, until))
        while True:
            page = self._page(query.where(o.c.sequence > after).order_by(o.c.sequence))
            for row in page:
                yield Event(
                    row.sequence,
                    self._decision_of(row),
                    row.kind,
                    in_force(row.kind, row.said),
                    in_force(row.kind_before, row.said_before),
                    after,
                )
                after = row.sequence
            if len(page) < _PAGE:
                return

    def _page(self, query: Any) -> list[Any]:
        # Page by page: no transaction stays open while the caller learns.
        with self._engine.connect() as connection:
            return list(connection.execute(query.limit(_PAGE)).all())

    def _columns(self) -> tuple[Any, ...]:
        c = self._decisions.c
        return c.body, c.arms, c.scores, c.eligible

    def _decision_of(self, row: Any) -> Decision:
        if row.arms is None:
            return decision_of(row, None)
        if row.arms not in self._arms:
            with self._engine.connect() as connection:
                self._read_arms(connection, [row.arms])
        return decision_of(row, self._arms[row.arms])

    def _read_arms(self, connection: Any, keys: Iterable[str]) -> None:
        """Learn which arms these sets are of, where it is not known yet."""
        s, unknown = self._arm_sets, set(keys) - set(self._arms)
        query = self._sa.select(s).where(s.c.hash.in_(unknown))
        for row in connection.execute(query) if unknown else ():
            self._arms[row.hash] = tuple(json.loads(row.arm_ids))
