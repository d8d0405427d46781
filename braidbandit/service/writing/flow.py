"""An answer on its way: from the thread that writes it to the request that waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple


class Delta(NamedTuple):
    """A piece of an answer.

    Attributes
    ----------
    delta : dict
        As a chunk of OpenAI's has it: "content", "tool_calls", ...
    logprobs : optional
        As the server of the model gave them.
    """

    delta: dict[str, Any]
    logprobs: Any = None

    @property
    def text(self) -> str:
        """Its text."""
        return str(self.delta.get("content") or "")


class Done(NamedTuple):
    """The end of an answer.

    Attributes
    ----------
    finish : str
        "stop", "length", "tool_calls", ...
    tokens_read, tokens_written : int
    first, seconds : float
        Until the first word, and until the last, from when it was begun to be written.
    compute : float, optional
        Money, of a model behind a URL.
    cut : str
        Why it ended before its time; empty if it did not.
    """

    finish: str
    tokens_read: int
    tokens_written: int
    first: float
    seconds: float
    compute: float | None = None
    cut: str = ""


class Failed(NamedTuple):
    """There is no answer, or no more of it."""

    error: Exception


Event = Delta | Done | Failed


class Flow:
    """Events of one answer; put by one thread, read in the event loop.

    Attributes
    ----------
    cancelled : bool
        Nobody waits any more: whoever writes stops.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self.cancelled = False

    def put(self, event: Event) -> None:
        """Hand over an event, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            self.cancelled = True

    def cancel(self) -> None:
        """Say that nobody waits any more."""
        self.cancelled = True

    async def next(self) -> Event:
        """Wait for the next event."""
        return await self._queue.get()

    async def events(self) -> AsyncIterator[Event]:
        """Give events until the last, which is `Done` or `Failed`."""
        while True:
            event = await self.next()
            yield event
            if not isinstance(event, Delta):
                return
