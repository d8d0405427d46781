"""What a task says that is given as chat messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def request_in(messages: Any) -> str:
    """Return the text of the user's last turn.

    What a system says to every request, and what was said before, does not tell one
    request from another.

    Parameters
    ----------
    messages : sequence of dict
        With "role" and "content"; the content is text, or a list of parts of which
        those of "type" "text" are read, as in chat completions.

    Raises
    ------
    TypeError, ValueError
        When these are no messages, or none is a user's with text.

    Examples
    --------
    >>> request_in([{"role": "system", "content": "You are helpful."},
    ...             {"role": "user", "content": "Sort this list."}])
    'Sort this list.'
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise TypeError(
            "messages is a list of dicts with 'role' and 'content', received "
            f"{type(messages).__name__}"
        )
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
            raise ValueError(
                f"a message has a 'role' of {list(_ROLES)}, received {message!r}"
            )
    for message in reversed(messages):
        if message["role"] == "user":
            text = _text_of(message.get("content"))
            if text.strip():
                return text
    raise ValueError("no message is a user's with text; give one with role 'user'")


def _text_of(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        raise TypeError(
            f"the content of a message is text or a list of parts, received {content!r}"
        )
    parts: list[str] = []
    for part in content:
        if isinstance(part, Mapping) and part.get("type") in ("text", "input_text"):
            parts.append(str(part.get("text", "")))
    return "\n".join(parts)
