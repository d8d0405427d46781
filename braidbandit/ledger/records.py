"""Frozen records: what was decided, and what came of it; as JSON, and as rows.

Records travel as JSON. Floats are written by ``repr`` and come back bit for bit.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import numpy as np

from braidbandit._checks import as_float, check_reward, check_source, check_strength
from braidbandit._json import content_hash, known_fields, plain, unboxed
from braidbandit._named import in_columns
from braidbandit.catalogue.braid import Braid


def now() -> str:
    """UTC time as ISO 8601 text."""
    return datetime.now(timezone.utc).isoformat()


def new_id() -> str:
    """Return a fresh id, unique across processes whatever their seeds."""
    return uuid.uuid4().hex


@dataclass(frozen=True)
class Decision:
    """One choice of a braid for one task.

    Attributes
    ----------
    id : str
    task_hash : str
        See :func:`task_hash`; whoever guesses the text can confirm the guess by it.
    x : tuple of float
        Task features the posterior saw; enough to learn from later.
    braid : Braid
    propensity, propensity_se : float
        Probability with which the braid was chosen, and its standard error.
    arm_ids, scores, eligible : tuples of equal length
        Every arm, its score before masking, and whether it could be chosen.
    expected_quality, uncertainty : float
        Posterior mean and standard deviation of the chosen arm's quality.
    relative_cost : float in [0, 1]
    budget : dict
        Budget, limits and preference of the call.
    policy : str
    catalogue_hash, encoder_hash : str
    sentence : str
        The choice in words.
    created_at : str
        ISO 8601, UTC.
    version : int
        How often the braid had been retrained.
    expected_latency_ms : float, optional
        None until latencies were measured.
    default_quality : float, optional
        Posterior mean of the quality of the arm that a guard falls back to; None
        without a guard.
    conversation : dict, optional
        The turn of a conversation that it is, with what spoke for keeping the arm, as
        :class:`~braidbandit.recommender.conversations.Turn` has it; None of a task on
        its own.
    instead_of : str, optional
        Id of the decision in whose place a person chose this arm. The policy is then
        "person" and the propensity 1: nothing was drawn.
    asked : dict, optional
        Whether a person was ``"asked"`` for a rating, the ``"probability"`` of that,
        and its ``"worth"``; None before :meth:`BraidRecommender.ask`.
    """

    id: str
    task_hash: str
    x: tuple[float, ...]
    braid: Braid
    propensity: float
    propensity_se: float
    arm_ids: tuple[str, ...]
    scores: tuple[float, ...]
    eligible: tuple[bool, ...]
    expected_quality: float
    uncertainty: float
    relative_cost: float
    budget: dict[str, Any]
    policy: str
    catalogue_hash: str
    encoder_hash: str
    sentence: str = ""
    created_at: str = field(default_factory=now)
    version: int = 0
    expected_latency_ms: float | None = None
    default_quality: float | None = None
    conversation: dict[str, Any] | None = None
    instead_of: str | None = None
    # Noted later: a record with and without it is the same decision.
    asked: dict[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("scores", "eligible"):
            value = vars(self)[name]
            if not isinstance(value, tuple | np.ndarray):
                value = in_columns(value, self.arm_ids, name)
                object.__setattr__(self, name, value)

    def __str__(self) -> str:
        return self.sentence or f"{self.braid.label()} (decision {self.id})"

    def only(self, arm_id: str | None) -> Decision:
        """Return the record with only one of its arms, or none.

        A saved state keeps thousands of decisions, and the chosen arm is all it needs.
        """
        at = slice(0, 0)
        if arm_id is not None and arm_id in self.arm_ids:
            row = self.arm_ids.index(arm_id)
            at = slice(row, row + 1)
        # What is stored, so that the rest is not made into tuples just to be dropped;
        # and not a view, which would keep all of it.
        scores, eligible = (np.array(vars(self)[k][at]) for k in ("scores", "eligible"))
        few = object.__new__(Decision)
        vars(few).update(
            vars(self), arm_ids=self.arm_ids[at], scores=scores, eligible=eligible
        )
        return few

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return {**plain(self), "braid": self.braid.recipe()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        """Build a record from :meth:`to_dict`; unknown keys are a KeyError."""
        values = known_fields(cls, data)
        for key in ("x", "arm_ids", "scores", "eligible"):
            values[key] = tuple(values[key])
        values["braid"] = Braid.from_recipe(values["braid"])
        return cls(**values)


class _TupleOnDemand:
    """A field that is given as an array and becomes a tuple when it is first read.

    A decision over ten thousand arms costs more in Python floats than in arithmetic,
    and most are never looked at arm by arm.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, record: Any, owner: type | None = None) -> Any:
        if record is None:
            return self
        value = vars(record)[self.name]
        if not isinstance(value, tuple):
            value = vars(record)[self.name] = tuple(value.tolist())
        return value

    def __set__(self, record: Any, value: Any) -> None:
        vars(record)[self.name] = value


for _name in ("scores", "eligible"):
    # After the class was made: a descriptor in its body would be a default.
    setattr(Decision, _name, _TupleOnDemand(_name))


@dataclass(frozen=True)
class Outcome:
    """What was measured for one decision.

    Parameters
    ----------
    decision_id : str
    reward : float in [0, 1]
        Quality.
    latency_ms, compute : float, optional
        At least 0.
    source : str
        Who measured: "user", "judge", "test", ...
    created_at : str
        ISO 8601, UTC.

    Examples
    --------
    >>> outcome = Outcome("d1", 0.8, latency_ms=12.5)
    >>> Outcome.from_dict(outcome.to_dict()) == outcome
    True
    """

    decision_id: str
    reward: float
    latency_ms: float | None = None
    compute: float | None = None
    source: str = "user"
    created_at: str = field(default_factory=now)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reward", check_reward(self.reward))
        for key in ("latency_ms", "compute"):
            value = unboxed(getattr(self, key))
            fine = value is None or (math.isfinite(as_float(value)) and value >= 0)
            if not fine:
                raise ValueError(f"{key} must be at least 0 or None, received {value}")
            object.__setattr__(self, key, value)

    def same_measurement(self, other: Outcome) -> bool:
        """Whether both say the same, whenever they said it."""
        mine, theirs = self.to_dict(), other.to_dict()
        return all(mine[key] == theirs[key] for key in mine if key != "created_at")

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """Build a record from :meth:`to_dict`; unknown keys are a KeyError."""
        return cls(**known_fields(cls, data))


@dataclass(frozen=True)
class Comparison:
    """Somebody took one of two answers to a task for the better one.

    Each answer is that of a decision, or of an arm that was shown beside a decision
    without one of its own; at least one is a decision's.

    Parameters
    ----------
    better, worse : str
        Ids of the two arms.
    better_decision, worse_decision : str, optional
        Ids of their decisions.
    strength : float in (0, 1]
        How sure it is: the power that the likelihood of the choice is raised to.
    source : str
        Who compared: "user", "judge", ...
    better_version, worse_version : int
        How often each braid had been retrained.
    created_at : str
        ISO 8601, UTC.

    Examples
    --------
    >>> comparison = Comparison("arm-1", "arm-2", "d1", source="judge")
    >>> comparison.decision_id, comparison.answers
    ('d1', ('d1', 'arm-2'))
    >>> Comparison.from_dict(comparison.to_dict()) == comparison
    True
    """

    better: str
    worse: str
    better_decision: str | None = None
    worse_decision: str | None = None
    strength: float = 1.0
    source: str = "user"
    better_version: int = 0
    worse_version: int = 0
    created_at: str = field(default_factory=now)

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", check_strength(self.strength))
        check_source(self.source)
        if self.better_decision is None and self.worse_decision is None:
            raise ValueError(
                f"a comparison is of a decision with another answer; received the arms "
                f"{self.better!r} and {self.worse!r} only. Give at least one Decision"
            )
        if self.answers[0] == self.answers[1]:
            raise ValueError(
                f"received {self.answers[0]!r} as the better and the worse answer; "
                "give two answers"
            )
        if self.better == self.worse:
            raise ValueError(
                f"both answers are of arm {self.better!r}: which is better says "
                "nothing about arms. Leave the comparison out"
            )

    @property
    def answers(self) -> tuple[str, str]:
        """What names the two answers, the better first: a decision, or else an arm."""
        return self.better_decision or self.better, self.worse_decision or self.worse

    @property
    def decision_id(self) -> str:
        """The decision whose task and features it is about."""
        return self.better_decision or str(self.worse_decision)

    @property
    def decision_ids(self) -> tuple[str, ...]:
        """Ids of the one or two decisions."""
        both = self.better_decision, self.worse_decision
        return tuple(decision_id for decision_id in both if decision_id is not None)

    @property
    def pair(self) -> str:
        """Which two answers: the same whichever was the better one."""
        return content_hash(sorted(self.answers), 32)

    @property
    def key(self) -> str:
        """Who compared which two answers."""
        return comparison_key(*self.answers, self.source)

    @property
    def said(self) -> tuple[str, float]:
        """What was said of the two answers: the better one, and how surely."""
        return self.answers[0], self.strength

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Comparison:
        """Build a record from :meth:`to_dict`; unknown keys are a KeyError."""
        return cls(**known_fields(cls, data))


def comparison_key(one: str, other: str, source: str) -> str:
    """Return the key of what a source says of two answers, in either order.

    Examples
    --------
    >>> comparison_key("d1", "d2", "user") == comparison_key("d2", "d1", "user")
    True
    """
    return content_hash([*sorted((one, other)), source], 32)


@dataclass(frozen=True)
class Event:
    """An outcome, revision, retraction or comparison, in the order of a ledger.

    Writing to a ledger returns the event that was written, so that it can be learnt
    without being read back.

    Attributes
    ----------
    sequence : int
        Its number in the order; never used twice.
    decision : Decision
        Of a comparison, the one whose task and features it is about.
    kind : str
        "outcome", "revision", "retraction" or "comparison".
    outcome : Outcome or None
        The outcome in force from here on; None after a retraction.
    before : Outcome or None
        The outcome in force until then; None if there was none.
    follows : int
        The ledger has no event between this number and ``sequence``: whoever has
        learnt everything up to it has missed nothing.
    comparison : Comparison or None
        The comparison that is made, or taken back where the kind is "retraction"; the
        outcomes are None then.

    Examples
    --------
    A learner that has read up to event 5 may learn this one without reading the ledger
    if ``event.follows <= 5``; otherwise somebody else wrote in between.
    """

    sequence: int
    decision: Decision
    kind: str
    outcome: Outcome | None
    before: Outcome | None = None
    follows: int = 0
    comparison: Comparison | None = None


def dumps(record: Any) -> str:
    """Return a record as JSON text."""
    return json.dumps(record.to_dict(), allow_nan=False)


KINDS = ("outcome", "revision", "retraction")
COMPARED = ("comparison", "comparison retraction")
"""Kinds of the rows of comparisons, and of their records in an export."""

_APART = ("arm_ids", "scores", "eligible")
_IN_BODY = tuple(f.name for f in fields(Decision) if f.name not in _APART)


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
    body["braid"] = decision.braid.as_dict
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


def comparison_row(comparison: Comparison, revision: int, kind: str) -> dict[str, Any]:
    """Return a comparison, or the one that is taken back, as columns of the ledger."""
    decision_ids = comparison.decision_ids
    return {
        "key": comparison.key,
        "revision": revision,
        "kind": kind,
        "decision_id": decision_ids[0],
        "other_id": decision_ids[1] if len(decision_ids) > 1 else None,
        "created_at": in_utc(comparison.created_at),
        "body": json.dumps(plain(comparison), allow_nan=False),
    }


def comparison_of(body: str) -> Comparison:
    """Build a comparison from its column."""
    return Comparison.from_dict(json.loads(body))


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
    if getattr(parsed, "tzinfo", None) is None:  # nor is a number a time
        raise ValueError(
            f"expected a time with a zone, received {time!r}; for example "
            "datetime.now(timezone.utc) - timedelta(days=30)"
        )
    return parsed.astimezone(timezone.utc).isoformat(timespec="microseconds")
