"""Model cards and braids: what can be combined, and one way of combining it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from braidbandit._json import content_hash
from braidbandit._named import in_columns

STRATEGIES = ("learned_weighted", "router", "attention")
"""How a fuser mixes strands."""


@dataclass(frozen=True)
class ModelCard:
    """What is known about one language model before it is loaded.

    Parameters
    ----------
    name : str
        The name used in braids, errors and explanations.
    source : str, optional
        Hub id, folder or file to load from. Defaults to ``name``.
    parameters : int, optional
        Number of weights, head included.
    layers, width, vocab_size : int, optional
        Decoder layers, width of the residual stream, size of the vocabulary.
    domain : str
        What the model is good at: "general", "code", "medical", ...
    role : str, optional
        Free text such as "reasoning".
    quantisation : str, optional
        Such as "q4_k_m", "q8_0", "bf16"; sets the bytes per weight.
    recency : str, optional
        Date or year of the model.
    licence : str, optional

    Examples
    --------
    >>> ModelCard.from_dict({"model_name": "codellama-7b", "domain": "code"}).source
    'codellama-7b'
    """

    name: str
    source: str | None = None
    parameters: int | None = None
    layers: int | None = None
    width: int | None = None
    vocab_size: int | None = None
    domain: str = "general"
    role: str | None = None
    quantisation: str | None = None
    recency: str | None = None
    licence: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(
                f"a model card needs a name, received {self.name!r}; "
                "expected text such as 'gemma-3-270m'"
            )
        if not isinstance(self.domain, str) or not self.domain:
            raise ValueError(f"domain of {self.name!r} must be text: {self.domain!r}")
        for key in ("parameters", "layers", "width", "vocab_size"):
            value = getattr(self, key)
            if value is not None and (
                not isinstance(value, int) or isinstance(value, bool) or value <= 0
            ):
                raise ValueError(
                    f"{key} of {self.name!r} must be a whole number above 0 or None, "
                    f"received {value!r}"
                )
        if self.source is None:
            object.__setattr__(self, "source", self.name)

    @classmethod
    def from_dict(cls, card: Mapping[str, Any]) -> ModelCard:
        """Build a card from a pool dict; ``model_name`` is read as ``name``.

        Raises
        ------
        KeyError
            On an unknown key, or when no name is given.
        """
        values = dict(card)
        if "model_name" in values:
            if "name" in values:
                raise KeyError("give 'model_name' or 'name', not both")
            values["name"] = values.pop("model_name")
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise KeyError(
                f"unknown model card keys {unknown}; known keys are "
                f"{['model_name', *known]}"
            )
        if "name" not in values:
            raise KeyError(f"a model card needs 'model_name', received {dict(card)!r}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON-able data."""
        return asdict(self)


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
        """Anchor and donors, in the order of ``shares``."""
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
        words = [str(w) for w in self.fusion_layers if not isinstance(w, int)]
        if not self.fusion_layers:
            return "plain"
        if not self.mid_layers:
            return "+".join(words)
        if words:
            return "custom"
        return {3: "sparse", 9: "dense"}.get(len(self.mid_layers), "custom")

    @cached_property
    def id(self) -> str:
        """Content hash of the recipe: stays valid when a catalogue is reordered."""
        return content_hash(self.recipe())

    def recipe(self) -> dict[str, Any]:
        """Return the JSON-able dict from which the braid can be built again."""
        return {
            "anchor": self.anchor,
            "donors": list(self.donors),
            "shares": list(self.shares),
            "fusion_layers": list(self.fusion_layers),
            "strategy": self.strategy,
        }

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> Braid:
        """Build a braid from :meth:`recipe`; unknown keys are a KeyError."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(recipe) - set(known))
        if unknown or "anchor" not in recipe:
            raise KeyError(
                f"a recipe needs 'anchor' and may hold {known}; received unknown keys "
                f"{unknown} in {dict(recipe)!r}"
            )
        return cls(**recipe)

    def label(self) -> str:
        """Return a short text for people."""
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
