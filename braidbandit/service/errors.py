"""Errors as OpenAI's clients read them; none says a path or a key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# What a client may wait for before it asks again, at most.
_LONGEST_WAIT = 3600
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "unavailable_error",
}
_CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "request_too_large",
    429: "too_many_requests",
    503: "unavailable",
}
# A path of this machine: from a root on, with at least two parts.
_PATH = re.compile(
    r"(?<![\w/:.])(?:[A-Za-z]:)?[/\\](?:[^\s'\"`,;:()/\\]+[/\\])+[^\s'\",;:()]*"
)
# Addresses of this service are no secret.
_OWN = re.compile(r"/v1/[\w/]+$")
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"]+")


class ApiError(Exception):
    """What went wrong, as the caller is told.

    Parameters
    ----------
    status : int
        Of HTTP.
    message : str
        Paths and addresses in it are taken out.
    code : str, optional
        One word for programs; by default that of the status.
    param : str, optional
        The field of the request that is to be changed.
    wait : float, optional
        Seconds after which to ask again.
    headers : mapping, optional

    Examples
    --------
    >>> ApiError(404, "there is no model 'x' in /srv/models/x").body["error"]["message"]
    "there is no model 'x' in [a path]"
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        wait: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param = status, param
        self.code = code or _CODES.get(status, "error")
        self.headers = dict(headers or {})
        if wait is not None:
            seconds = max(1, min(round(wait + 0.5), _LONGEST_WAIT))
            self.headers["Retry-After"] = str(seconds)

    @property
    def body(self) -> dict[str, Any]:
        """The answer's body."""
        return {
            "error": {
                "message": _harmless(str(self)),
                "type": _KINDS.get(self.status, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }


def _harmless(message: str) -> str:
    return _PATH.sub(
        lambda found: found[0] if _OWN.match(found[0]) else "[a path]",
        _URL.sub("[an address]", message),
    )
