"""What people say of answers, learnt once per signal."""

from __future__ import annotations

import json
from typing import Literal

from braidbandit.agent.meta_braider import MetaBraider
from braidbandit.ledger.records import Decision, Outcome
from braidbandit.service.errors import ApiError
from braidbandit.service.live import Live
from braidbandit.service.ratings.memory import Memory
from braidbandit.service.wire.bodies import FeedbackBody

Result = Literal["learnt", "known", "revised", "retracted", "ignored"]


class Feedback:
    """Rewards, preferences and retractions; used by one thread.

    Parameters
    ----------
    agent : MetaBraider
    memory : Memory
    live : Live
    most_changes : int
        Of one decision's reward.
    """

    def __init__(
        self, agent: MetaBraider, memory: Memory, live: Live, most_changes: int
    ) -> None:
        self._agent, self._memory, self._live = agent, memory, live
        self._most_changes = most_changes

    def take(self, body: FeedbackBody, caller: str) -> Result:
        """Learn what a request says.

        Raises
        ------
        ApiError
            When the decision is unknown, has another reward already, or was changed
            too often.
        """
        if body.preferred_over is not None:
            kind, result = "preference", self._prefer(body, caller)
        elif body.retract:
            kind, result = "retraction", self.retract(body.decision)
        else:
            value = body.value or 0.0
            kind, result = "reward", self._signal(body, value, caller)
        self._live.note_feedback(kind, result)
        return result

    def reward(
        self, decision_id: str, value: float, *, source: str, revise: bool
    ) -> Result:
        """Learn a reward; the same twice counts once.

        Raises
        ------
        ApiError
        """
        found = self._decision(decision_id)
        known = self._known(found)
        if known is not None and known.reward == value:
            return "known"
        if known is not None and not revise:
            raise ApiError(
                409,
                f"this decision has the reward {known.reward:g} already; send "
                "revise=true to replace it, or retract it",
                code="already_rated",
                param="decision",
            )
        self._check_changes(decision_id)
        if known is not None:
            self._agent.revise(found, value)
            self._memory.note_change(decision_id)
            return "revised"
        if found.braid.id in self._agent.catalogue.unfit:
            return "ignored"  # its anchor may have answered in its place
        took = self._memory.answer(decision_id)
        try:
            self._agent.learn_from_feedback(
                None,
                found,
                value,
                latency_ms=took and took.latency_ms,
                compute=took and took.compute,
                source=source,
            )
        except KeyError as error:  # it has expired
            raise ApiError(409, str(error.args[0]), code="expired") from None
        except ValueError as error:
            raise ApiError(409, str(error)) from error
        self._memory.note_change(decision_id)
        return "learnt"

    def retract(self, decision_id: str) -> Result:
        """Take a reward back; one that is not there is fine.

        Raises
        ------
        ApiError
        """
        found = self._decision(decision_id)
        if self._known(found) is None:
            return "known"
        self._check_changes(decision_id)
        self._agent.retract(found)
        self._memory.note_change(decision_id)
        return "retracted"

    def _signal(self, body: FeedbackBody, value: float, caller: str) -> Result:
        """A reward with an id of its own may change what it said before."""
        if body.id is None:
            return self.reward(
                body.decision, value, source=body.source, revise=body.revise
            )
        signal = f"{caller}:{body.id}"
        said = json.dumps([body.decision, value])
        before = self._memory.said(signal)
        if before is not None and json.loads(before)[0] != body.decision:
            raise ApiError(
                409, "this id was sent for another decision", param="id", code="id_used"
            )
        revise = body.revise or before is not None
        result = self.reward(body.decision, value, source=body.source, revise=revise)
        if before != said:
            self._memory.note_signal(signal, body.decision, said)
        return result

    def _prefer(self, body: FeedbackBody, caller: str) -> Result:
        worse = body.preferred_over.decision if body.preferred_over else ""
        better = self._decision(body.decision)
        other = self._decision(worse)
        signal = f"{caller}:{body.id or f'{body.source}:{better.id}>{other.id}'}"
        said = json.dumps([better.id, other.id, body.strength])
        before = self._memory.said(signal)
        if before == said:
            return "known"
        if before is not None:
            raise ApiError(
                409, "this id said something else before", param="id", code="id_used"
            )
        self._check_changes(better.id)
        if {better.braid.id, other.braid.id} & self._agent.catalogue.unfit.keys():
            return "ignored"  # its anchor may have answered in its place
        try:
            self._agent.prefer(
                better, other, strength=body.strength, source=body.source
            )
        except (ValueError, KeyError) as error:
            raise ApiError(409, str(error.args[0]), param="preferred_over") from error
        self._memory.note_signal(signal, better.id, said)
        self._memory.note_change(better.id)
        return "learnt"

    def _decision(self, decision_id: str) -> Decision:
        try:
            return self._agent.ledger.decision(decision_id)
        except KeyError:
            raise ApiError(404, "there is no such decision", param="decision") from None

    def _known(self, decision: Decision) -> Outcome | None:
        """The outcome that is in force now."""
        ledger = self._agent.ledger
        return ledger.said_before(decision.id, ledger.last_sequence() + 1)

    def _check_changes(self, decision_id: str) -> None:
        if self._memory.changes(decision_id) >= self._most_changes:
            raise ApiError(
                409,
                f"the reward of this decision was changed {self._most_changes} times; "
                "it stays as it is",
                code="too_many_changes",
                param="decision",
            )
