"""Records as rows of the ledger: arrays as bytes, arm ids once, the rest as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import numpy as np

from braidbandit._json import content_hash, known_fields, plain
from braidbandit.catalogue.braid import Braid
from braidbandit.ledger.database import Database
from braidbandit.ledger.records import Decision, Outcome

KINDS = ("outcome", "revision", "retraction")
_APART = ("arm_ids", "scores", "eligible")
_IN_BODY = tuple(f.name for f in fields(Decision) if f.name not in _APART)


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


def decision_row(
    decision: Decision, arms: str, text: str | None = None
) -> dict[str, Any]:
    """Return a decision as columns of the ledger.

    Parameters
    ----------
    decision : Decision
    arms : str
        The key of its set of arms; see :class:`ArmSets`.
    text : str, optional
        The text of the task.
    """
    # What is stored: arrays, unless somebody has read them as tuples.
    kept = vars(decision)
    created_at = in_utc(kept["created_at"])
    body = {name: kept[name] for name in _IN_BODY}
    body["braid"] = decision.braid.recipe()
    return {
        "id": decision.id,
        "created_at": created_at,
        "task_hash": decision.task_hash,
        "arm_id": decision.braid.id,
        "text": text,
        "body": json.dumps(body, allow_nan=False),
        "arms": arms,
        "scores": np.asarray(kept["scores"], dtype="<f8").tobytes(),
        "eligible": np.packbits(np.asarray(kept["eligible"], dtype=bool)).tobytes(),
    }


def decision_of(row: Any, arm_ids: tuple[str, ...] | None) -> Decision:
    """Build a decision from its columns; ``arm_ids`` is None for rows of 0.1.0."""
    body = json.loads(row.body)
    if arm_ids is None:
        return Decision.from_dict(body)
    values = known_fields(Decision, body)
    bits = np.frombuffer(row.eligible, dtype=np.uint8)
    values |= {
        "x": tuple(body["x"]),
        "braid": _braid(json.dumps(body["braid"])),
        "arm_ids": arm_ids,
        # Arrays; the record makes tuples of them when they are read.
        "scores": np.frombuffer(row.scores, dtype="<f8"),
        "eligible": np.unpackbits(bits, count=len(arm_ids)).astype(bool),
    }
    return Decision(**values)


@lru_cache(maxsize=4096)
def _braid(recipe: str) -> Braid:
    # Many decisions are of the same few braids; a braid is never changed.
    return Braid.from_recipe(json.loads(recipe))


def kept_text(
    text: str | None, redact: Callable[[str], str] | None = None
) -> str | None:
    """Return the text of a task as the ledger keeps it."""
    if text is None or redact is None:
        return text
    text = redact(text)
    if not isinstance(text, str):
        raise TypeError(f"redact must return text, received {type(text)}")
    return text


def outcome_row(outcome: Outcome, revision: int, kind: str) -> dict[str, Any]:
    """Return an outcome, or the one that is taken back, as columns of the ledger."""
    return {
        "decision_id": outcome.decision_id,
        "revision": revision,
        "kind": kind,
        "created_at": in_utc(outcome.created_at),
        "reward": None if kind == "retraction" else outcome.reward,
        "body": json.dumps(plain(outcome), allow_nan=False),
    }


def outcome_of(body: str) -> Outcome:
    """Build an outcome from its column."""
    return Outcome.from_dict(json.loads(body))


def in_force(kind: str | None, body: str | None) -> Outcome | None:
    """Return what is true after an event with these columns; None before the first."""
    if body is None or kind == "retraction":
        return None
    return outcome_of(body)


def in_utc(time: str | datetime) -> str:
    """Return a time as text that sorts; a time without a zone is a ValueError.

    Examples
    --------
    >>> in_utc("2026-01-01T01:00:00+01:00")
    '2026-01-01T00:00:00.000000+00:00'
    """
    parsed = datetime.fromisoformat(time) if isinstance(time, str) else time
    if parsed.tzinfo is None:
        raise ValueError(
            f"expected a time with a zone, received {time!r}; for example "
            "datetime.now(timezone.utc) - timedelta(days=30)"
        )
    return parsed.astimezone(timezone.utc).isoformat(timespec="microseconds")
