"""One request for text, from its decision to its last word."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from braidbandit.agent.endpoint import EndpointError
from braidbandit.ledger.records import Decision
from braidbandit.service.errors import ApiError
from braidbandit.service.live import Answered
from braidbandit.service.service import Service
from braidbandit.service.web.forms import Form
from braidbandit.service.wire.asking import Ask
from braidbandit.service.writing.batch import Job
from braidbandit.service.writing.flow import Delta, Done, Event, Failed, Flow

_LOG = logging.getLogger(__name__)
_MOST_TRIES = 3
# Of the time that is left: so long a local model may let a request wait, where a model
# behind a URL could still answer in time.
_PATIENCE = 0.5


async def answer(service: Service, ask: Ask, caller: str, request: Request) -> Response:
    """Answer a request for text.

    Raises
    ------
    ApiError
        When there is no answer; then none was begun.
    """
    service.take_place()
    answering = Answering(service, ask, caller)
    watch = asyncio.ensure_future(_hang_up(request, answering.cancel))
    begun = False
    try:
        form = await answering.begin()
        if ask.stream:
            begun = True
            return _Stream(answering, form, watch)
        deltas, done = await answering.whole()
        return JSONResponse(form.whole(deltas, done), headers=form.headers)
    finally:
        if not begun:
            watch.cancel()
            answering.close()


class _Stream(StreamingResponse):
    """An answer as events; it is ended even where it was never begun to be sent."""

    def __init__(
        self, answering: Answering, form: Form, watch: asyncio.Future[None]
    ) -> None:
        self._answering, self._watch = answering, watch
        super().__init__(
            _chunks(answering, form),
            media_type="text/event-stream",
            headers={**form.headers, "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._watch.cancel()
            self._answering.close()


async def _chunks(answering: Answering, form: Form) -> AsyncGenerator[bytes, None]:
    yield form.opening()
    async with aclosing(answering.events()) as events:
        async for event in events:
            if isinstance(event, Delta):
                yield form.piece(event)
            elif isinstance(event, Done):
                # Before the last word is sent: whoever has it finds it noted.
                answering.close()
                yield form.closing(event)
            else:
                yield form.broken(_told(event.error))


async def _hang_up(request: Request, cancel: Callable[[], None]) -> None:
    """Wait until the client is gone, and say so."""
    with suppress(asyncio.CancelledError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
        cancel()


class Answering:
    """An answer that is being given; used in the event loop.

    Parameters
    ----------
    service : Service
    ask : Ask
    caller : str
        Name of the key.
    """

    def __init__(self, service: Service, ask: Ask, caller: str) -> None:
        self._service, self._ask, self._caller = service, ask, caller
        self._at, self._begun = time.time(), time.monotonic()
        server = service.settings.server
        seconds = ask.wishes.deadline_seconds or server.deadline_seconds
        self._deadline = self._begun + min(seconds, server.deadline_seconds)
        most = ask.most_tokens or server.default_tokens
        self._most_tokens = min(most, server.most_tokens)
        self._flow = Flow(asyncio.get_running_loop())
        self._decision: Decision | None = None
        self._decided = self._first = 0.0
        self._head: Event | None = None
        self._deltas: list[Delta] = []
        self._end: Done | Failed | None = None
        self._gone = self._closed = False

    def cancel(self) -> None:
        """Stop writing: the client has gone."""
        self._gone = True
        self._flow.cancel()

    async def begin(self) -> Form:
        """Decide, and wait for the first word; another arm is tried where one fails.

        Returns
        -------
        Form
            With the model that answers.
        """
        avoid = await self._service.too_long(self._ask)
        told = ""
        for tries in range(1, _MOST_TRIES + 1):
            decision = await self._choose(avoid)
            event = await self._first_event(decision)
            problem = self._problem(event)
            if problem is None:
                self._head = event
                self._first = time.monotonic() - self._begun
                return self._form(decision, told)
            await self._service.forget(decision)
            if tries == _MOST_TRIES or not self._may_try(problem):
                raise problem
            told = f"{decision.braid.label()} gave no answer: {problem.code}"
            avoid |= self._avoided(decision, problem)
            _LOG.warning(
                "another arm is tried",
                extra={"decision": decision.id, "code": problem.code},
            )
        raise ApiError(503, "no model answered")  # not reached

    async def events(self) -> AsyncGenerator[Event, None]:
        """Give the deltas of the answer, and its end."""
        event = self._head or await self._flow.next()
        while True:
            if isinstance(event, Delta):
                self._deltas.append(event)
            else:
                self._end = event
                if isinstance(event, Failed):
                    _LOG.error(
                        "an answer broke off",
                        extra={"decision": self._decision and self._decision.id},
                        exc_info=event.error,
                    )
            yield event
            if not isinstance(event, Delta):
                return
            event = await self._flow.next()

    async def whole(self) -> tuple[list[Delta], Done]:
        """Return all deltas, and the end.

        Raises
        ------
        ApiError
            When it broke off.
        """
        async with aclosing(self.events()) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise _told(event.error)
        if not isinstance(self._end, Done):
            raise ApiError(503, "the answer broke off", code="broken_off")
        return self._deltas, self._end

    def close(self) -> None:
        """Note what came of it, and give the place back."""
        if self._closed:
            return
        self._closed = True
        self._gone |= self._head is not None and self._end is None
        self._flow.cancel()
        self._service.leave_place()
        if self._decision is not None:
            self._note(self._decision)

    # ---- inside ----

    async def _choose(self, avoid: dict[str, str]) -> Decision:
        if self._gone:
            raise ApiError(503, "the client has gone", code="gone")
        left = self._deadline - time.monotonic()
        chosen = await self._service.choose(self._ask, left, avoid)
        self._decision, self._decided = chosen
        return chosen.decision

    async def _first_event(self, decision: Decision) -> Event:
        self._flow = Flow(asyncio.get_running_loop())
        if self._gone:
            self._flow.cancel()
        self._service.begin(
            decision,
            Job(
                decision.braid,
                self._ask,
                self._most_tokens,
                self._deadline,
                self._flow,
            ),
        )
        left = self._deadline - time.monotonic()
        wait = _PATIENCE * left if self._has_way_out(decision) else left + 1.0
        try:
            return await asyncio.wait_for(self._flow.next(), max(wait, 0.01))
        except asyncio.TimeoutError:
            self._flow.cancel()
            error = ApiError(
                503, "no word came before the deadline", code="deadline", wait=5
            )
            return Failed(error)

    def _has_way_out(self, decision: Decision) -> bool:
        """Whether a model behind a URL could answer in place of a local one."""
        if self._ask.model != "auto" or self._service.arms.is_served(decision.braid):
            return False
        return self._serves_elsewhere()

    def _serves_elsewhere(self) -> bool:
        arms, catalogue = self._service.arms, self._service.agent.catalogue
        return any(arms.is_served(braid) for braid in catalogue)

    def _problem(self, event: Event) -> ApiError | None:
        return _told(event.error) if isinstance(event, Failed) else None

    def _may_try(self, problem: ApiError) -> bool:
        chosen_here = self._ask.model == "auto" and self._ask.wishes.decision is None
        if not chosen_here or problem.status < 500 or self._gone:
            return False
        return problem.code != "deadline" or self._serves_elsewhere()

    def _avoided(self, decision: Decision, problem: ApiError) -> dict[str, str]:
        """Arms that are not tried again: where the time is short, all that wait."""
        arms = self._service.arms
        if problem.code != "deadline":
            return {decision.braid.id: f"it gave no answer ({problem.code})"}
        return {
            braid.id: "the wait is too long for the deadline"
            for braid in self._service.agent.catalogue
            if not arms.is_served(braid)
        }

    def _form(self, decision: Decision, told: str) -> Form:
        service, braid = self._service, decision.braid
        about: dict[str, Any] = {
            "decision": decision.id,
            "token": service.signer.token(decision.id),
            "arm": braid.id,
            "label": braid.label(),
            "reason": f"{decision.sentence}{'; ' + told if told else ''}",
            "propensity": decision.propensity,
            "decision_ms": round(1000 * self._decided, 3),
        }
        if self._ask.ignored and not service.arms.is_served(braid):
            about["ignored"] = list(self._ask.ignored)
        kind = "chatcmpl" if self._ask.is_chat else "cmpl"
        return Form(
            f"{kind}-{decision.id}",
            service.arms.name_of(braid),
            self._ask.is_chat,
            self._ask.shows_usage,
            about,
        )

    def _note(self, decision: Decision) -> None:
        service, end, text = self._service, self._end, self._text()
        done = end if isinstance(end, Done) else Done("", 0, 0, 0.0, 0.0)
        whole = isinstance(end, Done) and not self._gone
        if whole:
            service.timing.note(
                decision.braid.id,
                first=done.first,
                seconds=done.seconds,
                tokens=done.tokens_written,
            )
        if text or whole:
            rated = not self._ask.in_background
            service.memory.note_answer(
                decision.id,
                fingerprint=service.signer.fingerprint(text.strip()) if text else None,
                chat=self._ask.chat_id if rated else None,
                message=self._ask.message_id if rated else None,
                latency_ms=1000 * done.seconds if whole else None,
                compute=done.compute if whole else None,
            )
        finish = "gone" if self._gone else (done.finish or "failed")
        answered = Answered(
            decision.id,
            decision.braid.id,
            decision.braid.label(),
            decision.sentence,
            self._at,
            self._decided,
            self._first,
            time.monotonic() - self._begun,
            done.tokens_read,
            done.tokens_written,
            finish,
            self._caller,
            decision.propensity,
        )
        service.live.note_answer(answered)
        self._log(answered, text)

    def _log(self, answered: Answered, text: str) -> None:
        said: dict[str, Any] = {
            "decision": answered.decision,
            "arm": answered.arm,
            "finish": answered.finish,
            "tokens": answered.tokens_written,
            "ms": round(1000 * answered.seconds, 1),
            "key": answered.caller,
        }
        if self._service.settings.server.prompts_logged:
            said |= {"prompt": self._ask.task["text"], "answer": text}
        _LOG.info("answered", extra=said)

    def _text(self) -> str:
        return "".join(delta.text for delta in self._deltas)


def _told(error: Exception) -> ApiError:
    """Return what a caller is told of an error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, EndpointError):
        return ApiError(
            503, "the model's server gave no whole answer", code="endpoint_failed"
        )
    if isinstance(error, ValueError):
        return ApiError(400, str(error), code="refused")
    _LOG.error("an arm failed", exc_info=error)
    return ApiError(503, "the model failed; the log says why", code="arm_failed")
