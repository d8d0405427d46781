"""What is answered under which address."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from braidbandit.ledger.records import Decision
from braidbandit.service.errors import ApiError
from braidbandit.service.service import Service
from braidbandit.service.web.gate import caller_of
from braidbandit.service.web.generating import answer
from braidbandit.service.web.metrics import CONTENT_TYPE, LiveMetrics, metrics_text
from braidbandit.service.wire.asking import ask_of_chat, ask_of_completion
from braidbandit.service.wire.bodies import (
    ChatBody,
    CompletionBody,
    FeedbackBody,
    RecommendBody,
    Task,
)

_ERROR = {
    "description": "What is wrong, as OpenAI's clients read it.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}
_OBJECT = {"application/json": {"schema": {"type": "object"}}}
_STREAM = {**_OBJECT, "text/event-stream": {"schema": {"type": "string"}}}


def _answers(*statuses: int, content: Any = _OBJECT) -> dict[int | str, Any]:
    """Document which answers there are."""
    found: dict[int | str, Any] = {
        200: {"description": "As asked for.", "content": content}
    }
    return found | dict.fromkeys((400, 401, 403, *statuses), _ERROR)


class _StrictJson(Request):
    """A request whose body is JSON as the standard has it.

    Python reads NaN and halves of characters too, which nothing behind this could
    write again.
    """

    async def json(self) -> Any:
        """Return the body."""
        body = await self.body()
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            odd = b"NaN" in body or b"Infinity" in body
            more = "; JSON has no NaN and no Infinity" if odd else ""
            raise ApiError(
                400, f"the body is no JSON: {error}{more}", code="invalid_json"
            ) from None


class _Route(APIRoute):
    def get_route_handler(
        self,
    ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Read bodies strictly."""
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            try:
                return await handle(_StrictJson(request.scope, request.receive))
            except HTTPException as error:
                # FastAPI says of a body that cannot be read only that it is so.
                if isinstance(error.__cause__, ApiError):
                    raise error.__cause__ from None
                raise

        return strictly


def router_of(service: Service) -> APIRouter:
    """Return the routes of a service."""
    router = APIRouter(route_class=_Route)
    _add_generation(router, service)
    _add_feedback(router, service)
    _add_models(router, service)
    _add_operations(router, service)
    return router


def _add_generation(router: APIRouter, service: Service) -> None:
    documented = _answers(404, 413, 429, 503, content=_STREAM)

    @router.post("/v1/chat/completions", responses=documented, response_model=None)
    async def chat(body: ChatBody, request: Request) -> Response:
        """Answer a conversation; a stream where ``stream`` is true."""
        caller = caller_of(request.scope).name
        ask = ask_of_chat(body, request.headers, caller)
        return await answer(service, ask, caller, request)

    @router.post("/v1/completions", responses=documented, response_model=None)
    async def complete(body: CompletionBody, request: Request) -> Response:
        """Go on with a text; a stream where ``stream`` is true."""
        caller = caller_of(request.scope).name
        ask = ask_of_completion(body, request.headers, caller)
        return await answer(service, ask, caller, request)


def _add_feedback(router: APIRouter, service: Service) -> None:
    @router.post(
        "/v1/feedback", responses=_answers(404, 409, 413, 429, 503), response_model=None
    )
    async def feedback(body: FeedbackBody, request: Request) -> Any:
        """Say how good an answer was, or which of two was better."""
        result = await service.take_feedback(body, caller_of(request.scope).name)
        return JSONResponse({"decision": body.decision, "result": result})

    @router.post(
        "/v1/recommend", responses=_answers(413, 429, 503), response_model=None
    )
    async def recommend(body: RecommendBody) -> Any:
        """Say which arm would be chosen for a task, and why; nothing is written."""
        return JSONResponse(await _recommended(service, body))

    @router.get(
        "/v1/decisions/{decision_id}",
        responses=_answers(404, 429, 503),
        response_model=None,
    )
    async def decision(decision_id: str, request: Request) -> Any:
        """Tell of a decision: what was chosen, why, and what came of it."""
        is_admin = caller_of(request.scope).may("admin")
        told = await service.look(lambda: _decision(service, decision_id, is_admin))
        return JSONResponse(told)


def _add_models(router: APIRouter, service: Service) -> None:
    @router.get("/v1/models", responses=_answers(429), response_model=None)
    async def models() -> Any:
        """List "auto" and every arm."""
        return JSONResponse({"object": "list", "data": service.arms.listing()})

    @router.get("/v1/models/{name:path}", responses=_answers(404), response_model=None)
    async def model(name: str) -> Any:
        """Tell of "auto" or an arm."""
        braid = service.arms.named(name)
        if braid is None:
            return JSONResponse(service.arms.listing()[0])
        return JSONResponse(service.arms.entry(braid))


def _add_operations(router: APIRouter, service: Service) -> None:
    @router.get("/health", responses=_answers(), response_model=None)
    async def health() -> Any:
        """Say that the service runs."""
        return JSONResponse({"status": "ok"})

    @router.get("/ready", responses=_answers(503), response_model=None)
    async def ready() -> Any:
        """Say whether some arm can answer, and how far the others are."""
        progress = service.progress
        told = {
            "ready": service.is_ready,
            "arms": service.arms.counts(),
            "building": {
                "done": progress.done,
                "total": progress.total,
                "label": progress.label,
                "seconds_left": progress.seconds_left,
            },
        }
        if service.is_ready:
            return JSONResponse(told)
        error = ApiError(503, "no arm can answer yet", code="not_ready", wait=5)
        return JSONResponse({**error.body, **told}, 503, error.headers)

    @router.get(
        "/metrics",
        responses=_answers(content={"text/plain": {"schema": {"type": "string"}}}),
        response_model=None,
    )
    def metrics() -> Any:
        """Counters, as Prometheus reads them."""
        collector = LiveMetrics(service.live, service.gauges)
        text = metrics_text(collector).decode()
        return PlainTextResponse(text, media_type=CONTENT_TYPE)


# ---- what is told ----


async def _recommended(service: Service, body: RecommendBody) -> dict[str, Any]:
    task: Any = body.task
    if isinstance(task, Task):
        task = task.model_dump(exclude_none=True)
    text = task if isinstance(task, str) else task["text"]
    if not text.strip():
        raise ApiError(400, "the task is empty", param="task")
    limits: dict[str, Any] = {
        "excluded": service.arms.excluded(),
        "preference": body.preference,
        "accuracy_target": body.accuracy_target,
    }
    budget = body.compute_budget
    if budget is None:
        budget = service.settings.learning.compute_budget

    def look() -> dict[str, Any]:
        agent = service.agent
        try:
            if body.decide:
                decided = agent.forward(task, budget, **limits)
                service.tasks.keep(decided.id, {"text": text})
                return _of_decision(service, decided)
            why = agent.explain(task, budget, **limits)
        except (ValueError, TypeError, KeyError) as error:
            raise ApiError(400, str(error.args[0]), param="task") from error
        return {
            "arm": why.arm_id,
            "model": service.arms.name_of(agent.catalogue[why.arm_id]),
            "label": why.chosen.label,
            "reason": why.sentence,
            "probability": why.probability,
            "confidence": why.to_dict()["confidence"],
            "arms": [row.to_dict() for row in why.top(body.top)],
        }

    return await service.look(look)


def _of_decision(service: Service, decision: Decision) -> dict[str, Any]:
    """What is told of a decision that was made now: enough to act on it."""
    return {
        "decision": decision.id,
        "token": service.signer.token(decision.id),
        "arm": decision.braid.id,
        "model": service.arms.name_of(decision.braid),
        "label": decision.braid.label(),
        "reason": decision.sentence,
        "probability": decision.propensity,
    }


def _decision(service: Service, decision_id: str, is_admin: bool) -> dict[str, Any]:
    ledger = service.ledger
    try:
        found = ledger.decision(decision_id)
    except KeyError:
        raise ApiError(404, "there is no such decision", param="decision_id") from None
    outcome = ledger.said_before(found.id, ledger.last_sequence() + 1)
    scored = sorted(
        zip(found.arm_ids, found.scores, found.eligible, strict=True),
        key=lambda arm: -arm[1],
    )
    token = {"token": service.signer.token(found.id)} if is_admin else {}
    braids = ((arm_id, service.braid_of(arm_id)) for arm_id, _, _ in scored)
    labels = {arm_id: b.label() if b else arm_id for arm_id, b in braids}
    return {
        "decision": found.id,
        **token,
        "at": found.created_at,
        "arm": found.braid.id,
        "model": service.arms.name_of(found.braid),
        "label": found.braid.label(),
        "reason": found.sentence,
        "propensity": found.propensity,
        "expected_quality": found.expected_quality,
        "uncertainty": found.uncertainty,
        "relative_cost": found.relative_cost,
        "policy": found.policy,
        "limits": found.budget,
        "outcome": None if outcome is None else _outcome(outcome),
        "arms": [
            {
                "arm": arm_id,
                "label": labels[arm_id],
                "score": score,
                "eligible": bool(eligible),
            }
            for arm_id, score, eligible in scored
        ],
        "explanation_now": _explanation(service, found.id),
    }


def _outcome(outcome: Any) -> dict[str, Any]:
    return {
        key: value for key, value in outcome.to_dict().items() if key != "decision_id"
    }


def _explanation(service: Service, decision_id: str) -> dict[str, Any] | None:
    """What would be chosen for the same task now; None where it is not at hand."""
    task: Any = service.tasks.task(decision_id) or service.ledger.text(decision_id)
    if task is None:
        return None
    try:
        why = service.agent.explain(task, excluded=service.arms.excluded())
    except ValueError:  # nothing is ready
        return None
    told: dict[str, Any] = json.loads(json.dumps(why.to_dict(), allow_nan=False))
    return told
