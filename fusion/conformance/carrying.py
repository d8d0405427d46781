"""Check of carrying: what a donor says next, byte for byte, in the anchor's tokens.

What a donor says of the bytes s that follow, given the first node of its reading and
the bytes r behind it, is begin(s) = P(r + s) / P(r): P sums over all of the donor's
tokens that cover the bytes, each continuation really read. `Futures` has it from the
tables of a `VocabularyMap`, and once more by a plain loop over the vocabulary.

In the anchor's tokens a future is told by its longest match: the anchor writes the
longest of its tokens that the text goes on with, then the longest behind that. The
chances of tokens along such a chain multiply to the part of the futures that begin with
the chain and with no longer token at any place of it, so the product is taken as that
difference of begin's at once: no chance has to be divided by another. What covers s
must sum to begin(s).

What is served, `VocabularyMap.carry`, is not exact; how far it is from begin, given
that the anchor has cut the text so far as it did, is measured. Of several bytes it
tells bounds: tokens that begin with them all, and also those that these bytes begin
with. A gap is the way to the nearer bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..braid.model import BraidedLLM
from ..strands.strand import Strand
from ..tokens.token_bytes import complete_text
from ..tokens.vocabulary import UNTOLD, Carried, Reading, VocabularyMap
from .futures import MOST, Chains, Futures, maps_of, said_by, shortest
from .tools import ATOL, TEXTS, batch_of, expect, ids_of, reported

END = 256  # behind all bytes
SAMPLED = 8  # strings of a position whose entries in the tables are looked at


@dataclass(frozen=True)
class Carrying:
    """What `check_carrying` measured.

    Attributes
    ----------
    positions : int
        Looked at, of all texts and donors.
    mean_gap, largest_gap : float
        How far the probability of the bytes that follow is from the exact one.
    unread : float
        The mean part that no reading tells.
    """

    positions: int
    mean_gap: float
    largest_gap: float
    unread: float

    def __str__(self) -> str:
        return (
            f"{self.positions} positions, the bytes that follow are "
            f"{self.mean_gap:.2g} from exact on average, {self.largest_gap:.2g} at "
            f"most; {self.unread:.2g} unread"
        )


class _Place(NamedTuple):
    """A position of a text, beside one donor."""

    what: str  # for messages
    before: bytes
    after: bytes
    rows: list[tuple[int, ...]]  # the donor's tokens, for each way to read the text
    reading: Reading
    log_q: list[Tensor]
    p: Tensor  # the anchor's own distribution


@dataclass
class _Measured:
    gaps: list[float] = field(default_factory=list)
    unread: list[float] = field(default_factory=list)


@reported
@torch.no_grad()
def check_carrying(
    model: BraidedLLM,
    texts: Sequence[str] = TEXTS,
    atol: float = ATOL,
    positions: int = 2,
    strings: int = 3,
) -> Carrying:
    """What donors say next is told in the anchor's tokens as they say it.

    At some positions of each text: that each reading is of the text so far and begins
    early enough; that chains of the anchor's tokens, by the tables, tell the donor's
    bytes as a plain loop does; that what the reading tells of the next byte and of the
    end of the text arrives; that what is served is a distribution. A braid without an
    output mixture carries nothing.

    Parameters
    ----------
    model : BraidedLLM
    texts : sequence of str
    atol : float
        Largest difference that rounding may make.
    positions : int
        Of each text, evenly spread. With them come one inside a character and one
        behind white space, where there are such.
    strings : int
        For each position, of 1 to 4 bytes, beside those that really follow.

    Returns
    -------
    Carrying
        How far what is served is from what is exact; that is no defect.
    """
    measured = _Measured()
    for text in texts if model.mixer is not None else ():
        ids = ids_of(model, text)
        for number in range(len(model.donors)):
            for place in _places(model, number, text, ids, positions):
                _check_place(model, number, place, atol, strings, measured)
    gaps = np.array(measured.gaps or [0.0])
    unread = float(np.mean(measured.unread or [0.0]))
    count = len(measured.unread)
    return Carrying(count, float(gaps.mean()), float(gaps.max()), unread)


def _places(
    model: BraidedLLM, number: int, text: str, ids: list[int], count: int
) -> Iterator[_Place]:
    anchor, donor = model.anchor, model.donors[number]
    data, ends = anchor.tokens.text(ids), anchor.tokens.ends(ids).tolist()
    states = model.encode(batch_of(model, [ids]))
    rows, ways, _ = donor.tokens.of_growing_anchor(anchor.tokens, ids, len(ids))
    for t in _sampled(data, ends, count):
        reading = states.donors[number][0, t]
        if reading is None:
            continue
        yield _Place(
            f"carrying, donor {donor.name}, {text!r} up to position {t}",
            data[: ends[t]],
            data[ends[t] :],
            list(dict.fromkeys(tuple(rows[way.row]) for way in ways[t])),
            reading,
            said_by(model, number, [reading])[0],
            anchor.logits(states.hidden[0, t]).float().softmax(-1),
        )


def _sampled(data: bytes, ends: Sequence[int], count: int) -> list[int]:
    """Positions to look at, by where the text ends at each."""
    n = len(ends)
    chosen = {i * (n - 1) // max(count - 1, 1) for i in range(count)}
    texts = [data[:end] for end in ends]
    for kind in (
        (t for t, b in enumerate(texts) if len(complete_text(b).encode()) < len(b)),
        (t for t, b in enumerate(texts) if b[-1:].isspace()),
    ):
        chosen.update(list(kind)[-1:])
    return sorted(chosen)


def _check_place(
    model: BraidedLLM,
    number: int,
    place: _Place,
    atol: float,
    strings: int,
    measured: _Measured,
) -> None:
    """All of one position."""
    carrier = maps_of(model)[number]
    carried = carrier.carry(place.reading, place.log_q, place.p)
    _check_distribution(place, carried)
    measured.unread.append(float(carried.unread))
    if carrier.same:
        q, got = place.log_q[-1].exp(), carried.p
        n = min(len(q), len(got))
        gap = float((q[:n] / q[:n].sum() - got[:n]).abs().max())
        expect(gap <= atol, f"{place.what}: one vocabulary, but {gap:.3g} was moved")
        return
    donor = model.donors[number]
    bases = _check_reading(donor, place, atol)
    _check_start(donor, bases[0], place)
    _check_tables(carrier, place)
    _check_told(model.anchor, donor, place, carrier, atol)
    root = place.reading.nodes[0]
    futures = Futures(model, number, bases[0], root.rest, root.ahead)
    chosen = _strings(carrier, place, strings)
    _check_chains(carrier, futures, chosen, place, atol)
    real = [place.after[:n] for n in range(1, min(3, len(place.after)) + 1)]
    spaces = _spaces(carrier, place.reading)
    exact = _given_the_cut(carrier, futures, place.reading.spelling, real, spaces)
    for string, wanted in exact.items():
        low, high = _bounds(carrier, carried.p, string)
        measured.gaps.append(max(low - wanted, wanted - high, 0.0))


def _check_distribution(place: _Place, carried: Carried) -> None:
    p, total = carried.p, float(carried.p.sum())
    expect(bool(torch.isfinite(p).all()), f"{place.what}: not all numbers are finite")
    expect(float(p.min()) >= 0, f"{place.what}: a probability is {float(p.min()):.3g}")
    expect(
        abs(total - 1) <= 1e-3,
        f"{place.what}: the probabilities sum to {total:.6g}, expected 1",
    )


def _check_reading(donor: Strand, place: _Place, atol: float) -> list[tuple[int, ...]]:
    """Each node is the donor's own state behind tokens that lead to the text.

    Returns the tokens up to each node.
    """
    space = b" " if donor.tokens.prepends_space else b""
    text = space + place.before
    bases: list[tuple[int, ...]] = []
    for i, node in enumerate(place.reading.nodes):
        if node.parent < 0:
            bases.append(_first_base(donor, place, text))
        else:
            bases.append((*bases[node.parent], node.token))
        written = donor.tokens.join(bases[i]) + node.rest
        wanted = text + b" " * node.ahead
        expect(
            written == wanted and node.token == bases[i][-1],
            f"{place.what}: node {i} of the reading is behind {written!r}, with "
            f"{node.rest!r} as its rest; the text so far is {wanted!r}",
        )
    known: dict[tuple[int, ...], Tensor] = {}
    for i, node in sorted(
        enumerate(place.reading.nodes), key=lambda n: -len(bases[n[0]])
    ):
        if bases[i] not in known:
            found = donor.run(torch.tensor([bases[i]]), taps=["final"])["final"][0]
            known.update((bases[i][: n + 1], state) for n, state in enumerate(found))
        alone = known[bases[i]]
        scale = float(alone.abs().max().clamp(min=1.0))
        gap = float((alone - node.state).abs().max())
        expect(
            gap <= atol * scale,
            f"{place.what}: the state of node {i} is {gap:.3g} from that of the "
            f"donor behind {donor.tokens.join(bases[i])!r}",
        )
    return bases


def _first_base(donor: Strand, place: _Place, text: bytes) -> tuple[int, ...]:
    """The donor's tokens up to the first node."""
    root = place.reading.nodes[0]
    wanted = text + b" " * root.ahead
    for row in place.rows:
        for n in range(len(row), 0, -1):
            written = donor.tokens.join(row[:n]) + root.rest
            if row[n - 1] == root.token and written == wanted:
                return row[:n]
    read = [[donor.tokens.table[token] for token in row] for row in place.rows]
    word = donor.tokens.table[root.token]
    raise AssertionError(
        f"{place.what}: the reading begins behind {word!r} with {root.rest!r} as its "
        f"rest, but no such place is in what the donor reads, {read}"
    )


def _check_start(donor: Strand, base: tuple[int, ...], place: _Place) -> None:
    """No token of the donor may stand for the text from an earlier place on."""
    table, root = donor.tokens.table, place.reading.nodes[0]
    longest = max(map(len, table))
    for n in range(len(base) - 1, 0, -1):
        word = table[base[n]]
        rest = donor.tokens.join(base[n:]) + root.rest
        rest = rest[:-1] if root.ahead else rest
        if not word or len(rest) >= longest:
            return  # what begins a text or a turn is read as it is
        longer = next((w for w in table if w.startswith(rest) and w != rest), None)
        expect(
            not rest or longer is None,
            f"{place.what}: the reading begins too late; behind token {n - 1} of the "
            f"donor is {rest!r}, which its token {longer!r} begins with",
        )


def _check_told(
    anchor: Strand, donor: Strand, place: _Place, carrier: VocabularyMap, atol: float
) -> None:
    """What the nodes say of the next byte, and of the text's end, arrives.

    Before anything is left out that would have made the anchor cut the text otherwise:
    up to there, no mass moves to a token that begins with another byte.
    """
    ends = sorted(anchor.ends)
    names = {name for name, token in anchor.tokens.specials.items() if token in ends}
    theirs = {token for name, token in donor.tokens.specials.items() if name in names}
    theirs = {u for u in theirs | donor.ends if u < donor.vocab_size}
    seen, told = _by_nodes(donor, place, theirs if ends else set())
    *_, unread, total = carrier.weigh(place.reading, place.log_q)
    weighed = float(total.double().exp() - unread.double().exp())
    expect(
        abs(weighed - seen) <= atol * max(seen, 1e-9),
        f"{place.what}: of what the donor says the nodes have {seen:.6g} given the "
        f"first one, weighed as {weighed:.6g}",
    )
    if not seen:
        return  # the anchor's own is all there is
    carried = carrier.carry(Reading(place.reading.nodes), place.log_q, place.p)
    mine = max(float(carried.unread), UNTOLD)
    own = _by_byte(anchor, place.p, ends)
    wanted = told / seen * (1.0 - float(carried.unread)) + own * mine
    got = _by_byte(anchor, carried.p, ends)
    # Tokens that neither write nor end anything are lost.
    gaps = np.abs(got * (wanted[:-1].sum() / got[:-1].sum()) - wanted)
    at = int(gaps.argmax())
    what = "end of text" if at == END else f"byte {bytes([at])!r}"
    expect(
        bool(gaps[at] <= atol),
        f"{place.what}: the donor's {what} has {wanted[at]:.4g} as the next, of which "
        f"{got[at]:.4g} arrives at the anchor's",
    )


def _by_byte(strand: Strand, p: Tensor, ends: Sequence[int]) -> np.ndarray:
    """How likely each byte is the next one, and, last, an end of text: (257,)."""
    found, known = np.zeros(END + 1), p.double().tolist()
    for word, likely in zip(strand.tokens.table, known, strict=False):
        if word:
            found[word[0]] += likely
    found[END] = sum(known[token] for token in ends)
    return found


def _by_nodes(donor: Strand, place: _Place, ends: set[int]) -> tuple[float, np.ndarray]:
    """What a reading tells in all, and of each byte and the end of text, (257,).

    By plain loops, given the first node.
    """
    table = donor.tokens.table[: donor.vocab_size]
    nodes, said = place.reading.nodes, [q.double().exp() for q in place.log_q]
    weights: list[float] = []
    told, seen = np.zeros(END + 1), 0.0
    for i, node in enumerate(nodes):
        before = node.parent
        step = 1.0 if before < 0 else weights[before] * float(said[before][node.token])
        weights.append(step)
        read = {other.token for other in nodes if other.parent == i}
        q = (step * said[i]).tolist()
        if not node.rest:
            seen += step - sum(q[u] for u in read)
            told[END] += 0.0 if node.ahead else sum(q[u] for u in ends)
        for u, word in enumerate(table):
            longer = word.startswith(node.rest) and len(word) > len(node.rest)
            if longer and u not in read:
                next_byte = 0x20 if node.ahead else word[len(node.rest)]
                told[next_byte] += q[u]
                seen += q[u] if node.rest else 0.0
    return seen, told


def _check_tables(carrier: VocabularyMap, place: _Place) -> None:
    """The entries of what may follow: the string, its first token and its span."""
    tokens, anchor = carrier.of_donor, carrier.anchor.table[: carrier.anchor_size]
    for node in place.reading.nodes:
        low, high = tokens.span(node.rest)
        picked = np.linspace(low, max(high - 1, low), SAMPLED).astype(int).tolist()
        for at in dict.fromkeys(picked) if low < high else ():
            token = int(tokens.ids[at])
            word = carrier.table[token][len(node.rest) :]
            if not word:
                continue
            number = carrier.strings[carrier.offsets[token] + len(node.rest)]
            known = carrier.words[number]
            expect(
                known == word,
                f"{place.what}: token {carrier.table[token]!r} goes on with {word!r}, "
                f"the table has {known!r}",
            )
            span = carrier.of_anchor.ids[carrier.low[number] : carrier.high[number]]
            wanted = [v for v, w in enumerate(anchor) if w.startswith(word)]
            expect(
                sorted(span.tolist()) == wanted,
                f"{place.what}: of the anchor's tokens {len(wanted)} begin with "
                f"{word!r}, the table has {len(span)}, or others",
            )
            first = carrier.first[number]
            expect(
                bool(first < 0 or (anchor[first] and word.startswith(anchor[first]))),
                f"{place.what}: {word!r} does not begin with its first token, "
                f"{anchor[first]!r}",
            )


def _strings(carrier: VocabularyMap, place: _Place, count: int) -> list[bytes]:
    """Strings of 1 to 4 bytes: what follows really, what the donor has, and any."""
    seed = len(place.before) * 1000 + len(place.after)
    random = np.random.default_rng(seed)
    found = [place.after[:n] for n in (1, 2, 4) if len(place.after) >= n]
    root = place.reading.nodes[0]
    low, high = carrier.of_donor.span(root.rest)
    words = carrier.of_donor.words
    for i in range(count):
        size = int(random.integers(1, 5))
        if i == 0:
            found.append(random.bytes(size))
        elif root.rest and i % 2 and low < high:
            word = words[int(random.integers(low, high))]
            found.append(word[len(root.rest) :][:size])
        else:
            found.append(words[int(random.integers(len(words)))][:size])
    return [s for s in dict.fromkeys(found) if s]


def _check_chains(
    carrier: VocabularyMap,
    futures: Futures,
    strings: Sequence[bytes],
    place: _Place,
    atol: float,
) -> None:
    """The anchor's tokens, one after the other, tell what the donor's tell."""
    chains = Chains(carrier.of_anchor)
    covers = {s: chains.cover(s) for s in strings}
    needed = {
        text
        for found in covers.values()
        for written, others in found or ()
        for text in (written, *others)
    }
    begin = futures.begins(needed)
    for string, found in covers.items():
        if found is None:
            continue
        got = sum(
            begin[written] - sum(begin[other] for other in others)
            for written, others in found
        )
        wanted = futures.by_hand(string)
        # Said the other way round, since no number is larger than one that is none.
        expect(
            abs(got - wanted) <= atol,
            f"{place.what}: that the text goes on with {string!r} has {wanted:.6g} by "
            f"the donor's tokens and {got:.6g} by the anchor's",
        )


def _spaces(carrier: VocabularyMap, reading: Reading) -> set[bytes]:
    """White space that a token of the donor may add to the text at once."""
    found: set[bytes] = set()
    for node in reading.nodes:
        low, high = carrier.longer(node.rest)
        words = carrier.of_donor.words[low:high] if not node.ahead else []
        found |= {word[len(node.rest) :] for word in words}
    return {added for added in found if added.isspace()}


def _given_the_cut(
    carrier: VocabularyMap,
    futures: Futures,
    spelling: tuple[int, ...],
    strings: Sequence[bytes],
    spaces: Iterable[bytes] = (),
) -> dict[bytes, float]:
    """How likely a text goes on with strings, given how the anchor has cut it so far.

    What makes the anchor cut it otherwise is looked for among what its own longer
    tokens add, and ``spaces``: white space is cut anew where no token is that long.
    Without strings of which that is not known.
    """
    anchor, tokens = carrier.anchor, carrier.of_anchor
    longer: set[bytes] = set()
    for n in range(len(spelling)):
        word = anchor.join(spelling[n:])
        low, high = tokens.span(word)
        longer |= {w[len(word) :] for w in tokens.words[low:high]} - {b""}
    if len(longer) > MOST:
        return {}
    cut = {x for x in longer if anchor.behind(spelling, x) == -1}
    anew = sorted(spaces) if spelling else []
    told = anchor.behind_each(spelling, anew)
    cut |= {x for x, token in zip(anew, told, strict=True) if token == -1}
    contrary = shortest(cut)
    begin = futures.begins({*strings, *contrary})
    left = 1.0 - sum(begin[x] for x in contrary)
    found = {}
    for string in strings:
        out = sum(begin[x] for x in contrary if x.startswith(string))
        # What has come true after all contradicts nothing: more followed.
        if not any(string.startswith(x) for x in contrary) and left > 1e-9:
            found[string] = (begin[string] - out) / left
    return found


def _bounds(carrier: VocabularyMap, p: Tensor, string: bytes) -> tuple[float, float]:
    """How likely a text goes on with some bytes, at least and at most."""
    anchor = carrier.anchor.table[: carrier.anchor_size]
    whole = [v for v, word in enumerate(anchor) if word.startswith(string)]
    part = [
        v for v, w in enumerate(anchor) if w and w != string and string.startswith(w)
    ]
    low = float(p[whole].sum())
    return low, low + float(p[part].sum())
