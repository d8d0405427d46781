"""An endpoint: a server that speaks OpenAI's protocol, and what may go wrong with it.

The official client sends and reads; it is imported when a server is first asked. The
key is read from the environment for each request and is kept nowhere.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from braidbandit.catalogue.addresses import OPENAI, host_of, shown
from braidbandit.catalogue.cards import ModelCard

_ATTEMPTS = 3
_FIRST_WAIT = 0.5  # seconds; twice as long each time
_CONNECT = 5.0
_MOST_SAID = 200
_OWN_FAULT = (400, 413, 422)
# All that another server than OpenAI's is told. The client would send more: what system
# this is, and whatever the environment says of accounts at OpenAI.
_HEADERS = {
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "host",
    "user-agent",
}


class EndpointError(ConnectionError):
    """A server gave no whole answer.

    Attributes
    ----------
    endpoint : str
        Its URL.
    written : str
        What had come until then; empty if nothing had.
    """

    def __init__(self, message: str, endpoint: str = "", written: str = "") -> None:
        super().__init__(message)
        self.endpoint, self.written = endpoint, written


class Endpoint:
    """The server of one model. Several threads may ask it.

    Parameters
    ----------
    card : ModelCard
        Of a served model.

    Examples
    --------
    >>> price = {"input": 0.0, "output": 0.0}
    >>> card = ModelCard("qwen3-8b", endpoint="http://127.0.0.1:11434/v1", price=price)
    >>> Endpoint(card)
    <Endpoint of 'qwen3-8b' at http://127.0.0.1:11434/v1>
    """

    def __init__(self, card: ModelCard) -> None:
        if not card.is_served:
            raise ValueError(f"{card.name!r} has no endpoint; give one")
        self.card, self.url = card, str(card.endpoint)
        self._client: Any = None
        self._close: Any = None
        self._lock = threading.Lock()
        self._told = False

    def __repr__(self) -> str:
        return f"<Endpoint of {self.card.name!r} at {self.url}>"

    @property
    def is_openai(self) -> bool:
        """Whether it is OpenAI's own server."""
        return host_of(self.url) == OPENAI

    @property
    def variable(self) -> str | None:
        """The environment variable of the key; None where no key is sent."""
        unasked = self.is_openai and self.url.startswith("https:")
        return self.card.api_key_env or ("OPENAI_API_KEY" if unasked else None)

    def ask(self, request: Mapping[str, Any], timeout: float) -> Any:
        """Send a request; return an iterator of chunks as they come, to be closed.

        Connections that fail and servers that say they are busy are tried three times.

        Parameters
        ----------
        request : mapping
            Arguments of a chat completion, as the client takes them.
        timeout : float
            Seconds to wait for the next word.

        Raises
        ------
        Exception
            What the client raises; :meth:`explained` says what it means.
        """
        client = self._opened()
        asked = {"model": self.card.source, "stream": True, **request}
        asked["stream_options"] = {"include_usage": True}
        attempts = 0
        while True:
            try:
                return _chunks(client, asked, timeout)
            except Exception as error:
                if "stream_options" in asked and _knows_no_options(error):
                    del asked["stream_options"]
                    continue
                attempts += 1
                if attempts == _ATTEMPTS or not _may_pass(error):
                    raise
            time.sleep(_FIRST_WAIT * 2.0 ** (attempts - 1))

    def explained(
        self, error: Exception, written: str, timeout: float
    ) -> EndpointError | ValueError:
        """Return an error that says what went wrong here, and what to do.

        Parameters
        ----------
        error : Exception
            What :meth:`ask` or its chunks raised.
        written : str
            What had come until then.
        timeout : float

        Returns
        -------
        EndpointError or ValueError
            The latter where the server was well and the request was not.
        """
        if isinstance(error, EndpointError):
            return EndpointError(str(error), self.url, written)
        status = getattr(error, "status_code", None)
        if status in _OWN_FAULT:
            return ValueError(
                f"{self.url} does not take this request for {self.card.source!r} "
                f"({status}): {self._said(error)}"
            )
        told = self._refusal(status, error) if status else None
        return EndpointError(
            f"{self.url} {told or self._broken(error, written, timeout)}",
            self.url,
            written,
        )

    def tell_of_model(self, answered: str | None) -> None:
        """Warn, once, if a server says that another model answered than was asked."""
        asked = str(self.card.source)
        if not answered or self._told or _is_same(asked, answered):
            return
        self._told = True
        warnings.warn(
            f"{self.url} was asked for {asked!r} and says that {answered!r} answered; "
            f"its rewards are learnt of {self.card.name!r} all the same. If that is "
            f"the model, give its card source={answered!r}; if not, take it out",
            stacklevel=4,
        )

    def close(self) -> None:
        """Close connections; they are opened again when the server is asked."""
        with self._lock:
            if self._close is not None:
                self._close()
            self._client = self._close = None

    def after_fork(self) -> None:
        """Leave the parent process its connections."""
        if self._close is not None:
            self._close.detach()
        self._lock, self._client, self._close = threading.Lock(), None, None

    # ---- inside ----

    def _opened(self) -> Any:
        _key(self.url, self.variable)  # refuses one that cannot be sent
        with self._lock:
            if self._client is None:
                sign = partial(_sign, self.url, self.variable)
                self._client = _client(self.url, sign)
                self._close = weakref.finalize(self, self._client.close)
            return self._client

    def _said(self, error: Any) -> str:
        """Return what a server said of an error, without the key."""
        body = getattr(error, "body", None)
        said = body.get("message") if isinstance(body, Mapping) else None
        said = said if isinstance(said, str) else str(getattr(error, "message", ""))
        key = os.environ.get(self.variable or "", "").strip()
        said = said.replace(key, "***") if key else said
        return " ".join(said.split())[:_MOST_SAID] or "it does not say why"

    def _refusal(self, status: int, error: Any) -> str:
        if status in (401, 403):
            # What it says is not repeated: some name a part of the key.
            if self.variable is None:
                return (
                    f"wants a key ({status}): put it into an environment variable, and "
                    f"name that on the card of {self.card.name!r}: api_key_env='...'"
                )
            return (
                f"refuses the key ({status}): see whether the environment variable "
                f"{self.variable} holds the right one"
            )
        if 300 <= status < 400:
            where = error.response.headers.get("location", "")
            where = shown(where) if "://" in where else "elsewhere"
            return (
                f"sends to {where} ({status}), which is not followed, as the key would "
                "go there too: give the card the endpoint that answers"
            )
        if status == 404:
            return (
                f"knows no such page, or no model {self.card.source!r} (404): most "
                "endpoints end in /v1, and source of the card is what the server calls "
                "the model"
            )
        if status == 429:
            return f"asks to wait (429): {self._said(error)}"
        return f"failed ({status}): {self._said(error)}"

    def _broken(self, error: Exception, written: str, timeout: float) -> str:
        """Say how an answer broke off, or what came in place of one."""
        kind = type(error.__cause__ or error).__name__
        unreachable = f"cannot be reached ({kind}): see whether the server runs there"
        if "ConnectTimeout" in kind:
            return unreachable
        if "Timeout" in type(error).__name__:
            return (
                f"did not go on for {timeout:g} s: see whether it is at work, or give "
                "generate(timeout=...) more"
            )
        if (
            type(error).__name__ == "APIError"
        ):  # said by the server, in the middle of a stream
            return f"broke off its answer: {self._said(error)}"
        if written:
            return f"stopped in the middle of its answer ({kind}); ask again"
        if _is_transport(error):
            return unreachable
        return (
            f"answers something that is no chat completion ({kind}): see whether it is "
            "a server that speaks OpenAI's protocol, and whether its URL ends in /v1"
        )


def _key(url: str, variable: str | None) -> str | None:
    """Read the key of a server; an EndpointError where it is none."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EndpointError(
            f"{url} needs a key: the environment variable {variable} is not set; set "
            "it where this program is started"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise EndpointError(
            f"{url} needs a key: what the environment variable {variable} holds is "
            "none, as no header can carry it"
        )
    return key


def _sign(url: str, variable: str | None, request: Any) -> None:
    """Put the key on a request, and take off what is nobody else's business."""
    for name in list(request.headers):
        if name.lower() not in _HEADERS and host_of(url) != OPENAI:
            del request.headers[name]
    request.headers.pop("authorization", None)
    key = _key(url, variable)
    if key is not None:
        request.headers["Authorization"] = f"Bearer {key}"


def _client(url: str, sign: Callable[[Any], None]) -> Any:
    try:
        from openai import DefaultHttpxClient, OpenAI
    except ModuleNotFoundError as error:
        raise ImportError(
            "served models need the openai client: pip install 'braidbandit[endpoints]'"
        ) from error
    http: Any = DefaultHttpxClient(
        follow_redirects=False, event_hooks={"request": [sign]}
    )
    # The key is put on by `sign`; without any here the client would look for one.
    return OpenAI(
        base_url=url, api_key="set-for-each-request", max_retries=0, http_client=http
    )


def _chunks(client: Any, asked: Mapping[str, Any], timeout: float) -> Any:
    from openai import Timeout

    patience = Timeout(timeout, connect=min(timeout, _CONNECT))
    stream: Any = client.chat.completions.create(**asked, timeout=patience)
    kind = str(stream.response.headers.get("content-type", "")).partition(";")[0]
    if kind != "text/event-stream":
        stream.close()
        raise EndpointError(
            f"{shown(str(client.base_url))} answers {kind or 'something'} and no "
            "stream of a chat completion: see whether it is a server that speaks "
            "OpenAI's protocol, and whether its URL ends in /v1"
        )
    return stream


def _is_transport(error: Exception) -> bool:
    """Whether a connection failed, as the client or the library below it says."""
    named = any(kind.__name__ == "APIConnectionError" for kind in type(error).__mro__)
    return named or type(error).__module__.startswith("http")


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status_code", None)
    if status is not None:
        return status == 429 or status >= 500
    return _is_transport(error) and "Timeout" not in type(error).__name__


def _knows_no_options(error: Exception) -> bool:
    refused = getattr(error, "status_code", None) in _OWN_FAULT
    return refused and "stream_options" in str(error)


def _is_same(asked: str, answered: str) -> bool:
    """Whether two names may be of one model: of a file, or with a version behind it.

    Examples
    --------
    >>> _is_same("gpt-4o", "gpt-4o-2024-08-06"), _is_same("gpt-4o", "qwen3:8b")
    (True, False)
    """
    short, long = sorted((_bare(asked), _bare(answered)), key=len)
    return long.startswith(short) and not long[len(short) :][:1].isalnum()


def _bare(name: str) -> str:
    return name.lower().replace("\\", "/").rpartition("/")[2].removesuffix(".gguf")
