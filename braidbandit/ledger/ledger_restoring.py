"""Writing to the ledger many records at a time, as another ledger had them."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from braidbandit.ledger.ledger_reading import LedgerReader
from braidbandit.ledger.records import Decision, Outcome
from braidbandit.ledger.rows import arms_hash, decision_row, outcome_row
from braidbandit.ledger.schema import writing


class LedgerRestorer(LedgerReader):
    """A ledger that takes over the records of another one."""

    redact: Callable[[str], str] | None = None

    def restore(
        self,
        decisions: Sequence[tuple[Decision, str | None]],
        events: Sequence[tuple[str, int, Outcome]] = (),
        expired: Mapping[str, str] | None = None,
    ) -> int:
        """Write many records of another ledger at once: all of them, or none.

        Parameters
        ----------
        decisions : sequence of (Decision, text or None)
        events : sequence of (kind, revision, Outcome)
            In the order in which they count.
        expired : mapping of str to str, optional
            When decisions, by id, stopped being waited for.

        Returns
        -------
        int
            Records that were not there already.

        Raises
        ------
        KeyError
            When the decision of an event is unknown.
        ValueError
            When the ledger holds something else in the place of a record.
        """
        new = {d.id: (d, self._redacted(text)) for d, text in decisions}
        said = {
            (outcome.decision_id, revision): outcome_row(outcome, revision, kind)
            for kind, revision, outcome in events
        }
        more = {
            d.id: {
                "arms": self._keep_arms(d.arm_ids),
                "expired_at": (expired or {}).get(d.id),
            }
            for d, _ in decisions
        }
        with self._writing(ordered=True) as connection:
            for key in self._known(connection, new):
                del new[key]
                if more[key]["expired_at"] is not None:
                    d = self._decisions
                    connection.execute(
                        d.update()
                        .where(d.c.id == key, d.c.expired_at.is_(None))
                        .values(expired_at=more[key]["expired_at"])
                    )
            if rows := [
                decision_row(*pair) | more[pair[0].id] for pair in new.values()
            ]:
                connection.execute(self._decisions.insert(), rows)
            for key in self._said(connection, said):
                del said[key]
            if said:
                connection.execute(self._outcomes.insert(), list(said.values()))
        return len(new) + len(said)

    # ---- inside ----

    def _redacted(self, text: str | None) -> str | None:
        if text is None or self.redact is None:
            return text
        text = self.redact(text)
        if not isinstance(text, str):
            raise TypeError(f"redact must return text, received {type(text)}")
        return text

    def _known(self, connection: Any, new: Mapping[str, Any]) -> list[str]:
        """Return the ids that are there already, with the same content."""
        d = self._decisions
        query = self._sa.select(d.c.id, *self._columns()).where(d.c.id.in_(new))
        found = connection.execute(query).all()
        # By the same connection: a database in memory has no other.
        self._read_arms(connection, [row.arms for row in found if row.arms])
        for row in found:
            if self._decision_of(row) != new[row.id][0]:
                raise ValueError(
                    f"the ledger holds another decision with id {row.id!r}"
                )
        return [row.id for row in found]

    def _said(self, connection: Any, said: dict[Any, Any]) -> list[Any]:
        """Return the events that are there already, with the same content."""
        d, o = self._decisions, self._outcomes
        ids = {decision_id for decision_id, _ in said}
        known = connection.execute(
            self._sa.select(d.c.id).where(d.c.id.in_(ids))
        ).scalars()
        if missing := sorted(ids - set(known)):
            raise KeyError(f"unknown decisions {missing[:3]}; record them first")
        query = self._sa.select(o).where(o.c.decision_id.in_(ids))
        there = []
        for row in connection.execute(query):
            key = (row.decision_id, row.revision)
            if key in said:
                if (row.kind, row.body) != (said[key]["kind"], said[key]["body"]):
                    raise ValueError(
                        f"decision {row.decision_id!r} has another {row.kind} already"
                    )
                there.append(key)
        return there

    @contextmanager
    def _writing(self, ordered: bool = False, at_once: bool = True) -> Iterator[Any]:
        """Open a transaction; with ``ordered``, events are numbered as they commit."""
        try:
            with writing(self._engine, at_once) as connection:
                if ordered and self._engine.dialect.name == "postgresql":
                    # A number is drawn before it is committed: without this a reader
                    # could see the later of two events first, and miss the other.
                    table = self._outcomes.name
                    connection.exec_driver_sql(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                yield connection
        except self._sa.exc.OperationalError as error:
            if "full" in str(error.orig) or "No space left" in str(error.orig):
                raise OSError(
                    errno.ENOSPC,
                    "the disk or database of the ledger is full: nothing was written; "
                    "make room and record it again",
                ) from error
            raise

    def _keep_arms(self, arm_ids: tuple[str, ...]) -> str:
        """Keep a set of arms, once; returns its key."""
        for known, ids in list(self._arms.items()):  # other threads add to it
            if ids == arm_ids:
                return known
        key, s = arms_hash(arm_ids), self._arm_sets
        row = {"hash": key, "arm_ids": json.dumps(arm_ids)}
        try:
            with self._writing() as connection:
                connection.execute(s.insert().values(row))
        except self._sa.exc.IntegrityError:
            pass  # another process was faster
        self._arms[key] = arm_ids
        return key
