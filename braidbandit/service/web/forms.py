"""Answers in the form that OpenAI's clients read."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from braidbandit.service.errors import ApiError
from braidbandit.service.writing.flow import Delta, Done

END = b"data: [DONE]\n\n"
_LONGEST_REASON = 500


@dataclass(frozen=True)
class Form:
    """One answer's id, model and kind: the same in all its chunks.

    Attributes
    ----------
    id, model : str
    is_chat : bool
    shows_usage : bool
        Of a streamed answer.
    about : dict
        The field ``x_braidbandit``: decision, token, arm, label, reason, ...
    """

    id: str
    model: str
    is_chat: bool
    shows_usage: bool
    about: dict[str, Any]
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def headers(self) -> dict[str, str]:
        """The same in headers, which are ASCII."""
        names = {
            "X-Braidbandit-Decision": "decision",
            "X-Braidbandit-Token": "token",
            "X-Braidbandit-Arm": "arm",
            "X-Braidbandit-Reason": "reason",
        }
        return {
            name: quote(
                str(self.about[key])[:_LONGEST_REASON], safe=" -_.,;:()+%/=<>*'\""
            )
            for name, key in names.items()
        }

    def opening(self) -> bytes:
        """The first chunk of a stream."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk(delta, None, None, x_braidbandit=self.about)

    def piece(self, event: Delta) -> bytes:
        """A chunk of a stream."""
        return self._chunk(event.delta, event.logprobs, None)

    def closing(self, done: Done) -> bytes:
        """The last chunks of a stream: how it ended, and its usage if it is shown."""
        end = self._chunk({}, None, done.finish)
        if not self.shows_usage:
            return end + END
        usage = _event({**self._head(), "choices": [], "usage": usage_of(done)})
        return end + usage + END

    def broken(self, error: ApiError) -> bytes:
        """What a stream says that cannot go on."""
        return _event(error.body)

    def whole(self, deltas: list[Delta], done: Done) -> dict[str, Any]:
        """An answer that is not streamed."""
        choice: dict[str, Any] = {"index": 0}
        if self.is_chat:
            choice["message"] = message_of(deltas)
        else:
            choice["text"] = "".join(delta.text for delta in deltas)
        choice["logprobs"] = logprobs_of(deltas)
        choice["finish_reason"] = done.finish
        return {
            **self._head(whole=True),
            "choices": [choice],
            "usage": usage_of(done),
            "x_braidbandit": {**self.about, **({"cut": done.cut} if done.cut else {})},
        }

    def _head(self, whole: bool = False) -> dict[str, Any]:
        kind = "chat.completion" if self.is_chat else "text_completion"
        chunked = ".chunk" if self.is_chat and not whole else ""
        return {
            "id": self.id,
            "object": kind + chunked,
            "created": self.created,
            "model": self.model,
        }

    def _chunk(
        self, delta: dict[str, Any], logprobs: Any, finish: str | None, **more: Any
    ) -> bytes:
        choice: dict[str, Any] = {"index": 0}
        if self.is_chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta.get("content") or ""
        choice |= {"logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self.shows_usage else {}
        return _event({**self._head(), "choices": [choice], **usage, **more})


def usage_of(done: Done) -> dict[str, int]:
    """Return how many tokens there were."""
    return {
        "prompt_tokens": done.tokens_read,
        "completion_tokens": done.tokens_written,
        "total_tokens": done.tokens_read + done.tokens_written,
    }


def message_of(deltas: list[Delta]) -> dict[str, Any]:
    """Return the message that deltas add up to.

    Examples
    --------
    >>> message_of([Delta({"content": "Hel"}), Delta({"content": "lo"})])
    {'role': 'assistant', 'content': 'Hello', 'refusal': None}
    """
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for key, value in delta.delta.items():
            if key == "tool_calls":
                for call in value:
                    _add_call(calls, call)
            elif isinstance(value, str) and isinstance(message.get(key), str):
                message[key] += value
            elif value is not None:
                message[key] = value
    if calls:
        message["tool_calls"] = [calls[number] for number in sorted(calls)]
    elif message["content"] is None:
        message["content"] = ""
    return message


def _add_call(calls: dict[int, dict[str, Any]], call: Mapping[str, Any]) -> None:
    """Add a piece of a tool's call: names come once, arguments in pieces."""
    known = calls.setdefault(
        int(call.get("index", 0)),
        {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
    )
    known["id"] = call.get("id") or known["id"]
    function = call.get("function") or {}
    known["function"]["name"] += function.get("name") or ""
    known["function"]["arguments"] += function.get("arguments") or ""


def logprobs_of(deltas: list[Delta]) -> dict[str, Any] | None:
    """Return the log probabilities that came with deltas, joined; None without any."""
    found = [delta.logprobs for delta in deltas if delta.logprobs is not None]
    if not found:
        return None
    whole: dict[str, Any] = {}
    for part in found:
        for key, value in part.items():
            if isinstance(value, list):
                whole.setdefault(key, []).extend(value)
    return whole


def _event(data: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
