"""Endpoints: the URL at which a served model answers, and what its tokens cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from braidbandit._checks import as_float

OPENAI = "api.openai.com"
_MILLION = 1_000_000
# In capitals: a key that is given by mistake in place of its name is not one.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclass(frozen=True)
class Price:
    """Money per million tokens.

    Parameters
    ----------
    input, output : float
        Of tokens that are read and written; at least 0.

    Examples
    --------
    >>> Price(0.5, 2.0).of(2000, 500)
    0.002
    """

    input: float
    output: float

    def __post_init__(self) -> None:
        for key, value in dict(vars(self)).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and 0 <= as_float(value) < math.inf):
                raise ValueError(
                    f"a price is finite money per million tokens, at least 0; received "
                    f"{key}={value!r}"
                )
            object.__setattr__(self, key, float(value))

    @classmethod
    def read(cls, price: Any, name: str) -> Price:
        """Read a mapping with "input" and "output"; ``name`` is the model's."""
        if isinstance(price, cls):
            return price
        if not isinstance(price, Mapping) or set(price) != {"input", "output"}:
            raise ValueError(
                f"{name!r} is served, and needs a price of money per million tokens, "
                "such as price={'input': 0.5, 'output': 1.5}, or 0 for both on a "
                f"server of your own; received {price!r}"
            )
        return cls(**price)

    def of(self, read: int, written: int) -> float:
        """Return the money for tokens that were read and written."""
        return (self.input * read + self.output * written) / _MILLION

    @property
    def per_token(self) -> float:
        """Money for one token written and one read with it."""
        return self.of(1, 1)


def checked_endpoint(url: Any, name: str) -> str:
    """Return the URL of a served model without a slash at its end.

    Parameters
    ----------
    url : str
        Of a server that speaks OpenAI's protocol, up to and with ``/v1``.
    name : str
        Of the model, for errors.

    Raises
    ------
    ValueError
        When it is no http or https URL, or holds what may be a secret: a user, a
        password, a query. The error does not show these.

    Examples
    --------
    >>> checked_endpoint("http://127.0.0.1:11434/v1/", "qwen3-8b")
    'http://127.0.0.1:11434/v1'
    """
    if not isinstance(url, str):
        raise TypeError(f"endpoint of {name!r} is a URL, received {type(url).__name__}")
    wanted = "expected one such as 'http://127.0.0.1:11434/v1'"
    if "@" in url or "?" in url or "#" in url:
        raise ValueError(
            f"endpoint of {name!r} ({shown(url)}) holds a user, a password or a query, "
            "which would end up in files: leave them out. A key comes from an "
            "environment variable, which api_key_env names"
        )
    parts = _split(url)
    if parts is None or parts[0] not in ("http", "https") or re.search(r"\s", url):
        raise ValueError(
            f"endpoint of {name!r} is no http or https URL: {shown(url)}; {wanted}"
        )
    return url.rstrip("/")


def checked_variable(variable: Any, name: str) -> str | None:
    """Return the name of an environment variable that holds a key, or None.

    Raises
    ------
    ValueError
        When it is no such name. It is not shown, as it may be the key itself.
    """
    if variable is None:
        return None
    if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
        raise ValueError(
            f"api_key_env of {name!r} is the name of an environment variable in "
            "capitals, such as 'OPENROUTER_API_KEY', and not the key itself; what was "
            "received is no such name"
        )
    return variable


def shown(url: str) -> str:
    """Return a URL as it may be shown: no user, password, query or fragment.

    Examples
    --------
    >>> shown("https://me:secret@host:8000/v1?key=secret")
    'https://host:8000/v1'
    """
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        scheme, rest = "", url
    parts = _split(f"http://{re.split('[?#]', rest.rpartition('@')[2])[0]}")
    if parts is None:
        return "(not shown: it cannot be read)"
    return f"{scheme}{slashes}{parts[1]}{parts[2]}"


def host_of(url: str) -> str:
    """Return the host of a URL, in small letters."""
    return urlsplit(url).hostname or ""


def _split(url: str) -> tuple[str, str, str] | None:
    """Return scheme, host with port, and path; None where it cannot be read."""
    try:
        parts = urlsplit(url)
        if not parts.hostname:
            return None
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts.scheme, f"{host}{port}", parts.path
