"""Who gets in: names, origins, keys, rates and sizes, before anything else is done."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from braidbandit.service.errors import ApiError
from braidbandit.service.keys import Caller, Keys
from braidbandit.service.live import Live
from braidbandit.service.settings import Role, ServerSettings, is_loopback

_LOG = logging.getLogger(__name__)
CALLER = "braidbandit.caller"
REQUEST_ID = "braidbandit.request"
# What browsers may read of an answer to a page of another origin.
_SHOWN = (
    "X-Braidbandit-Decision, X-Braidbandit-Token, X-Braidbandit-Arm, "
    "X-Braidbandit-Reason, X-Request-Id, Retry-After"
)
_OPEN = ("/health", "/ready")
_WRITING = ("/v1/chat/completions", "/v1/completions")
_ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/v1/feedback",
    "/v1/recommend",
    "/v1/decisions",
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/dashboard",
    "/",
)


class Gate:
    """Lets requests in, or answers them with an error.

    Parameters
    ----------
    app : ASGI application
    settings : ServerSettings
    keys : Keys
    live : Live
    check_place : callable
        Raises an :class:`ApiError` where no request for text can be taken.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        keys: Keys,
        live: Live,
        check_place: Callable[[], None],
    ) -> None:
        self._app, self._settings, self._keys, self._live = app, settings, keys, live
        self._check_place = check_place
        self._rates = Rates(
            {
                "generate": (settings.requests_per_minute, 60.0),
                "feedback": (settings.feedback_per_hour, 3600.0),
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, send)
        try:
            headers = Headers(scope=scope)
            visit.origin = self._checked_origin(headers)
            if scope["method"] == "OPTIONS" and visit.origin is not None:
                raise _Preflight
            scope[CALLER] = visit.caller = self._checked_caller(scope, headers)
            if scope["path"] in _WRITING:
                self._check_place()  # before its body is read, which takes longest
            limited = self._limited(headers, receive)
            await self._app(scope, limited, visit.send)
        except _Preflight:
            await visit.preflight()
        except ApiError as error:
            await visit.refuse(error)
        except Exception:
            _LOG.exception("request %s failed", visit.id)
            await visit.refuse(
                ApiError(500, f"request {visit.id} failed here; the log says why")
            )
        finally:
            visit.note(self._live)

    # ---- checks ----

    def _checked_origin(self, headers: Headers) -> str | None:
        """Check where a request comes from; return the page's origin, if any.

        A page of another site can neither use a name that it makes resolve to this
        machine, nor send requests under its own.
        """
        host = headers.get("host", "")
        if not self._is_known(_name_of(f"//{host}")):
            raise ApiError(
                403,
                "the service does not answer under this name; call it by its address, "
                "or add the name to server.hosts",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is None:
            return None
        same = urlsplit(origin).netloc.lower() == host.lower() and origin != "null"
        if not same and origin.rstrip("/") not in self._settings.origins:
            raise ApiError(
                403,
                "pages of this origin may not call the service; add it to "
                "server.origins",
                code="origin_not_allowed",
            )
        return origin

    def _is_known(self, name: str | None) -> bool:
        if name is None:
            return False
        known = {host.lower() for host in self._settings.hosts}
        if is_loopback(name) or name in known or name == self._settings.host.lower():
            return True
        # With a key, a foreign name is of no use to a page: it does not have the key.
        return bool(self._keys) and not known and not is_loopback(self._settings.host)

    def _checked_caller(self, scope: Scope, headers: Headers) -> Caller | None:
        path = str(scope["path"])
        if path in _OPEN:
            return None
        caller = self._keys.caller(_key_in(headers.get("authorization")))
        if caller is None:
            kind = "Bearer" if path.startswith("/v1/") else "Basic"
            raise ApiError(
                401,
                "give a valid key: Authorization: Bearer ...",
                headers={"WWW-Authenticate": f'{kind} realm="braidbandit"'},
            )
        role = role_for(path)
        if not caller.may(role):
            raise ApiError(403, f"this key has no role {role!r}", code="role_missing")
        wait = self._rates.wait(caller.name, role)
        if wait > 0:
            raise ApiError(
                429,
                "too many requests with this key",
                code="rate_limit_exceeded",
                wait=wait,
            )
        return caller

    def _limited(self, headers: Headers, receive: Receive) -> Receive:
        """Return what reads the body, up to the size that is allowed."""
        most = self._settings.most_bytes
        said = headers.get("content-length", "0")
        if not said.isdecimal() or int(said[:20]) > most:
            raise _too_large(most)
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413, str(_too_large(most)))
            return message

        return limited


class Rates:
    """How many requests of a kind a key may send in some seconds.

    Parameters
    ----------
    limits : mapping from kind to (most, seconds)
        0 is no limit; a kind that is not named has none.

    Examples
    --------
    >>> rates = Rates({"feedback": (2, 60.0)})
    >>> [rates.wait("desk", "feedback") > 0 for _ in range(3)]
    [False, False, True]
    """

    def __init__(self, limits: Mapping[str, tuple[int, float]]) -> None:
        self._limits = dict(limits)
        self._times: dict[tuple[str, str], deque[float]] = {}
        self._lock = threading.Lock()

    def wait(self, name: str, kind: str) -> float:
        """Count a request; return 0, or the seconds to wait if it is one too many."""
        most, seconds = self._limits.get(kind, (0, 0.0))
        if not most:
            return 0.0
        now = time.monotonic()
        with self._lock:
            times = self._times.setdefault((name, kind), deque())
            while times and times[0] <= now - seconds:
                times.popleft()
            if len(times) >= most:
                return times[0] + seconds - now
            times.append(now)
        return 0.0


def role_for(path: str) -> Role:
    """Return the role that a path needs; what is not known needs "admin".

    Examples
    --------
    >>> role_for("/v1/models"), role_for("/v1/feedback"), role_for("/metrics")
    ('generate', 'feedback', 'admin')
    """
    if path == "/v1/feedback":
        return "feedback"
    return "generate" if path.startswith("/v1/") else "admin"


class _Preflight(Exception):  # noqa: N818
    """A browser asks whether a page may ask."""


class _Visit:
    """One request, and how it was answered."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.id = secrets.token_hex(8)
        scope[REQUEST_ID] = self.id
        self.caller: Caller | None = None
        self.origin: str | None = None
        self._scope, self._send = scope, send
        self._status, self._begun = 0, time.monotonic()

    async def send(self, message: Message) -> None:
        """Send a part of the answer, with the headers that all answers have."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            own = [(key.encode(), value.encode()) for key, value in self._headers()]
            known = {key.lower() for key, _ in message.get("headers", ())}
            added = [pair for pair in own if pair[0] not in known]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error, unless an answer was begun."""
        if self._status:
            return
        headers = {**error.headers, "content-type": "application/json"}
        await self._answer(error.status, json.dumps(error.body).encode(), headers)

    async def preflight(self) -> None:
        """Tell a browser that the page may ask."""
        headers = {
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": "authorization, content-type, "
            "x-session-id, x-conversation-id",
            "access-control-max-age": "600",
        }
        await self._answer(204, b"", headers)

    def note(self, live: Live) -> None:
        """Count and log the request."""
        path = str(self._scope["path"])
        route = next((r for r in _ROUTES if path == r or path.startswith(r + "/")), "")
        live.note_request(route or "other", self._status)
        _LOG.info(
            "request",
            extra={
                "request": self.id,
                "method": self._scope["method"],
                "route": route or "other",
                "status": self._status,
                "ms": round(1000 * (time.monotonic() - self._begun), 1),
                "key": self.caller.name if self.caller else None,
            },
        )

    async def _answer(
        self, status: int, body: bytes, headers: Mapping[str, str]
    ) -> None:
        listed = {**headers, "content-length": str(len(body))}
        pairs = [(k.lower().encode(), v.encode()) for k, v in listed.items()]
        await self.send(
            {"type": "http.response.start", "status": status, "headers": pairs}
        )
        await self._send({"type": "http.response.body", "body": body})

    def _headers(self) -> list[tuple[str, str]]:
        found = [
            ("x-request-id", self.id),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ]
        if self.origin is not None:
            found += [
                ("access-control-allow-origin", self.origin),
                ("access-control-expose-headers", _SHOWN),
                ("vary", "Origin"),
            ]
        return found


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the request is larger than {most} bytes")


def _name_of(url: str) -> str | None:
    """Return the name in an address; None where that is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _key_in(header: str | None) -> str | None:
    """Return the key of an Authorization header: a bearer's, or Basic's password."""
    kind, _, value = (header or "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            decoded = base64.b64decode(value.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return None
        return decoded.partition(":")[2]
    return None


def caller_of(scope: Mapping[str, Any]) -> Caller:
    """Return who asks; of a request that a `Gate` let in."""
    caller: Caller = scope[CALLER]
    return caller
