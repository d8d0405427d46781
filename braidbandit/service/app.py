"""The service as an application that a server runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from braidbandit import __version__
from braidbandit.agent.meta_braider import MetaBraider
from braidbandit.service.dashboard.pages import dashboard_of
from braidbandit.service.errors import ApiError
from braidbandit.service.opening import open_agent
from braidbandit.service.service import Service
from braidbandit.service.settings import ServiceSettings
from braidbandit.service.web.gate import Gate
from braidbandit.service.web.openwebui import Poller
from braidbandit.service.web.routes import router_of

_MOST_SHOWN = 100  # characters of what was received


def create_app(settings: ServiceSettings, agent: MetaBraider | None = None) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    settings : ServiceSettings
    agent : MetaBraider, optional
        By default one is opened as the settings say, and closed in the end. One that
        is given is left open.

    Returns
    -------
    FastAPI
        ``app.state.service`` is the :class:`Service`: the agent, its ledger, and what
        is counted live.

    Raises
    ------
    ValueError
        When the pool does not fit the folder, or else as for :class:`MetaBraider`.
    """
    given, agent = agent, agent or open_agent(settings)
    service = Service(settings, agent)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        service.start()
        poller = Poller.of(service)
        polling = None if poller is None else asyncio.create_task(poller.run())
        try:
            yield
        finally:
            if polling is not None:
                polling.cancel()
            await asyncio.to_thread(service.stop)
            if given is None:
                await asyncio.to_thread(agent.close)

    # No pages of documentation: theirs load scripts from elsewhere.
    app = _Application(
        title="braidbandit",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    state = app.state
    state.service = service
    app.include_router(router_of(service))
    app.include_router(dashboard_of(service))
    app.add_middleware(
        Gate,
        settings=settings.server,
        keys=service.keys,
        live=service.live,
        check_place=service.check_place,
    )
    app.add_exception_handler(ApiError, _tell)
    app.add_exception_handler(RequestValidationError, _tell_of_body)
    app.add_exception_handler(HTTPException, _tell_of_status)
    return app


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Describe the routes; what FastAPI would answer with 422 is a 400 here."""
        if self.openapi_schema is None:
            schema = get_openapi(
                title=self.title, version=self.version, routes=self.routes
            )
            for path in schema["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                schema.get("components", {}).get("schemas", {}).pop(name, None)
            self.openapi_schema = schema
        return self.openapi_schema


async def _tell(_: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return JSONResponse(error.body, error.status, error.headers)


async def _tell_of_body(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    param = ".".join(_place(first, error.body)) or None
    if first["loc"] == ("body",) and first["type"] != "value_error":
        message = _said_of_whole(first)
    else:
        message = f"{param or 'the body'}: {_said(first)}"
    return await _tell(request, ApiError(400, message, param=param))


def _place(found: Mapping[str, Any], body: Any) -> list[str]:
    """Return the names of fields that lead to what is wrong.

    Beside them pydantic names which of the types that a field may have it tried.
    """
    place: list[str] = []
    inside = body
    for part in found["loc"][1:]:
        if isinstance(inside, dict | list):
            is_key = isinstance(inside, dict) and part in inside
            if is_key or (isinstance(inside, list) and isinstance(part, int)):
                inside = inside[part]
                place.append(str(part))
                continue
        if found["type"] == "missing" and part == found["loc"][-1]:
            place.append(str(part))
    return place


def _said(found: Mapping[str, Any]) -> str:
    what = str(found["msg"]).removeprefix("Value error, ")
    if found["type"] in ("missing", "extra_forbidden", "value_error"):
        return what
    return f"{what}, received {_received(found['input'])}"


def _said_of_whole(found: Mapping[str, Any]) -> str:
    if found["type"] == "missing":
        return "the body is empty; send a JSON object"
    if isinstance(found["input"], bytes):
        return "the body is JSON, sent as Content-Type: application/json"
    return f"the body is a JSON object, received {_received(found['input'])}"


def _received(value: Any) -> str:
    """Tell a value of a body in few words.

    Examples
    --------
    >>> [_received(value) for value in (-1, "5", None, [1, 2], {}, "a" * 500)]
    ['-1', '"5"', 'null', 'a list of 2', 'an object', 'text of 500 characters']
    """
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str) and len(value) > _MOST_SHOWN:
        return f"text of {len(value)} characters"
    return json.dumps(value)[: _MOST_SHOWN + 2]


async def _tell_of_status(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    told = ApiError(error.status_code, str(error.detail), headers=error.headers)
    return await _tell(request, told)
