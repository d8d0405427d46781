"""A served model: it writes as a braid does, and counts what that took."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from braidbandit.agent.endpoint import Endpoint, EndpointError
from braidbandit.catalogue.addresses import Price
from braidbandit.catalogue.cards import ModelCard

_MOST_TOKENS = 128  # as a local braid, where nothing else is said
_SILENCE = 120.0
_LONGEST = 30  # times the timeout: all of an answer
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Usage:
    """What answers took.

    Attributes
    ----------
    tokens_read, tokens_written : int
    seconds : float
        From the request to the last word.
    money : float
        By the price of the card.
    estimated : bool
        Whether some tokens were counted here, as a quarter of the bytes of the text,
        because the server did not say how many there were.

    Examples
    --------
    >>> one = Usage(10, 5, 0.5, 0.25, estimated=False)
    >>> one.plus(Usage(1, 1, 0.5, 0.0, estimated=True))
    Usage(tokens_read=11, tokens_written=6, seconds=1.0, money=0.25, estimated=True)
    """

    tokens_read: int = 0
    tokens_written: int = 0
    seconds: float = 0.0
    money: float = 0.0
    estimated: bool = False

    def plus(self, other: Usage) -> Usage:
        """Return what both took together."""
        return Usage(
            self.tokens_read + other.tokens_read,
            self.tokens_written + other.tokens_written,
            self.seconds + other.seconds,
            self.money + other.money,
            self.estimated or other.estimated,
        )


class ServedModel:
    """One model behind a URL, with the ``generate`` of a braid.

    Nothing is asked of the server before the first ``generate`` or ``stream``. A prompt
    is sent as one message of a user.

    Parameters
    ----------
    card : ModelCard
        With ``endpoint`` and ``price``.
    endpoint : Endpoint, optional
        The connection, where several share one.
    answered : callable, optional
        Gets the :class:`Usage` of every answer.
    failed : callable, optional
        Gets the :class:`EndpointError` of every answer that the server did not give.

    Attributes
    ----------
    tokenizer : None
        A server does not say how it cuts text. Streamers of transformers take None.

    Examples
    --------
    >>> price = {"input": 0.0, "output": 0.0}
    >>> card = ModelCard("qwen3-8b", endpoint="http://127.0.0.1:11434/v1", price=price)
    >>> model = ServedModel(card)
    >>> model, model.usage.tokens_written
    (<ServedModel 'qwen3-8b' at http://127.0.0.1:11434/v1>, 0)
    """

    tokenizer = None

    def __init__(
        self,
        card: ModelCard,
        endpoint: Endpoint | None = None,
        *,
        answered: Callable[[Usage], None] | None = None,
        failed: Callable[[EndpointError], None] | None = None,
    ) -> None:
        self.card, self.endpoint = card, endpoint or Endpoint(card)
        self._answered, self._failed = answered, failed
        self._usage, self._lock = Usage(), threading.RLock()

    def __repr__(self) -> str:
        return f"<ServedModel {self.card.name!r} at {self.card.endpoint}>"

    @property
    def usage(self) -> Usage:
        """What all its answers took."""
        return self._usage

    def generate(self, prompt: str, streamer: Any = None, **options: Any) -> str:
        """Write an answer to a prompt.

        Parameters
        ----------
        prompt : str
        streamer : optional
            A ``TextStreamer`` or ``TextIteratorStreamer`` of transformers, or anything
            with their ``on_finalized_text(text, stream_end)``: it gets the text as it
            comes, and its end also when the server fails.
        **options
            As for :meth:`stream`.

        Returns
        -------
        str

        Raises
        ------
        EndpointError
            When the server gave no whole answer; ``written`` has what came.
        ValueError, TypeError
            On an empty prompt, an unknown option, or a request that the server refuses.
        """
        if streamer is None:
            return "".join(self.stream(prompt, **options))
        if not callable(getattr(streamer, "on_finalized_text", None)):
            raise TypeError(
                f"a served model gives text to a streamer, and {streamer!r} takes "
                "tokens; give a TextStreamer, or use stream(prompt)"
            )
        pieces: list[str] = []
        try:
            for piece in self.stream(prompt, **options):
                pieces.append(piece)
                streamer.on_finalized_text(piece)
        finally:
            streamer.on_finalized_text("", stream_end=True)
        return "".join(pieces)

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = _MOST_TOKENS,
        timeout: float = _SILENCE,
        temperature: float | None = None,
        top_p: float | None = None,
        do_sample: bool | None = None,
        stop_strings: str | Sequence[str] | None = None,
    ) -> Iterator[str]:
        """Write an answer to a prompt, and give its text as it comes.

        To stop early, close the iterator: what came until then is counted.

        Parameters
        ----------
        prompt : str
        max_new_tokens : int
        timeout : float
            Seconds that the server may be silent; a whole answer may take 30 times as
            long.
        temperature, top_p, do_sample, stop_strings : optional
            As transformers has them; what is not given is as the server has it.

        Returns
        -------
        iterator of str

        Raises
        ------
        EndpointError, ValueError, TypeError
            As for :meth:`generate`; mistakes in the arguments at once, those of the
            server when the text is read.
        """
        _check(prompt, max_new_tokens, timeout)
        given = {
            "temperature": 0.0 if do_sample is False else temperature,
            "top_p": top_p,
            "stop": [stop_strings] if isinstance(stop_strings, str) else stop_strings,
        }
        request = {
            "messages": [{"role": "user", "content": prompt}],
            **self.limited(max_new_tokens),
            **{name: value for name, value in given.items() if value is not None},
        }
        return self._written(prompt, request, timeout)

    def limited(self, max_new_tokens: int) -> dict[str, int]:
        """Return the argument of a request by which this server writes no more."""
        # OpenAI's newest models take the newer name only, some servers the older one.
        newer = self.endpoint.is_openai
        return {"max_completion_tokens" if newer else "max_tokens": max_new_tokens}

    def chat(
        self, request: Mapping[str, Any], timeout: float = _SILENCE
    ) -> Generator[Any, None, None]:
        """Answer a whole request, and give the server's chunks as they come.

        Parameters
        ----------
        request : mapping
            Arguments of a chat completion, with "messages"; tools and all else are
            handed on as they are.
        timeout : float
            As for :meth:`stream`.

        Yields
        ------
        ChatCompletionChunk
            Of the openai client. Close the iterator to stop early.

        Raises
        ------
        EndpointError, ValueError
            As for :meth:`generate`, when the chunks are read.
        """
        return self._chunks(_text_of(request["messages"]), request, timeout)

    def _written(
        self, prompt: str, request: Mapping[str, Any], timeout: float
    ) -> Iterator[str]:
        with closing(self._chunks(prompt, request, timeout)) as chunks:
            for chunk in chunks:
                piece = _piece_of(chunk)
                if piece:
                    yield piece

    def _chunks(
        self, prompt: str, request: Mapping[str, Any], timeout: float
    ) -> Generator[Any, None, None]:
        answer, begun = _Answer(), time.monotonic()
        failure: Exception | None = None
        chunks: Any = None
        try:
            chunks = self.endpoint.ask(request, timeout)
            for chunk in chunks:
                answer.take(chunk)
                if time.monotonic() - begun > _LONGEST * timeout:
                    raise EndpointError(
                        f"{self.endpoint.url} was still writing after "
                        f"{_LONGEST * timeout:g} s; give generate(timeout=...) more"
                    )
                yield chunk
            answer.check_whole(self.endpoint.url)
        except GeneratorExit:  # whoever reads it has enough
            self._count(answer.usage(self.card, prompt, time.monotonic() - begun))
            raise
        except ImportError:
            raise
        except Exception as error:
            failure = self.endpoint.explained(error, answer.text, timeout)
        finally:
            if chunks is not None:
                chunks.close()
        # Raised here: as its cause, the client's error would bring the request along.
        if failure is not None:
            if isinstance(failure, EndpointError) and self._failed is not None:
                self._failed(failure)
            raise failure
        self._count(answer.usage(self.card, prompt, time.monotonic() - begun))
        self.endpoint.tell_of_model(answer.model)

    def _count(self, usage: Usage) -> None:
        with self._lock:
            self._usage = self._usage.plus(usage)
        if self._answered is not None:
            self._answered(usage)


@dataclass
class _Answer:
    """An answer as it comes: its text, and what the server says of it."""

    pieces: list[str] = field(default_factory=list)
    model: str | None = None
    counts: tuple[int, int] | None = None
    finish: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def take(self, chunk: Any) -> None:
        """Take in a chunk."""
        choices, used = chunk.choices, getattr(chunk, "usage", None)
        if choices is None and used is None:
            raise TypeError("no chunk of a chat completion")
        self.model = self.model or getattr(chunk, "model", None)
        if used is not None:
            self.counts = (int(used.prompt_tokens), int(used.completion_tokens))
        for choice in choices or ():
            self.finish = getattr(choice, "finish_reason", None) or self.finish
        self.pieces.append(_piece_of(chunk))

    def check_whole(self, url: str) -> None:
        """Refuse an answer that has no end: the connection was cut."""
        if self.finish is None:
            where = "in the middle of" if self.text else "before the first word of"
            raise EndpointError(f"{url} stopped {where} its answer; ask again")
        if self.finish == "error":
            raise EndpointError(f"{url} broke off its answer; ask again")

    def usage(self, card: ModelCard, prompt: str, seconds: float) -> Usage:
        read, written = self.counts or (0, 0)
        # Some servers say 0 for all that they did not count.
        counted = self.counts is not None and read > 0 and written >= bool(self.text)
        if not counted:
            read, written = _estimated(prompt), _estimated(self.text)
        price = card.price
        money = price.of(read, written) if isinstance(price, Price) else 0.0
        return Usage(read, written, seconds, money, not counted)


def _piece_of(chunk: Any) -> str:
    """The text that a chunk adds."""
    found = (getattr(c.delta, "content", None) for c in chunk.choices or ())
    return "".join(piece or "" for piece in found)


def _text_of(messages: Iterable[Mapping[str, Any]]) -> str:
    """The text of a conversation, by which its tokens are estimated."""
    said = (message.get("content") for message in messages)
    return "\n".join(text if isinstance(text, str) else str(text) for text in said)


def _estimated(text: str) -> int:
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN)


def _check(prompt: Any, max_new_tokens: Any, timeout: Any) -> None:
    if not isinstance(prompt, str):
        raise TypeError(
            f"a served model takes a text, received {type(prompt).__name__}"
        )
    if not prompt.strip():
        raise ValueError("the prompt is empty; write at least one word")
    whole = isinstance(max_new_tokens, int) and not isinstance(max_new_tokens, bool)
    if not whole or max_new_tokens < 1:
        raise ValueError(
            f"max_new_tokens is a whole number from 1, received {max_new_tokens!r}"
        )
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout is seconds above 0, received {timeout!r}")
