"""The catalogue: the finite set of braids to choose from, with costs and masks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._json import content_hash
from braidbandit.catalogue.braid import STRATEGIES, Braid, ModelCard
from braidbandit.catalogue.enumeration import (
    braids_of_pool,
    bytes_per_weight,
    cost_per_token,
)
from braidbandit.catalogue.features import describe
from braidbandit.catalogue.limits import Budget, Limits

__all__ = ["Braid", "Budget", "Catalogue", "ModelCard"]

LAYER_SETS = ("output", "final", "final+output", "sparse", "dense")
# Decoder layers cost the most to train and brought the least (docs/log.md): on request.
USUAL_LAYER_SETS = LAYER_SETS[:3]
SHARES = (
    (0.75, 0.25),
    (0.5, 0.5),
    (0.9, 0.1),
    (0.5, 0.25, 0.25),
    (0.5, 0.4, 0.1),
)


class Catalogue:
    """A set of braids over a pool of models, in a fixed order.

    Parameters
    ----------
    cards : iterable of ModelCard
    braids : iterable of Braid
        Distinct braids over those models.
    unfit : mapping from arm id to reason, optional
        Braids that must not be served.

    Attributes
    ----------
    braids : tuple of Braid
    ids : tuple of str
    cards : dict from name to ModelCard
    unfit : dict from arm id to reason
    hash : str
        Content hash of the sorted ids and the cards. Order does not enter.

    Examples
    --------
    >>> catalogue = Catalogue.build(["a", "b"], layer_sets=("output", "final"))
    >>> len(catalogue), catalogue.braids[0].label()
    (18, 'a alone')
    >>> catalogue[catalogue.ids[4]].label()
    'a 75% + b 25%, learned_weighted at the output'
    >>> int(catalogue.mask(compute_budget=0.0).sum())
    4
    """

    def __init__(
        self,
        cards: Iterable[ModelCard],
        braids: Iterable[Braid],
        unfit: Mapping[str, str] | None = None,
    ) -> None:
        cards = tuple(cards)
        self.cards: dict[str, ModelCard] = {card.name: card for card in cards}
        self.braids: tuple[Braid, ...] = tuple(braids)
        if len(self.cards) != len(cards):
            names = [card.name for card in cards]
            raise ValueError(f"model names must differ, received {names}")
        if not self.braids:
            raise ValueError("a catalogue needs at least one braid, received none")
        self.ids: tuple[str, ...] = tuple(braid.id for braid in self.braids)
        self._rows = {arm_id: row for row, arm_id in enumerate(self.ids)}
        if len(self._rows) != len(self.ids):
            raise ValueError("the braids of a catalogue must differ, two are equal")
        for braid in self.braids:
            _check_against_cards(braid, self.cards)
        self.unfit: dict[str, str] = dict(unfit or {})
        for arm_id in self.unfit:
            self.index(arm_id)

    @classmethod
    def build(
        cls,
        pool: Iterable[ModelCard | Mapping[str, Any] | str],
        max_strands: int = 3,
        shares: Sequence[Sequence[float]] | None = None,
        layer_sets: Sequence[str] | None = None,
        strategies: Sequence[str] | None = None,
    ) -> Catalogue:
        """Enumerate every braid that makes sense over a pool.

        Each model appears alone and fed its own states (the matched control), and
        as the anchor of every set of up to ``max_strands`` strands. "output" alone
        has no fuser to attend with, so it takes "learned_weighted" and "router"
        only. Elsewhere the share is only a prior on a trained fuser: those sets
        take the first share vector of each length, and so do the gated strategies
        at the output; "learned_weighted" at the output takes every share vector.

        "sparse" is the layers ``round(L f) - 1`` for f in (0.7, 0.83, 0.97) of an
        anchor with L layers (20, 24, 28 of 30); "dense" is 9 layers evenly spaced
        from ``L / 3`` to the last but one. An anchor with too few layers for
        distinct positions goes without that layer set.

        Parameters
        ----------
        pool : iterable of ModelCard, dict or str
            Dicts go through :meth:`ModelCard.from_dict`; text is a name.
        max_strands : int
            Most strands in a braid, at least 1.
        shares : sequence of tuples, optional
            Share vectors, anchor first; ``SHARES`` by default. Unequal donor shares
            are tried in every order of the donors.
        layer_sets : sequence of str, optional
            Some of "output", "final", "final+output", "sparse" and "dense"; the first
            three by default.
        strategies : sequence of str, optional
            All by default.

        Raises
        ------
        ValueError
            On an empty pool, an unknown layer set or strategy, a setting that no
            braid would follow, or "sparse" or "dense" for an anchor whose ``layers``
            is None.

        Warns
        -----
        UserWarning
            Where the ``parameters`` of some models are known and of others not.
        """
        cards = as_cards(pool)
        if not cards:
            raise ValueError("the pool is empty; give at least one model")
        if max_strands < 1:
            raise ValueError(f"max_strands must be at least 1, received {max_strands}")
        places = USUAL_LAYER_SETS if layer_sets is None else layer_sets
        mixes = STRATEGIES if strategies is None else strategies
        _check_known("layer set", places, LAYER_SETS)
        _check_known("strategy", mixes, STRATEGIES)
        given = {"shares": shares, "layer_sets": layer_sets, "strategies": strategies}
        unused = [name for name, value in given.items() if value is not None]
        if max_strands == 1 and unused:
            raise ValueError(f"braids of one strand (max_strands=1) follow no {unused}")
        if (
            strategies is not None
            and "attention" in mixes
            and set(places) == {"output"}
        ):
            raise ValueError(
                "strategy 'attention' has nothing to attend to at the output, the only "
                "layer set; leave it out, or add 'final'"
            )
        if shares is not None:
            _check_shares(shares, max_strands, places, mixes)
        _warn_of_unsized(cards)
        vectors = [tuple(vector) for vector in (SHARES if shares is None else shares)]
        return cls(cards, braids_of_pool(cards, max_strands, vectors, places, mixes))

    def __len__(self) -> int:
        return len(self.braids)

    def __iter__(self) -> Iterator[Braid]:
        return iter(self.braids)

    def __getitem__(self, arm_id: str) -> Braid:
        return self.braids[self.index(arm_id)]

    def __contains__(self, arm_id: object) -> bool:
        return arm_id in self._rows

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Catalogue)
            and self.ids == other.ids
            and self.cards == other.cards
            and self.unfit == other.unfit
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Catalogue of {len(self)} braids over {list(self.cards)}>"

    def index(self, arm_id: str) -> int:
        """Return the row of an arm; an unknown id is a KeyError."""
        try:
            return self._rows[arm_id]
        except (KeyError, TypeError):
            raise KeyError(
                f"unknown arm {arm_id!r}; this catalogue has {len(self)} arms, such as "
                f"{self.ids[0]!r} ({self.braids[0].label()}). Arms are named by "
                "Braid.id, see Catalogue.ids"
            ) from None

    @cached_property
    def hash(self) -> str:
        cards = [self.cards[name].to_dict() for name in sorted(self.cards)]
        return content_hash([sorted(self.ids), cards])

    @cached_property
    def singles(self) -> NDArray[np.intp]:
        """Rows of the models alone."""
        return np.flatnonzero([braid.is_single for braid in self.braids])

    def with_unfit(self, arm_id: str, reason: str) -> Catalogue:
        """Return a copy in which an arm is masked, with the reason on record."""
        self.index(arm_id)
        return Catalogue(
            self.cards.values(), self.braids, {**self.unfit, arm_id: reason}
        )

    def with_braids(
        self, braids: Iterable[Braid], cards: Iterable[ModelCard] = ()
    ) -> Catalogue:
        """Return a copy with more braids behind, and the cards they need.

        Where every model's ``parameters`` are known, those of a new one must be too.
        """
        known = dict(self.cards)
        sized = all(card.parameters is not None for card in known.values())
        for card in cards:
            if known.setdefault(card.name, card) != card:
                raise ValueError(f"another card named {card.name!r} is there already")
            if sized and card.parameters is None:
                raise ValueError(
                    f"the card of {card.name!r} has no parameters, those of the models "
                    "here have: every cost would change its unit, and budgets and "
                    "what was measured would mean nothing. Give ModelCard(parameters=)"
                )
        return Catalogue(known.values(), (*self.braids, *braids), self.unfit)

    def without(self, arm_ids: Iterable[str]) -> Catalogue:
        """Return a copy without some braids; every card stays."""
        gone = {self.ids[self.index(arm_id)] for arm_id in _ids(arm_ids)}
        kept = [braid for braid in self.braids if braid.id not in gone]
        unfit = {a: reason for a, reason in self.unfit.items() if a not in gone}
        return Catalogue(self.cards.values(), kept, unfit)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole catalogue as JSON-able data."""
        return {
            "cards": [card.to_dict() for card in self.cards.values()],
            "braids": [braid.recipe() for braid in self.braids],
            "unfit": dict(self.unfit),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Catalogue:
        """Build a catalogue from :meth:`to_dict`."""
        return cls(
            [ModelCard.from_dict(card) for card in data["cards"]],
            [Braid.from_recipe(recipe) for recipe in data["braids"]],
            data["unfit"],
        )

    def costs(self) -> NDArray[np.float64]:
        """Estimate the operations per token written, shape (A,).

        Two per weight that is read: the whole anchor, and of each donor the body
        (``parameters - vocab_size * width``) down to its deepest tap; its head
        only where outputs are mixed. If the ``parameters`` of any model in the
        pool are unknown, every model counts as one unit and there is no head.
        """
        return self._costs.copy()

    @cached_property
    def _costs(self) -> NDArray[np.float64]:
        known = all(card.parameters is not None for card in self.cards.values())
        return np.array(
            [cost_per_token(braid, self.cards, known) for braid in self.braids]
        )

    def relative_costs(self) -> NDArray[np.float64]:
        """Costs on the scale from 0 (cheapest) to 1 (dearest), shape (A,)."""
        return self._relative.copy()

    @cached_property
    def _relative(self) -> NDArray[np.float64]:
        span = float(np.ptp(self._costs))
        if span == 0.0:
            return np.zeros(len(self))
        return (self._costs - self._costs.min()) / span

    def memory(self) -> NDArray[np.float64]:
        """Estimate the bytes of weights, shape (A,); 0 where ``parameters`` is None.

        Two bytes a weight unless the card's ``quantisation`` says otherwise.
        """
        return self._memory.copy()

    @cached_property
    def _memory(self) -> NDArray[np.float64]:
        size = {
            name: (card.parameters or 0) * bytes_per_weight(card.quantisation)
            for name, card in self.cards.items()
        }
        return np.array([sum(size[name] for name in b.strands) for b in self.braids])

    def mask(
        self,
        compute_budget: float = 1.0,
        excluded: Iterable[str] = (),
        budget: Budget | None = None,
    ) -> NDArray[np.bool_]:
        """Return which arms may be chosen, shape (A,).

        Parameters
        ----------
        compute_budget : float in [0, 1]
            Highest relative cost: 0 keeps only the cheapest arms, 1 keeps all.
        excluded : iterable of arm ids
        budget : Budget, optional
            Absolute limits on top; its ``latency_ms`` does not enter here.

        Raises
        ------
        ValueError
            When the budget is outside [0, 1], or no arm is left.
        KeyError
            When an excluded arm is unknown.
        """
        eligible = self._allowed(Limits(compute_budget, budget, excluded))
        if not eligible.any():
            cheapest = int(np.argmin(self._costs))
            raise ValueError(
                f"no arm is left for compute_budget={compute_budget} and {budget}: the "
                f"cheapest is {self.braids[cheapest].label()!r} at "
                f"{self._costs[cheapest]:.4g} per token and "
                f"{self._memory[cheapest]:.4g} bytes; {len(self.unfit)} arms are "
                "unfit. Raise the budget or exclude fewer arms"
            )
        return eligible

    def mask_reasons(
        self,
        compute_budget: float = 1.0,
        excluded: Iterable[str] = (),
        budget: Budget | None = None,
    ) -> list[str]:
        """Return why each arm is masked; empty text where it is eligible."""
        limits = Limits(compute_budget, budget, excluded)
        allowed, excluded = self._allowed(limits), limits.excluded
        reasons = []
        for row, arm_id in enumerate(self.ids):
            if allowed[row]:
                reasons.append("")
            elif arm_id in self.unfit:
                reasons.append(f"unfit: {self.unfit[arm_id]}")
            elif arm_id in excluded:
                reasons.append("excluded by the caller")
            elif self._relative[row] > compute_budget:
                relative = self._relative[row]
                reasons.append(f"relative cost {relative:.2f} above {compute_budget}")
            else:
                reasons.append("beyond the absolute budget")
        return reasons

    def _allowed(self, limits: Limits) -> NDArray[np.bool_]:
        budget = limits.budget
        if budget is not None and budget.memory is not None:
            unsized = [c.name for c in self.cards.values() if c.parameters is None]
            if unsized:
                raise ValueError(
                    f"the cards of {unsized} have no parameters, so that their memory "
                    "is unknown: give ModelCard(parameters=), or no budget of memory"
                )
        allowed = self._relative <= limits.compute_budget
        if budget is not None and budget.flops is not None:
            allowed &= self._costs <= budget.flops
        if budget is not None and budget.memory is not None:
            allowed &= self._memory <= budget.memory
        allowed[self._unfit_rows] = False
        for arm_id in limits.excluded:
            allowed[self.index(arm_id)] = False
        return allowed

    @cached_property
    def _unfit_rows(self) -> NDArray[np.intp]:
        return np.array([self._rows[arm_id] for arm_id in self.unfit], dtype=np.intp)

    def descriptors(self) -> tuple[NDArray[np.float64], list[str]]:
        """Return ``Z`` of shape (A, m) and its column names.

        See :func:`braidbandit.descriptors.describe` for the columns.
        """
        return describe(self.braids, self.cards, self._costs)


def _ids(arm_ids: Iterable[str]) -> Iterable[str]:
    if isinstance(arm_ids, str):
        raise TypeError(f"expected a collection of arm ids, received text {arm_ids!r}")
    return arm_ids


def as_cards(pool: Iterable[ModelCard | Mapping[str, Any] | str]) -> list[ModelCard]:
    """Return the cards of a pool; one model in place of a list is a TypeError."""
    if isinstance(pool, str | Mapping | ModelCard):
        raise TypeError(
            f"a pool is a list of models, received one ({type(pool).__name__}); wrap "
            "it: [model]"
        )
    return [_as_card(entry) for entry in pool]


def _as_card(entry: ModelCard | Mapping[str, Any] | str) -> ModelCard:
    if isinstance(entry, ModelCard):
        return entry
    if isinstance(entry, str):
        return ModelCard(entry)
    if isinstance(entry, Mapping):
        return ModelCard.from_dict(entry)
    raise TypeError(
        f"a pool holds ModelCard, dict or name, received {type(entry).__name__}"
    )


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


def _warn_of_unsized(cards: Sequence[ModelCard]) -> None:
    unsized = [card.name for card in cards if card.parameters is None]
    if 0 < len(unsized) < len(cards):
        warnings.warn(
            f"the cards of {unsized} have no parameters: every model counts as one "
            "unit of compute, whatever its size, and neither price nor budgets tell "
            "them apart. Give ModelCard(parameters=)",
            stacklevel=3,
        )


def _check_known(kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or isinstance(given, str):
        raise ValueError(f"unknown {kind} {unknown or given!r}; expected {known}")


def _check_against_cards(braid: Braid, cards: Mapping[str, ModelCard]) -> None:
    missing = [name for name in braid.strands if name not in cards]
    if missing:
        raise ValueError(
            f"braid {braid.label()!r} uses {missing}, not in the pool {list(cards)}"
        )
    layers = cards[braid.anchor].layers
    if layers is not None and braid.mid_layers and max(braid.mid_layers) >= layers:
        raise ValueError(
            f"braid {braid.label()!r} fuses at layer {max(braid.mid_layers)}, but "
            f"{braid.anchor!r} has layers 0 to {layers - 1}"
        )
