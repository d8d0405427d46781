"""Learning what a ledger says: new events in their order, or everything anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from heapq import merge

from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Comparison, Decision, Event, Outcome
from braidbandit.recommender.arm_model import ArmModel
from braidbandit.recommender.feedback_log import (
    MOST_PENDING,
    FeedbackLog,
    Learnt,
    NotReversible,
    time_of,
)
from braidbandit.recommender.source_noise import variance_ratio


@dataclass(frozen=True)
class LedgerSync:
    """Brings what was learnt in line with what a ledger says.

    Parameters
    ----------
    model : ArmModel
        It learns, and keeps the position up to which the ledger was read.
    encoder_hash : str
        Of the encoder whose features the model knows.
    """

    model: ArmModel
    encoder_hash: str

    def read(
        self,
        ledger: Ledger,
        since: int | datetime | None = None,
        event: Event | None = None,
    ) -> list[str]:
        """Learn the events after the position; returns arms that were passed over.

        See :meth:`BraidRecommender.sync`.
        """
        start, earliest = _beginning(since)
        log, passed_over = self.model.log, list[str]()
        if start > self.model.position:
            log.pass_over()
        try:
            with self.model.replaying():
                for said in self._new_events(ledger, start, event):
                    if earliest and not _is_since(said, earliest):
                        log.pass_over()
                        self.model.move_to(said.sequence)
                    else:
                        passed_over += self.learn(said)
        except NotReversible:
            passed_over = self.read_anew(ledger, start, earliest)
        if passed_over:
            self.model.log.pass_over()
        return passed_over

    def learn(self, event: Event) -> list[str]:
        """Learn one event; returns its arm if that is unknown: it was passed over."""
        if event.comparison is not None:
            passed_over = self._follow_comparison(event, event.comparison)
        else:
            known, said = self._known(event), event.outcome
            passed_over = self._follow(event.sequence, event.decision, said, known)
        self.model.move_to(event.sequence)
        return passed_over

    def read_anew(
        self, ledger: Ledger, start: int = 0, earliest: datetime | None = None
    ) -> list[str]:
        """Learn all that a ledger now says; returns arms as :meth:`read` does.

        An outcome that is to be skipped is learnt again if it was learnt before.
        """
        model, position = self.model, self.model.position
        before, until = model.log, ledger.last_sequence()
        passed_over = list[str]()
        with model.all_or_nothing():
            model.begin_anew()
            both = ledger.pairs(until=until), ledger.comparisons(until=until)
            with model.replaying():
                for sequence, decision, said in merge(*both, key=_sequence):
                    late = earliest is None or time_of(said.created_at) >= earliest
                    wanted = sequence > start and late
                    if isinstance(said, Comparison):
                        if wanted or before.has_judged(said):
                            event = _event_of(sequence, decision, said)
                            passed_over += self._follow_comparison(event, said)
                    elif wanted or _was_learnt(before, decision, ledger, position):
                        passed_over += self._follow(sequence, decision, said)
                    else:
                        model.log.pass_over()
            model.move_to(until)
        for decision in ledger.pending(newest=MOST_PENDING):
            # It was taken back, or waited for until too many came.
            if decision.id in before.settled or before.may_be_gone(decision):
                model.await_reward(decision)
        return passed_over

    def wait(self, ledger: Ledger, saved: datetime | None) -> None:
        """Wait for the decisions of a ledger that a saved state does not know.

        Parameters
        ----------
        ledger : Ledger
        saved : datetime, optional
            When the newest decision was made that the saved state knew.
        """
        log, savings = self.model.log, self.model.account.savings
        # A guard books every departure it cannot wait for, however many there were.
        waits = ledger.pending(newest=None if savings else MOST_PENDING)
        booked = set(savings.expired if savings else ())
        for place, decision in enumerate(waits, start=MOST_PENDING - len(waits)):
            known = any(decision.id in s for s in (log.pending, log.settled, booked))
            old = place < 0 and saved is not None and made(decision) <= saved
            if not (known or old) and decision.encoder_hash == self.encoder_hash:
                self.model.await_reward(decision)

    def _new_events(
        self, ledger: Ledger, start: int, event: Event | None
    ) -> Iterable[Event]:
        """Return what is to be learnt: the event in hand, if it is all there is."""
        position = max(self.model.position, start)
        if event is not None and event.follows <= position < event.sequence:
            return [event]
        return ledger.events(after=position)

    def _known(self, event: Event) -> float | None:
        """Return the reward that was learnt of a decision before an event, if any."""
        log, decision = self.model.log, event.decision
        known = log.settled.get(decision.id)
        # Nothing is gone of most; then there is nothing to be asked.
        if known is not None or log.gone_until is None:
            return known
        if not log.may_be_gone(decision):
            return None
        if not log.as_said:
            self.model.refuse_if_gone(decision)
        return None if event.before is None else float(event.before.reward)

    def _follow(
        self,
        sequence: int,
        decision: Decision,
        outcome: Outcome | None,
        known: float | None = None,
    ) -> list[str]:
        """Bring what was learnt of one decision in line with the ledger."""
        model, log, arm_id = self.model, self.model.log, decision.braid.id
        if outcome is None:
            if known is not None:
                model.unlearn(model.record_of(decision, known), said=True)
        elif known is not None and known != outcome.reward:
            record = model.record_of(decision, known)
            model.revise(record, outcome.reward, said=True)
        elif known is not None and decision.id not in log.settled:
            log.note_repeat()
        elif arm_id not in model.rows and arm_id not in model.removed:
            return [arm_id]
        else:
            otherwise = f", or pass over it: sync(ledger, since={sequence})"
            check_encoder(decision, self.encoder_hash, otherwise)
            if decision.id in log.settled:
                log.note_repeat()
            else:
                took = outcome.latency_ms or None, outcome.compute or None
                weight = 1.0
                if log.repeats:
                    weight /= variance_ratio(log.repeats, outcome.source)
                record = Learnt(decision, outcome.reward, weight, 1.0, 0.0, *took)
                model.learn(record, said=True)
        return []

    def _follow_comparison(self, event: Event, said: Comparison) -> list[str]:
        """Bring what was learnt of two answers in line with the ledger."""
        model, log = self.model, self.model.log
        if event.kind == "retraction":
            if log.has_judged(said):
                model.uncompare(said.key)
            return []
        for arm_id in (said.better, said.worse):
            if arm_id not in model.rows and arm_id not in model.removed:
                return [arm_id]
        otherwise = f", or pass over it: sync(ledger, since={event.sequence})"
        check_encoder(event.decision, self.encoder_hash, otherwise)
        if not log.is_same_judgement(said):
            model.compare(event.decision, said)
        return []


def check_encoder(decision: Decision, encoder_hash: str, otherwise: str = "") -> None:
    """Refuse a decision whose features mean something else.

    Parameters
    ----------
    decision : Decision
    encoder_hash : str
        Of the encoder in use.
    otherwise : str
        What else the caller could do, for the message.
    """
    if decision.encoder_hash != encoder_hash:
        raise ValueError(
            f"decision {decision.id!r} was made with encoder {decision.encoder_hash}, "
            f"this recommender has {encoder_hash}; its features mean something else. "
            f"Load the state it was made with{otherwise}"
        )


def made(decision: Decision) -> datetime:
    """Return when a decision was made."""
    return time_of(decision.created_at)


def _beginning(since: int | datetime | None) -> tuple[int, datetime | None]:
    """Return the sequence number and the time after which to learn."""
    if since is None:
        return 0, None
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise ValueError(f"since needs a time with a zone, received {since!r}")
        return 0, since
    if isinstance(since, int) and not isinstance(since, bool) and since >= 0:
        return since, None
    raise TypeError(
        f"since is a sequence number of the ledger or a time, received {since!r}"
    )


def _was_learnt(
    before: FeedbackLog, decision: Decision, ledger: Ledger, position: int
) -> bool:
    """Whether a reward of a decision was learnt, from a ledger read up to a position.

    Raises ValueError where too many records were dropped to know it.
    """
    if not before.may_be_gone(decision):
        return decision.id in before.settled
    if not before.as_said:
        raise ValueError(
            f"decision {decision.id!r} is so old that it is not known whether it was "
            "learnt or passed over. Learn everything from the ledger: "
            "sync(ledger, anew=True)"
        )
    return ledger.said_before(decision.id, position + 1) is not None


def _is_since(event: Event, earliest: datetime) -> bool:
    """Whether it was said after a time; what is taken back always counts."""
    said = event.outcome or event.comparison
    if said is None or event.kind == "retraction":
        return True
    return time_of(said.created_at) >= earliest


def _sequence(said: tuple[int, Decision, Outcome | Comparison]) -> int:
    return said[0]


def _event_of(sequence: int, decision: Decision, said: Comparison) -> Event:
    return Event(sequence, decision, "comparison", None, comparison=said)
