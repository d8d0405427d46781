"""Servers that speak OpenAI's protocol: which models one has, and where some may be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from braidbandit.catalogue.addresses import checked_endpoint, host_of

USUAL = {
    11434: "Ollama",
    1234: "LM Studio",
    8080: "llama.cpp",
    8000: "vLLM",
    1337: "Jan",
    5001: "KoboldCpp",
    5000: "TabbyAPI",
    30000: "SGLang",
}
"""Ports of loopback at which local servers usually are."""

_MOST_BYTES = 4_000_000
_OURS = "braidbandit"
# What has no answer to a prompt.
_NO_CHAT = ("embed", "rerank", "bge-", "whisper", "tts", "clip", "stable-diffusion")


class Unreachable(ConnectionError):
    """A server that gave no list of models.

    Attributes
    ----------
    fix : str
        What to do about it.
    """

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True)
class Server:
    """A server that was found.

    Attributes
    ----------
    kind : str
        What is usually at its port.
    endpoint : str
    models : tuple of str
        That can be asked something.
    """

    kind: str
    endpoint: str
    models: tuple[str, ...]


def find_servers(
    ports: dict[int, str] | None = None, seconds: float = 0.5
) -> list[Server]:
    """Return the servers at the usual ports of this machine.

    Parameters
    ----------
    ports : dict of str, optional
        What is expected at which port; by default :data:`USUAL`.
    seconds : float
        To wait for each.
    """
    found: list[Server] = []
    for port, kind in (USUAL if ports is None else ports).items():
        url = f"http://127.0.0.1:{port}/v1"
        try:
            models = models_at(url, "", seconds)
        except Unreachable:
            continue
        chat = _chatting(models)
        if chat:
            found.append(Server(kind, url, chat))
    return found


def server_at(url: str, seconds: float = 3.0) -> Server:
    """Return the server at a URL.

    Raises
    ------
    Unreachable
        When it does not answer.
    ValueError
        When this is no URL of a server, or it has no model.
    """
    endpoint = checked_endpoint(url, "the server")
    try:
        models = _chatting(models_at(endpoint, "", seconds))
    except Unreachable as error:
        raise Unreachable(f"{endpoint} {error}; {error.fix}", error.fix) from None
    if not models:
        raise ValueError(f"{endpoint} has no model that answers a prompt")
    return Server("server", endpoint, models)


def models_at(endpoint: str, key: str = "", seconds: float = 3.0) -> list[str]:
    """Return the models that a server lists; none of a service of ours.

    Parameters
    ----------
    endpoint : str
        Its URL, up to and with ``/v1``.
    key : str
        Sent along unless it is empty.
    seconds : float
        To wait.

    Raises
    ------
    Unreachable
        When it does not answer, or not as such a server does.
    """
    try:
        import httpx2
    except ModuleNotFoundError as error:
        raise ImportError(
            "asking a server needs httpx2: pip install 'braidbandit[cli]'"
        ) from error
    local = host_of(endpoint) in ("127.0.0.1", "::1", "localhost")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        # No proxy for this machine; redirects are not followed, nor keys sent along.
        with httpx2.Client(
            timeout=seconds, trust_env=not local, headers=headers
        ) as client:
            answer = client.get(f"{endpoint}/models")
    except httpx2.TimeoutException:
        raise Unreachable(
            f"did not answer within {seconds:g} s",
            "see whether the server is busy or starting, and try again",
        ) from None
    except httpx2.HTTPError as error:
        raise Unreachable(f"cannot be reached: {error}", _start(endpoint)) from None
    return _listed(answer.status_code, _read(answer.content))


def _chatting(models: list[str]) -> tuple[str, ...]:
    return tuple(m for m in models if not any(word in m.lower() for word in _NO_CHAT))


def _read(content: bytes) -> Any:
    try:
        return json.loads(content) if len(content) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        return None


def _listed(status: int, body: Any) -> list[str]:
    if status in (401, 403):
        raise Unreachable(
            f"refuses the key (status {status})",
            "name the environment variable that holds the key as api_key_env of the "
            "card, and set it",
        )
    rows = body.get("data") if isinstance(body, dict) else None
    if status != 200 or not isinstance(rows, list):
        raise Unreachable(
            f"is no server of OpenAI's protocol (status {status})",
            "give its URL up to and with /v1, such as http://127.0.0.1:11434/v1",
        )
    found = [row for row in rows if isinstance(row, dict)]
    return [
        row["id"]
        for row in found
        if isinstance(row.get("id"), str) and row.get("owned_by") != _OURS
    ]


def _start(endpoint: str) -> str:
    port = endpoint.rpartition(":")[2].partition("/")[0]
    kind = USUAL.get(int(port)) if port.isdigit() else None
    how = {
        "Ollama": "start it: ollama serve",
        "llama.cpp": "start it: llama-server -m model.gguf --port 8080",
        "LM Studio": "start it: lms server start",
    }
    return how.get(kind or "", "start the server, or correct endpoint in braid.toml")
