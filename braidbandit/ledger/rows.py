"""Records as rows of the ledger: arrays as bytes, arm ids once, the rest as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import numpy as np

from braidbandit._json import content_hash, known_fields
from braidbandit.catalogue.braid import Braid
from braidbandit.ledger.records import Decision, Outcome

KINDS = ("outcome", "revision", "retraction")
_APART = ("arm_ids", "scores", "eligible")


def arms_hash(arm_ids: tuple[str, ...]) -> str:
    """Return the key under which a set of arms, in its order, is kept."""
    return content_hash(list(arm_ids))


def decision_row(decision: Decision, text: str | None) -> dict[str, Any]:
    """Return a decision as columns of the ledger."""
    # What is stored: arrays, unless somebody has read them.
    kept = vars(decision)
    rest = replace(decision, arm_ids=(), scores=(), eligible=()).to_dict()
    for key in _APART:
        del rest[key]
    return {
        "id": decision.id,
        "created_at": in_utc(decision.created_at),
        "task_hash": decision.task_hash,
        "arm_id": decision.braid.id,
        "text": text,
        "body": json.dumps(rest, allow_nan=False),
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


def outcome_row(outcome: Outcome, revision: int, kind: str) -> dict[str, Any]:
    """Return an outcome, or the one that is taken back, as columns of the ledger."""
    return {
        "decision_id": outcome.decision_id,
        "revision": revision,
        "kind": kind,
        "created_at": in_utc(outcome.created_at),
        "reward": None if kind == "retraction" else outcome.reward,
        "body": json.dumps(outcome.to_dict(), allow_nan=False),
    }


def outcome_of(body: str) -> Outcome:
    """Build an outcome from its column."""
    data: Mapping[str, Any] = json.loads(body)
    return Outcome.from_dict(data)


def in_force(kind: str | None, body: str | None) -> Outcome | None:
    """Return what is true after an event with these columns, None without one."""
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
