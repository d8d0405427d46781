"""Which braids make sense for an anchor and its donors, and what each costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, permutations

import numpy as np

from braidbandit.catalogue.braid import Braid, ModelCard

# Bytes per weight by the start of the quantisation's name, block scales included.
_BYTES = {"q2": 0.36, "q3": 0.46, "q4": 0.58, "q5": 0.70, "q6": 0.82, "q8": 1.07}
_BYTES |= {"int4": 0.5, "int8": 1.0, "fp8": 1.0, "f32": 4.0, "fp32": 4.0}


def braids_of_pool(
    cards: Sequence[ModelCard],
    max_strands: int,
    shares: Sequence[tuple[float, ...]],
    layer_sets: Sequence[str],
    strategies: Sequence[str],
) -> list[Braid]:
    """Every sensible braid of a pool; see :meth:`braidbandit.Catalogue.build`."""
    braids: dict[str, Braid] = {}
    for card in cards:
        for single in (
            Braid(card.name),
            Braid(card.name, fusion_layers=("final",), strategy="learned_weighted"),
        ):
            braids[single.id] = single
    for size in range(2, min(max_strands, len(cards)) + 1):
        vectors = [tuple(vector) for vector in shares if len(vector) == size]
        if not vectors:
            raise ValueError(
                f"no share vector of length {size} for braids of {size} strands; "
                "add one to shares or lower max_strands"
            )
        for group in combinations(cards, size):
            for anchor in group:
                donors = tuple(c.name for c in group if c is not anchor)
                for braid in braids_of(anchor, donors, vectors, layer_sets, strategies):
                    braids[braid.id] = braid
    return list(braids.values())


def braids_of(
    anchor: ModelCard,
    donors: tuple[str, ...],
    vectors: Sequence[tuple[float, ...]],
    layer_sets: Sequence[str],
    strategies: Sequence[str],
) -> Iterator[Braid]:
    """Every sensible braid of an anchor with a set of donors."""
    for layer_set in layer_sets:
        layers = _layers_of(layer_set, anchor)
        if layers is None:
            continue
        for strategy in strategies:
            if layer_set == "output" and strategy == "attention":
                continue
            mixes = "output" in layers and strategy == "learned_weighted"
            for vector in vectors if mixes else vectors[:1]:
                seen: set[frozenset[tuple[str, float]]] = set()
                for order in permutations(donors):
                    # Donors of equal share give the same braid in either order.
                    key = frozenset(zip(order, vector[1:], strict=True))
                    if key not in seen:
                        seen.add(key)
                        yield Braid(anchor.name, order, vector, layers, strategy)


def _layers_of(layer_set: str, anchor: ModelCard) -> tuple[int | str, ...] | None:
    """Fusion layers of a named set for an anchor; None if it has too few layers."""
    if layer_set not in ("sparse", "dense"):
        return tuple(layer_set.split("+"))
    if anchor.layers is None:
        raise ValueError(
            f"layer set {layer_set!r} needs the number of layers of {anchor.name!r}; "
            "give ModelCard(layers=...), or leave 'sparse' and 'dense' out of "
            "layer_sets"
        )
    depth = anchor.layers
    if layer_set == "sparse":
        wanted = [round(depth * part) - 1 for part in (0.7, 0.83, 0.97)]
    else:
        wanted = [round(at) for at in np.linspace(depth / 3, depth - 2, 9)]
    distinct = sorted({layer for layer in wanted if layer >= 0})
    return tuple(distinct) if len(distinct) == len(wanted) else None


def cost_per_token(braid: Braid, cards: Mapping[str, ModelCard], known: bool) -> float:
    """Cost of one braid; see :meth:`braidbandit.catalogue.Catalogue.costs`."""
    if not known:
        whole, body, head = dict.fromkeys(cards, 1.0), dict.fromkeys(cards, 1.0), {}
    else:
        whole = {name: 2.0 * float(c.parameters or 0) for name, c in cards.items()}
        head = {
            name: 2.0 * float((c.vocab_size or 0) * (c.width or 0))
            for name, c in cards.items()
        }
        body = {name: max(whole[name] - head[name], 0.0) for name in cards}
    deepest = 1.0
    if braid.layer_set in ("sparse", "dense", "custom") and braid.mid_layers:
        layers = cards[braid.anchor].layers
        if layers is not None and not set(braid.fusion_layers) & {"final", "output"}:
            deepest = (max(braid.mid_layers) + 1) / layers
    cost = whole[braid.anchor] + sum(deepest * body[name] for name in braid.donors)
    if "output" in braid.fusion_layers:
        cost += sum(head.get(name, 0.0) for name in braid.donors)
    return cost


def bytes_per_weight(quantisation: str | None) -> float:
    """Bytes of one weight, two unless the quantisation's name says otherwise.

    Examples
    --------
    >>> bytes_per_weight("Q4_K_M"), bytes_per_weight(None)
    (0.58, 2.0)
    """
    name = (quantisation or "").lower().lstrip("i")
    return next((size for start, size in _BYTES.items() if name.startswith(start)), 2.0)
