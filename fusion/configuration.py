"""What a braid is, as data: the recipe and where its strands come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

STRATEGIES = ("learned_weighted", "router", "attention")


class BraidConfig(PreTrainedConfig):
    """Configuration of a `BraidedLLM`.

    Parameters
    ----------
    anchor : str
        Name of the strand that speaks.
    donors : list of str
    shares : list of float
        Anchor first; not negative, sum 1. With every donor at 0 the braid is its
        anchor alone.
    fusion_layers : list of int, "final" or "output"
        Decoder layers of the anchor (0-based), "final" (after the final norm),
        "output" (distributions mixed).
    strategy : str or None
        "learned_weighted", "router" or "attention"; None for a plain single model.
    sources : dict of str to str
        Where each strand comes from: hub id, folder or GGUF file.
    """

    model_type = "braid"

    def __init__(
        self,
        anchor: str = "",
        donors: Sequence[str] = (),
        shares: Sequence[float] = (1.0,),
        fusion_layers: Sequence[int | str] = (),
        strategy: str | None = None,
        sources: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.anchor = anchor
        self.donors = list(donors)
        self.shares = [float(s) for s in shares]
        self.fusion_layers = list(fusion_layers)
        self.strategy = strategy
        self.sources = dict(sources or {})
        super().__init__(**kwargs)

    def check(self, anchor_layers: int) -> None:
        """Refuse a recipe that cannot be built, saying what to change."""
        if len(self.shares) != 1 + len(self.donors):
            raise ValueError(
                f"received {len(self.shares)} shares for {1 + len(self.donors)} "
                "strands; give one share per strand, the anchor's first"
            )
        if not all(s >= 0 for s in self.shares) or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(
                f"shares must be >= 0 and sum to 1, received {self.shares}"
            )
        if self.fusion_layers and self.strategy not in STRATEGIES:
            raise ValueError(
                f"unknown strategy {self.strategy!r}; expected one of {STRATEGIES}"
            )
        if self.donors and not self.fusion_layers:
            raise ValueError("a braid with donors needs at least one fusion layer")
        for layer in self.fusion_layers:
            if layer in ("final", "output"):
                continue
            if isinstance(layer, bool) or not isinstance(layer, int):
                raise TypeError(
                    f"fusion layer {layer!r} is neither a layer number nor "
                    '"final" nor "output"'
                )
            if not 0 <= layer < anchor_layers:
                raise ValueError(
                    f"fusion layer {layer} is beyond the anchor {self.anchor!r}, "
                    f"which has layers 0 to {anchor_layers - 1}"
                )
        if not self.donors and any(la != "final" for la in self.fusion_layers):
            raise ValueError(
                f"fusion layers {self.fusion_layers} need a donor; without one only "
                '"final" (the anchor\'s own adapter) makes sense'
            )


def bridge_layer(layer: int, anchor_layers: int, donor_layers: int) -> int:
    """The donor layer at the same relative depth as an anchor layer.

    Examples
    --------
    >>> bridge_layer(29, 30, 18), bridge_layer(14, 30, 18), bridge_layer(0, 30, 18)
    (17, 8, 0)
    """
    return max(0, round((layer + 1) / anchor_layers * donor_layers) - 1)
