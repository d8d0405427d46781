"""A request for text, as the rest of the service takes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from braidbandit.service.errors import ApiError
from braidbandit.service.wire.bodies import (
    HARMLESS,
    ChatBody,
    CompletionBody,
    Wishes,
)

# In this order; the first that is there says which conversation it is.
_SESSION_HEADERS = ("x-session-id", "x-conversation-id", "x-openwebui-chat-id")
# How Open WebUI begins what it asks on its own: titles, tags, follow-ups.
_OWN_TASK = "### Task:"
# What no model that is loaded here does. With a value that changes nothing it is let
# pass.
_ENDPOINTS_ONLY: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "reasoning_effort": (),
}
# Of a text completion, what nobody here does.
_NEVER: dict[str, tuple[Any, ...]] = {
    "logprobs": (),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}


@dataclass(frozen=True)
class Ask:
    """What is asked for.

    Attributes
    ----------
    model : str
        "auto", or which arm.
    task : dict
        As :meth:`MetaBraider.forward` takes it.
    messages : list of dict, or None
        Of a chat.
    prompt : str, optional
        Of a text completion.
    most_tokens : int, optional
    temperature, top_p, top_k, min_p, seed : optional
    stops : tuple of str
    stream, shows_usage : bool
    wishes : Wishes
    endpoints_only : str, optional
        The field that only a model behind a URL can do.
    handed_on : dict
        What such a model is sent beside the rest.
    ignored : tuple of str
        Fields that are not known here, which a local model passes over.
    conversation : str, optional
        A hash that all turns of a conversation share.
    is_named : bool
        Whether the client named it; else another may begin alike.
    goes_on : bool
        Whether it is a later turn.
    chat_id, message_id : str, optional
        What Open WebUI calls the chat, and the message that the answer becomes.
    in_background : bool
        Whether Open WebUI asks on its own, such as for a title: nobody rates that.
    """

    model: str
    task: dict[str, Any]
    messages: list[dict[str, Any]] | None
    prompt: str | None
    most_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    stops: tuple[str, ...]
    stream: bool
    shows_usage: bool
    wishes: Wishes
    endpoints_only: str | None = None
    handed_on: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    conversation: str | None = None
    is_named: bool = False
    goes_on: bool = False
    chat_id: str | None = None
    message_id: str | None = None
    in_background: bool = False

    @property
    def is_chat(self) -> bool:
        """Whether it is a conversation, and not a text to go on with."""
        return self.messages is not None

    @property
    def request(self) -> dict[str, Any]:
        """What a model behind a URL is sent, but for how long it may be."""
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": list(self.stops) or None,
        }
        messages = self.messages or [{"role": "user", "content": self.prompt}]
        found = {key: value for key, value in given.items() if value is not None}
        extra = {
            key: value
            for key, value in (("top_k", self.top_k), ("min_p", self.min_p))
            if value is not None
        }
        known = {
            key: value for key, value in self.handed_on.items() if key in _BY_CLIENT
        }
        extra |= {
            key: value for key, value in self.handed_on.items() if key not in _BY_CLIENT
        }
        whole = {"messages": messages, **found, **known}
        return {**whole, "extra_body": extra} if extra else whole


# Arguments that the openai client knows; all else goes through its extra_body.
_BY_CLIENT = set(_ENDPOINTS_ONLY) | {"parallel_tool_calls", "verbosity"}


def ask_of_chat(body: ChatBody, headers: Mapping[str, str], caller: str) -> Ask:
    """Return what a chat request asks for.

    Raises
    ------
    ApiError
        When there is no text of a user to answer, or more than one answer is asked for.
    """
    extra = dict(body.model_extra or {})
    needs, handed_on, ignored = _sorted(extra)
    for number, message in enumerate(body.messages):
        if not message.is_text:
            needs = needs or f"messages.{number}"
    said = [message for message in body.messages if message.role == "user"]
    text = next((m.text for m in reversed(said) if m.text.strip()), "")
    if not text:
        raise ApiError(400, "no message of a user has text", param="messages")
    messages = [message.model_dump(exclude_unset=True) for message in body.messages]
    goes_on = any(message.role == "assistant" for message in body.messages)
    opening = [(m.role, m.text) for m in body.messages[: _first_user(body) + 1]]
    task = _named(headers.get("x-openwebui-task"))
    in_background = task is not None or text.startswith(_OWN_TASK)
    named = _name_of_conversation(body, headers)
    conversation = None
    if not in_background:
        conversation = _hashed(caller, "named" if named else "", named or repr(opening))
    return Ask(
        **_common(body, headers, text),
        in_background=in_background,
        messages=messages,
        prompt=None,
        most_tokens=body.most_tokens,
        endpoints_only=needs,
        handed_on=handed_on,
        ignored=ignored,
        conversation=conversation,
        is_named=named is not None,
        goes_on=goes_on,
    )


def ask_of_completion(
    body: CompletionBody, headers: Mapping[str, str], caller: str
) -> Ask:
    """Return what a completion request asks for.

    Raises
    ------
    ApiError
        On an empty prompt, and on what is not done here.
    """
    extra = dict(body.model_extra or {})
    for name, harmless in _NEVER.items():
        value = extra.pop(name, None)
        if value is not None and value not in harmless:
            raise ApiError(
                400, f"{name} is not supported here; leave it out", param=name
            )
    needs, handed_on, ignored = _sorted(extra)
    if not body.text.strip():
        raise ApiError(400, "the prompt is empty", param="prompt")
    return Ask(
        **_common(body, headers, body.text),
        messages=None,
        prompt=body.text,
        most_tokens=body.most_tokens,
        endpoints_only=needs,
        handed_on=handed_on,
        ignored=ignored,
        conversation=None,
    )


def _common(
    body: ChatBody | CompletionBody, headers: Mapping[str, str], text: str
) -> dict[str, Any]:
    if body.n not in (None, 1):
        raise ApiError(
            400, "one answer is written at a time; ask again for another", param="n"
        )
    wishes = body.wishes
    known = {
        "type": wishes.type,
        "complexity": wishes.complexity,
        "capabilities": wishes.capabilities,
    }
    metadata = body.metadata or {}
    return {
        "model": body.model,
        "task": {
            "text": text,
            **{key: value for key, value in known.items() if value is not None},
        },
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "min_p": body.min_p,
        "seed": body.seed,
        "stops": body.stops,
        "stream": body.stream,
        "shows_usage": body.shows_usage,
        "wishes": wishes,
        "chat_id": _named(headers.get("x-openwebui-chat-id"), metadata.get("chat_id")),
        "message_id": _named(
            headers.get("x-openwebui-message-id"), metadata.get("message_id")
        ),
    }


def _sorted(
    extra: Mapping[str, Any],
) -> tuple[str | None, dict[str, Any], tuple[str, ...]]:
    """What needs an endpoint, what an endpoint is sent, and what is not known here."""
    needs: str | None = None
    handed_on: dict[str, Any] = {}
    ignored: list[str] = []
    for name, value in extra.items():
        if value is None or name in HARMLESS:
            continue
        handed_on[name] = value
        if name not in _ENDPOINTS_ONLY:
            ignored.append(name)
        elif not any(_same(value, harmless) for harmless in _ENDPOINTS_ONLY[name]):
            needs = needs or name
    return needs, handed_on, tuple(sorted(ignored))


def _same(value: Any, harmless: Any) -> bool:
    # 0 and False are equal in Python, and mean the same here.
    return bool(value == harmless)


def _first_user(body: ChatBody) -> int:
    roles = [message.role for message in body.messages]
    return roles.index("user") if "user" in roles else len(roles) - 1


def _name_of_conversation(body: ChatBody, headers: Mapping[str, str]) -> str | None:
    metadata = body.metadata or {}
    return _named(
        *(headers.get(name) for name in _SESSION_HEADERS),
        metadata.get("session_id"),
        metadata.get("chat_id"),
        body.user,
    )


def _hashed(*parts: str) -> str:
    whole = "\0".join(parts).encode("utf-8", "replace")
    return hashlib.sha256(whole).hexdigest()[:32]


def _named(*values: Any) -> str | None:
    """Return the first that is text; a template that was not filled in is none."""
    for value in values:
        if isinstance(value, str) and value.strip() and "{{" not in value:
            return value.strip()[:300]
    return None
