"""What braids cost, by the cards of their models: operations, seconds and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from braidbandit.catalogue.addresses import Price
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard
from braidbandit.catalogue.profile import Profile

Array = NDArray[np.float64]

OPERATIONS_PER_MONEY = 1e17
"""What money buys, to put served and local models on one scale of cost.

A hosted model of 8 billion weights (1.6e10 operations per token) costs about 0.15 per
million tokens, in dollars or euros.
"""

_FREE = 0.1  # of the cheapest model that is not free

# Bytes per weight by the start of the quantisation's name, block scales included.
_BYTES = {
    "q2": 0.36,
    "q3": 0.46,
    "q4": 0.58,
    "q5": 0.70,
    "q6": 0.82,
    "q8": 1.07,
    "int4": 0.5,
    "int8": 1.0,
    "fp8": 1.0,
    "f16": 2.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "float16": 2.0,
    "bfloat16": 2.0,
}
_FLOAT32 = 4.0
# Measured twice, a model takes as much to this part; in llama.cpp at most half.
_SAME = 0.25
# Bytes for each token of a donor, told in another vocabulary; counted on two models.
_MAPPED = 400.0


def costs_per_token(braids: Sequence[Braid], cards: Mapping[str, ModelCard]) -> Array:
    """Estimate the operations per token written, shape (A,).

    Two for each weight that is read: those of the whole anchor, and of each donor those
    of its body (``parameters - vocab_size * width``) down to the deepest layer that is
    tapped, and of its head only where outputs are mixed. If the ``parameters`` of any
    local model are unknown, every model counts as one unit and there is no head.

    A served model counts as the operations that its price would buy, at
    ``OPERATIONS_PER_MONEY``, with one token read for each that is written; a free one
    as a tenth of the cheapest other model of the pool, as logarithms are taken.

    Parameters
    ----------
    braids : sequence of Braid, length A
    cards : mapping from name to ModelCard
        Of all models of the pool, also those that no braid uses.

    Examples
    --------
    >>> cards = {"a": ModelCard("a", parameters=50), "b": ModelCard("b", parameters=10)}
    >>> pair = Braid("a", ("b",), (0.5, 0.5), ("output",), "router")
    >>> costs_per_token([Braid("a"), Braid("b"), pair], cards).tolist()
    [100.0, 20.0, 120.0]
    """
    known = all(card.is_sized for card in cards.values())
    whole, head = dict.fromkeys(cards, 1.0), dict.fromkeys(cards, 0.0)
    if known:
        whole = {name: _operations(card) for name, card in cards.items()}
        least = min((cost for cost in whole.values() if cost > 0), default=1.0)
        whole = {name: cost or _FREE * least for name, cost in whole.items()}
        head = {
            name: 2.0 * float((c.vocab_size or 0) * (c.width or 0))
            for name, c in cards.items()
        }
    body = {name: max(whole[name] - head[name], 0.0) for name in cards}
    return np.array(
        [_cost(braid, cards[braid.anchor], whole, body, head) for braid in braids]
    )


def are_measured(cards: Iterable[ModelCard]) -> bool:
    """Whether costs are seconds: every model that is loaded here has a profile.

    Beside served ones their ``parameters`` are needed too, to tell how many operations
    a second of this machine is.
    """
    cards = list(cards)
    local = [card for card in cards if not card.is_served]
    sized = len(local) == len(cards) or all(c.parameters is not None for c in local)
    return bool(local) and sized and all(c.profile is not None for c in local)


def seconds_per_token(braids: Sequence[Braid], cards: Mapping[str, ModelCard]) -> Array:
    """Predict the seconds per token written from the profiles of models, shape (A,).

    Body and head of the anchor; of each donor its body down to the deepest layer that
    is tapped, and where outputs are mixed its head; the fixed cost of fusing for every
    strand of a braid that fuses, and that of mixing for every strand whose distribution
    is mixed. A donor is taken to read one of its tokens for each of the anchor's.

    A served model counts as the time in which this machine would do the operations that
    its price would buy (``OPERATIONS_PER_MONEY``).

    Parameters
    ----------
    braids : sequence of Braid, length A
    cards : mapping from name to ModelCard
        Of all models of the pool; see :func:`are_measured`.

    Raises
    ------
    ValueError
        When a braid is fused at decoder layers of a model of which only another strand
        was measured.
    """
    operations = costs_per_token(braids, cards)
    rate = _operations_per_second(cards)
    return np.array(
        [
            found / rate
            if cards[braid.anchor].is_served
            else _seconds(braid, cards, deepest_tap(braid, cards[braid.anchor]))
            for braid, found in zip(braids, operations, strict=True)
        ]
    )


def _operations_per_second(cards: Mapping[str, ModelCard]) -> float:
    """How many operations of its models this machine does in a second; 1 if unknown."""
    sized = [c for c in cards.values() if c.parameters is not None]
    seconds = sum(1.0 / _profile(card, False).tokens_per_s for card in sized)
    return sum(map(_operations, sized)) / seconds if sized else 1.0


def _profile(card: ModelCard, layered: bool) -> Profile:
    found = Profile.read(card.profile)
    return found.at_layers() if layered else found


def _seconds(braid: Braid, cards: Mapping[str, ModelCard], deepest: float) -> float:
    layered = bool(braid.mid_layers)
    anchor, *donors = (_profile(cards[name], layered) for name in braid.strands)
    total = anchor.body_seconds + anchor.head_seconds
    total += sum(deepest * donor.body_seconds for donor in donors)
    if braid.fusion_layers:
        total += anchor.fusing_seconds * len(braid.strands)
    if "output" in braid.fusion_layers:
        total += sum(donor.head_seconds for donor in donors)
        total += sum(strand.mixing_seconds for strand in (anchor, *donors))
    return total


def memory_of(braids: Sequence[Braid], cards: Mapping[str, ModelCard]) -> Array:
    """Estimate the bytes that arms take in memory, shape (A,).

    Each strand once, what is trained beside them, in float32, and where outputs are
    mixed the map from a donor's tokens to those of an anchor with another number of
    them. The bytes of a strand are what was measured (``profile``), else what its card
    says (``memory``), else four a weight, as float32 has, unless the card's
    ``quantisation`` says otherwise; 0 where ``parameters`` is None too. The memory of a
    served model is not ours: 0.

    Models with adapters share their base, which counts once: without a card of the base
    itself, which tells its size, all but the largest of them count as nothing.

    Parameters
    ----------
    braids : sequence of Braid, length A
    cards : mapping from name to ModelCard
        Of all models of the pool, also those that no braid uses.
    """
    bases = {str(c.source): c for c in cards.values() if c.adapter is None}
    return np.array(
        [
            _held(
                [cards[name] for name in braid.strands], bases, bool(braid.mid_layers)
            )
            + _trained(braid, cards)
            + _maps(braid, cards)
            for braid in braids
        ]
    )


def _bytes(card: ModelCard, layered: bool) -> float:
    """What a strand takes; ``layered`` where decoder layers are read and edited."""
    if card.profile is not None:
        return float(_profile(card, layered).memory)
    weights = float(card.parameters or 0)
    if layered and _is_gguf(card.quantisation):
        return _FLOAT32 * weights  # llama.cpp does not show them: it is expanded
    if card.memory is not None:
        return float(card.memory)
    return weights * bytes_per_weight(card.quantisation)


def _held(
    strands: Sequence[ModelCard],
    bases: Mapping[str, ModelCard],
    layered: bool,
) -> float:
    """Bytes of the strands of one braid; bases of adapters count once."""
    adapted = {card.source for card in strands if card.adapter is not None}
    total = sum(_bytes(c, layered) for c in strands if c.source not in adapted)
    for source in adapted:
        mine = [card for card in strands if card.source == source]
        most = max(
            (c for c in mine if c.adapter is not None), key=lambda c: c.parameters or 0
        )
        one = _bytes(most, layered) / (most.parameters or 1)  # bytes of a weight
        base = bases.get(str(source), most).parameters or most.parameters or 1
        total += one * base
        for card in mine:
            if card.adapter is not None:
                total += one * max((card.parameters or 0) - base, 0)
            elif not np.isclose(_bytes(card, layered), one * base, rtol=_SAME):
                total += _bytes(card, layered)  # llama.cpp runs it from its file
    return total


def _maps(braid: Braid, cards: Mapping[str, ModelCard]) -> float:
    """Bytes of maps between vocabularies."""
    if "output" not in braid.fusion_layers:
        return 0.0
    own = cards[braid.anchor].vocab_size
    sizes = (cards[name].vocab_size for name in braid.donors)
    return _MAPPED * sum(size for size in sizes if size and own and size != own)


def _trained(braid: Braid, cards: Mapping[str, ModelCard]) -> float:
    """Bytes of fusers, in float32; 0 where a width is not known."""
    width = cards[braid.anchor].width
    widths = [cards[name].width for name in braid.donors]
    if width is None or None in widths:
        return 0.0
    donors = [float(found or 0) for found in widths]
    weights = 0.0
    for layer in braid.fusion_layers:
        if layer == "output":
            gate = 2 + 5 * len(donors)
            gated = braid.strategy != "learned_weighted"
            weights += gated * (gate + 1) * (len(donors) + 1)
            weights += sum(
                _fuser(donor, [width], True, _ADAPTERS[str(braid.strategy)])
                for donor in donors
            )
        else:
            weights += _fuser(width, donors, layer == "final", str(braid.strategy))
    return _FLOAT32 * weights


# What fuses a donor's final state with the anchor's beside it where outputs are mixed.
_ADAPTERS = {
    "learned_weighted": "learned_weighted",
    "router": "router",
    "attention": "learned_weighted",
}
_ATTENDING = 256  # four heads of rank 64
_LAGS = 64  # of all heads


def _fuser(width: float, sources: Sequence[float], add: bool, strategy: str) -> float:
    """How many weights a fuser has, as `fusion` builds it."""
    total = 0.0
    if strategy == "attention":
        total += width * _ATTENDING
        total += sum((2 * source + width) * _ATTENDING + _LAGS for source in sources)
        if not add:
            return total
    total += sum((source + 1) * width + width for source in sources)
    total += (width + 1) * width if add else 0.0
    if strategy == "router":
        total += sum(width + source + 1 for source in sources)
    return total


def _is_gguf(quantisation: str | None) -> bool:
    name = (quantisation or "").lower()
    return name == "gguf" or name.startswith(("q", "iq"))


def bytes_per_weight(quantisation: str | None) -> float:
    """Return the bytes of one weight: four, unless the quantisation says otherwise.

    Examples
    --------
    >>> bytes_per_weight("Q4_K_M"), bytes_per_weight("bf16"), bytes_per_weight(None)
    (0.58, 2.0, 4.0)
    """
    name = (quantisation or "").lower()
    name = name[1:] if name.startswith("iq") else name  # iq4_xs takes as much as q4
    found = (size for start, size in _BYTES.items() if name.startswith(start))
    return next(found, _FLOAT32)


def relative(values: Array) -> Array:
    """Put values on the scale from 0 (smallest) to 1 (largest); all 0 if all are equal.

    Examples
    --------
    >>> relative(np.array([2.0, 4.0, 3.0])).tolist()
    [0.0, 1.0, 0.5]
    """
    span = float(np.ptp(values))
    return (values - values.min()) / span if span > 0 else np.zeros(len(values))


def _operations(card: ModelCard) -> float:
    if isinstance(card.price, Price):
        return OPERATIONS_PER_MONEY * card.price.per_token
    return 2.0 * float(card.parameters or 0)


def _cost(
    braid: Braid,
    anchor: ModelCard,
    whole: Mapping[str, float],
    body: Mapping[str, float],
    head: Mapping[str, float],
) -> float:
    deepest = deepest_tap(braid, anchor)
    cost = whole[braid.anchor] + sum(deepest * body[name] for name in braid.donors)
    if "output" in braid.fusion_layers:
        cost += sum(head[name] for name in braid.donors)
    return cost


def deepest_tap(braid: Braid, anchor: ModelCard) -> float:
    """Return the part of a donor's layers that runs, down to the deepest tap."""
    if not braid.mid_layers or len(braid.mid_layers) < len(braid.fusion_layers):
        return 1.0
    return 1.0 if anchor.layers is None else (max(braid.mid_layers) + 1) / anchor.layers
