"""Messages as the text that a model reads: by its chat template, where it has one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from braidbandit.service.wire.asking import Ask

_LOG = logging.getLogger(__name__)


def prompt_of(tokenizer: Any, ask: Ask) -> str:
    """Return what a local model is given to go on with."""
    if ask.messages is None:
        return str(ask.prompt)
    messages = [_plain(message) for message in ask.messages]
    if getattr(tokenizer, "chat_template", None):
        # Some templates know no system's message, or want turns to alternate.
        for shape in (messages, _system_in_front(messages), _alternating(messages)):
            try:
                return str(
                    tokenizer.apply_chat_template(
                        shape, tokenize=False, add_generation_prompt=True
                    )
                )
            except Exception as error:  # whatever the template raises
                _LOG.debug("a chat template refuses these messages: %r", error)
    return transcript(messages)


def transcript(messages: Sequence[Mapping[str, str]]) -> str:
    """Return a conversation as plain text, for models without a chat template.

    Examples
    --------
    >>> transcript([{"role": "user", "content": "Hello"}])
    'Hello\\n'
    >>> print(transcript([{"role": "system", "content": "Be brief."},
    ...                   {"role": "user", "content": "Hello"}]))
    Be brief.
    <BLANKLINE>
    User: Hello
    <BLANKLINE>
    Assistant:
    """
    if len(messages) == 1:
        return messages[0]["content"] + "\n"
    parts = [
        message["content"]
        if message["role"] == "system"
        else f"{message['role'].capitalize()}: {message['content']}"
        for message in messages
    ]
    return "\n\n".join([*parts, "Assistant:"])


def _plain(message: Mapping[str, Any]) -> dict[str, str]:
    role = "system" if message["role"] == "developer" else str(message["role"])
    content = message.get("content")
    if not isinstance(content, str):
        content = "\n".join(part["text"] for part in content or ())
    return {"role": role, "content": content}


def _system_in_front(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Put what the system says in front of what the user says first."""
    said = [m["content"] for m in messages if m["role"] == "system"]
    turns = [dict(m) for m in messages if m["role"] != "system"]
    for turn in turns:
        if turn["role"] == "user" and said:
            turn["content"] = "\n\n".join([*said, turn["content"]])
            break
    return turns


def _alternating(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Join neighbouring turns of one role, and begin with the user's."""
    turns: list[dict[str, str]] = []
    for message in _system_in_front(messages):
        if turns and turns[-1]["role"] == message["role"]:
            turns[-1]["content"] += "\n\n" + message["content"]
        elif turns or message["role"] == "user":
            turns.append(dict(message))
    return turns
