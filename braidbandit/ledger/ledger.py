"""The ledger: the durable record of decisions and outcomes, in SQL.

The ledger is the truth; a saved recommender is a cache of it. SQLite by default,
PostgreSQL by its URL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidbandit._json import content_hash
from braidbandit.ledger.database import Database
from braidbandit.ledger.records import (
    COMPARED,
    Comparison,
    Decision,
    Event,
    Outcome,
    comparison_of,
    comparison_row,
    decision_of,
    decision_row,
    in_force,
    in_utc,
    kept_text,
    now,
    outcome_of,
    outcome_row,
)

if TYPE_CHECKING:
    from typing_extensions import Self

_PAGE = 500
_SNAPSHOTS = 3


class ArmSets:
    """The sets of arms that decisions were made over, each kept once.

    Many decisions are made over the same arms: their rows hold the hash of the set, its
    ids are in a table of their own. A set that was written or read is remembered.
    """

    def __init__(self, database: Database) -> None:
        import sqlalchemy as sa

        self._sa = sa
        self._database = database
        self._known: dict[str, tuple[str, ...]] = {}

    def key_of(self, arm_ids: tuple[str, ...]) -> str:
        """Return the key of a set of arms in its order; write it if it is new."""
        from sqlalchemy.exc import IntegrityError

        for known, ids in list(self._known.items()):  # other threads add to it
            if ids == arm_ids:
                return known
        key = content_hash(list(arm_ids))
        row = {"hash": key, "arm_ids": json.dumps(arm_ids)}
        try:
            with self._database.writing() as connection:
                connection.execute(self._database.tables.arm_sets.insert().values(row))
        except IntegrityError:
            pass  # another process was faster
        self._known[key] = arm_ids
        return key

    def decisions(self, connection: Any, rows: Sequence[Any]) -> list[Decision]:
        """Build the decisions of rows.

        Sets that are not known yet are read by the same connection: a database in
        memory has no other.
        """
        unknown = {row.arms for row in rows if row.arms} - self._known.keys()
        if unknown:
            s = self._database.tables.arm_sets
            query = self._sa.select(s).where(s.c.hash.in_(unknown))
            for row in connection.execute(query):
                self._known[row.hash] = tuple(json.loads(row.arm_ids))
        return [
            decision_of(row, None if row.arms is None else self._known[row.arms])
            for row in rows
        ]


class Ledger:
    """Record of decisions, outcomes, and comparisons of two answers.

    When a call returns, what it wrote survives the end of the process. The same record
    is written once, however many calls and processes write it. Outcomes survive a power
    failure too, with every decision written before them. On SQLite the newest decisions
    survive one only once another outcome is written: a decision does not wait for the
    disk, which may take milliseconds. A ledger of an earlier version is brought up to
    date when it is opened.

    Parameters
    ----------
    url : str or Path
        The path of an SQLite file, or an SQLAlchemy URL of SQLite or PostgreSQL
        (``postgresql+psycopg://user@host/database``). ``":memory:"`` is a ledger in
        memory: its threads take turns, and it is gone when it is closed.
    redact : callable, optional
        ``text -> text``, applied to the text of a task before it is kept, also to
        texts that are imported.

    Attributes
    ----------
    database : Database
        Where it is kept.
    arm_sets : ArmSets
        The sets of arms that its decisions chose from.

    Raises
    ------
    ImportError
        When SQLAlchemy, Alembic or the database's driver is missing.
    ValueError
        When the ledger is of a newer version.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with Ledger(folder.name + "/ledger.db") as ledger:
    ...     ledger.counts()
    {'decisions': 0, 'outcomes': 0, 'pending': 0}
    >>> folder.cleanup()
    """

    def __init__(
        self, url: str | Path, *, redact: Callable[[str], str] | None = None
    ) -> None:
        self.redact = redact
        self.database = Database(url)
        self.arm_sets = ArmSets(self.database)
        import sqlalchemy as sa

        self._sa = sa
        tables = self.database.tables
        self._decisions, self._outcomes = tables.decisions, tables.outcomes
        self._comparisons = tables.comparisons
        self._snapshots, self._record = tables.snapshots, tables.record
        # Built once: every outcome asks one of them, and building takes as long.
        self._state = self._query_of_state()
        self._state_and_record = self._query_of_state(*self._record)

    @property
    def path(self) -> Path | None:
        """The file of the ledger; None of PostgreSQL and in memory."""
        return self.database.file

    def close(self) -> None:
        """Close every connection."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- writing ----

    def record_decision(self, decision: Decision, text: str | None = None) -> bool:
        """Write a decision; call it before the braid runs.

        Parameters
        ----------
        decision : Decision
            One that is there already is ignored. With one that a person made in place
            of another, that other is no longer waited for: it was not served.
        text : str, optional
            The text of the task. Only when it is given it is kept, redacted.

        Returns
        -------
        bool
            True when written, False when it was there already.

        Raises
        ------
        KeyError
            When the one it is in place of is unknown, or not waited for.
        ValueError
            When another decision has this id, or the one it is in place of has an
            outcome.
        OSError
            When the disk is full; nothing was written.
        """
        from sqlalchemy.exc import IntegrityError

        if text is not None:
            text = kept_text(text, self.redact)
        row = decision_row(decision, self.arm_sets.key_of(decision.arm_ids), text)
        first = decision.instead_of
        try:
            with self.database.writing(
                ordered=first is not None, at_once=False
            ) as connection:
                connection.execute(self._decisions.insert().values(row))
                if first is not None:
                    self._set_aside(connection, first)
        except IntegrityError as error:
            if self.decision(decision.id) == decision:
                return False
            raise ValueError(
                f"the ledger holds another decision with id {decision.id!r}; every "
                "decision has its own id"
            ) from error
        return True

    def record_asked(self, decision: Decision | str, asked: Mapping[str, Any]) -> Any:
        """Write whether a person was asked to rate the answer of a decision.

        Parameters
        ----------
        decision : Decision or str
            A decision, or its id.
        asked : dict
            See ``Decision.asked``.

        Returns
        -------
        dict
            What the ledger has: what was written first stands.

        Raises
        ------
        KeyError
            When the decision is unknown.
        """
        decision_id = decision.id if isinstance(decision, Decision) else decision
        d = self._decisions
        with self.database.writing(ordered=True, at_once=False) as connection:
            query = self._sa.select(d.c.body).where(d.c.id == decision_id)
            text = connection.execute(query).scalar()
            if text is None:
                raise _unknown(decision_id)
            body = json.loads(text)
            if body.get("asked") is None:
                body["asked"] = dict(asked)
                text = json.dumps(body, allow_nan=False)
                new = d.update().where(d.c.id == decision_id).values(body=text)
                connection.execute(new)
        return body["asked"]

    def record_outcome(
        self, outcome: Outcome, decision: Decision | None = None
    ) -> Event | None:
        """Write an outcome; call it before a recommender learns it.

        Parameters
        ----------
        outcome : Outcome
        decision : Decision, optional
            The decision that it is the outcome of, where the caller has it: the event
            holds it as it is given, and it is not read from the ledger.

        Returns
        -------
        Event or None
            What was written; None when the same outcome was there already.

        Raises
        ------
        KeyError
            When the decision is unknown or has expired.
        ValueError
            When the decision has a different outcome, or ``decision`` is another one.
        OSError
            When the disk is full; nothing was written.
        """
        if decision is not None and decision.id != outcome.decision_id:
            raise ValueError(
                f"the outcome is of decision {outcome.decision_id!r}, received "
                f"decision {decision.id!r} with it"
            )
        with self.database.writing(ordered=True) as connection:
            last = self._last(connection, decision or outcome.decision_id)
            known = last.in_force
            if known is None:
                return self._append(connection, last, "outcome", outcome)
            if known.same_measurement(outcome):
                return None
        raise ValueError(
            f"decision {outcome.decision_id!r} has an outcome already: {known}; "
            f"received {outcome}. Call revise to replace it"
        )

    def revise(
        self, decision: Decision | str, reward: float, *, source: str = "user"
    ) -> Event | None:
        """Replace the reward of an outcome; the former one stays in the history.

        Parameters
        ----------
        decision : Decision or str
            A decision, which the event holds as it is given, or its id.
        reward : float in [0, 1]
        source : str
            Who measured.

        Returns
        -------
        Event or None
            What was written; None when this was its reward already.

        Raises
        ------
        KeyError
            When the decision is unknown or has no outcome.
        ValueError
            When the reward is outside [0, 1].
        """
        with self.database.writing(ordered=True) as connection:
            last = self._last(connection, decision)
            known = last.to_change()
            outcome = replace(known, reward=reward, source=source, created_at=now())
            if outcome.reward == known.reward:
                return None
            return self._append(connection, last, "revision", outcome)

    def retract(
        self, decision: Decision | str, *, source: str = "user"
    ) -> Event | None:
        """Take an outcome back; the decision then waits for one again.

        Parameters
        ----------
        decision : Decision or str
            A decision, which the event holds as it is given, or its id.
        source : str
            Who takes it back.

        Returns
        -------
        Event or None
            What was written; None when it was taken back already.

        Raises
        ------
        KeyError
            When the decision is unknown or never had an outcome.
        """
        with self.database.writing(ordered=True) as connection:
            last = self._last(connection, decision)
            if last.kind == "retraction":
                return None
            outcome = replace(last.to_change(), source=source, created_at=now())
            return self._append(connection, last, "retraction", outcome)

    def record_comparison(
        self, comparison: Comparison, decision: Decision | None = None
    ) -> Event | None:
        """Write which of two answers is better; before a recommender learns it.

        Parameters
        ----------
        comparison : Comparison
        decision : Decision, optional
            The one that ``comparison.decision_id`` names, where the caller has it: the
            event holds it as it is given.

        Returns
        -------
        Event or None
            What was written; None when the same comparison was there already.

        Raises
        ------
        KeyError
            When a decision is unknown.
        ValueError
            When the two decisions are of different tasks, or this source has said
            something else of these two answers.
        OSError
            When the disk is full; nothing was written.
        """
        with self.database.writing(ordered=True) as connection:
            decisions = self._compared(connection, comparison)
            last = self._last_said(connection, comparison.key)
            if last is None or last.kind == COMPARED[1]:
                revision = 0 if last is None else last.revision + 1
                about = decision or decisions[comparison.decision_id]
                return self._append_comparison(
                    connection, comparison, revision, COMPARED[0], about
                )
        known = comparison_of(last.body)
        if known.said == comparison.said:
            return None
        raise ValueError(
            f"{comparison.source!r} has compared these two answers already: {known}; "
            f"received {comparison}. Call retract_comparison first to replace it"
        )

    def retract_comparison(self, key: str) -> Event | None:
        """Take a comparison back; another one of the same answers may then come.

        Parameters
        ----------
        key : str
            Its :attr:`Comparison.key`; see
            :func:`~braidbandit.ledger.records.comparison_key`.

        Returns
        -------
        Event or None
            What was written; None when it was taken back already.

        Raises
        ------
        KeyError
            When there never was such a comparison.
        """
        with self.database.writing(ordered=True) as connection:
            last = self._last_said(connection, key)
            if last is None:
                raise KeyError(
                    f"no comparison with key {key!r} is in this ledger; give both "
                    "answers and the source as they were compared"
                )
            if last.kind == COMPARED[1]:
                return None
            known = comparison_of(last.body)
            decision = self._compared(connection, known)[known.decision_id]
            return self._append_comparison(
                connection,
                replace(known, created_at=now()),
                last.revision + 1,
                COMPARED[1],
                decision,
            )

    def expire(self, before: datetime | Decision | str) -> int:
        """Stop waiting for the outcomes of old decisions; later ones are refused.

        Parameters
        ----------
        before : datetime, Decision or str
            With a zone. Decisions made earlier are no longer waited for. Or the one
            decision, or its id, that is no longer waited for.

        Returns
        -------
        int
            Decisions that were waited for until now.

        Raises
        ------
        ValueError
            When the time has no zone.
        KeyError
            When the one decision is unknown.
        """
        d = self._decisions
        if isinstance(before, Decision | str):
            one = before.id if isinstance(before, Decision) else before
            self.decision(one)  # refuses one that is unknown
            late = d.c.id == one
        else:
            late = d.c.created_at < in_utc(before)
        late &= d.c.expired_at.is_(None)
        query = d.update().where(late & self._waits()).values(expired_at=now())
        with self.database.writing(ordered=True) as connection:
            return int(connection.execute(query).rowcount)

    def purge(
        self,
        before: datetime,
        *,
        records: bool = False,
        edit_policy: Callable[[str], str] | None = None,
    ) -> int:
        """Delete what is old: the texts of tasks, or the whole records.

        When this returns, it is gone from an SQLite file, its journal and its unused
        pages: the whole file is rewritten, which takes time and free space on the disk.
        PostgreSQL gives no such promise. Deleted rows stay in the files of the table
        until ``VACUUM FULL`` rewrites them, and in the write-ahead log, replicas and
        backups as long as these are kept.

        An agent keeps more than its ledger in its folder: see
        :meth:`MetaBraider.purge`.

        Parameters
        ----------
        before : datetime
            With a zone. What was decided earlier is deleted.
        records : bool
            Delete decisions and outcomes, and not only texts. Without it the hash and
            the features of a task stay; whoever guesses its text can confirm the guess
            by the hash. A recommender keeps what it has learnt from deleted records,
            but one that learns from this ledger anew never sees them.
        edit_policy : callable, optional
            ``text -> text``: takes the text of a saved policy and returns it without
            the old decisions. Needed with ``records`` when policies were saved in this
            ledger; :func:`braidbandit.recommender.saving.purged` does it.

        Returns
        -------
        int
            Texts, or with ``records`` decisions, that were deleted.

        Raises
        ------
        ValueError
            When the time has no zone, or ``edit_policy`` is needed; nothing was
            deleted.
        OSError
            When the rows are deleted but copies of them are left in the files that the
            message names, because somebody is reading them or the disk is full. Purge
            again later.
        """
        d, o, sa = self._decisions, self._outcomes, self._sa
        old = d.c.created_at < in_utc(before)
        with self.database.writing(ordered=True) as connection:
            if records:
                ids = sa.select(d.c.id).where(old)
                c = self._comparisons
                either = c.c.decision_id.in_(ids) | c.c.other_id.in_(ids)
                connection.execute(c.delete().where(either))
                connection.execute(o.delete().where(o.c.decision_id.in_(ids)))
                gone = connection.execute(d.delete().where(old)).rowcount
                self._purge_snapshots(connection, edit_policy)
            else:
                texts = d.update().where(old & d.c.text.is_not(None)).values(text=None)
                gone = connection.execute(texts).rowcount
        self.database.wipe()
        return int(gone)

    # ---- reading ----

    def decision(self, decision_id: str) -> Decision:
        """Return one decision.

        Raises
        ------
        KeyError
            When the id is unknown.
        """
        if not isinstance(decision_id, str):
            raise TypeError(
                f"expected the id of a decision, which is text, received "
                f"{decision_id!r} ({type(decision_id).__name__})"
            )
        query = self._sa.select(*self._record)
        found = self._read(query.where(self._decisions.c.id == decision_id))
        if not found:
            raise _unknown(decision_id)
        return found[0][1]

    def text(self, decision_id: str) -> str | None:
        """Return the text of a decision's task, None where it was not kept.

        Raises
        ------
        KeyError
            When the id is unknown.
        """
        d = self._decisions
        query = self._sa.select(d.c.text).where(d.c.id == decision_id)
        with self.database.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise _unknown(decision_id)
        return None if row.text is None else str(row.text)

    def ids(self, start: str = "", most: int = 100) -> list[str]:
        """Return the ids of decisions, newest first.

        Parameters
        ----------
        start : str
            Only those that begin so.
        most : int
            Only so many of them.
        """
        c = self._decisions.c
        query = self._sa.select(c.id).order_by(c.sequence.desc()).limit(most)
        if start:
            query = query.where(c.id.startswith(start, autoescape=True))
        with self.database.engine.connect() as connection:
            return [str(row.id) for row in connection.execute(query)]

    def decisions(self) -> Iterator[tuple[Decision, str | None]]:
        """Iterate over every decision and its text, if it was kept, oldest first."""
        return self._decided(self._sa.true())

    def decided_after(self, time: datetime | None) -> Iterator[Decision]:
        """Iterate over the decisions made after a time, or all, in their order."""
        which = self._sa.true()
        if time is not None:
            which = self._decisions.c.created_at > in_utc(time)
        return (decision for decision, _ in self._decided(which))

    def pending(self, newest: int | None = None) -> list[Decision]:
        """Return the decisions that wait for an outcome, oldest first.

        Parameters
        ----------
        newest : int, optional
            Only so many of them, the newest.
        """
        d = self._decisions
        query = (
            self._sa.select(*self._record)
            .where(self._waits() & d.c.expired_at.is_(None))
            .order_by(d.c.sequence.desc())
            .limit(newest)
        )
        return [decision for _, decision in reversed(self._read(query))]

    def pairs(
        self, after: int = 0, until: int | None = None
    ) -> Iterator[tuple[int, Decision, Outcome]]:
        """Iterate over the outcomes in force, in order.

        Outcomes that were taken back are left out; a revised one is given once, as it
        is now, in the place of its last revision. What is written while this is read
        is not seen.

        Parameters
        ----------
        after : int
            Only what was written after this sequence number.
        until : int, optional
            What was in force at this sequence number; by default now.

        Yields
        ------
        (int, Decision, Outcome)
            With the sequence number first.
        """
        if until is None:
            until = self.last_sequence()
        for event in self._events(after, until, last=True):
            if event.outcome is not None:
                yield event.sequence, event.decision, event.outcome

    def events(self, after: int = 0) -> Iterator[Event]:
        """Iterate over all that was said of decisions, in the order of the record.

        Outcomes, revisions and retractions, and comparisons and theirs.

        Parameters
        ----------
        after : int
            Only events with a higher sequence number. The first one ``follows`` this
            number, every other one the event before it.
        """
        # Up to what is there now, again and again: of two tables, each read at its own
        # time, one could otherwise show an event before an earlier one of the other.
        while (until := self.last_sequence()) > after:
            both = self._events(after, until), self._comparison_events(after, until)
            for event in merge(*both, key=attrgetter("sequence")):
                yield replace(event, follows=after)
                after = event.sequence
            after = until

    def comparisons(
        self, after: int = 0, until: int | None = None
    ) -> Iterator[tuple[int, Decision, Comparison]]:
        """Iterate over the comparisons in force, in order, as :meth:`pairs` does.

        Parameters
        ----------
        after : int
            Only what was written after this sequence number.
        until : int, optional
            What was in force at this sequence number; by default now.

        Yields
        ------
        (int, Decision, Comparison)
            With the sequence number first; the decision is the one whose task and
            features it is about.
        """
        until = self.last_sequence() if until is None else until
        for event in self._comparison_events(after, until, last=True):
            if event.comparison is not None and event.kind == COMPARED[0]:
                yield event.sequence, event.decision, event.comparison

    def said_before(self, decision_id: str, sequence: int) -> Outcome | None:
        """Return the outcome of a decision that was in force before an event.

        Parameters
        ----------
        decision_id : str
        sequence : int
            The sequence number of the event.

        Returns
        -------
        Outcome or None
            None when it had none.
        """
        o = self._outcomes
        query = (
            self._sa.select(o.c.kind, o.c.body)
            .where(o.c.decision_id == decision_id, o.c.sequence < sequence)
            .order_by(o.c.revision.desc())
            .limit(1)
        )
        with self.database.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else in_force(row.kind, row.body)

    def history(self, until: int) -> Iterator[Any]:
        """Iterate over the rows of events as they are kept, for an export.

        Parameters
        ----------
        until : int
            The last sequence number.
        """
        tables = self._outcomes, self._comparisons
        rows = (self._rows(table, until) for table in tables)
        return merge(*rows, key=attrgetter("sequence"))

    def last_sequence(self) -> int:
        """Return the sequence number of the newest event, 0 when there is none."""
        with self.database.engine.connect() as connection:
            return self._newest(connection)

    def expired(self) -> dict[str, str]:
        """Return the ids of expired decisions, with the time when each expired."""
        d = self._decisions
        query = self._sa.select(d.c.id, d.c.expired_at)
        late = query.where(d.c.expired_at.is_not(None)).order_by(d.c.sequence)
        with self.database.engine.connect() as connection:
            return {row.id: row.expired_at for row in connection.execute(late)}

    def counts(self) -> dict[str, int]:
        """Return the number of decisions, outcomes and decisions that wait for one."""
        sa, d, o = self._sa, self._decisions, self._outcomes
        kinds = {"outcome": 1, "retraction": -1}
        said = sa.func.sum(sa.case(kinds, value=o.c.kind, else_=0))
        gone = sa.func.count(d.c.expired_at)
        # In one statement: each sees the ledger at a time of its own.
        query = sa.select(sa.func.count(), gone, sa.select(said).scalar_subquery())
        with self.database.engine.connect() as connection:
            row = connection.execute(query.select_from(d)).one()
        decisions, expired, outcomes = (int(number or 0) for number in row)
        return {
            "decisions": decisions,
            "outcomes": outcomes,
            "pending": decisions - expired - outcomes,
        }

    # ---- snapshots of a policy ----

    def write_snapshot(self, position: int, manifest: str, arrays: bytes) -> None:
        """Keep a saved policy and the two before it; see ``BraidRecommender.save``.

        Parameters
        ----------
        position : int
            The sequence number up to which the policy has learnt this ledger.
        manifest : str
        arrays : bytes
        """
        s, sa = self._snapshots, self._sa
        row = {
            "created_at": in_utc(now()),
            "position": position,
            "manifest": manifest,
            "arrays": arrays,
        }
        newest = sa.select(s.c.sequence).order_by(s.c.sequence.desc())
        with self.database.writing() as connection:
            connection.execute(s.insert().values(row))
            kept = connection.execute(newest.limit(_SNAPSHOTS)).scalars().all()
            connection.execute(s.delete().where(s.c.sequence < min(kept)))

    def read_snapshot(self) -> tuple[str, bytes]:
        """Return manifest and arrays of the newest saved policy.

        Raises
        ------
        FileNotFoundError
            When there is none.
        """
        s = self._snapshots
        query = self._sa.select(s.c.manifest, s.c.arrays)
        with self.database.engine.connect() as connection:
            row = connection.execute(
                query.order_by(s.c.sequence.desc()).limit(1)
            ).one_or_none()
        if row is None:
            raise FileNotFoundError("the ledger holds no saved recommender")
        return row.manifest, bytes(row.arrays)

    # ---- inside ----

    def _last(self, connection: Any, decision: Decision | str) -> _Last:
        """Read the last event of a decision; and the decision, if only its id is given.

        Raises
        ------
        KeyError
            When the decision is unknown or has expired.
        """
        if isinstance(decision, Decision):
            decision_id, query = decision.id, self._state
        else:
            decision_id, query = decision, self._state_and_record
        row = connection.execute(query, {"decision_id": decision_id}).one_or_none()
        if row is None:
            raise KeyError(
                f"unknown decision {decision_id!r}; record the decision before its "
                "outcome"
            )
        if row.expired_at is not None:
            raise KeyError(
                f"decision {decision_id!r} of {row.created_at} expired before its "
                "outcome came, or a person chose another arm; decide anew"
            )
        if not isinstance(decision, Decision):
            [decision] = self.arm_sets.decisions(connection, [row])
        return _Last(
            decision,
            -1 if row.revision is None else row.revision,
            row.kind,
            None if row.said is None else outcome_of(row.said),
            max(row.newest or 0, row.newest_comparison or 0),
        )

    def _set_aside(self, connection: Any, decision_id: str) -> None:
        """Stop waiting for a decision in whose place a person chose another arm."""
        if self._last(connection, decision_id).in_force is not None:
            raise ValueError(
                f"decision {decision_id!r} has an outcome: its answer was given. To "
                "choose another arm, decide anew"
            )
        d = self._decisions
        gone = d.update().where(d.c.id == decision_id).values(expired_at=now())
        connection.execute(gone)

    def _query_of_state(self, *columns: Any) -> Any:
        """Return the query of a decision's last event, with more of its columns."""
        d, o, sa = self._decisions, self._outcomes, self._sa
        every = o.alias()
        newest = sa.select(sa.func.max(every.c.sequence)).scalar_subquery()
        compared = sa.select(sa.func.max(self._comparisons.c.sequence))
        return (
            sa.select(
                d.c.created_at,
                d.c.expired_at,
                o.c.revision,
                o.c.kind,
                o.c.body.label("said"),
                newest.label("newest"),
                compared.scalar_subquery().label("newest_comparison"),
                *columns,
            )
            .join_from(d, o, d.c.id == o.c.decision_id, isouter=True)
            .where(d.c.id == sa.bindparam("decision_id"))
            .order_by(o.c.revision.desc())
            .limit(1)
        )

    def _append(
        self, connection: Any, last: _Last, kind: str, outcome: Outcome
    ) -> Event:
        """Write an event; a retraction is written with the outcome it takes back."""
        before = last.in_force
        row = outcome_row(outcome, last.revision + 1, kind)
        written = connection.execute(self._outcomes.insert().values(row))
        return Event(
            sequence=int(written.inserted_primary_key[0]),
            decision=last.decision,
            kind=kind,
            outcome=None if kind == "retraction" else outcome,
            before=before,
            follows=last.sequence,
        )

    def _compared(self, connection: Any, comparison: Comparison) -> dict[str, Decision]:
        """Return the decisions of a comparison, which are of one task, by id."""
        d, ids = self._decisions, comparison.decision_ids
        query = self._sa.select(*self._record).where(d.c.id.in_(ids))
        rows = connection.execute(query).all()
        found = self.arm_sets.decisions(connection, rows)
        decisions = {decision.id: decision for decision in found}
        for decision_id in ids:
            if decision_id not in decisions:
                raise KeyError(
                    f"unknown decision {decision_id!r}; record the decision before it "
                    "is compared"
                )
        check_one_task(found)
        return decisions

    def _last_said(self, connection: Any, key: str) -> Any:
        """Return the last row of a comparison, None if there is none."""
        c = self._comparisons
        query = self._sa.select(c).where(c.c.key == key)
        newest = query.order_by(c.c.revision.desc()).limit(1)
        return connection.execute(newest).one_or_none()

    def _append_comparison(
        self,
        connection: Any,
        comparison: Comparison,
        revision: int,
        kind: str,
        decision: Decision,
    ) -> Event:
        follows = self._newest(connection)
        row = comparison_row(comparison, revision, kind)
        sequence = write_comparison(connection, self.database.tables, row)
        kind = "retraction" if kind == COMPARED[1] else kind
        return Event(
            sequence, decision, kind, None, follows=follows, comparison=comparison
        )

    def _newest(self, connection: Any) -> int:
        """Return the number of the newest event of either table."""
        row = connection.execute(self._query_of_newest()).one()
        return max(int(number or 0) for number in row)

    def _query_of_newest(self) -> Any:
        newest = (
            self._sa.select(self._sa.func.max(table.c.sequence)).scalar_subquery()
            for table in (self._outcomes, self._comparisons)
        )
        return self._sa.select(*newest)

    def _purge_snapshots(
        self, connection: Any, edit: Callable[[str], str] | None
    ) -> None:
        s = self._snapshots
        kept = self._sa.select(s.c.sequence, s.c.manifest)
        for row in connection.execute(kept).all():
            if edit is None:
                raise ValueError(
                    "saved policies in this ledger hold decisions too: purge it with "
                    "its agent (MetaBraider.purge), or give edit_policy=..."
                )
            text = edit(row.manifest)
            new = s.update().where(s.c.sequence == row.sequence).values(manifest=text)
            connection.execute(new)

    def _waits(self) -> Any:
        """Return the condition that a decision has no outcome in force."""
        d, o = self._decisions, self._outcomes.alias()
        return ~self._sa.exists().where(
            (o.c.decision_id == d.c.id) & (o.c.kind != "retraction") & self._is_last(o)
        )

    def _is_last(self, events: Any, until: int | None = None) -> Any:
        """Return the condition that an event is the last of its decision.

        With ``until``, the last up to that sequence number.
        """
        later = self._outcomes.alias()
        follows = (later.c.decision_id == events.c.decision_id) & (
            later.c.revision > events.c.revision
        )
        if until is not None:
            follows &= later.c.sequence <= until
        return ~self._sa.exists().where(follows)

    def _events(self, after: int, until: int, last: bool = False) -> Iterator[Event]:
        """Iterate over outcomes and their changes up to a sequence number.

        With ``last``, only over the last of each decision.
        """
        d, o = self._decisions, self._outcomes
        past = o.alias()
        is_past = (past.c.decision_id == o.c.decision_id) & (
            past.c.revision == o.c.revision - 1
        )
        columns = (
            o.c.sequence,
            o.c.kind,
            o.c.body.label("said"),
            past.c.kind.label("kind_before"),
            past.c.body.label("said_before"),
        )
        query = (
            self._sa.select(*columns, *self._record)
            .join_from(o, d, d.c.id == o.c.decision_id)
            .join(past, is_past, isouter=True)
            .where(o.c.sequence <= until)
        )
        if last:
            query = query.where(self._is_last(o, until))
        for row, decision in self._pages(query, o.c.sequence, after):
            said = in_force(row.kind, row.said)
            before = in_force(row.kind_before, row.said_before)
            yield Event(row.sequence, decision, row.kind, said, before, after)
            after = row.sequence

    def _comparison_events(
        self, after: int, until: int, last: bool = False
    ) -> Iterator[Event]:
        """Iterate over comparisons and retractions of them, as :meth:`_events` does."""
        d, c, sa = self._decisions, self._comparisons, self._sa
        columns = c.c.sequence, c.c.kind, c.c.body.label("said"), *self._record
        query = (
            sa.select(*columns)
            .join_from(c, d, d.c.id == c.c.decision_id)
            .where(c.c.sequence <= until)
        )
        if last:
            later = c.alias()
            follows = (later.c.key == c.c.key) & (later.c.revision > c.c.revision)
            follows &= later.c.sequence <= until
            query = query.where(~sa.exists().where(follows))
        for row, decision in self._pages(query, c.c.sequence, after):
            kind = "retraction" if row.kind == COMPARED[1] else row.kind
            said = comparison_of(row.said)
            yield Event(row.sequence, decision, kind, None, comparison=said)

    def _rows(self, table: Any, until: int) -> Iterator[Any]:
        """Iterate over the rows of a table of events as they are kept."""
        after, number = 0, table.c.sequence
        query = self._sa.select(table).where(number <= until).order_by(number)
        while True:
            with self.database.engine.connect() as connection:
                page = query.where(number > after).limit(_PAGE)
                rows = connection.execute(page).all()
            for row in rows:
                yield row
                after = row.sequence
            if len(rows) < _PAGE:
                return

    def _decided(self, which: Any) -> Iterator[tuple[Decision, str | None]]:
        d = self._decisions
        query = self._sa.select(d.c.sequence, d.c.text, *self._record).where(which)
        for row, decision in self._pages(query, d.c.sequence):
            yield decision, row.text

    def _pages(
        self, query: Any, number: Any, after: int = 0
    ) -> Iterator[tuple[Any, Decision]]:
        """Iterate over rows, each with its decision, in the order of a number.

        Page by page, so that no transaction stays open while the caller learns.
        """
        while True:
            page = self._read(query.where(number > after).order_by(number).limit(_PAGE))
            for row, decision in page:
                yield row, decision
                after = row.sequence
            if len(page) < _PAGE:
                return

    def _read(self, query: Any) -> list[tuple[Any, Decision]]:
        """Return rows, each with its decision."""
        with self.database.engine.connect() as connection:
            rows = connection.execute(query).all()
            decisions = self.arm_sets.decisions(connection, rows)
        return list(zip(rows, decisions, strict=True))


@dataclass(frozen=True)
class _Last:
    """The state of a decision before another event of it is written.

    ``revision``, ``kind`` and ``said`` are those of its last event (-1 and None if
    there is none); ``sequence`` is the number of the newest event of the whole ledger.
    """

    decision: Decision
    revision: int
    kind: str | None
    said: Outcome | None
    sequence: int

    @property
    def in_force(self) -> Outcome | None:
        """The outcome that holds now, if any."""
        return None if self.kind == "retraction" else self.said

    def to_change(self) -> Outcome:
        """Return the outcome in force; a KeyError where there is none."""
        if self.in_force is None:
            raise KeyError(f"decision {self.decision.id!r} has no outcome to change")
        return self.in_force


def write_comparison(connection: Any, tables: Any, row: dict[str, Any]) -> int:
    """Write a row of ``comparisons`` under the next number; returns the number.

    The numbers are those of ``outcome_events``, which no database gives out twice: one
    is drawn by a row that is deleted at once.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        In a transaction that writes in order.
    tables : Tables
    row : dict
        From :func:`~braidbandit.ledger.records.comparison_row`.
    """
    o = tables.outcomes
    place = {
        "decision_id": row["decision_id"],
        "revision": -1,
        "kind": "number",
        "created_at": row["created_at"],
        "body": "{}",
    }
    drawn = connection.execute(o.insert().values(place)).inserted_primary_key[0]
    connection.execute(o.delete().where(o.c.sequence == drawn))
    connection.execute(tables.comparisons.insert().values({**row, "sequence": drawn}))
    return int(drawn)


def check_one_task(decisions: Sequence[Decision]) -> None:
    """Refuse to compare the answers of decisions that are of different tasks.

    Raises
    ------
    ValueError
        Where hashes of tasks, or encoders, differ.
    """
    tasks = {(d.task_hash, d.encoder_hash) for d in decisions}
    if len(tasks) > 1:
        ids = [decision.id for decision in decisions]
        raise ValueError(
            f"decisions {ids} are of different tasks, or of different encoders: which "
            "answer is better can be said of answers to one task only. Decide twice "
            "on the same task"
        )


def _unknown(decision_id: str) -> KeyError:
    return KeyError(
        f"unknown decision {decision_id!r}: it is not in this ledger; expected the id "
        "of one that was made with it, and not purged since"
    )
