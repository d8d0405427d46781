"""How much of a prompt local models can read: known of each once it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from braidbandit.catalogue.braid import Braid
from braidbandit.service.errors import ApiError
from braidbandit.service.wire.asking import Ask
from braidbandit.service.wire.prompts import prompt_of

# A donor may cut what the anchor writes into more tokens than it cut the prompt.
_SPARE = 1.5
# No token is shorter than a byte: a text of fewer bytes than this share of what a model
# reads is not counted. What a chat template adds to it fits into the rest.
_UNCOUNTED = 0.75


class Reader(NamedTuple):
    """What is kept of a strand: how it cuts a text, and how many tokens it reads."""

    name: str
    positions: int | None
    tokenizer: Any
    tokens: Any


class Room(NamedTuple):
    """How many tokens may be written, and the strand that has read all it can then.

    Examples
    --------
    >>> print(Room(0, "small", 600, 512))
    the prompt has 600 tokens, and small reads 512, with what it writes
    """

    left: int
    name: str
    read: int
    positions: int

    def __str__(self) -> str:
        return (
            f"the prompt has {self.read} tokens, and {self.name} reads "
            f"{self.positions}, with what it writes"
        )

    def error(self, ask: Ask, advice: str) -> ApiError:
        """Return what is told where there is none."""
        return ApiError(
            400,
            f"{self}; {advice}",
            code="context_length_exceeded",
            param="messages" if ask.is_chat else "prompt",
        )


def room(strands: Sequence[Any], counts: Sequence[int]) -> Room:
    """Return what is left of the strands of a braid once each has read the prompt.

    Parameters
    ----------
    strands : sequence of Strand or Reader
        The anchor first.
    counts : sequence of int
        How many tokens the prompt has for each.
    """
    found: list[Room] = []
    for place, (strand, read) in enumerate(zip(strands, counts, strict=True)):
        if strand.positions is not None:
            ratio = max(1.0, _SPARE * read / max(counts[0], 1)) if place else 1.0
            left = int((strand.positions - read) / ratio)
            found.append(Room(left, strand.name, read, strand.positions))
    return min(found, default=Room(2**31, "", 0, 2**31))


class Contexts:
    """Which arms can read a prompt. Several threads may use it."""

    def __init__(self) -> None:
        self._readers: dict[str, Reader] = {}

    def note(self, strand: Any) -> None:
        """Get to know a strand that was loaded."""
        reader = Reader(strand.name, strand.positions, strand.tokenizer, strand.tokens)
        self._readers = {**self._readers, strand.name: reader}

    def is_long(self, ask: Ask) -> bool:
        """Whether a prompt may be too long for a model; its tokens are not counted."""
        size = len(prompt_of(None, ask).encode())
        limits = [r.positions for r in self._readers.values() if r.positions]
        return size > _UNCOUNTED * min(limits, default=2**31)

    def too_long(self, braids: Iterable[Braid], ask: Ask) -> dict[str, Room]:
        """Return by arm id which braids cannot read a prompt.

        Those with a strand that is not loaded yet are left out.
        """
        readers = self._readers
        if not self.is_long(ask):
            return {}

        @cache
        def count(name: str) -> int:
            # Of the prompt by its own template; as a donor it reads the anchor's, which
            # is as long but for a few words.
            reader = readers[name]
            return len(reader.tokens.read(prompt_of(reader.tokenizer, ask)))

        found: dict[str, Room] = {}
        for braid in braids:
            if readers.keys() >= set(braid.strands):
                strands = [readers[name] for name in braid.strands]
                left = room(strands, [count(name) for name in braid.strands])
                if left.left < 1:
                    found[braid.id] = left
        return found
