"""What braids cost, estimated from the cards of their models: operations and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from braidbandit.catalogue.addresses import Price
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard

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
    "f32": 4.0,
    "fp32": 4.0,
}


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


def memory_of(braids: Sequence[Braid], cards: Mapping[str, ModelCard]) -> Array:
    """Estimate the bytes of weights, shape (A,); 0 where ``parameters`` is None.

    Two bytes a weight unless the card's ``quantisation`` says otherwise. The memory of
    a served model is not ours: 0. Models with adapters share their base, which counts
    once: without a card of the base itself, which tells its size, all but the largest
    of them count as nothing.
    """
    size = {
        name: (card.parameters or 0) * bytes_per_weight(card.quantisation)
        for name, card in cards.items()
    }
    alone = {c.source: size[name] for name, c in cards.items() if c.adapter is None}

    def held(names: Sequence[str]) -> float:
        adapted = [cards[name] for name in names if cards[name].adapter is not None]
        bases = {card.source for card in adapted}
        total = sum(size[name] for name in names if cards[name].source not in bases)
        for base in bases:
            sizes = [size[name] for name in names if cards[name].source == base]
            once = alone.get(base, max(sizes))
            total += once + sum(max(found - once, 0.0) for found in sizes)
        return total

    return np.array([held(braid.strands) for braid in braids])


def bytes_per_weight(quantisation: str | None) -> float:
    """Return the bytes of one weight: two, unless the quantisation says otherwise.

    Examples
    --------
    >>> bytes_per_weight("Q4_K_M"), bytes_per_weight(None)
    (0.58, 2.0)
    """
    name = (quantisation or "").lower()
    name = name[1:] if name.startswith("iq") else name  # iq4_xs takes as much as q4
    return next((size for start, size in _BYTES.items() if name.startswith(start)), 2.0)


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
    deepest = 1.0
    if braid.mid_layers and len(braid.mid_layers) == len(braid.fusion_layers):
        if anchor.layers is not None:
            deepest = (max(braid.mid_layers) + 1) / anchor.layers
    cost = whole[braid.anchor] + sum(deepest * body[name] for name in braid.donors)
    if "output" in braid.fusion_layers:
        cost += sum(head[name] for name in braid.donors)
    return cost
