"""Feedback as it really arrives: late, twice, revised, taken back, or never."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import islice
from typing import Any, TypeVar

from braidbandit._json import plain
from braidbandit.ledger.records import Comparison, Decision

T = TypeVar("T")

MOST_PENDING = 1000
_MOST_LEARNT = 500
_MOST_SETTLED = 100_000
_COUNTS = ("learnt", "repeated", "revised", "retracted", "expired")


class NotReversible(ValueError):
    """A reward that can no longer be subtracted from the posterior."""


@dataclass(frozen=True)
class Learnt:
    """One reward in the posterior, with all that is needed to take it back.

    Attributes
    ----------
    decision : Decision
        Without the scores of the other arms.
    reward, weight : float
        As given.
    applied : float
        The weight it was learnt with: less than ``weight`` for an arm that was
        retrained since, or is gone.
    faded : float
        The bandit's ``faded_`` just before it was learnt.
    latency_ms, compute : float, optional
    """

    decision: Decision
    reward: float
    weight: float = 1.0
    applied: float = 1.0
    faded: float = 0.0
    latency_ms: float | None = None
    compute: float | None = None

    @property
    def measured(self) -> dict[str, float]:
        """The measurements that came with it, by objective."""
        values = {"latency": self.latency_ms, "compute": self.compute}
        return {name: value for name, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return {**plain(self), "decision": self.decision.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Learnt:
        """Build a record from :meth:`to_dict`."""
        others: dict[str, Any] = {k: v for k, v in data.items() if k != "decision"}
        return cls(Decision.from_dict(data["decision"]), **others)


@dataclass(frozen=True)
class Compared:
    """One comparison in the posterior, with all that is needed to take it back.

    Attributes
    ----------
    comparison : Comparison
    x : tuple of float
        Task features.
    made : str
        When the decision was made that they are of.
    value, applied, counted : float
        The difference and the weight that it was learnt with, and as how many rewards
        it counts where the noise is found.
    faded : float
        The bandit's ``faded_`` just before it was learnt.
    """

    comparison: Comparison
    x: tuple[float, ...]
    made: str
    value: float
    applied: float
    counted: float
    faded: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return {**plain(self), "comparison": self.comparison.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Compared:
        """Build a record from :meth:`to_dict`."""
        others: dict[str, Any] = {k: v for k, v in data.items() if k != "comparison"}
        others["x"] = tuple(others["x"])
        return cls(Comparison.from_dict(data["comparison"]), **others)


@dataclass
class FeedbackLog:
    """Which decisions wait for a reward, and which rewards were learnt.

    Attributes
    ----------
    pending : dict of Decision
        Decisions without a reward, the newest 1,000.
    learnt : dict of Learnt
        What was learnt from decisions, the newest 500: these can be revised and
        taken back by id, and explanations quote them.
    settled : dict of float
        Rewards that were learnt, by decision id, at least the newest 100,000.
    origins : dict of (float, bool)
        Of the same rewards: when the decision was made, in seconds, and whether the
        ledger said so, rather than a call of ``update``.
    expired : dict of str
        When the expired decisions were made, by id, the newest 500.
    overridden : dict of str
        Ids of the decisions in whose place a person chose another arm, each with the
        id of what the person chose, the newest 500.
    counts : dict of int
        How often feedback was learnt, repeated (and ignored), revised, retracted,
        and how many decisions expired.
    keep : str, optional
        The arm a guard compares with: its numbers stay with every decision.
    plain : bool
        Whether all records that are gone were of weight 1 and measured nothing.
    gone_until : float, optional
        When the newest decision was made whose reward is no longer in ``settled``, as
        there were too many. Of a decision before it, nobody knows whether its reward
        was learnt.
    as_said : bool
        Whether the rewards that left ``settled`` are those in the ledger, up to where
        it was read.
    compared : dict of Compared
        What was learnt from comparisons, by key, the newest 500: these can be taken
        back.
    judged : dict of dict
        Of every two answers that were compared, the newest 100,000: the better one and
        the strength, by source.
    repeats : dict of dict
        How many pairs of answers two sources have both compared, and how many of these
        otherwise than the other: by the one source and the other; see
        :func:`variance_ratio`.

    Examples
    --------
    >>> log = FeedbackLog()
    >>> log.is_repeat("d1", 0.5), log.counts["repeated"]
    (False, 0)
    """

    pending: dict[str, Decision] = field(default_factory=dict)
    learnt: dict[str, Learnt] = field(default_factory=dict)
    settled: dict[str, float] = field(default_factory=dict)
    expired: dict[str, str] = field(default_factory=dict)
    overridden: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))
    keep: str | None = None
    plain: bool = True
    origins: dict[str, tuple[float, bool]] = field(default_factory=dict)
    gone_until: float | None = None
    as_said: bool = True
    compared: dict[str, Compared] = field(default_factory=dict)
    judged: dict[str, dict[str, tuple[str, float]]] = field(default_factory=dict)
    repeats: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def await_reward(self, decision: Decision) -> list[Decision]:
        """Keep a decision until its reward comes; the other arms are left out.

        Returns those that are not waited for any longer, as there are too many.
        """
        self.pending[decision.id] = decision.only(self.keep)
        return _trim(self.pending, MOST_PENDING)

    def keep_of(self, arm_id: str) -> None:
        """From now on, keep this arm's numbers with every decision."""
        self.keep = arm_id

    def forget_pending(self) -> None:
        """Stop waiting for the reward of any decision."""
        self.pending = {}

    def note_repeat(self) -> None:
        """Count a reward that was learnt already."""
        self.counts["repeated"] += 1

    def pass_over(self) -> None:
        """Note that some of what the ledger says was not learnt."""
        self.as_said = False

    def is_repeat(self, decision_id: str, reward: float) -> bool:
        """Whether this very reward was learnt already; counts it if so.

        Raises
        ------
        KeyError
            When the decision was not served: a person chose another arm.
        ValueError
            When a different reward was learnt.
        """
        self.refuse_overridden(decision_id)
        if decision_id not in self.settled:
            return False
        if self.settled[decision_id] == reward:
            self.note_repeat()
            return True
        raise ValueError(
            f"decision {decision_id!r} was already learnt with reward "
            f"{self.settled[decision_id]}, received {reward}; call revise to replace "
            "it, or retract to take it back"
        )

    def refuse_overridden(self, decision_id: str) -> None:
        """Refuse a decision that was not served, as a person chose another arm."""
        if decision_id in self.overridden:
            raise KeyError(
                f"decision {decision_id!r} was not served: a person chose another arm. "
                f"The reward is of that decision, {self.overridden[decision_id]!r}"
            )

    def has_judged(self, comparison: Comparison) -> bool:
        """Whether a comparison of the two answers by its source was learnt."""
        return comparison.source in self.judged.get(comparison.pair, {})

    def is_same_judgement(self, comparison: Comparison) -> bool:
        """Whether this very comparison was learnt already; counts it if so.

        Raises
        ------
        ValueError
            When the same source has said something else of the two answers.
        """
        known = self.judged.get(comparison.pair, {}).get(comparison.source)
        if known is None:
            return False
        if known == comparison.said:
            self.note_repeat()
            return True
        raise ValueError(
            f"{comparison.source!r} has compared these two answers already, and took "
            f"{known[0]!r} for the better one with strength {known[1]}; received "
            f"{comparison.said[0]!r} with {comparison.strength}. Call "
            "retract_comparison first to replace it"
        )

    def judge(self, comparison: Comparison, record: Compared | None) -> None:
        """Note that a comparison was learnt; None where it cannot be taken back."""
        others = self.judged.pop(comparison.pair, {})
        self._note_repeats(comparison, others, 1)
        self.judged[comparison.pair] = {**others, comparison.source: comparison.said}
        if record is not None:
            self.compared[comparison.key] = record
        _trim(self.judged, _MOST_SETTLED, _MOST_SETTLED // 100)
        _trim(self.compared, _MOST_LEARNT)
        self.counts["compared"] = self.counts.get("compared", 0) + 1

    def unjudge(self, comparison: Comparison) -> None:
        """Note that a comparison was taken back."""
        del self.compared[comparison.key]
        said = self.judged.pop(comparison.pair)
        others = {k: v for k, v in said.items() if k != comparison.source}
        self._note_repeats(comparison, others, -1)
        if others:
            self.judged[comparison.pair] = others

    def _note_repeats(
        self, comparison: Comparison, others: Mapping[str, tuple[str, float]], n: int
    ) -> None:
        """Count a judgement, or uncount it, with those of others on the same pair."""
        for source, (better, _) in others.items():
            apart = n * (better != comparison.answers[0])
            both = source, comparison.source
            for one, other in (both, both[::-1]):
                row = dict(self.repeats.get(one, {}))
                before = row.pop(other, (0, 0))
                if before[0] + n:
                    row[other] = before[0] + n, before[1] + apart
                self.repeats[one] = row

    def compared_decisions(self) -> set[str]:
        """Return the ids of the decisions whose answers were compared."""
        records = self.compared.values()
        return {name for record in records for name in record.comparison.decision_ids}

    def may_be_gone(self, decision: Decision) -> bool:
        """Whether a reward of this decision may have been learnt and then dropped.

        Only the newest rewards are kept.
        """
        if self.gone_until is None or decision.id in self.settled:
            return False
        if decision.id in self.pending or decision.id in self.expired:
            return False
        return seconds(decision) <= self.gone_until

    def decision(self, decision_id: str) -> Decision:
        """Return a pending decision, or say what became of it."""
        if decision_id in self.expired:
            raise KeyError(
                f"decision {decision_id!r} of {self.expired[decision_id]} expired "
                "before its reward came. Give the Decision itself to learn it anyway"
            )
        if decision_id not in self.pending:
            raise KeyError(
                f"no pending decision {decision_id!r}; {len(self.pending)} are "
                "pending. Give the Decision itself, for example from the ledger"
            )
        return self.pending[decision_id]

    def to_override(self, decision: Decision | str) -> Decision:
        """Return a decision that a person may override, or say why nobody can.

        One that is given whole need not wait here: another agent may have made it.
        """
        decision_id = decision if isinstance(decision, str) else decision.id
        if decision_id in self.settled:
            raise ValueError(
                f"decision {decision_id!r} has a reward: its answer was given. To "
                "choose another arm, decide anew"
            )
        if decision_id in self.overridden:
            raise ValueError(
                f"decision {decision_id!r} was overridden already, by decision "
                f"{self.overridden[decision_id]!r}; override that one"
            )
        if isinstance(decision, Decision) and decision_id not in self.expired:
            return decision
        if decision_id not in self.pending:
            raise KeyError(
                f"no pending decision {decision_id!r} to override: it is unknown, or "
                "no longer waited for; decide anew"
            )
        return self.pending[decision_id]

    def note_asked(self, decision_id: str, asked: dict[str, Any]) -> None:
        """Note whether a person was asked to rate a decision that waits."""
        if decision_id in self.pending:
            known = self.pending[decision_id]
            self.pending[decision_id] = replace(known, asked=asked)

    def override(self, decision_id: str, by: str) -> None:
        """Stop waiting for a decision that was not served; a person chose ``by``."""
        self.pending.pop(decision_id, None)
        self.overridden[decision_id] = by
        _trim(self.overridden, _MOST_LEARNT)

    def settle(self, record: Learnt, said: bool = False) -> None:
        """Note that a reward was learnt, which a ledger ``said``; keeps the record."""
        self._keep(record, said)
        self.counts["learnt"] += 1

    def unsettle(self, decision: Decision, said: bool = False) -> None:
        """Note that a reward was taken back."""
        for records in (self.settled, self.origins, self.learnt):
            records.pop(decision.id, None)
        self.as_said &= said
        self.counts["retracted"] += 1

    def replace(self, record: Learnt, said: bool = False) -> None:
        """Note that a reward was revised."""
        self._keep(record, said)
        self.counts["revised"] += 1

    def _keep(self, record: Learnt, said: bool) -> None:
        decision_id = record.decision.id
        self.pending.pop(decision_id, None)
        self.expired.pop(decision_id, None)
        for records in (self.settled, self.origins):
            records.pop(decision_id, None)  # to the end: it is among the newest now
        self.settled[decision_id] = record.reward
        self.origins[decision_id] = seconds(record.decision), said
        self.learnt[decision_id] = record
        slack = _MOST_SETTLED // 100
        _trim(self.settled, _MOST_SETTLED, slack)
        for made, was_said in _trim(self.origins, _MOST_SETTLED, slack):
            self.gone_until = max(made, self.gone_until or made)
            self.as_said &= was_said
        self._without(_trim(self.learnt, _MOST_LEARNT))

    def _without(self, records: Iterable[Learnt]) -> None:
        for record in records:
            self.plain &= record.weight == 1.0 and not record.measured

    def newest(self) -> datetime | None:
        """Return when the newest decision was made that is known of."""
        made = [seconds(decision) for decision in self.pending.values()]
        made += [made for made, _ in self.origins.values()]
        made += [time_of(text).timestamp() for text in self.expired.values()]
        return datetime.fromtimestamp(max(made), timezone.utc) if made else None

    def expire(self, before: datetime | Decision | str) -> list[str]:
        """Stop waiting for decisions made before a time, or for one; returns ids."""
        if isinstance(before, datetime):
            late = self._waited(before)
        else:
            one = before.id if isinstance(before, Decision) else before
            late = [self.pending[one]] if one in self.pending else []
        for decision in late:
            del self.pending[decision.id]
            self.expired[decision.id] = decision.created_at
        self.counts["expired"] += len(late)
        _trim(self.expired, _MOST_LEARNT)
        return [decision.id for decision in late]

    def forget(self, before: datetime) -> list[Decision]:
        """Drop the decisions made before a time; returns those waited for.

        Their rewards stay known by id, so that none is learnt twice.
        """
        late = self._waited(before)
        for decision in late:
            del self.pending[decision.id]
        old = [
            key
            for key, record in self.learnt.items()
            if time_of(record.decision.created_at) < before
        ]
        self._without([self.learnt.pop(key) for key in old])
        self.compared = {
            key: record
            for key, record in self.compared.items()
            if time_of(record.made) >= before
        }
        return late

    def _waited(self, before: datetime) -> list[Decision]:
        if before.tzinfo is None:
            raise ValueError(
                f"expected a time with a zone, received {before!r}; for example "
                "datetime.now(timezone.utc) - timedelta(days=1)"
            )
        return [d for d in self.pending.values() if time_of(d.created_at) < before]

    def drop_records(self, arm_ids: Iterable[str]) -> None:
        """Drop the records of some arms: their rewards can no longer be taken back."""
        gone = set(arm_ids)
        self.learnt = {
            key: record
            for key, record in self.learnt.items()
            if record.decision.braid.id not in gone
        }
        self.compared = {
            key: record
            for key, record in self.compared.items()
            if gone.isdisjoint((record.comparison.better, record.comparison.worse))
        }

    def copy(self) -> FeedbackLog:
        """Return an independent copy."""
        records: dict[str, Any] = {
            k: dict(v) for k, v in vars(self).items() if isinstance(v, dict)
        }
        return replace(self, **records)


def time_of(text: str) -> datetime:
    """Return a time that was written as text; without a zone it is UTC."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def seconds(decision: Decision) -> float:
    """Return when a decision was made, in seconds since 1970."""
    return time_of(decision.created_at).timestamp()


def _trim(records: dict[str, T], most: int, slack: int = 0) -> list[T]:
    """Drop the oldest records beyond ``most``, once there are ``slack`` more.

    To find its oldest key, a dict steps over the places of all keys that were dropped
    before. With very many records that is too slow to be done for each.
    """
    if len(records) <= most + slack:
        return []
    return [records.pop(key) for key in list(islice(records, len(records) - most))]
