"""What a donor says of the bytes that follow, and chains of tokens that write these.

Both are exact, and slow: see `carrying`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..braid.model import BraidedLLM
from ..braid.output_mixture import Voice
from ..tokens.vocabulary import Node, Reading, SortedTokens, VocabularyMap

LEAST = 1e-5  # of what the donor says: a continuation that is less likely is not read
BATCH = 64  # continuations that are read at once
MOST = 600  # chains of one string; strings with more are left out


def maps_of(model: BraidedLLM) -> list[VocabularyMap]:
    assert model.mixer is not None  # for the type checker
    return model.mixer.maps


def said_by(
    model: BraidedLLM, number: int, readings: Sequence[Reading]
) -> list[list[Tensor]]:
    """What a donor says at each node, by itself: it does not hear the anchor.

    Of what has not been written the anchor has said nothing yet.
    """
    assert model.mixer is not None  # for the type checker
    found = np.full(len(readings), None, dtype=object)
    found[:] = readings
    return model.mixer.said(number, Voice(found, model.donors[number].logits))


class Futures:
    """How a donor says that a text goes on, every continuation of tokens really read.

    Parameters
    ----------
    model : BraidedLLM
    number : int
        Of the donor.
    base : sequence of int
        The donor's tokens up to the first node of a reading.
    rest : bytes
        What of the text is behind them.
    ahead : bool
        Whether they are one space ahead of the text.
    """

    def __init__(
        self,
        model: BraidedLLM,
        number: int,
        base: Sequence[int],
        rest: bytes,
        ahead: bool,
    ) -> None:
        self._model, self._number = model, number
        self._donor, self._map = model.donors[number], maps_of(model)[number]
        self._base, self._rest, self._ahead = list(base), rest, ahead
        self._least = 0.0
        self._said: dict[tuple[int, ...], np.ndarray] = {}
        for least in (1e-6, 1e-12, 0.0):
            # Of many ways to read the rest few count, but for a rest nobody expects.
            self._least = least
            whole = self._covers({rest})[rest]
            if whole > 100 * least:
                break
        self._least = LEAST * whole

    def begins(self, strings: Iterable[bytes]) -> dict[bytes, float]:
        """How likely the text goes on with each string, by the tables."""
        wanted = {s: self._behind(s) for s in strings}
        found = self._covers({d for d in wanted.values() if d is not None})
        whole = self._covers({self._rest})[self._rest]
        return {s: 0.0 if d is None else found[d] / whole for s, d in wanted.items()}

    def _covers(self, data: set[bytes]) -> dict[bytes, float]:
        """How likely the donor's tokens behind the first node begin with bytes."""
        found = dict.fromkeys(data, 0.0)
        found[b""] = 1.0
        level: dict[tuple[int, ...], tuple[float, bytes, set[bytes]]]
        level = {(): (1.0, b"", {d for d in data if d})}
        while level:
            self._read(level)
            below: dict[tuple[int, ...], tuple[float, bytes, set[bytes]]] = {}
            for at, (weight, done, strings_here) in level.items():
                q = self._said[at]
                ordered = q[self._map.of_donor.ids].astype(np.float64)
                sums = np.concatenate([[0.0], np.cumsum(ordered)])
                for rest in strings_here:
                    low, high = self._map.of_donor.span(rest)
                    found[done + rest] += weight * float(sums[high] - sums[low])
                    for token, word in self._inside(rest):
                        likely = weight * float(q[token])
                        if likely >= self._least:
                            new = (likely, done + word, set())
                            there = below.setdefault((*at, token), new)
                            there[2].add(rest[len(word) :])
            level = below
        return found

    def by_hand(self, string: bytes) -> float:
        """The same of one string, by a plain loop over the vocabulary."""
        data = self._behind(string)
        if data is None:
            return 0.0
        return self._loop((), 1.0, data) / self._whole

    @cached_property
    def _whole(self) -> float:
        return self._loop((), 1.0, self._rest)

    def _loop(self, at: tuple[int, ...], weight: float, data: bytes) -> float:
        if not data:
            return 1.0
        self._read([at])
        found = 0.0
        said = self._said[at].tolist()
        for token, word in enumerate(self._donor.tokens.table[: len(said)]):
            if word.startswith(data):
                found += said[token]
            elif word and data.startswith(word):
                likely = weight * said[token]
                if likely >= self._least:
                    rest = data[len(word) :]
                    found += said[token] * self._loop((*at, token), likely, rest)
        return found

    def _behind(self, string: bytes) -> bytes | None:
        """What follows the first node if ``string`` follows the text."""
        if not self._ahead or not string:
            return self._rest + string
        return string[1:] if string.startswith(b" ") else None

    def _inside(self, rest: bytes) -> Iterator[tuple[int, bytes]]:
        """The donor's tokens that ``rest`` begins with and goes on from."""
        tokens = self._map.of_donor
        for length in range(1, len(rest)):
            word = rest[:length]
            low, high = tokens.equal(word)
            for token in tokens.ids[low:high].tolist():
                yield token, word

    def _read(self, contexts: Iterable[tuple[int, ...]]) -> None:
        """Let the donor read on; ``contexts`` are all of one length."""
        new = [at for at in contexts if at not in self._said]
        for low in range(0, len(new), BATCH):
            here = new[low : low + BATCH]
            rows = torch.tensor([[*self._base, *at] for at in here])
            final = self._donor.run(rows, taps=["final"])["final"][:, -1]
            nodes = [Reading((Node(state, -1, 0, b"", True),)) for state in final]
            said = said_by(self._model, self._number, nodes)
            for at, [log_q] in zip(here, said, strict=True):
                self._said[at] = log_q.exp().cpu().numpy()


class Chains:
    """Chains of the anchor's tokens that cover a string: each the longest match.

    Parameters
    ----------
    tokens : SortedTokens
        The anchor's.
    """

    def __init__(self, tokens: SortedTokens) -> None:
        self._tokens = tokens

    def cover(self, string: bytes) -> list[tuple[bytes, tuple[bytes, ...]]] | None:
        """What each chain writes, and the least that would have made it another one.

        None where there are more than `MOST`.
        """
        found: list[tuple[bytes, tuple[bytes, ...]]] = []
        open_chains: list[tuple[bytes, ...]] = [()]
        while open_chains:
            chain = open_chains.pop()
            rest = string[len(b"".join(chain)) :]
            ends = self._words(rest)
            if len(found) + len(ends) > MOST:
                return None
            for word in ends:
                done = (*chain, word)
                others = self._otherwise(done)
                if others is not None:
                    found.append((b"".join(done), others))
            for length in range(1, len(rest)):
                if self._has(rest[:length]):
                    open_chains.append((*chain, rest[:length]))
        return found

    def _words(self, prefix: bytes) -> list[bytes]:
        low, high = self._tokens.span(prefix)
        # Several tokens may write the same.
        return list(dict.fromkeys(self._tokens.words[low:high]))

    def _has(self, word: bytes) -> bool:
        low, high = self._tokens.equal(word)
        return low < high

    def _otherwise(self, chain: tuple[bytes, ...]) -> tuple[bytes, ...] | None:
        """The shortest strings that begin with the chain but are cut in another way.

        None where the chain is no longest match itself.
        """
        text, at = b"".join(chain), 0
        longer: list[bytes] = []
        for word in chain:
            rest = text[at:]
            lengths = range(len(word) + 1, len(rest) + 1)
            if any(self._has(rest[:length]) for length in lengths):
                return None
            more = [w for w in self._words(rest) if len(w) > len(rest)]
            longer += [text[:at] + w for w in more]
            at += len(word)
        return shortest(longer)


def shortest(strings: Iterable[bytes]) -> tuple[bytes, ...]:
    """Those that begin with no other one."""
    found: list[bytes] = []
    for string in sorted(strings):
        if not found or not string.startswith(found[-1]):
            found.append(string)
    return tuple(found)
