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
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._files import replacing
from .token_bytes import TokenBytes, common_prefix

LIKELY = 64  # continuations of which the anchor's longer tokens get their part
SPELT = 16  # the likeliest of these are spelt behind the text so far
UNLIKELY = 1e-4  # of all; the next one for those that are spelt
UNSPELT = 2e-3
# Where the anchor would have cut the text so far otherwise, had it gone on like this.
CONTRARY = 0.02
# How well a token that the donor has not read goes on, against one that it has.
UNREAD = 0.02
# What a token of the anchor counts beside strings that are not its longest.
OTHERWISE = 0.05
NOTHING = 1e-12  # of probability
# What is the anchor's own at least: no map tells every way to write a text.
UNTOLD = 1e-3
LARGE = 50_000  # strings of bytes; maps of fewer are made faster than they are found
FORMAT = 2


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
        self.first, self.low, self.high = self._spell(folder, donor)
        written = self.of_donor.ids
        plain = np.zeros(donor_size, dtype=np.int32)
        plain[written] = self.strings[self.offsets[written]]
        # Of each token: its string, behind a space or not, and that one's first token.
        self._wholes = []
        for strings in (plain, behind_space):
            whole = np.full(donor_size, anchor_size, dtype=np.int64)
            whole[written] = self.first[strings[written]]
            whole[whole < 0] = anchor_size
            told = whole < anchor_size
            self._wholes.append((strings, torch.from_numpy(whole), told))

    def _spell(self, folder: Path | None, donor: TokenBytes) -> list[np.ndarray]:
        """For each string its first token, and the span of the tokens it begins."""
        sizes = [FORMAT, self.anchor_size, self.donor_size]
        key = json.dumps([self.anchor.state, self.anchor.key, donor.key, sizes])
        name = f"map-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        file = folder / name if folder and len(self.words) >= LARGE else None
        found = None if file is None else _load(file, (3, len(self.words)))
        if found is not None:
            return list(found)
        spans = np.array(
            [self.of_anchor.span(word) for word in self.words], dtype=np.int32
        ).reshape(-1, 2)
        first = self.anchor.first_tokens(self.words, self.anchor_size)
        made = np.stack([first.astype(np.int32), spans[:, 0], spans[:, 1]])
        if file is not None:
            # It is only kept for speed: where it cannot be, it is made every time.
            with suppress(OSError), replacing(file.parent) as work:
                np.save(work / name, made, allow_pickle=False)
        return list(made)

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
        nothing = p.new_zeros(())
        cut, whole, complete, unread, total = self.weigh(reading, log_q)
        out = p.new_zeros(self.anchor_size + 1)
        if total.isneginf():
            return Carried(p, nothing, nothing + 1)
        strings, masses = [], []
        for log_weight, row, ahead in whole:
            q = (row + (log_weight - total)).exp()
            numbers, tokens, told = self._wholes[ahead]
            if not ahead:
                self._carry_ends(out, q, p)
            most = _most(q)
            most = most[told[most]]
            strings.append(numbers[most])
            likely = torch.from_numpy(most).to(p.device)
            masses.append(q[likely])
            out.index_add_(0, tokens.to(p.device), q.index_fill(0, likely, 0.0))
        for numbers, logs in cut:
            q = (logs - total).exp()
            first = torch.from_numpy(self.first[numbers].astype(np.int64))
            first[first < 0] = self.anchor_size
            most = _most(q)
            strings.append(numbers[most])
            likely = torch.from_numpy(most).to(p.device)
            masses.append(q[likely])
            out.index_add_(0, first.to(p.device), q.index_fill(0, likely, 0.0))
        if strings:
            out = self._share(
                out, np.concatenate(strings), torch.cat(masses), p, reading.spelling
            )
        mine = (unread - total).exp().clamp(max=1.0)
        out = out[:-1].clamp_(min=0.0).addcmul_(p, mine.clamp(min=UNTOLD))
        # Rounding may make it a little less than nothing.
        inside = (1.0 - (complete - total).exp() - mine).clamp(min=0.0)
        return Carried(out / out.sum().clamp(min=1e-30), inside, mine)

    def _as_it_is(self, log_q: Tensor, p: Tensor) -> Carried:
        q, nothing = log_q.exp(), p.new_zeros(())
        if len(q) < len(p):
            q = torch.cat([q, q.new_zeros(len(p) - len(q))])
        elif len(q) > len(p):
            q = q[: len(p)] / q[: len(p)].sum().clamp(min=1e-30)
        return Carried(q, nothing, nothing)

    def weigh(
        self, reading: Reading, log_q: Sequence[Tensor]
    ) -> tuple[
        list[tuple[np.ndarray, Tensor]],
        list[tuple[Tensor, Tensor, bool]],
        Tensor,
        Tensor,
        Tensor,
    ]:
        """What each node says of what comes next, as logarithms of unscaled weights.

        Returns strings of bytes with their weights, where the text ends inside a token;
        weights of whole distributions, where it does not, and of all that these tell;
        the weight of what is not read, and the sum.
        """
        device = log_q[0].device
        weights: list[Tensor] = []
        read: list[set[int]] = [set() for _ in reading.nodes]
        for node in reading.nodes:
            if node.parent < 0:
                weights.append(torch.zeros((), device=device))
            else:
                before = weights[node.parent]
                weights.append(before + log_q[node.parent][node.token])
                read[node.parent].add(node.token)
        cut, whole, complete, sums, missing = [], [], [], [], []
        for i, node in enumerate(reading.nodes):
            if not node.rest:
                row, weight = log_q[i], weights[i]
                if read[i]:
                    # What was read on from is told by what comes behind it.
                    known = torch.tensor(sorted(read[i]), device=device)
                    row = row.index_fill(0, known, -torch.inf)
                    weight = weight + row.logsumexp(0)
                whole.append((weights[i], row, node.ahead))
                complete.append(weight)
                continue
            low, high = self.of_donor.span(node.rest)
            while low < high and len(self.of_donor.words[low]) == len(node.rest):
                low += 1
            if low < high:
                tokens = self.of_donor.ids[low:high]
                tokens = tokens[~np.isin(tokens, list(read[i]))] if read[i] else tokens
                logs = log_q[i][torch.from_numpy(tokens).to(device)] + weights[i]
                at = self.offsets[tokens] + len(node.rest)
                cut.append((self.strings[at], logs))
                sums.append(logs.logsumexp(0))
            if node.last:
                tokens = [u for u in self._within(node.rest) if u not in read[i]]
                if tokens:
                    missing.append(log_q[i][tokens].logsumexp(0) + weights[i])
        none = torch.full((), -torch.inf, device=device)
        unread = none
        if missing:
            unread = torch.stack(missing).logsumexp(0) + float(np.log(UNREAD))
        told = torch.stack(complete).logsumexp(0) if complete else none
        total = torch.stack([*sums, told, unread]).logsumexp(0)
        return cut, whole, told, unread, total

    def _within(self, rest: bytes) -> list[int]:
        """The donor's tokens that some bytes begin with."""
        found: list[int] = []
        for length in range(1, len(rest) + 1):
            low, high = self.of_donor.equal(rest[:length])
            found += self.of_donor.ids[low:high].tolist()
        return found

    def _carry_ends(self, out: Tensor, q: Tensor, p: Tensor) -> None:
        """Donor tokens that write nothing go to what means the same, as it has it."""
        for u, twins in self._ends.items():
            parts = p[twins]
            out[twins] += q[u] * parts / parts.sum().clamp(min=1e-30)

    def _share(
        self,
        out: Tensor,
        numbers: np.ndarray,
        masses: Tensor,
        p: Tensor,
        spelling: tuple[int, ...],
    ) -> Tensor:
        """Give the anchor's longer tokens their part of the likeliest continuations.

        What a threshold decides is blended in above it, so that noise in the last digit
        makes no jump.
        """
        numbers, where = np.unique(numbers, return_inverse=True)
        sums = masses.new_zeros(len(numbers))
        masses = sums.index_add(0, torch.from_numpy(where).to(sums.device), masses)
        order = masses.argsort(descending=True)
        masses, numbers = masses[order], numbers[order.cpu().numpy()]
        blend = _above(masses, LIKELY, UNLIKELY)
        first = self.first[numbers].astype(np.int64)
        heads = np.where(first < 0, self.anchor_size, first)
        left = (masses * (1.0 - blend)).to(p)
        out.index_add_(0, torch.from_numpy(heads).to(out.device), left)
        count = int((blend > 0).sum())
        if not count:
            return out
        blend = blend[:count]
        spelt = _above(masses, SPELT, UNSPELT)[:count]
        mine, masses = numbers[:count], (masses[:count] * blend).to(p)
        first = first[:count]
        # What is spelt has a second entry, with what the text so far makes of it.
        n = int((spelt > 0).sum())
        behind = self._behind(spelling, [self.words[i] for i in mine[:n]])
        there = np.array([first[i] if b is None else b for i, b in enumerate(behind)])
        keep = np.where(there < 0, CONTRARY, 1.0)
        there = np.where(there < 0, first[:n], there).astype(np.int64)
        scale = torch.from_numpy(keep).to(spelt) * spelt[:n]
        amounts = torch.cat([masses * (1.0 - spelt), masses[:n] * scale]).to(p)
        firsts = np.concatenate([first, there])
        strings = np.concatenate([np.arange(count), np.arange(n)])
        owner, at, parts = self._longer(mine)
        tokens = self.of_anchor.ids[at]
        # A token of just these bytes is among those that go on from them.
        written = [self.anchor.table[v] if v >= 0 else b"" for v in firsts]
        words = [self.words[i] for i in mine[strings]]
        own = np.array([a != b for a, b in zip(written, words, strict=True)])
        return self._part(out, firsts, amounts, strings, own, owner, tokens, parts, p)

    def _part(
        self,
        out: Tensor,
        firsts: np.ndarray,
        amounts: Tensor,
        strings: np.ndarray,
        own: np.ndarray,
        owner: np.ndarray,
        tokens: np.ndarray,
        parts: np.ndarray,
        p: Tensor,
    ) -> Tensor:
        """Share amounts of strings out among their first tokens and longer ones."""
        device = out.device
        end = self.anchor_size

        def on(index: np.ndarray) -> Tensor:
            return torch.from_numpy(index.astype(np.int64)).to(device)

        group, members = on(owner), on(tokens)
        likely = p[members] * torch.from_numpy(parts).to(p)
        count = int(strings.max()) + 1
        longer = p.new_zeros(count).index_add_(0, group, likely)
        heads = on(np.where(firsts < 0, end, firsts))
        alone = p[heads.clamp(max=end - 1)] * on(own & (firsts >= 0)).float()
        total = longer[on(strings)] + alone
        # Nothing to share with, or nothing to share by: the first token has it all. Not
        # divided by what is next to nothing: slopes, of its square, would be infinite.
        shared = total > NOTHING
        rest = amounts / torch.where(shared, total, torch.ones_like(total))
        rest = torch.where(shared, rest, torch.zeros_like(rest))
        kept = torch.where(shared, rest * alone, amounts)
        rate = p.new_zeros(count).index_add_(0, on(strings), rest)
        out.index_add_(0, heads, kept)
        return out.index_add_(0, members, rate[group] * likely)

    def _longer(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The strings that the anchor's tokens go on from.

        Returns numbers within ``numbers``, places of tokens, and how much of a token
        belongs there: all to the longest of its strings, little to the others.
        """
        low, high = self.low[numbers], self.high[numbers]
        length = [len(self.words[s]) for s in numbers]
        # Spans lie in each other or apart: the outermost ones come first.
        spans = sorted(
            np.flatnonzero(low < high).tolist(),
            key=lambda i: (low[i], -high[i], length[i]),
        )
        owner = np.full(len(self.of_anchor.ids), -1, dtype=np.int64)
        around: list[int] = []
        found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for i in spans:
            while around and low[i] >= high[around[-1]]:
                around.pop()
            within = np.arange(int(low[i]), int(high[i]))
            for other in around:
                # The donor may cut the longer one in another way than its beginning.
                part = np.full(len(within), OTHERWISE)
                if self._one_space_more(int(numbers[other]), int(numbers[i])):
                    equal = self.of_anchor.equal(self.words[numbers[i]])
                    part[equal[0] - low[i] : equal[1] - low[i]] = 1.0
                found.append((np.full(len(within), other), within, part))
            owner[within] = i
            around.append(i)
        mine = np.flatnonzero(owner >= 0)
        found.append((owner[mine], mine, np.ones(len(mine))))
        owners, at, parts = (np.concatenate(part) for part in zip(*found, strict=True))
        return owners, at, parts

    def _one_space_more(self, shorter: int, longer: int) -> bool:
        """Whether two strings are white space, and one is the other and one more.

        Many tokenizers leave the last of several spaces to the word behind it, which
        the donor has not said yet.
        """
        word = self.words[longer]
        return word.isspace() and word[:-1] == self.words[shorter]

    def _behind(
        self, spelling: tuple[int, ...], words: Sequence[bytes]
    ) -> list[int | None]:
        """The anchor's token behind ``spelling`` if the text goes on with each word.

        -1 where the anchor would have cut the text so far in another way, None where
        that cannot be told.
        """
        found: list[int | None] = [None] * len(words)
        if not spelling:
            return found
        # Bytes that no token has behind the last one change nothing of it.
        last = self.anchor.table[spelling[-1]]
        spans = [self.of_anchor.span(last + word[:1]) for word in words]
        asked = [i for i, (low, high) in enumerate(spans) if low < high]
        told = self.anchor.behind_each(spelling, [words[i] for i in asked])
        for i, token in zip(asked, told, strict=True):
            # A tokenizer may name more tokens than its model has.
            if token is not None and token < self.anchor_size:
                found[i] = token
        return found


def _load(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The numbers of a file, None where there are none of this shape."""
    try:
        with path.open("rb") as file:
            found = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found if found.shape == shape and found.dtype == np.int32 else None


def _most(q: Tensor) -> np.ndarray:
    """Numbers of the largest probabilities that count, one more than are asked for."""
    found = q.detach().cpu().numpy()
    likely = np.flatnonzero(found > UNLIKELY)
    if len(likely) <= LIKELY + 1:
        return likely
    return likely[np.argpartition(-found[likely], LIKELY)[: LIKELY + 1]]


def _above(masses: Tensor, most: int, least: float) -> Tensor:
    """0 for what is not among the ``most`` largest or not above ``least``, up to 1.

    1 from four times that on, and flat at both ends: what is nearly nothing would
    follow noise otherwise. ``masses`` are in descending order.
    """
    # In double precision: what is left of 1 may be little.
    known = masses.detach().double()
    bar = max(least, float(known[most])) if len(known) > most else least
    x = ((known - bar) / (3.0 * bar)).clamp(0.0, 1.0)
    return x.pow(3) * (10.0 - 15.0 * x + 6.0 * x.square())
