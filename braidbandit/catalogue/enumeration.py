"""Which braids make sense over a pool of models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np

from braidbandit.catalogue.braid import STRATEGIES, Braid
from braidbandit.catalogue.cards import ModelCard
from braidbandit.catalogue.layer_sets import LAYER_SETS, USUAL_LAYER_SETS, layers_of

SHARES = (
    (0.75, 0.25),
    (0.5, 0.5),
    (0.9, 0.1),
    (0.5, 0.25, 0.25),
    (0.5, 0.4, 0.1),
)
"""Share vectors that are tried, the anchor's first."""


def braids_of_pool(
    cards: Sequence[ModelCard],
    max_strands: int = 3,
    shares: Sequence[Sequence[float]] | None = None,
    layer_sets: Sequence[str] | None = None,
    strategies: Sequence[str] | None = None,
) -> list[Braid]:
    """Return every sensible braid of a pool; see :meth:`braidbandit.Catalogue.build`.

    Examples
    --------
    >>> cards = [ModelCard("a"), ModelCard("b")]
    >>> [braid.label() for braid in braids_of_pool(cards, 1)][:2]
    ['a alone', 'a fed its own states, learned_weighted after the final norm']
    """
    if max_strands < 1:
        raise ValueError(f"max_strands must be at least 1, received {max_strands}")
    places = USUAL_LAYER_SETS if layer_sets is None else layer_sets
    mixes = STRATEGIES if strategies is None else strategies
    of_shares = SHARES if shares is None else shares
    _check_known("layer set", places, LAYER_SETS)
    _check_known("strategy", mixes, STRATEGIES)
    local = [card for card in cards if not card.is_served]
    given = {"shares": shares, "layer_sets": layer_sets, "strategies": strategies}
    unused = [name for name, value in given.items() if value is not None]
    if max_strands == 1 and unused:
        raise ValueError(f"braids of one strand (max_strands=1) follow no {unused}")
    if not local and unused:
        raise ValueError(f"every model is served, and alone: no braid follows {unused}")
    if strategies is not None and "attention" in mixes and set(places) == {"output"}:
        raise ValueError(
            "strategy 'attention' has nothing to attend to at the output, the only "
            "layer set; leave it out, or add 'final'"
        )
    if shares is not None:
        _check_shares(shares, max_strands, places, mixes)
    braids: dict[str, Braid] = {}
    for card in cards:
        alone = Braid(card.name)
        braids[alone.id] = alone
        if not card.is_served:
            control = Braid(
                card.name, fusion_layers=("final",), strategy="learned_weighted"
            )
            braids[control.id] = control
    for size in range(2, min(max_strands, len(local)) + 1):
        vectors = [tuple(vector) for vector in of_shares if len(vector) == size]
        if not vectors:
            raise ValueError(
                f"no share vector of length {size} for braids of {size} strands; "
                "add one to shares or lower max_strands"
            )
        for group in combinations(local, size):
            for anchor in group:
                donors = tuple(c.name for c in group if c is not anchor)
                for braid in _braids_of(anchor, donors, vectors, places, mixes):
                    braids[braid.id] = braid
    return list(braids.values())


def _braids_of(
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
    if layer_set in ("sparse", "dense") and anchor.layers is None:
        raise ValueError(
            f"layer set {layer_set!r} needs the number of layers of {anchor.name!r}; "
            "give ModelCard(layers=...), or leave 'sparse' and 'dense' out of "
            "layer_sets"
        )
    return layers_of(layer_set, anchor.layers or 0)


def _check_shares(
    shares: Any, max_strands: int, layer_sets: Sequence[str], strategies: Sequence[str]
) -> None:
    """Refuse share vectors that name models, or that no braid would have."""
    for vector in shares:
        if not isinstance(vector, tuple | list | np.ndarray):
            raise TypeError(
                "a share vector is a tuple of numbers, the anchor's first, for "
                f"whatever models; received {vector!r}"
            )
    lengths = [len(vector) for vector in shares]
    unused = [v for v in shares if not 2 <= len(v) <= max_strands]
    mixed = any("output" in places for places in layer_sets)
    if not (mixed and "learned_weighted" in strategies):
        # Elsewhere a share is a prior, and the first vector of a length is taken.
        firsts = {lengths.index(length) for length in lengths}
        unused += [v for at, v in enumerate(shares) if at not in firsts]
    if unused:
        raise ValueError(
            f"no braid would have the shares {unused}: give vectors of 2 to "
            f"{max_strands} strands, and one of each length where 'learned_weighted' "
            "does not mix at the output"
        )


def _check_known(kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or isinstance(given, str):
        raise ValueError(f"unknown {kind} {unknown or given!r}; expected {known}")
