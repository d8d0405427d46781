"""Which arm answers a request."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from braidbandit.agent.meta_braider import MetaBraider
from braidbandit.catalogue.braid import Braid
from braidbandit.ledger.records import Decision
from braidbandit.service.choosing.arms import Arms
from braidbandit.service.choosing.timing import Timing
from braidbandit.service.errors import ApiError
from braidbandit.service.live import Live
from braidbandit.service.ratings.signing import Signer
from braidbandit.service.wire.asking import Ask

_MOST_CONVERSATIONS = 10_000


class Chosen(NamedTuple):
    """A decision, and the seconds that it took to make."""

    decision: Decision
    seconds: float


class Chooser:
    """Decides for requests; used by one thread.

    Parameters
    ----------
    agent : MetaBraider
    arms : Arms
    timing : Timing
        A deadline leaves out the arms that are expected to miss it.
    live : Live
    signer : Signer
    backlog : callable
        Seconds until a local model would begin with a request that comes now.
    compute_budget : float
        Where a request does not say.
    """

    def __init__(
        self,
        agent: MetaBraider,
        arms: Arms,
        timing: Timing,
        live: Live,
        signer: Signer,
        backlog: Callable[[], float],
        compute_budget: float,
    ) -> None:
        self._agent, self._arms, self._timing = agent, arms, timing
        self._live, self._signer, self._backlog = live, signer, backlog
        self._compute_budget = compute_budget
        self._sessions = _Sessions()

    def choose(self, ask: Ask, seconds_left: float, avoid: Mapping[str, str]) -> Chosen:
        """Return a decision, which is in the ledger.

        Parameters
        ----------
        ask : Ask
        seconds_left : float
            Until the deadline.
        avoid : mapping from arm id to reason
            Arms that were tried, or cannot be waited for.

        Raises
        ------
        ApiError
            When no arm can answer, or what is asked for makes no sense.
        """
        braid = self._arms.named(ask.model)
        ask = replace(ask, conversation=self._sessions.conversation(ask))
        if ask.wishes.decision is not None:
            return self._made_before(ask, braid)
        excluded = {**self._arms.excluded(endpoints_only=ask.endpoints_only), **avoid}
        if braid is not None:
            self._check_usable(braid, ask)
            return self._decide(ask, eligible=[braid.id])
        left = [b for b in self._agent.catalogue if b.id not in excluded]
        left = [b for b in left if b.id not in self._agent.catalogue.unfit]
        if not left:
            raise self._nobody(ask, avoid)
        slow = self._too_slow(left, ask, seconds_left)
        if len(slow) == len(left):  # then the one that is expected to miss it least
            return self._decide(ask, eligible=[min(slow, key=lambda i: slow[i])])
        why = "expected to take {:.0f} s, longer than the deadline allows"
        excluded |= {arm_id: why.format(t) for arm_id, t in slow.items()}
        return self._decide(ask, excluded=excluded)

    def _decide(self, ask: Ask, **limits: Any) -> Chosen:
        wishes = ask.wishes
        budget = wishes.compute_budget
        if budget is None:
            budget = 1.0 if "eligible" in limits else self._compute_budget
        begun = time.perf_counter()
        try:
            decision = self._agent.forward(
                ask.task,
                budget,
                preference=wishes.preference,
                accuracy_target=wishes.accuracy_target,
                conversation=ask.conversation,
                **limits,
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ApiError(400, str(error.args[0]), param="x_braidbandit") from error
        seconds = time.perf_counter() - begun
        self._live.note_decision(seconds)
        return Chosen(decision, seconds)

    def _too_slow(
        self, braids: list[Braid], ask: Ask, seconds_left: float
    ) -> dict[str, float]:
        backlog = self._backlog()
        found: dict[str, float] = {}
        for braid in braids:
            expected = self._timing.expected(braid.id, ask.most_tokens)
            if expected is not None:
                wait = 0.0 if self._arms.is_served(braid) else backlog
                if expected + wait > seconds_left:
                    found[braid.id] = expected + wait
        return found

    def _check_usable(self, braid: Braid, ask: Ask) -> None:
        state, name = self._arms.state(braid), self._arms.name_of(braid)
        if ask.endpoints_only is not None and not self._arms.is_served(braid):
            raise ApiError(
                400,
                f"{name} is run here and does not take {ask.endpoints_only}; leave it "
                "out, or ask for a model behind a URL",
                param=ask.endpoints_only,
                code="unsupported_parameter",
            )
        if state == "unfit":
            why = self._agent.catalogue.unfit[braid.id]
            raise ApiError(
                400, f"{name} is unfit: {why}", param="model", code="model_unfit"
            )
        if state != "ready":
            raise ApiError(
                503,
                f"{name} is not ready: {state}",
                param="model",
                code="model_not_ready",
                wait=10,
            )

    def _made_before(self, ask: Ask, braid: Braid | None) -> Chosen:
        """Return the decision that a request acts on."""
        wishes = ask.wishes
        decision_id, token = str(wishes.decision), wishes.token or ""
        if not self._signer.signed(decision_id, token):
            raise ApiError(
                403,
                "this token is not of this decision; both come from /v1/recommend",
                param="x_braidbandit.token",
            )
        try:
            decision = self._agent.ledger.decision(decision_id)
        except KeyError:
            raise ApiError(
                404, "there is no such decision", param="x_braidbandit.decision"
            ) from None
        if braid is not None and braid.id != decision.braid.id:
            self._check_usable(braid, ask)
            return Chosen(self._override(decision, braid), 0.0)
        self._check_usable(decision.braid, ask)
        return Chosen(decision, 0.0)

    def _override(self, decision: Decision, braid: Braid) -> Decision:
        try:
            return self._agent.override(decision, braid)
        except (KeyError, ValueError) as error:
            said = str(error.args[0])
            raise ApiError(409, said, param="x_braidbandit.decision") from error

    def _nobody(self, ask: Ask, avoid: Mapping[str, str]) -> ApiError:
        field = ask.endpoints_only
        served = [b for b in self._agent.catalogue if self._arms.is_served(b)]
        if field is not None and not served:
            return ApiError(
                400,
                f"no model here takes {field}; leave it out, or add one with an "
                "endpoint to the pool",
                param=field,
                code="unsupported_parameter",
            )
        told = f": {'; '.join(dict.fromkeys(avoid.values()))}" if avoid else ""
        return ApiError(
            503, f"no model can answer now{told}", code="no_model_ready", wait=10
        )


class _Sessions:
    """Which conversation a turn belongs to, where the client does not say."""

    def __init__(self) -> None:
        self._begun: OrderedDict[str, str] = OrderedDict()

    def conversation(self, ask: Ask) -> str | None:
        """Return the id of the conversation; a first turn without a name has a new one.

        Of conversations that begin alike, later turns are of the one that began last.
        """
        opening = ask.conversation
        if opening is None or ask.is_named:
            return opening
        if not ask.goes_on:
            self._begun[opening] = secrets.token_hex(16)
            self._begun.move_to_end(opening)
            while len(self._begun) > _MOST_CONVERSATIONS:
                self._begun.popitem(last=False)
        return self._begun.get(opening, opening)
