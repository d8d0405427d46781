"""The catalogue: the finite set of braids to choose from, with costs and masks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._json import content_hash
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard, as_cards, check_names
from braidbandit.catalogue.costs import (
    are_measured,
    costs_per_token,
    memory_of,
    relative,
    seconds_per_token,
)
from braidbandit.catalogue.eligibility import Eligibility
from braidbandit.catalogue.enumeration import braids_of_pool
from braidbandit.catalogue.features import describe
from braidbandit.catalogue.limits import NO_LIMITS, Budget, Limits
from braidbandit.catalogue.profile import Profile


class Catalogue:
    """A set of braids over a pool of models, in a fixed order.

    Each braid is an arm. It is named by its ``id`` everywhere outside the catalogue;
    its row, the place in ``braids`` and in every array of shape (A,), may differ from
    one catalogue to the next.

    Parameters
    ----------
    cards : iterable of ModelCard
        The pool.
    braids : iterable of Braid
        Distinct braids over those models.
    unfit : mapping from arm id to reason, optional
        Braids that must not be served.

    Attributes
    ----------
    braids : tuple of Braid
        Length A.
    ids : tuple of str
        Their ids, in the same order.
    cards : dict from name to ModelCard
    unfit : dict from arm id to reason

    Raises
    ------
    ValueError
        When there is no braid, when two models share a name or two braids are equal, or
        when a braid uses a model or a layer that the cards do not have.
    KeyError
        When ``unfit`` names an unknown arm.

    Notes
    -----
    A catalogue is never changed in place: :meth:`with_braids`, :meth:`without` and
    :meth:`with_unfit` return copies. Whoever holds one can keep what was computed from
    it.

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
        check_names(card.name for card in cards)
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
        profiles: Mapping[str, Profile] | None = None,
    ) -> Catalogue:
        """Enumerate every braid that makes sense over a pool.

        Each model appears alone and fed its own states (the matched control), and
        as the anchor of every set of up to ``max_strands`` strands. A served model
        (``endpoint`` of its card) appears alone only: nothing of its inside is known
        here. "output" alone
        has no fuser to attend with, so it takes "learned_weighted" and "router"
        only. "learned_weighted" at the output takes every share vector, because there
        the shares are the weights of the mixture. Everywhere else a share is only the
        prior of a fuser that is trained, and the first share vector of each length is
        enough.

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
        profiles : mapping from name to Profile, optional
            What :func:`braidbandit.profile` measured, of every model that is loaded
            here: costs are then seconds, and memory is what was measured. They are kept
            on the cards.

        Returns
        -------
        Catalogue

        Raises
        ------
        ValueError
            On an empty pool, two models of one name, an unknown layer set or strategy,
            a setting that no braid would follow, or "sparse" or "dense" for an anchor
            whose ``layers`` is None.
        KeyError
            When profiles are of other models than those of the pool that are loaded.

        Warns
        -----
        UserWarning
            Where the ``parameters`` of some models are known and of others not.

        Examples
        --------
        >>> len(Catalogue.build(["a", "b"], layer_sets=("output",)))
        12
        >>> len(Catalogue.build(["a", "b"], max_strands=1))
        4
        """
        cards = as_cards(pool)
        if not cards:
            raise ValueError("the pool is empty; give at least one model")
        check_names(card.name for card in cards)
        if profiles is not None:
            cards = with_profiles(cards, profiles)
        braids = braids_of_pool(cards, max_strands, shares, layer_sets, strategies)
        _warn_of_unsized(cards)
        return cls(cards, braids)

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
        """Return the row of an arm.

        Parameters
        ----------
        arm_id : str

        Returns
        -------
        int
            Its place in ``braids``, ``ids`` and every array of shape (A,).

        Raises
        ------
        KeyError
            When the arm is unknown.
        """
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
        """Content hash of the sorted ids and the cards. Order does not enter."""
        cards = [self.cards[name].to_dict() for name in sorted(self.cards)]
        for card in cards:  # where a model runs is no part of what it is
            for key in ("endpoint", "api_key_env", "memory", "profile"):
                card.pop(key, None)
        return content_hash([sorted(self.ids), cards])

    @cached_property
    def singles(self) -> NDArray[np.intp]:
        """Rows of the models alone, ascending."""
        return np.flatnonzero([braid.is_single for braid in self.braids])

    def with_unfit(self, arm_id: str, reason: str) -> Catalogue:
        """Return a copy in which an arm is masked, with the reason on record.

        Parameters
        ----------
        arm_id : str
        reason : str
            What explanations say about the arm, after "unfit: ".

        Examples
        --------
        >>> catalogue = Catalogue.build(["a", "b"], layer_sets=("output",))
        >>> arm = catalogue.ids[2]
        >>> catalogue = catalogue.with_unfit(arm, "worse than b alone")
        >>> catalogue.mask().tolist()[:4], catalogue.mask_reasons()[2]
        ([True, True, False, True], 'unfit: worse than b alone')
        """
        self.index(arm_id)
        return Catalogue(
            self.cards.values(), self.braids, {**self.unfit, arm_id: reason}
        )

    def with_braids(
        self, braids: Iterable[Braid], cards: Iterable[ModelCard] = ()
    ) -> Catalogue:
        """Return a copy with more braids, after the others, and the cards they need.

        Parameters
        ----------
        braids : iterable of Braid
        cards : iterable of ModelCard
            Those of new models; the ones that are there already may be among them.

        Raises
        ------
        ValueError
            When another card of that name is there already, or when the ``parameters``
            of every model so far are known and those of a new one are not; besides,
            for the reasons that :class:`Catalogue` refuses braids. So it is with
            profiles: where costs are seconds, a new model needs one.
        """
        known = dict(self.cards)
        sized = all(card.is_sized for card in known.values())
        for card in cards:
            if known.setdefault(card.name, card) != card:
                raise ValueError(f"another card named {card.name!r} is there already")
            if sized and not card.is_sized:
                raise ValueError(
                    f"the card of {card.name!r} has no parameters, those of the models "
                    "here have: every cost would change its unit, and budgets and "
                    "what was measured would mean nothing. Give ModelCard(parameters=)"
                )
        if are_measured(self.cards.values()) and not are_measured(known.values()):
            missing = [c.name for c in known.values() if not _is_timed(c)]
            raise ValueError(
                f"the cards of {missing} have no profile, those of the models here "
                "have: every cost would change its unit. Measure them with "
                "braidbandit.profile, and give ModelCard(profile=)"
            )
        return Catalogue(known.values(), (*self.braids, *braids), self.unfit)

    def without(self, arm_ids: Iterable[str]) -> Catalogue:
        """Return a copy without some braids; every card stays.

        The unit of all costs depends on the cards, so that removing braids changes the
        cost of no other.

        Parameters
        ----------
        arm_ids : iterable of str

        Raises
        ------
        KeyError
            When an arm is unknown.
        ValueError
            When no braid would be left.
        """
        gone = {self.ids[self.index(arm_id)] for arm_id in _ids(arm_ids)}
        kept = [braid for braid in self.braids if braid.id not in gone]
        unfit = {a: reason for a, reason in self.unfit.items() if a not in gone}
        return Catalogue(self.cards.values(), kept, unfit)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole catalogue as JSON-able data.

        Returns
        -------
        dict
            "cards", "braids" (recipes, in the order of the rows) and "unfit".
        """
        return {
            "cards": [card.to_dict() for card in self.cards.values()],
            "braids": [braid.recipe() for braid in self.braids],
            "unfit": dict(self.unfit),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Catalogue:
        """Build a catalogue from what :meth:`to_dict` returned.

        Examples
        --------
        >>> catalogue = Catalogue.build(["a", "b"])
        >>> Catalogue.from_dict(catalogue.to_dict()) == catalogue
        True
        """
        return cls(
            [ModelCard.from_dict(card) for card in data["cards"]],
            [Braid.from_recipe(recipe) for recipe in data["braids"]],
            data["unfit"],
        )

    def costs(self) -> NDArray[np.float64]:
        """Return what each arm costs per token written, all in one unit.

        Where every model that is loaded here has a profile: the predicted seconds, see
        :func:`braidbandit.catalogue.costs.seconds_per_token`. Else :meth:`operations`.

        Returns
        -------
        ndarray of shape (A,)
        """
        return self._costs.copy()

    @cached_property
    def _costs(self) -> NDArray[np.float64]:
        if not self.is_measured:
            return self._operations
        return seconds_per_token(self.braids, self.cards)

    @property
    def is_measured(self) -> bool:
        """Whether costs are seconds, from the profiles of the models."""
        return are_measured(self.cards.values())

    def operations(self) -> NDArray[np.float64]:
        """Estimate the operations per token written.

        See :func:`braidbandit.catalogue.costs.costs_per_token` for the estimate; of a
        served model it is the operations that its price would buy. Where the
        ``parameters`` of any local model are unknown, the unit is one model instead.

        Returns
        -------
        ndarray of shape (A,)
        """
        return self._operations.copy()

    @cached_property
    def _operations(self) -> NDArray[np.float64]:
        return costs_per_token(self.braids, self.cards)

    def relative_costs(self) -> NDArray[np.float64]:
        """Return the costs on a scale from 0 (cheapest) to 1 (dearest).

        Returns
        -------
        ndarray of shape (A,)
            All 0 where every arm costs the same.
        """
        return self._relative.copy()

    @cached_property
    def _relative(self) -> NDArray[np.float64]:
        return relative(self._costs)

    def memory(self) -> NDArray[np.float64]:
        """Return the bytes that each arm takes in memory, as it is loaded.

        Measured where there are profiles, else estimated from its weights; see
        :func:`braidbandit.catalogue.costs.memory_of`.

        Returns
        -------
        ndarray of shape (A,)
            A model of which no card says how large it is counts as 0, and so does a
            served one: its memory is not ours.
        """
        return self._memory.copy()

    @cached_property
    def _memory(self) -> NDArray[np.float64]:
        return memory_of(self.braids, self.cards)

    def eligibility(self, limits: Limits = NO_LIMITS) -> Eligibility:
        """Return which arms the limits of one call allow, and why not the others.

        That no arm is left is no error here; see :meth:`allowed`.

        Parameters
        ----------
        limits : Limits
            ``eligible``, ``accuracy_target`` and ``budget.latency_ms`` do not enter:
            they need what a recommender knows.

        Returns
        -------
        Eligibility
            With a ``mask`` of shape (A,) and ``reasons()``.

        Raises
        ------
        ValueError
            On a budget of memory where the size of a model is unknown.
        KeyError
            When an excluded arm is unknown.
        """
        budget = limits.budget or Budget()
        if budget.memory is not None:
            unsized = [c.name for c in self.cards.values() if not c.has_memory]
            if unsized:
                raise ValueError(
                    f"the cards of {unsized} have no parameters, so that their memory "
                    "is unknown: give ModelCard(parameters=), or no budget of memory"
                )
        highest, costs = limits.compute_budget, self._relative
        found = Eligibility(len(self)).without(
            self._rows_of(self.unfit),
            lambda row: f"unfit: {self.unfit[self.ids[row]]}",
        )
        excluded = self._rows_of(limits.excluded)
        found = found.without(
            excluded, lambda row: limits.why_excluded(self.ids[row])
        ).without(
            costs > highest,
            lambda row: f"relative cost {costs[row]:.2f} above {highest}",
        )
        absolute = ((budget.flops, self._operations), (budget.memory, self._memory))
        for most, values in absolute:
            if most is not None:
                found = found.without(values > most, "beyond the absolute budget")
        return found

    def allowed(self, limits: Limits = NO_LIMITS) -> NDArray[np.bool_]:
        """Return which arms the limits of one call allow, at least one.

        Parameters
        ----------
        limits : Limits
            What enters is said in :meth:`eligibility`.

        Returns
        -------
        ndarray of bool, shape (A,)

        Raises
        ------
        ValueError
            When no arm is left, or on a budget of memory where the size of a model is
            unknown.
        KeyError
            When an excluded arm is unknown.
        """
        allowed = self.eligibility(limits).mask
        if not allowed.any():
            cheapest = int(np.argmin(self._costs))
            raise ValueError(
                f"no arm is left for compute_budget={limits.compute_budget} and "
                f"{limits.budget}: the cheapest is {self.braids[cheapest].label()!r} "
                f"at {self._costs[cheapest]:.4g} per token and "
                f"{self._memory[cheapest]:.4g} bytes; {len(self.unfit)} arms are "
                f"unfit. Raise the budget or exclude fewer arms{limits.told_excluded}"
            )
        return allowed

    def mask(
        self,
        compute_budget: float = 1.0,
        excluded: Iterable[str] = (),
        budget: Budget | None = None,
    ) -> NDArray[np.bool_]:
        """Return which arms may be chosen: :meth:`allowed` of these limits.

        Parameters
        ----------
        compute_budget : float in [0, 1]
            Highest relative cost: 0 keeps only the cheapest arms, 1 keeps all.
        excluded : iterable of arm ids, or mapping from arm id to reason
        budget : Budget, optional
            Absolute limits on top; its ``latency_ms`` does not enter here.

        Returns
        -------
        ndarray of bool, shape (A,)

        Raises
        ------
        ValueError
            When the budget is outside [0, 1], or no arm is left.
        KeyError
            When an excluded arm is unknown.
        """
        return self.allowed(Limits(compute_budget, budget, excluded))

    def mask_reasons(
        self,
        compute_budget: float = 1.0,
        excluded: Iterable[str] = (),
        budget: Budget | None = None,
    ) -> list[str]:
        """Return why each arm is masked by these limits; see :meth:`mask` for them.

        Returns
        -------
        list of str, length A
            The first reason that applies; empty text where an arm may be chosen.
        """
        return self.eligibility(Limits(compute_budget, budget, excluded)).reasons()

    def _rows_of(self, arm_ids: Iterable[str]) -> NDArray[np.bool_]:
        rows = np.zeros(len(self), dtype=bool)
        rows[[self.index(arm_id) for arm_id in arm_ids]] = True
        return rows

    def descriptors(self) -> tuple[NDArray[np.float64], list[str]]:
        """Describe every arm as one row of numbers, by which related arms share.

        See :func:`braidbandit.catalogue.features.describe` for the columns.

        Returns
        -------
        Z : ndarray of shape (A, m)
        names : list of str, length m
        """
        return describe(self.braids, self.cards, self._costs)


def _ids(arm_ids: Iterable[str]) -> Iterable[str]:
    if isinstance(arm_ids, str):
        raise TypeError(f"expected a collection of arm ids, received text {arm_ids!r}")
    return arm_ids


def with_profiles(
    cards: Iterable[ModelCard], profiles: Mapping[str, Profile]
) -> list[ModelCard]:
    """Return cards with what was measured of those that are loaded here."""
    cards = list(cards)
    local = {card.name for card in cards if not card.is_served}
    if set(profiles) != local:
        raise KeyError(
            f"profiles are of {sorted(profiles)}, the models of the pool that are "
            f"loaded here are {sorted(local)}; measure these: braidbandit.profile(pool)"
        )
    return [
        card if card.is_served else replace(card, profile=profiles[card.name])
        for card in cards
    ]


def _is_timed(card: ModelCard) -> bool:
    return card.is_served or card.profile is not None


def _warn_of_unsized(cards: Sequence[ModelCard]) -> None:
    untimed = [card.name for card in cards if not _is_timed(card)]
    if untimed and any(card.profile is not None for card in cards):
        warnings.warn(
            f"the cards of {untimed} have no profile: costs are estimated for all "
            "models, and what was measured of the others does not enter. Measure all "
            "with braidbandit.profile",
            stacklevel=3,
        )
    if are_measured(cards):
        return
    unsized = [card.name for card in cards if not card.is_sized]
    if 0 < len(unsized) < len(cards):
        warnings.warn(
            f"the cards of {unsized} have no parameters: every model counts as one "
            "unit of compute, whatever its size, and neither price nor budgets tell "
            "them apart. Give ModelCard(parameters=)",
            stacklevel=3,
        )


def _check_against_cards(braid: Braid, cards: Mapping[str, ModelCard]) -> None:
    missing = [name for name in braid.strands if name not in cards]
    if missing:
        raise ValueError(
            f"braid {braid.label()!r} uses {missing}, not in the pool {list(cards)}"
        )
    served = [name for name in braid.strands if cards[name].is_served]
    if served and not braid.is_single:
        raise ValueError(
            f"braid {braid.label()!r} uses {served}, which a server answers for: its "
            "states are not there to be fused. A served model is an arm alone"
        )
    for name in braid.strands if braid.mid_layers else ():
        measured = cards[name].profile
        if measured is not None:
            Profile.read(measured).at_layers()
    layers = cards[braid.anchor].layers
    if layers is not None and braid.mid_layers and max(braid.mid_layers) >= layers:
        raise ValueError(
            f"braid {braid.label()!r} fuses at layer {max(braid.mid_layers)}, but "
            f"{braid.anchor!r} has layers 0 to {layers - 1}"
        )
