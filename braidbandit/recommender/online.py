"""Online: feedback on decisions as it comes, and arms that come, change and go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from braidbandit._checks import check_weight
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard
from braidbandit.ledger.records import Decision, Outcome
from braidbandit.recommender.arm_model import arm_ids_of
from braidbandit.recommender.feedback import (
    MOST_PENDING,
    FeedbackLog,
    Learnt,
    NotReversible,
    _time,
)
from braidbandit.recommender.objectives import check_measurement
from braidbandit.recommender.tabular import Tabular
from braidbandit.recommender.utility import check_quality

if TYPE_CHECKING:
    from typing_extensions import Self


class Online(Tabular):
    """What a recommender does between two choices."""

    def catch_up(self, ledger: Any, since: int | datetime | None = None) -> Self:
        """Learn what a ledger holds beyond ``ledger_position_``, in its order.

        Outcomes are learnt, revisions replaced and retractions taken back exactly;
        what was learnt live is recognised and skipped. Where something can no longer
        be taken back exactly (see :meth:`retract`), everything is learnt anew from
        what the ledger now says. Outcomes of arms that the catalogue never had are
        passed over, with a warning.

        Parameters
        ----------
        ledger : Ledger
        since : int or datetime, optional
            Skip what was said up to this sequence number, or the outcomes that were
            measured before this time (with a zone).

        Raises
        ------
        ValueError
            At an outcome of another encoder; what came before it is learnt.
        """
        self._tell_of_ledger(self._read(ledger, since))
        return self

    def _read(self, ledger: Any, since: int | datetime | None = None) -> list[str]:
        """Catch up; returns the arms of outcomes that were passed over."""
        self._start()
        start, earliest = _beginning(since)
        unknown: list[str] = []
        log = self.learner_.log
        log.as_said &= start <= self.ledger_position_
        try:
            with self.learner_.replaying():
                for event in ledger.events(after=max(self.ledger_position_, start)):
                    outcome, decision = event.outcome, event.decision
                    if not earliest or not outcome or _is_since(outcome, earliest):
                        known = self._known_of(decision, ledger, event.sequence)
                        unknown += self._follow(
                            event.sequence, decision, outcome, known
                        )
                    else:
                        log.as_said = False
                    self.ledger_position_ = int(event.sequence)
        except NotReversible:
            unknown = self._learn_anew(ledger, start, earliest)
        self.learner_.log.as_said &= not unknown
        return unknown

    def _tell_of_ledger(self, unknown: Sequence[str]) -> None:
        """Give the warnings of reading a ledger, once all is learnt."""
        if unknown:
            message = (
                f"{len(unknown)} outcomes in the ledger were passed over: their arms "
                f"are not in the catalogue ({', '.join(sorted(set(unknown))[:3])}). "
                "After add_arms, fit(ledger) learns them too"
            )
            self.learner_.bandit.notice(message)
        self.learner_.bandit.tell(stacklevel=4)

    # ---- learning from decisions ----

    def update(
        self,
        decision: Decision | str,
        reward: float | bool,
        *,
        weight: float = 1.0,
        latency_ms: float | None = None,
        compute: float | None = None,
    ) -> Self:
        """Learn how one decision turned out; it may come late and in any order.

        The very same reward again is ignored, and counted in
        ``feedback_counts_["repeated"]``. A reward of an arm that was retrained since
        counts less; one of an arm that was removed informs its relatives.

        Parameters
        ----------
        decision : Decision or str
            The decision, or the id of a pending one.
        reward : float in [0, 1] or bool
            Quality. Cost must not be in it: costs are applied to the scores.
        weight : float
            From 1e-6 to 1e6; divides the noise variance.
        latency_ms, compute : float, optional
            What it took, above 0; compute in any unit, but always the same.

        Raises
        ------
        KeyError
            On an unknown or expired decision id, or an unknown arm.
        TypeError, ValueError
            On a reward outside [0, 1], a second and different reward for the same
            decision, a decision of another encoder, or one so old that it is not
            known whether its reward was learnt (older than the newest 100,000
            rewards, and not pending). Whatever is raised, nothing has changed; but a
            warning that a filter makes an error comes after all is learnt.
        """
        self._learn(decision, reward, weight, latency_ms, compute)
        self.learner_.bandit.tell()
        return self

    def update_batch(
        self, feedback: Iterable[tuple[Decision | str, float | bool]]
    ) -> Self:
        """Learn many rewards in the order given: all of them, or none on an error.

        Gives the very posterior of as many calls of :meth:`update`.
        """
        self._start()
        with self._all_or_nothing():
            for decision, reward in feedback:
                self._learn(decision, reward)
        self.learner_.bandit.tell()
        return self

    def revise(self, decision: Decision | str, reward: float | bool) -> Self:
        """Replace a learnt reward exactly, as if this one had come in its place.

        See :meth:`retract` for what can be revised.
        """
        quality = check_quality(reward)
        self._start()
        self._id_of(decision)
        self.learner_.revise(self.learner_.record_of(decision), quality)
        return self

    def retract(self, decision: Decision | str) -> Self:
        """Take a learnt reward back exactly; the decision then waits for one again.

        The id is enough for the newest 500 rewards. An older one needs the whole
        decision, as kept by the ledger, no forgetting, and no weight or measurement
        in any of the older ones. A reward of an arm that was retrained or removed
        since is refused, even where it came back: its part in the posterior can no
        longer be told apart. So is one beyond the newest 100,000; ``catch_up`` looks
        these up in the ledger.
        """
        self._start()
        self._id_of(decision)
        self.learner_.unlearn(self.learner_.record_of(decision))
        return self

    def expire(self, before: datetime) -> list[str]:
        """Stop waiting for decisions made before a time, and return their ids.

        A reward that comes later is refused by id; the Decision itself is learnt.
        Until then a guard takes it for 0.
        """
        self._start()
        return self.learner_.expire(before)

    def forget_decisions(self, before: datetime) -> Self:
        """Drop the decisions made before a time, with their features; for a purge.

        What was learnt from them stays, but can no longer be revised or taken back by
        id. Those that waited for a reward are waited for no longer; a guard takes them
        for 0.
        """
        self._start()
        self.learner_.forget_decisions(before)
        return self

    # ---- arms that come, change and go ----

    def add_arms(
        self, braids: Iterable[Braid], cards: Iterable[ModelCard] = ()
    ) -> Self:
        """Add braids; each starts from what its relatives taught, not from nothing.

        Parameters
        ----------
        braids : iterable of Braid
        cards : iterable of ModelCard
            Cards of models the catalogue does not have yet; with ``parameters``,
            where all cards of the catalogue have them.
        """
        self._start()
        self._take_over(self._catalogue().with_braids(braids, cards), "add")
        return self

    def remove_arms(self, arms: Iterable[Braid | str]) -> Self:
        """Remove braids. What they taught about their relatives stays."""
        self._start()
        self._take_over(self._catalogue().without(arm_ids_of(arms)), "remove")
        return self

    def retrain(self, arm: Braid | str, share: float = 0.5) -> Self:
        """Note that a braid was trained anew: its mean stays, its variance grows.

        Parameters
        ----------
        arm : Braid or str
        share : float in [0, 1)
            How far it may have moved, as a share of the variance with which models
            differ.
        """
        if not 0.0 <= share < 1.0:
            raise ValueError(f"share must lie in [0, 1), received {share!r}")
        self._start()
        arm_id = arm.id if isinstance(arm, Braid) else arm
        self._catalogue().index(arm_id)
        self.learner_.retrain(arm_id, float(share))
        return self

    # ---- inside ----

    def _learn(
        self,
        decision: Decision | str,
        reward: float | bool,
        weight: float = 1.0,
        latency_ms: float | None = None,
        compute: float | None = None,
        said: bool = False,
    ) -> None:
        """Learn a reward; one that a ledger ``said`` is known to be new."""
        quality, weight = check_quality(reward), check_weight(weight)
        latency_ms = check_measurement("latency_ms", latency_ms)
        compute = check_measurement("compute", compute)
        self._start()
        log = self.learner_.log
        if log.is_repeat(self._id_of(decision), quality):
            return
        found = log.decision(decision) if isinstance(decision, str) else decision
        self._check_encoder(found)
        if not said:
            self.learner_.refuse_if_gone(found)
        self.learner_.learn(
            Learnt(found, quality, weight, latency_ms=latency_ms, compute=compute), said
        )

    def _known_of(self, decision: Decision, ledger: Any, sequence: int) -> float | None:
        """Return the reward that was learnt of a decision before an event, if any."""
        log = self.learner_.log
        known = log.settled.get(decision.id)
        if known is not None or not log.may_be_gone(decision):
            return known
        if not log.as_said:
            self.learner_.refuse_if_gone(decision)
        before = ledger.said_before(decision.id, sequence)
        return None if before is None else float(before.reward)

    def _follow(
        self,
        sequence: int,
        decision: Decision,
        outcome: Outcome | None,
        known: float | None = None,
    ) -> list[str]:
        """Bring what is known of one decision to what is true of it.

        Returns the decision's arm if it is unknown, so that nothing could be learnt.
        """
        learner, arm_id = self.learner_, decision.braid.id
        if outcome is None:
            if known is not None:
                learner.unlearn(learner.record_of(decision, known), said=True)
        elif known is not None and known != outcome.reward:
            record = learner.record_of(decision, known)
            learner.revise(record, outcome.reward, said=True)
        elif known is not None and decision.id not in learner.log.settled:
            learner.log.counts["repeated"] += 1
        elif arm_id not in self._catalogue() and arm_id not in self.learner_.removed:
            return [arm_id]
        else:
            self._check_encoder(
                decision, f", or pass over it: catch_up(ledger, since={sequence})"
            )
            self._learn(
                decision,
                outcome.reward,
                latency_ms=outcome.latency_ms or None,
                compute=outcome.compute or None,
                said=True,
            )
        return []

    def _learn_anew(
        self, ledger: Any, start: int = 0, earliest: datetime | None = None
    ) -> list[str]:
        """Learn what the ledger now says; returns arms as :meth:`_follow` does.

        What is to be skipped is learnt again if it was learnt before.
        """
        unknown, position = list[str](), self.ledger_position_
        before, until = self.learner_.log, ledger.last_sequence()
        with self._all_or_nothing():
            self._begin_anew()
            with self.learner_.replaying():
                for sequence, decision, outcome in ledger.pairs(until=until):
                    late = not earliest or _is_since(outcome, earliest)
                    if (sequence > start and late) or _was_learnt(
                        before, decision, ledger, position
                    ):
                        unknown += self._follow(sequence, decision, outcome)
                    else:
                        self.learner_.log.as_said = False
            self.ledger_position_ = until
        for decision in ledger.pending(newest=MOST_PENDING):
            # It was taken back, or waited for until too many came.
            if decision.id in before.settled or before.may_be_gone(decision):
                self.learner_.await_reward(decision)
        return unknown

    def _resume(self, ledger: Any) -> None:
        """Learn, wait for, and pay for what the ledger holds beyond a saved state."""
        self._start()
        saved, savings = self.learner_.log.newest(), self.savings_
        unknown = self._read(ledger)
        log, encoder_hash = self.learner_.log, self.encoder_.projection_hash()
        # A guard books every departure it cannot wait for, however many there were.
        waits = ledger.pending(newest=None if savings else MOST_PENDING)
        booked = set(savings.expired if savings else ())
        for place, decision in enumerate(waits, start=MOST_PENDING - len(waits)):
            known = any(decision.id in s for s in (log.pending, log.settled, booked))
            old = place < 0 and saved is not None and _made(decision) <= saved
            if not (known or old) and decision.encoder_hash == encoder_hash:
                self.learner_.await_reward(decision)
        if self.mean_cost is not None:
            for decision in ledger.decided_after(saved):
                self.pacer_.spend(decision.relative_cost, self.mean_cost)
        self._tell_of_ledger(unknown)

    def _id_of(self, decision: Decision | str) -> str:
        if isinstance(decision, str):
            return decision
        if isinstance(decision, Decision):
            return decision.id
        raise TypeError(
            f"expected a Decision or its id, received {type(decision).__name__}"
        )

    def _check_encoder(self, decision: Decision, otherwise: str = "") -> None:
        encoder_hash = self.encoder_.projection_hash()
        if decision.encoder_hash != encoder_hash:
            raise ValueError(
                f"decision {decision.id!r} was made with encoder "
                f"{decision.encoder_hash}, this recommender has {encoder_hash}; its "
                "features mean something else. Load the state it was made with"
                f"{otherwise}"
            )


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
    before: FeedbackLog, decision: Decision, ledger: Any, position: int
) -> bool:
    """Whether a reward of a decision was learnt, from a ledger read up to a position.

    Raises ValueError where too much is gone to know it.
    """
    if not before.may_be_gone(decision):
        return decision.id in before.settled
    if not before.as_said:
        raise ValueError(
            f"decision {decision.id!r} is so old that it is not known whether it was "
            "learnt or passed over. Learn everything from the ledger: fit(ledger)"
        )
    return ledger.said_before(decision.id, position + 1) is not None


def _made(decision: Decision) -> datetime:
    return _time(decision.created_at)


def _is_since(outcome: Outcome, earliest: datetime) -> bool:
    return _time(outcome.created_at) >= earliest
