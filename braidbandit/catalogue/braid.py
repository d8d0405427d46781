"""Braid: one way of combining language models, an arm of the bandit."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from braidbandit._json import content_hash
from braidbandit._named import in_columns
from braidbandit.catalogue.layer_sets import name_of

STRATEGIES = ("learned_weighted", "router", "attention")
"""How a fuser mixes strands."""


@dataclass(frozen=True)
class Braid:
    """One way of combining language models: an arm of the bandit.

    Parameters
    ----------
    anchor : str
        The strand that speaks.
    donors : tuple of str
        Strands whose hidden states are read.
    shares : tuple of float
        Weight of each strand, anchor first, or by name; each above 0, sum 1.
    fusion_layers : tuple of int, "final" or "output"
        Anchor layers (0-based, the fuser sits on the layer's output), "final"
        (after the final norm) and "output" (distributions are mixed).
    strategy : str, optional
        One of ``STRATEGIES``; None without fusion layers.

    Raises
    ------
    TypeError
        When donors or fusion layers are text, or donors are a set, which has no order.
    ValueError
        When strands repeat, shares do not fit the strands or do not sum to 1, a layer
        or strategy is unknown, or the parts do not go together: donors without fusion
        layers, a strategy without any, "output" without donors, or "attention" with
        nothing but "output".

    Notes
    -----
    Only the recipe is known here, no model. Whether an anchor has the layers is checked
    by the :class:`Catalogue` that holds the braid, and by the strands that run it.

    Examples
    --------
    >>> braid = Braid("gemma", ("smol",), (0.7, 0.3), ("final", "output"), "router")
    >>> braid.label()
    'gemma 70% + smol 30%, router after the final norm and at the output'
    >>> Braid.from_recipe(braid.recipe()).id == braid.id
    True
    >>> Braid("gemma", fusion_layers=("final",), strategy="learned_weighted").label()
    'gemma fed its own states, learned_weighted after the final norm'
    """

    anchor: str
    donors: tuple[str, ...] = ()
    shares: tuple[float, ...] = (1.0,)
    fusion_layers: tuple[int | str, ...] = ()
    strategy: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.donors, Set):
            raise TypeError(
                f"donors is a set, which has no order; received {self.donors!r}"
            )
        if not isinstance(self.shares, tuple | list):
            shares = in_columns(self.shares, self.strands, "shares")
            object.__setattr__(self, "shares", tuple(shares.tolist()))
        _check_strands(self)
        _check_layers(self)
        ints = sorted(layer for layer in self.fusion_layers if isinstance(layer, int))
        words = [word for word in ("final", "output") if word in self.fusion_layers]
        object.__setattr__(self, "donors", tuple(self.donors))
        object.__setattr__(self, "shares", tuple(float(s) for s in self.shares))
        object.__setattr__(self, "fusion_layers", (*ints, *words))

    @property
    def strands(self) -> tuple[str, ...]:
        """Names of the anchor and the donors, in the order of ``shares``."""
        return (self.anchor, *self.donors)

    @property
    def is_single(self) -> bool:
        """Whether one model answers alone, with nothing added."""
        return not self.donors and not self.fusion_layers

    @property
    def is_control(self) -> bool:
        """Whether the anchor is fed its own states (the matched control)."""
        return not self.donors and bool(self.fusion_layers)

    @property
    def mid_layers(self) -> tuple[int, ...]:
        """The numbered fusion layers."""
        return tuple(layer for layer in self.fusion_layers if isinstance(layer, int))

    @property
    def layer_set(self) -> str:
        """Name of the layer set: plain, output, final, sparse, dense, custom."""
        return name_of(self.fusion_layers)

    @cached_property
    def id(self) -> str:
        """Content hash of the recipe, 16 hexadecimal digits.

        It is the same in every process and catalogue, and so it names the arm in
        ledgers, saved agents and masks.
        """
        return content_hash(self.as_dict)

    def recipe(self) -> dict[str, Any]:
        """Return what the braid can be built from again.

        Returns
        -------
        dict
            The five parameters under their names, tuples as lists: JSON-able, and free
            to be changed.
        """
        return copy.deepcopy(self.as_dict)

    @cached_property
    def as_dict(self) -> dict[str, Any]:
        """What :meth:`recipe` returns, made only once. Read it, do not change it."""
        return {
            "anchor": self.anchor,
            "donors": list(self.donors),
            "shares": list(self.shares),
            "fusion_layers": list(self.fusion_layers),
            "strategy": self.strategy,
        }

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> Braid:
        """Build a braid from a recipe.

        Parameters
        ----------
        recipe : mapping
            What :meth:`recipe` returned; only "anchor" is required.

        Raises
        ------
        KeyError
            When "anchor" is missing, or on an unknown key.

        Examples
        --------
        >>> Braid.from_recipe({"anchor": "gemma"}) == Braid("gemma")
        True
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(recipe) - set(known))
        if unknown or "anchor" not in recipe:
            raise KeyError(
                f"a recipe needs 'anchor' and may hold {known}; received unknown keys "
                f"{unknown} in {dict(recipe)!r}"
            )
        return cls(**recipe)

    def label(self) -> str:
        """Return a short text for people: strands with their shares, and the fuser.

        Different braids may share a label: of numbered layers it says only how many.
        """
        if self.is_single:
            return f"{self.anchor} alone"
        if self.is_control:
            strands = f"{self.anchor} fed its own states"
        else:
            pairs = zip(self.strands, self.shares, strict=True)
            strands = " + ".join(f"{name} {100 * share:.0f}%" for name, share in pairs)
        places = []
        if self.mid_layers:
            count = len(self.mid_layers)
            places.append(f"at {count} layer{'s' if count > 1 else ''}")
        if "final" in self.fusion_layers:
            places.append("after the final norm")
        if "output" in self.fusion_layers:
            places.append("at the output")
        return f"{strands}, {self.strategy} {' and '.join(places)}"


def _check_strands(braid: Braid) -> None:
    if isinstance(braid.donors, str) or isinstance(braid.fusion_layers, str):
        raise TypeError("donors and fusion_layers are tuples, not text")
    for name in (braid.anchor, *braid.donors):
        if not isinstance(name, str) or not name:
            raise ValueError(f"strands are named by text, received {name!r}")
    strands = (braid.anchor, *braid.donors)
    if len(set(strands)) != len(strands):
        raise ValueError(
            f"the strands of a braid must differ, received {list(strands)}; for a "
            "model fed its own states give no donors and fusion_layers=('final',)"
        )
    shares = tuple(braid.shares)
    if len(shares) != len(strands):
        raise ValueError(
            f"received {len(shares)} shares for {len(strands)} strands; give one "
            "share per strand, anchor first"
        )
    if not all(share > 0 for share in shares) or abs(sum(shares) - 1.0) > 1e-9:
        raise ValueError(f"shares must each be above 0 and sum to 1, received {shares}")


def _check_layers(braid: Braid) -> None:
    layers = tuple(braid.fusion_layers)
    for layer in layers:
        numbered = isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0
        if not numbered and layer not in ("final", "output"):
            raise ValueError(
                f"fusion layer {layer!r} is not a layer number from 0, 'final' or "
                "'output'"
            )
    if len(set(layers)) != len(layers):
        raise ValueError(f"fusion layers must differ, received {layers}")
    if braid.donors and not layers:
        raise ValueError("a braid with donors needs fusion_layers, received none")
    if not braid.donors and "output" in layers:
        raise ValueError("'output' mixes distributions and needs at least one donor")
    if layers and braid.strategy not in STRATEGIES:
        raise ValueError(
            f"strategy {braid.strategy!r} is unknown; expected one of {STRATEGIES}"
        )
    if not layers and braid.strategy is not None:
        raise ValueError("a model alone has no strategy: give None, or fusion_layers")
    if layers == ("output",) and braid.strategy == "attention":
        raise ValueError(
            "'output' alone mixes distributions, attention has nothing to read there; "
            "use 'learned_weighted' or 'router'"
        )
