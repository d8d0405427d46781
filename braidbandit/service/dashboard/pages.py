"""The dashboard's addresses: a page, its parts that are fetched anew, and files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, JSONResponse, Response

from braidbandit.service.dashboard.findings import Findings, Found
from braidbandit.service.dashboard.showing import (
    Labels,
    cost,
    newest,
    plot_data,
    status,
    warned,
)
from braidbandit.service.dashboard.telling import told
from braidbandit.service.errors import ApiError
from braidbandit.service.service import Service

HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": _POLICY, "x-frame-options": "DENY"}
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# An hour: the files change with the package only.
_CACHED = {**HEADERS, "cache-control": "private, max-age=3600"}
Part = Callable[[], Coroutine[Any, Any, dict[str, Any]]]


def dashboard_of(service: Service) -> APIRouter:
    """Return the routes of a service's dashboard."""
    router = APIRouter(include_in_schema=False)
    pages, findings = _Pages(service), Findings(service)
    parts = _parts(service, findings)

    @router.get("/", response_model=None)
    async def dashboard() -> Response:
        shown: dict[str, Any] = {}
        for values in await asyncio.gather(*(part() for part in parts.values())):
            shown |= values
        return pages.answer("dashboard.html", **shown)

    @router.get("/dashboard/parts/{name}", response_model=None)
    async def part(name: str) -> Response:
        if name not in parts:
            raise ApiError(404, "the dashboard has no such part")
        return pages.answer(f"parts/{name}.html", **await parts[name]())

    @router.get("/dashboard/series", response_model=None)
    async def series() -> Response:
        return JSONResponse(dict(plot_data(await findings.newest())), headers=HEADERS)

    @router.get("/dashboard/decisions/{decision_id}", response_model=None)
    async def decision(decision_id: str) -> Response:
        try:
            found = await service.look(lambda: told(service, decision_id))
        except KeyError:
            return pages.answer("missing.html", 404)
        return pages.answer("decision.html", told=found)

    files = {file.name: file.read_bytes() for file in (HERE / "static").iterdir()}

    @router.get("/dashboard/static/{name}", response_model=None)
    async def file(name: str) -> Response:
        if name not in files:
            raise ApiError(404, "the dashboard has no such file")
        kind = _TYPES[Path(name).suffix]
        return Response(files[name], media_type=kind, headers=_CACHED)

    return router


def _parts(service: Service, findings: Findings) -> dict[str, Part]:
    """Return what gives the values of each part."""

    async def found() -> dict[str, Found | None]:
        return {"found": await findings.newest()}

    async def of_status() -> dict[str, Any]:
        return {"status": await asyncio.to_thread(status, service)}

    async def of_newest() -> dict[str, Any]:
        return {"newest": await asyncio.to_thread(newest, service)}

    async def of_cost() -> dict[str, Any]:
        return {**await found(), "spending": cost(service)}

    async def of_warnings() -> dict[str, Any]:
        known = await findings.newest()
        return {"warned": await asyncio.to_thread(warned, service, known)}

    return {
        "status": of_status,
        "paying": found,
        "kinds": found,
        "newest": of_newest,
        "cost": of_cost,
        "warnings": of_warnings,
    }


class _Pages:
    """Pages out of templates; whatever is put into one is escaped."""

    def __init__(self, service: Service) -> None:
        env = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        env.filters.update(number=_number, signed=_signed, share=_share, when=_when)
        self._env, self._label = env, Labels(service)

    def answer(self, template: str, code: int = 200, **values: Any) -> Response:
        """Return a page, or a part of one."""
        page = self._env.get_template(template)
        return HTMLResponse(page.render(label=self._label, **values), code, HEADERS)


def _number(value: float) -> str:
    return f"{value:.2f}"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # no minus before a zero


def _share(value: float) -> str:
    return f"{value:.0%}".replace("%", "\u202f%")


def _when(at: str) -> str:
    """A time in ISO 8601, as people read it."""
    return at[:19].replace("T", " ")
