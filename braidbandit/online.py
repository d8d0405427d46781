"""Online: feedback on decisions as it comes, and arms that come, change and go."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from braidbandit.catalogue import Braid, ModelCard
from braidbandit.decision import Decision, Outcome
from braidbandit.feedback import MOST_PENDING, Learnt, NotReversible, _time
from braidbandit.learner import arm_ids_of
from braidbandit.objectives import check_measurement
from braidbandit.tabular import Tabular
from braidbandit.utility import check_quality

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
        self._start()
        start, earliest = _beginning(since)
        unknown: list[str] = []
        try:
            with self.learner_.replaying():
                for event in ledger.events(after=max(self.ledger_position_, start)):
                    outcome = event.outcome
                    if not earliest or not outcome or _is_since(outcome, earliest):
                        unknown += self._follow(event.sequence, event.decision, outcome)
                    self.ledger_position_ = int(event.sequence)
        except NotReversible:
            unknown = self._learn_anew(ledger, start, earliest)
        if unknown:
            warnings.warn(
                f"{len(unknown)} outcomes in the ledger were passed over: their arms "
                f"are not in the catalogue ({', '.join(sorted(set(unknown))[:3])}). "
                "After add_arms, fit(ledger) learns them too",
                stacklevel=2,
            )
        return self

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
            Above 0; divides the noise variance.
        latency_ms, compute : float, optional
            What it took, above 0; compute in any unit, but always the same.

        Raises
        ------
        KeyError
            On an unknown or expired decision id, or an unknown arm.
        TypeError, ValueError
            On a reward outside [0, 1], a second and different reward for the same
            decision, or a decision of another encoder. Whatever is raised, nothing
            has changed.
        """
        quality = check_quality(reward)
        latency_ms = check_measurement("latency_ms", latency_ms)
        compute = check_measurement("compute", compute)
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"weight must be finite and above 0, received {weight!r}")
        self._start()
        log = self.learner_.log
        if log.is_repeat(self._id_of(decision), quality):
            return self
        found = log.decision(decision) if isinstance(decision, str) else decision
        self._check_encoder(found)
        self.learner_.learn(
            Learnt(
                found, quality, float(weight), latency_ms=latency_ms, compute=compute
            )
        )
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
                self.update(decision, reward)
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
        longer be told apart.
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

    def _follow(
        self, sequence: int, decision: Decision, outcome: Outcome | None
    ) -> list[str]:
        """Bring what was learnt of one decision to what is true of it.

        Returns the decision's arm if it is unknown, so that nothing could be learnt.
        """
        learnt, arm_id = self.settled_.get(decision.id), decision.braid.id
        if outcome is None:
            if learnt is not None:
                self.retract(decision)
        elif learnt is not None and learnt != outcome.reward:
            self.revise(decision, outcome.reward)
        elif arm_id not in self._catalogue() and arm_id not in self.learner_.removed:
            return [arm_id]
        else:
            self._check_encoder(
                decision, f", or pass over it: catch_up(ledger, since={sequence})"
            )
            self.update(
                decision,
                outcome.reward,
                latency_ms=outcome.latency_ms or None,
                compute=outcome.compute or None,
            )
        return []

    def _learn_anew(
        self, ledger: Any, start: int = 0, earliest: datetime | None = None
    ) -> list[str]:
        """Learn what the ledger now says; returns arms as :meth:`_follow` does.

        What is to be skipped is learnt again if it was learnt before.
        """
        waiting, savings = list(self.pending_.values()), self.savings_
        unknown, before = list[str](), self.settled_
        with self._all_or_nothing():
            self._forget_rewards()
            self.learner_.guarding.owe(savings)
            with self.learner_.replaying():
                for sequence, decision, outcome in ledger.pairs():
                    late = not earliest or _is_since(outcome, earliest)
                    if (sequence > start and late) or decision.id in before:
                        unknown += self._follow(sequence, decision, outcome)
                    self.ledger_position_ = int(sequence)
        self._await_again(waiting)
        return unknown

    def _await_again(self, waiting: Iterable[Decision]) -> None:
        """Wait for the decisions that were waited for before all was learnt anew."""
        for decision in waiting:
            if decision.id not in self.settled_:
                self.learner_.await_reward(decision)

    def _resume(self, ledger: Any) -> None:
        """Learn, wait for, and pay for what the ledger holds beyond a saved state."""
        self._start()
        saved = max((_made(d) for d in self._known()), default=None)
        self.catch_up(ledger)
        log, encoder_hash = self.learner_.log, self.encoder_.projection_hash()
        for decision in ledger.pending(newest=MOST_PENDING):
            known = decision.id in log.pending or decision.id in log.settled
            if not known and decision.encoder_hash == encoder_hash:
                self.learner_.await_reward(decision)
        if self.mean_cost is not None:
            for decision in sorted(self._known(), key=_made):
                if saved is None or _made(decision) > saved:
                    self.pacer_.spend(decision.relative_cost, self.mean_cost)

    def _known(self) -> list[Decision]:
        """Return the newest decisions, with a reward and without."""
        log = self.learner_.log
        return [*log.pending.values(), *(r.decision for r in log.learnt.values())]

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


def _made(decision: Decision) -> datetime:
    return _time(decision.created_at)


def _is_since(outcome: Outcome, earliest: datetime) -> bool:
    return _time(outcome.created_at) >= earliest
