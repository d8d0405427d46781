"""One strand's next-token distribution, told in another strand's vocabulary.

A donor says how a text goes on in tokens of its own. Told in bytes, that is one
distribution whatever the tokens, and the anchor's tokens are strings of bytes too:

    p(v | text) = sum_c P(c | text) sum_u q(u | c) [the anchor's next token is v]

c are the ways in which the donor may have read the text so far: complete tokens, and a
rest of bytes that its next token u begins with (`Reading`). A text that ends inside a
donor's token is then told as well as any other. Which of its tokens the anchor writes
for the bytes of u is told by its own tokenizer; of tokens that go on beyond u, and so
beyond what the donor says, by its own probabilities. Equations (34) to (42) of
``docs/math.md``.

Byte-level probabilities of token models: arXiv 2410.09303, 2412.03719, 2506.14123.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._files import replacing
from .token_bytes import TokenBytes, common_prefix

LIKELY = 2e-3  # of all: what is spelt behind the text so far
# Where the anchor would have cut the text so far otherwise, had it gone on like this.
CONTRARY = 0.02
# How well a token that the donor has not read goes on, against one that it has.
UNREAD = 0.02
# What counts of tokens with which the anchor may begin a likely string all the same:
# longer ones that the donor would begin otherwise, and shorter ones.
LONGER = 0.05
SHORTER = 0.002
NOTHING = 1e-9  # of probability: what a first token has beside longer ones at least
# What is the anchor's own at least: no map tells every way to write a text.
UNTOLD = 1e-3
LARGE = 50_000  # strings of bytes; maps of fewer are made faster than they are found
FORMAT = 3


class Node(NamedTuple):
    """A place in a donor's reading of a text.

    Attributes
    ----------
    state : Tensor (width,)
        Behind this token.
    parent : int
        Number of the node before it; -1 for the first.
    token : int
    rest : bytes
        What of the text is behind it.
    last : bool
        Whether at most one token that was read is behind it.
    ahead : bool
        Whether it is one space ahead of the text.
    beside : int
        Number of the anchor's last token that ends by then; -1 where there is none.
    """

    state: Tensor
    parent: int
    token: int
    rest: bytes
    last: bool
    ahead: bool = False
    beside: int = -1


@dataclass(frozen=True, eq=False)
class Reading:
    """How a donor may have read the text up to some position of the anchor.

    Attributes
    ----------
    nodes : tuple of Node
        Each after its parent. The first has all that the others go on from.
    spelling : tuple of int
        The anchor's last tokens, from one that begins a word.
    """

    nodes: tuple[Node, ...]
    spelling: tuple[int, ...] = ()


def reading(
    ways: Sequence[tuple[Sequence[int], int]],
    ids: Sequence[int],
    states: Tensor,
    table: Sequence[bytes],
    data: bytes,
    begins: Callable[[bytes], bool],
    spelling: tuple[int, ...] = (),
) -> Reading | None:
    """How a donor may have read a text.

    Parameters
    ----------
    ways : sequence of (sequence of int, int)
        For each way in which it was read, which of the donor's tokens, as numbers of
        ``ids`` and ``states``, and how many bytes of the text are behind them; -1 where
        they are one space ahead of it.
    ids : sequence of int
    states : Tensor (S, width)
    table : sequence of bytes
        What each token writes.
    data : bytes
        The end of the text: what the longest token of the donor may begin with.
    begins : callable
        Whether a longer token of the donor begins with some bytes.
    spelling : tuple of int
        The anchor's last tokens.

    Returns
    -------
    Reading or None
        None where the donor has read nothing yet.
    """
    found = [(way, _rests(way, ids, table, data, n)) for way, n in ways if way]
    if not found:
        return None
    if _branch([way for way, _ in found]) <= _start(found, begins):
        # There is nothing to weigh one against the other by.
        found = [next((f for f in found if None not in f[1].values()), found[-1])]
    start = _start(found, begins)
    nodes: list[Node] = []
    place: dict[int, int] = {}
    for way, rests in found:
        for n in range(start, len(way)):
            i = way[n]
            if i not in place:
                place[i] = len(nodes)
                before = place[way[n - 1]] if n > start else -1
                last = n >= len(way) - 2
                ahead = rests[n] is None
                rest = rests[n] or b""
                nodes.append(Node(states[i], before, ids[i], rest, last, ahead))
    return Reading(tuple(nodes), spelling)


def _branch(ways: Sequence[Sequence[int]]) -> int:
    """How many tokens one or two ways share."""
    return len(ways[0]) if len(ways) == 1 else common_prefix(ways[0], ways[-1])


def _start(
    found: Sequence[tuple[Sequence[int], dict[int, bytes | None]]],
    begins: Callable[[bytes], bool],
) -> int:
    """The first token of a way behind which a longer one may stand for what follows."""
    reached = [
        n for _, rests in found for n, rest in rests.items() if rest and begins(rest)
    ]
    start = min([*reached, *(len(way) - 1 for way, _ in found)])
    start = min(start, _branch([way for way, _ in found]) - 1)
    return max(start, *(min(rests) for _, rests in found), 0)


def _rests(
    way: Sequence[int],
    ids: Sequence[int],
    table: Sequence[bytes],
    data: bytes,
    behind: int,
) -> dict[int, bytes | None]:
    """What of the text is behind each token of a way, as far as ``data`` reaches.

    None for one that is ahead of the text.
    """
    rests: dict[int, bytes | None] = {}
    longer = data + b" " * max(-behind, 0)
    end = len(longer) - max(behind, 0)
    for n in range(len(way) - 1, -1, -1):
        rests[n] = data[end:] if end <= len(data) else None
        word = table[ids[way[n]]]
        if not word or not longer[:end].endswith(word):
            break
        end -= len(word)
    return rests


class Carried(NamedTuple):
    """A donor's distribution in the anchor's vocabulary.

    Attributes
    ----------
    p : Tensor (V_a,)
    inside : Tensor ()
        The part of it in which the text ends inside a token of the donor.
    unread : Tensor ()
        The part that no reading tells: the anchor's own.
    """

    p: Tensor
    inside: Tensor
    unread: Tensor


class _Strings(NamedTuple):
    """Strings that a donor's tokens add to a text, and what of the anchor's is theirs.

    Attributes
    ----------
    numbers : ndarray (n,)
        Which strings; -1 for one that is lost, as no token of the anchor begins it.
    lost : Tensor
        Where those are.
    first : Tensor (n,)
        The token that the anchor begins each with.
    owning : Tensor (k,)
        Which strings any token belongs to.
    begin : Tensor (k,)
        The first token of each of those.
    apart : Tensor (k,)
        0 where that token is one of those that belong to the string, else 1.
    slot : ndarray (n,)
        For each string its number among those; k + 1 for one that has none.
    tokens : Tensor (m,) or None
        The anchor's tokens that belong to a string; None for all there are.
    owner : Tensor (m,)
        For each of these, to which of ``owning``; k for none.
    """

    numbers: np.ndarray
    lost: Tensor
    first: Tensor
    owning: Tensor
    begin: Tensor
    apart: Tensor
    slot: np.ndarray
    tokens: Tensor | None
    owner: Tensor


def _strings(
    numbers: np.ndarray,
    first: np.ndarray,
    apart: np.ndarray,
    tokens: np.ndarray | None,
    owner: np.ndarray,
) -> _Strings:
    """See `_Strings`; ``first`` is -1 for none, ``owner`` a row of strings, or n."""
    n = len(numbers)
    slot = np.zeros(n + 1, dtype=np.int64)
    slot[owner] = 1
    owning = np.flatnonzero(slot[:n])
    slot[:] = len(owning) + 1
    slot[owning] = np.arange(len(owning))
    slot[n] = len(owning)
    return _Strings(
        np.where(first < 0, -1, numbers),
        torch.from_numpy(np.flatnonzero(first < 0)),
        torch.from_numpy(np.maximum(first, 0)),
        torch.from_numpy(owning),
        torch.from_numpy(np.maximum(first, 0)[owning]),
        torch.from_numpy(apart[owning].astype(np.float32)),
        slot[:n],
        None if tokens is None else torch.from_numpy(tokens),
        torch.from_numpy(slot[owner]),
    )


class _Rest(NamedTuple):
    """The donor's tokens that begin with the rest of a text and go on.

    Attributes
    ----------
    rest : bytes
    tokens : ndarray (n,)
    adds : _Strings
        What each adds to the text.
    """

    rest: bytes
    tokens: np.ndarray
    adds: _Strings


class _Said(NamedTuple):
    """What a node says of what comes next: its weight times these probabilities.

    Attributes
    ----------
    how : _Strings or _Rest
        What the probabilities are of: the donor's tokens, or those that go on.
    logs : Tensor (n,)
    weight : Tensor ()
        As a logarithm.
    """

    how: _Strings | _Rest
    logs: Tensor
    weight: Tensor


class _Shares:
    """What the anchor's tokens get at one position, much of it by its own p.

    Parameters
    ----------
    p : Tensor (V_a,)
    own : Tensor ()
        How much of its p each token gets in any case.
    """

    def __init__(self, p: Tensor, own: Tensor) -> None:
        self.p = p
        self._added: list[tuple[Tensor, Tensor]] = []
        self._rates = own

    def add(self, tokens: Tensor, masses: Tensor) -> None:
        """Give tokens what is theirs."""
        self._added.append((tokens, masses.to(self.p)))

    def rate(self, rates: Tensor, owner: Tensor) -> None:
        """Give each token so much of its p as what it belongs to gets."""
        if self._rates.ndim == 0:
            # Before there is one for each token, which are more.
            self._rates = (rates + self._rates).index_select(0, owner)
        else:
            self._rates = self._rates + rates.index_select(0, owner)

    def told(self) -> Tensor:
        """All of it (V_a,)."""
        out = self.p * self._rates
        for tokens, masses in self._added:
            out.scatter_add_(0, tokens, masses)
        return out.div_(out.sum().clamp(min=1e-30))


class SortedTokens:
    """Tokens in the order of their bytes, so that a prefix is a span of places.

    Parameters
    ----------
    table : sequence of bytes
        What each token writes; tokens that write nothing have no place.

    Examples
    --------
    >>> tokens = SortedTokens([b"b", b"", b"ab", b"a"])
    >>> tokens.ids.tolist(), tokens.span(b"a")
    ([3, 2, 0], (0, 2))
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        ids = sorted((i for i, word in enumerate(table) if word), key=table.__getitem__)
        self.words = [table[i] for i in ids]
        self.ids = np.array(ids, dtype=np.int64)

    def span(self, prefix: bytes) -> tuple[int, int]:
        """Places of the tokens that begin with some bytes: from, up to."""
        end = prefix.rstrip(b"\xff")
        low = bisect_left(self.words, prefix)
        if not end:
            return low, len(self.words)
        return low, bisect_left(self.words, end[:-1] + bytes([end[-1] + 1]), low)

    def equal(self, word: bytes) -> tuple[int, int]:
        """Places of the tokens that write just these bytes."""
        low = high = bisect_left(self.words, word)
        while high < len(self.words) and self.words[high] == word:
            high += 1
        return low, high


class VocabularyMap:
    """Carries a donor's distribution to the anchor's vocabulary.

    Parameters
    ----------
    anchor, donor : TokenBytes
    anchor_size, donor_size : int
        Rows of the LM heads. A tokenizer may name more tokens than its model has.
    pairs : sequence of (donor token, anchor token), optional
        Tokens to identify though they write nothing, such as the two ends of text.
    folder : Path, optional
        Where maps of large vocabularies are kept.

    Attributes
    ----------
    same : bool
        Whether both have the same tokens; then a distribution is carried as it is.
    longest : int
        Bytes of the donor's longest token.
    """

    def __init__(
        self,
        anchor: TokenBytes,
        donor: TokenBytes,
        anchor_size: int,
        donor_size: int,
        pairs: Sequence[tuple[int, int]] = (),
        folder: Path | None = None,
    ) -> None:
        self.anchor, self.anchor_size, self.donor_size = anchor, anchor_size, donor_size
        self.same = anchor.key == donor.key
        self._ends: dict[int, list[int]] = {}
        for u, v in pairs:
            self._ends.setdefault(u, []).append(v)
        self.table = donor.table[:donor_size]
        self.longest = max(map(len, self.table), default=0)
        if self.same:
            return
        self.of_anchor = SortedTokens(anchor.table[:anchor_size])
        self.of_donor = SortedTokens(self.table)
        lengths = [len(word) for word in self.table]
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        # Every string of bytes that a donor's token may go on with has a number.
        numbers: dict[bytes, int] = {}
        self.strings = np.fromiter(
            (
                numbers.setdefault(word[cut:], len(numbers))
                for word in self.table
                for cut in range(len(word))
            ),
            dtype=np.int32,
            count=int(self.offsets[-1]),
        )
        behind_space = np.zeros(donor_size, dtype=np.int32)
        if anchor.leaves_space and not donor.leaves_space:
            spaced = [b" " + word for word in self.table]
            behind_space[:] = [numbers.setdefault(w, len(numbers)) for w in spaced]
        self.words = list(numbers)
        self.first, self.low, self.high, *owners = (
            part.astype(np.int64) for part in self._spell(folder, donor)
        )
        self._before = _parents(self.of_anchor.words)
        self._parent = _parents(self.of_donor.words)
        self._order_tokens()
        self._leave_spaces(donor.leaves_space)
        plain = np.full(donor_size, -1, dtype=np.int32)
        plain[self.of_donor.ids] = self.strings[self.offsets[self.of_donor.ids]]
        behind_space[plain < 0] = -1
        self._wholes = [
            self._whole(strings, owner)
            for strings, owner in zip((plain, behind_space), owners, strict=True)
        ]

    def _order_tokens(self) -> None:
        """Where the anchor's tokens are in the order of their bytes, and which agree.

        One that writes nothing is nowhere, and so is, last, none.
        """
        self._place = np.full(self.anchor_size + 1, -1, dtype=np.int64)
        self._place[self.of_anchor.ids] = np.arange(len(self.of_anchor.ids))
        known: dict[bytes, int] = {}
        table = [*self.anchor.table[: self.anchor_size], b""]
        self._like = np.array([known.setdefault(word, len(known)) for word in table])

    def _leave_spaces(self, leaves: bool) -> None:
        """For white space, the token of one space more, where a donor leaves one."""
        self._spaced = np.full(len(self.words), -1, dtype=np.int64)
        for i, word in enumerate(self.words):
            if word.isspace():
                low, high = self.of_anchor.equal(word + b" ")
                self._spaced[i] = self.of_anchor.ids[low] if low < high else -1
        # The last of several spaces may belong to the word behind them.
        longer = {w[:-1] for w in self.of_donor.words if w[-1:] == b" "}
        longer = {w for w in longer if leaves and w[-1:].isspace()}
        self._leaves = np.array([word in longer for word in self.of_donor.words])

    def _whole(self, numbers: np.ndarray, owner: np.ndarray) -> _Strings:
        """How whole tokens of the donor are told, by which of them begins what."""
        first = np.where(numbers < 0, -1, self.first[numbers])
        apart = owner[first] != np.arange(self.donor_size)
        return _strings(numbers, first, apart, None, owner)

    @cached_property
    def _rest(self) -> Callable[[bytes], _Rest]:
        # Few are met all the time, and those are the large ones.
        return lru_cache(maxsize=64)(self._find_rest)

    def _find_rest(self, rest: bytes) -> _Rest:
        """How tokens that begin with a rest are told: by the longest of their strings.

        A token of the anchor belongs to the longest string that it begins with, and to
        white space that it is one space more of.
        """
        low, high = self.longer(rest)
        tokens = self.of_donor.ids[low:high]
        numbers = self.strings[self.offsets[tokens] + len(rest)]
        first, begin, end = (of[numbers] for of in (self.first, self.low, self.high))
        # A token is of the last string that begins before it and does not end.
        steps = np.arange(len(tokens)) - np.maximum(self._parent[low:high] - low, -1)
        at = np.concatenate([begin, end])
        order = np.argsort(at, kind="stable")
        at, sizes = at[order], np.diff(at[order], append=0)
        owner = np.cumsum(np.concatenate([steps, -steps])[order]) - 1
        at, sizes, owner = (
            part[(owner >= 0) & (sizes > 0)] for part in (at, sizes, owner)
        )
        spans = np.repeat(at - np.cumsum(sizes) + sizes, sizes)
        spaced = np.where(self._leaves[low:high], self._spaced[numbers], -1)
        left = np.flatnonzero(spaced >= 0)
        owned = self.of_anchor.ids[spans + np.arange(len(spans))]
        adds = _strings(
            numbers,
            first,
            self._place[first] < begin,
            np.concatenate([owned, spaced[left]]),
            np.concatenate([np.repeat(owner, sizes), left]),
        )
        return _Rest(rest, tokens, adds)

    def _spell(self, folder: Path | None, donor: TokenBytes) -> list[np.ndarray]:
        """For each string its first token, and the span of the tokens it begins.

        And for each token of the anchor the donor's token that it begins with, as it is
        and without the space in front.
        """
        sizes = [FORMAT, self.anchor_size, self.donor_size]
        key = json.dumps([self.anchor.state, self.anchor.key, donor.key, sizes])
        name = f"map-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        file = folder / name if folder and len(self.words) >= LARGE else None
        n, m = len(self.words), self.anchor_size
        found = None if file is None else _load(file, (3 * n + 2 * m,))
        if found is None:
            found = self._cut(donor)
            if file is not None:
                # It is only kept for speed: where it cannot be, it is made every time.
                with suppress(OSError), replacing(file.parent) as work:
                    np.save(work / name, found, allow_pickle=False)
        return np.split(found, [n, 2 * n, 3 * n, 3 * n + m])

    def _cut(self, donor: TokenBytes) -> np.ndarray:
        spans = np.array(
            [self.of_anchor.span(word) for word in self.words], dtype=np.int32
        ).reshape(-1, 2)
        first = self.anchor.first_tokens(self.words, self.anchor_size)
        owners = np.full((2, self.anchor_size), self.donor_size)
        ids, words = self.of_anchor.ids, self.of_anchor.words
        owners[0, ids] = donor.first_tokens(words, self.donor_size)
        spaced = [i for i, w in enumerate(words) if w[:1] == b" " and w != b" "]
        behind = donor.first_tokens([words[i][1:] for i in spaced], self.donor_size)
        owners[1, ids[spaced]] = behind
        owners[owners < 0] = self.donor_size
        return np.concatenate([first, spans[:, 0], spans[:, 1], *owners]).astype(
            np.int32
        )

    def begins(self, rest: bytes) -> bool:
        """Whether a longer token of the donor begins with some bytes."""
        low, high = self.of_donor.span(rest)
        return low < high and len(self.of_donor.words[high - 1]) > len(rest)

    def readings(
        self,
        ways: Sequence[Sequence[tuple[Sequence[int], int]]],
        ids: Sequence[int],
        states: Tensor,
        texts: Sequence[bytes],
        spellings: Sequence[tuple[int, ...]],
    ) -> np.ndarray:
        """How the donor may have read each of several texts: see `reading`.

        Parameters
        ----------
        ways : sequence of sequence of (sequence of int, int)
        ids : sequence of int
        states : Tensor (S, width)
        texts : sequence of bytes
            Their ends: as much as the donor's longest token.
        spellings : sequence of tuple of int

        Returns
        -------
        ndarray (N,) of Reading or None
        """
        found = np.full(len(ways), None, dtype=object)
        for n, (mine, data, spelling) in enumerate(
            zip(ways, texts, spellings, strict=True)
        ):
            if self.same:
                i = mine[0][0][-1]
                found[n] = Reading((Node(states[i], -1, ids[i], b"", True),))
            else:
                found[n] = reading(
                    mine, ids, states, self.table, data, self.begins, spelling
                )
        return found

    def carry(self, reading: Reading, log_q: Sequence[Tensor], p: Tensor) -> Carried:
        """Tell the donor's distribution at one position in the anchor's vocabulary.

        Parameters
        ----------
        reading : Reading
        log_q : sequence of Tensor (V_d,)
            What the donor says at each node: log-probabilities.
        p : Tensor (V_a,)
            The anchor's own distribution there.

        Returns
        -------
        Carried
        """
        if self.same:
            return self._as_it_is(log_q[-1], p)
        said, unread, total = self.weigh(reading, log_q)
        if total.isneginf():
            nothing = p.new_zeros(())
            return Carried(p, nothing, nothing + 1)
        mine = (unread - total).exp().clamp(max=1.0)
        shares = _Shares(p, mine.clamp(min=UNTOLD))
        inside = p.new_zeros(())
        for how, logs, weight in said:
            q = (logs + (weight - total)).exp_()
            if isinstance(how, _Rest):
                inside = inside + q.sum()
                q = self._consistent(q, how, reading.spelling)
                self._share(shares, how.adds, q, reading.spelling)
            else:
                if how is self._wholes[0]:
                    self._carry_ends(shares, q)
                self._share(shares, how, q, reading.spelling)
        return Carried(shares.told(), inside.clamp(max=1.0), mine)

    def _as_it_is(self, log_q: Tensor, p: Tensor) -> Carried:
        q, nothing = log_q.exp(), p.new_zeros(())
        if len(q) < len(p):
            q = torch.cat([q, q.new_zeros(len(p) - len(q))])
        elif len(q) > len(p):
            q = q[: len(p)] / q[: len(p)].sum().clamp(min=1e-30)
        return Carried(q, nothing, nothing)

    def weigh(
        self, reading: Reading, log_q: Sequence[Tensor]
    ) -> tuple[list[_Said], Tensor, Tensor]:
        """What each node says of what comes next, as logarithms of unscaled weights.

        Returns what is said; the weight of what is not read, and the sum.
        """
        device = log_q[0].device
        weights: list[Tensor] = []
        read: list[list[int]] = [[] for _ in reading.nodes]
        for node in reading.nodes:
            if node.parent < 0:
                weights.append(torch.zeros((), device=device))
            else:
                before = weights[node.parent]
                weights.append(before + log_q[node.parent][node.token])
                read[node.parent].append(node.token)
        said: list[_Said] = []
        sums: list[Tensor] = []
        missing: list[Tensor] = []
        for i, (node, row, weight) in enumerate(
            zip(reading.nodes, log_q, weights, strict=True)
        ):
            if not node.rest:
                if read[i]:
                    # What was read on from is told by what comes behind it.
                    known = torch.tensor(read[i], dtype=torch.long, device=device)
                    row = row.index_fill(0, known, -torch.inf)
                    sums.append(row.logsumexp(0) + weight)
                else:
                    sums.append(weight)  # of all
                said.append(_Said(self._wholes[node.ahead], row, weight))
                continue
            rest = self._rest(node.rest)
            others = np.ones(len(rest.tokens), dtype=bool)
            if read[i]:
                others = ~np.isin(rest.tokens, read[i])
            if others.any():
                logs = row[torch.from_numpy(rest.tokens).to(device)]
                if not others.all():
                    mine = torch.from_numpy(others).to(device)
                    logs = logs.masked_fill(~mine, -torch.inf)
                sums.append(logs.logsumexp(0) + weight)
                said.append(_Said(rest, logs, weight))
            if node.last:
                within = [u for u in self._within(node.rest) if u not in read[i]]
                if within:
                    missing.append(row[within].logsumexp(0) + weight)
        unread = torch.full((), -torch.inf, device=device)
        if missing:
            unread = torch.stack(missing).logsumexp(0) + float(np.log(UNREAD))
        return said, unread, torch.stack([*sums, unread]).logsumexp(0)

    def longer(self, rest: bytes) -> tuple[int, int]:
        """Places of the donor's tokens that begin with some bytes and go on."""
        low, high = self.of_donor.span(rest)
        return self.of_donor.equal(rest)[1] if low < high else low, high

    def _within(self, rest: bytes) -> list[int]:
        """The donor's tokens that some bytes begin with."""
        found: list[int] = []
        for length in range(1, len(rest) + 1):
            low, high = self.of_donor.equal(rest[:length])
            found += self.of_donor.ids[low:high].tolist()
        return found

    def _carry_ends(self, shares: _Shares, q: Tensor) -> None:
        """Donor tokens that write nothing go to what means the same, as it has it."""
        for u, twins in self._ends.items():
            at = torch.tensor(twins, device=q.device)
            parts = shares.p[at]
            shares.add(at, q[u] * parts / parts.sum().clamp(min=1e-30))

    def _share(
        self, shares: _Shares, how: _Strings, q: Tensor, spelling: tuple[int, ...]
    ) -> None:
        """Share what each string has among what belongs to it, by the anchor's own p.

        All of it goes to its first token where nothing does. ``q`` is used up.
        """
        lost, first, owning, begin, apart, owner = (
            part.to(q.device)
            for part in (
                how.lost,
                how.first,
                how.owning,
                how.begin,
                how.apart,
                how.owner,
            )
        )
        tokens = None if how.tokens is None else how.tokens.to(q.device)
        mine = shares.p if tokens is None else shares.p.index_select(0, tokens)
        sums = mine.new_zeros(len(owning) + 2).scatter_add(0, owner, mine)
        alone = shares.p.index_select(0, begin) * apart + NOTHING
        rates = q.index_select(0, owning) / (sums[:-2] + alone)
        likely, blend = _likely(how, q)
        at = torch.from_numpy(likely).to(q.device)
        known = q.index_select(0, at)
        # In place where it may be: it is as long as the donor's vocabulary.
        given = q.clone() if torch.is_grad_enabled() else q
        given.index_copy_(0, owning, rates * alone).index_fill_(0, lost, 0.0)
        rates = torch.cat([rates, rates.new_zeros(2)])
        if len(likely):
            slot = torch.from_numpy(how.slot[likely]).to(q.device)
            owned = torch.cat([alone, alone.new_zeros(2)])[slot]
            other = shares.p[first[at]] + NOTHING
            alone = torch.where(slot < len(owning), owned, other)
            total = alone + sums[slot]
            numbers = how.numbers[likely]
            rate = self._rates(shares, numbers, known, total, blend, spelling)
            given.index_copy_(0, at, (rate * alone).to(given))
            rates = rates.scatter(0, slot, rate.to(rates))
        shares.add(first, given)
        if tokens is None:
            shares.rate(rates, owner)
        else:
            shares.add(tokens, rates.index_select(0, owner) * mine)

    def _rates(
        self,
        shares: _Shares,
        numbers: np.ndarray,
        q: Tensor,
        total: Tensor,
        blend: Tensor,
        spelling: tuple[int, ...],
    ) -> Tensor:
        """How much of its p, ``total``, what belongs to a likely string gets.

        Little is left of a likely string that contradicts how the text is spelt. How a
        tokenizer begins a word is not settled before its end: tokens that go on from
        what is likely, or that it goes on from, get a little of it, too.
        """
        words = [self.words[i] for i in numbers]
        ends = [
            0 if w[-1:].isspace() else self.high[i]
            for i, w in zip(numbers, words, strict=True)
        ]
        near = [
            self.of_anchor.ids[self.low[i] : n]
            for i, n in zip(numbers, ends, strict=True)
        ]
        near += [self._shorter(i) for i in numbers]
        n, sizes = len(words), [len(tokens) for tokens in near]
        of, little, tokens, left = (
            torch.from_numpy(part).to(q.device)
            for part in (
                np.repeat(np.tile(np.arange(n), 2), sizes),
                np.repeat(np.repeat([LONGER, SHORTER], n), sizes),
                np.concatenate(near),
                1.0 - (1.0 - CONTRARY) * self._contradict(spelling, words),
            )
        )
        parts = shares.p.index_select(0, tokens) * (blend[of] * little)
        rates = q / parts.new_zeros(n).scatter_add(0, of, parts).add(total)
        rates = rates * (1.0 - blend * (1.0 - left))
        shares.add(tokens, rates[of] * parts)
        return rates

    @cached_property
    def _shorter(self) -> Callable[[int], np.ndarray]:
        # For each map: what is likely comes again.
        return lru_cache(maxsize=1 << 15)(self._find_shorter)

    def _find_shorter(self, number: int) -> np.ndarray:
        """The anchor's tokens, not the first, that a string goes on from.

        Without those behind or before white space, where tokenizers cut in any case.
        """
        word, place = self.words[number], int(self.low[number]) - 1
        found: list[int] = []
        while place >= 0:
            begin = self.of_anchor.words[place]
            if word.startswith(begin):
                around = word[len(begin) - 1 : len(begin) + 1]
                if around.strip() == around:
                    found.append(int(self.of_anchor.ids[place]))
            place = int(self._before[place])
        others = [token for token in found if token != self.first[number]]
        return np.array(others, dtype=np.int64)

    def _consistent(self, q: Tensor, rest: _Rest, spelling: tuple[int, ...]) -> Tensor:
        """Little is left of what the anchor would have begun with other tokens."""
        keep = np.ones(len(rest.tokens), dtype=bool)
        size = 0
        for token in reversed(spelling):
            size += len(self.anchor.table[token])
            if size > len(rest.rest):
                break
            at = self.offsets[rest.tokens] + len(rest.rest) - size
            keep &= self._like[self.first[self.strings[at]]] == self._like[token]
        return q * torch.from_numpy(np.where(keep, 1.0, CONTRARY)).to(q)

    def _contradict(
        self, spelling: tuple[int, ...], words: Sequence[bytes]
    ) -> np.ndarray:
        """1 for words with which the anchor would have cut the text so far otherwise.

        0 where that cannot be told.
        """
        found = np.zeros(len(words))
        if spelling:
            last = spelling[-1]
            asked = [i for i, w in enumerate(words) if self._goes_on(last, w[:1])]
            told = self.anchor.behind_each(spelling, [words[i] for i in asked])
            found[asked] = [token == -1 for token in told]
        return found

    @cached_property
    def _goes_on(self) -> Callable[[int, bytes], bool]:
        return lru_cache(maxsize=1 << 15)(self._find_longer)

    def _find_longer(self, token: int, byte: bytes) -> bool:
        """Whether a token of the anchor goes on from another one with some byte.

        Bytes that no token has behind the last one change nothing of it.
        """
        low, high = self.of_anchor.span(self.anchor.table[token] + byte)
        return bool(byte) and low < high


def _likely(how: _Strings, q: Tensor) -> tuple[np.ndarray, Tensor]:
    """Which strings are likely, and how much, from 0 at the threshold up to 1.

    1 from four times that on, and flat at both ends: noise in the last digit makes no
    jump.
    """
    likely = np.flatnonzero(q.detach().cpu().numpy() > LIKELY)
    likely = likely[how.numbers[likely] >= 0]
    # In double precision: what is left of 1 may be little.
    known = q[torch.from_numpy(likely).to(q.device)].double()
    x = ((known / LIKELY - 1.0) / 3.0).clamp(0.0, 1.0)
    return likely, x.pow(3) * (10.0 - 15.0 * x + 6.0 * x.square())


def _parents(words: Sequence[bytes]) -> np.ndarray:
    """Of sorted words, for each the place of the longest one it goes on from, or -1."""
    found = np.full(len(words), -1, dtype=np.int64)
    around: list[int] = []
    for i, word in enumerate(words):
        while around and not word.startswith(words[around[-1]]):
            around.pop()
        if around:
            found[i] = around[-1]
        around.append(i)
    return found


def _load(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The numbers of a file, None where there are none of this shape."""
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found if found.shape == shape and found.dtype == np.int32 else None
