"""The ledger: the durable record of decisions and outcomes, in SQL.

The ledger is the truth; a saved recommender is a cache of it. SQLite by default,
PostgreSQL by its URL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from braidbandit.ledger.ledger_restoring import LedgerRestorer
from braidbandit.ledger.records import Decision, Event, Outcome, now
from braidbandit.ledger.rows import decision_row, in_utc, outcome_of, outcome_row
from braidbandit.ledger.schema import wipe

_SNAPSHOTS = 3


class Ledger(LedgerRestorer):
    """Record of decisions and outcomes.

    What a call has written outlives the process when it returns, and is written once
    however often, and by however many processes, it is said. Outcomes outlive a power
    failure too, and the decisions before them with them; on SQLite a decision alone
    waits for the next outcome with that, as the disk may take milliseconds. A ledger
    of an earlier version is brought up to date when it is opened.

    Parameters
    ----------
    url : str or Path
        The path of an SQLite file, or an SQLAlchemy URL of SQLite or PostgreSQL
        (``postgresql+psycopg://user@host/database``). ``":memory:"`` is a ledger in
        memory: its threads take turns, and closing it is its end.
    redact : callable, optional
        ``text -> text``, applied to every task's text before it is kept, also to one
        that is imported.

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
        super().__init__(url)
        self.redact = redact

    # ---- writing ----

    def record_decision(self, decision: Decision, text: str | None = None) -> bool:
        """Write a decision; call it before the braid runs.

        ``text`` is the task in clear and is kept, redacted, only when it is given.
        The same decision again is ignored.

        Returns
        -------
        bool
            True when written, False when it was there already.

        Raises
        ------
        ValueError
            When another decision has this id.
        OSError
            When the disk is full; nothing was written.
        """
        row = decision_row(decision, self._redacted(text))
        row["arms"] = self._keep_arms(decision.arm_ids)
        try:
            with self._writing(at_once=False) as connection:
                connection.execute(self._decisions.insert().values(row))
        except self._sa.exc.IntegrityError as error:
            if self.decision(decision.id) == decision:
                return False
            raise ValueError(
                f"the ledger holds another decision with id {decision.id!r}; every "
                "decision has its own id"
            ) from error
        return True

    def record_outcome(
        self, outcome: Outcome, decision: Decision | None = None
    ) -> Event | None:
        """Write an outcome; call it before the update.

        Parameters
        ----------
        outcome : Outcome
        decision : Decision, optional
            The decision of the outcome, if it is in hand: it is then not read again,
            and taken as it is.

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
        with self._writing(ordered=True) as connection:
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
        """Replace the reward of an outcome; the one before stays in the history.

        Parameters
        ----------
        decision : Decision or str
            The decision, which is then not read again, or its id.
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
        with self._writing(ordered=True) as connection:
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
            The decision, which is then not read again, or its id.
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
        with self._writing(ordered=True) as connection:
            last = self._last(connection, decision)
            if last.kind == "retraction":
                return None
            outcome = replace(last.to_change(), source=source, created_at=now())
            return self._append(connection, last, "retraction", outcome)

    def expire(self, before: datetime) -> int:
        """Stop waiting for decisions made before a time; returns how many.

        An outcome that comes later is refused.
        """
        d = self._decisions
        late = (d.c.created_at < in_utc(before)) & d.c.expired_at.is_(None)
        query = d.update().where(late & self._waits()).values(expired_at=now())
        with self._writing(ordered=True) as connection:
            return int(connection.execute(query).rowcount)

    def purge(
        self,
        before: datetime,
        *,
        records: bool = False,
        edit_policy: Callable[[str], str] | None = None,
    ) -> int:
        """Delete what is old: the texts of tasks, or the whole records.

        From an SQLite file it is gone when this returns, from its journal and from
        unused pages too; the file is written anew for that, which takes its time and
        room on the disk. Of PostgreSQL this can be said of no file: rows that were
        deleted stay in the table's files until ``VACUUM FULL`` has written them anew,
        and in write-ahead log, replicas and backups as long as these are kept.

        The folder of an agent holds more than the ledger: see
        :meth:`MetaBraider.purge`.

        Parameters
        ----------
        before : datetime
            With a zone. What was decided earlier is deleted.
        records : bool
            Delete decisions and outcomes too, and decisions in saved policies. Without
            it hash and features of a task stay; who guesses a text can tell by its
            hash that it was this one. A recommender keeps what it has learnt from
            records that are gone; one that learns from this ledger anew does not.
        edit_policy : callable, optional
            The text of a saved policy without the old decisions: needed with
            ``records`` where this ledger holds saved policies. See
            :func:`braidbandit.recommender.saving.purged`.

        Returns
        -------
        int
            Texts, or decisions, that were deleted.

        Raises
        ------
        ValueError
            When ``edit_policy`` is needed; nothing was deleted.
        OSError
            When it is deleted, but could not be wiped from the files that are named,
            as somebody else is reading them, or the disk is full. Purge again.
        """
        d, o, sa = self._decisions, self._outcomes, self._sa
        old = d.c.created_at < in_utc(before)
        with self._writing(ordered=True) as connection:
            if records:
                ids = sa.select(d.c.id).where(old)
                connection.execute(o.delete().where(o.c.decision_id.in_(ids)))
                gone = connection.execute(d.delete().where(old)).rowcount
                self._purge_snapshots(connection, edit_policy)
            else:
                texts = d.update().where(old & d.c.text.is_not(None)).values(text=None)
                gone = connection.execute(texts).rowcount
        wipe(self._engine)
        return int(gone)

    # ---- snapshots of a policy ----

    def write_snapshot(self, position: int, manifest: str, arrays: bytes) -> None:
        """Keep a saved policy, and the two before it; see ``BraidRecommender.save``."""
        s, sa = self._snapshots, self._sa
        row = {
            "created_at": in_utc(now()),
            "position": position,
            "manifest": manifest,
            "arrays": arrays,
        }
        newest = sa.select(s.c.sequence).order_by(s.c.sequence.desc())
        with self._writing() as connection:
            connection.execute(s.insert().values(row))
            kept = connection.execute(newest.limit(_SNAPSHOTS)).scalars().all()
            connection.execute(s.delete().where(s.c.sequence < min(kept)))

    # ---- inside ----

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

    def _append(
        self, connection: Any, last: _Last, kind: str, outcome: Outcome
    ) -> Event:
        """Write an event; of a retraction, the outcome that is taken back."""
        row = outcome_row(outcome, last.revision + 1, kind)
        written = connection.execute(self._outcomes.insert().values(row))
        return Event(
            sequence=int(written.inserted_primary_key[0]),
            decision=last.decision,
            kind=kind,
            outcome=None if kind == "retraction" else outcome,
            before=last.in_force,
            follows=last.sequence,
        )

    def _last(self, connection: Any, decision: Decision | str) -> _Last:
        """Read what was said last of a decision, and the decision if it is an id."""
        d, o, sa = self._decisions, self._outcomes, self._sa
        any_ = o.alias()
        decision_id = decision.id if isinstance(decision, Decision) else decision
        columns = (
            d.c.created_at,
            d.c.expired_at,
            o.c.revision,
            o.c.kind,
            o.c.body.label("said"),
            sa.select(sa.func.max(any_.c.sequence)).scalar_subquery().label("newest"),
            *(() if isinstance(decision, Decision) else self._columns()),
        )
        row = connection.execute(
            sa.select(*columns)
            .join_from(d, o, d.c.id == o.c.decision_id, isouter=True)
            .where(d.c.id == decision_id)
            .order_by(o.c.revision.desc())
            .limit(1)
        ).one_or_none()
        if row is None:
            raise KeyError(
                f"unknown decision {decision_id!r}; record the decision before its "
                "outcome"
            )
        if row.expired_at is not None:
            raise KeyError(
                f"decision {decision_id!r} of {row.created_at} expired before its "
                "outcome came; decide anew"
            )
        if not isinstance(decision, Decision):
            # By the same connection: a database in memory has no other.
            self._read_arms(connection, [row.arms] if row.arms else [])
            decision = self._decision_of(row)
        return _Last(
            decision,
            -1 if row.revision is None else row.revision,
            row.kind,
            None if row.said is None else outcome_of(row.said),
            int(row.newest or 0),
        )


@dataclass(frozen=True)
class _Last:
    """What was said last of a decision, before something more is said of it.

    ``sequence`` is the number of the last event of the whole ledger.
    """

    decision: Decision
    revision: int
    kind: str | None
    said: Outcome | None
    sequence: int

    @property
    def in_force(self) -> Outcome | None:
        return None if self.kind == "retraction" else self.said

    def to_change(self) -> Outcome:
        """Return the outcome in force; a KeyError where there is none."""
        if self.in_force is None:
            raise KeyError(f"decision {self.decision.id!r} has no outcome to change")
        return self.in_force
