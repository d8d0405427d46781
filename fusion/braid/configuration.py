"""What a braid is, as data: the recipe and where its strands come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from transformers import PreTrainedConfig

from .._named import in_order
from ..strands.sources import read_source
from ..strands.strand import Strand

STRATEGIES = ("learned_weighted", "router", "attention")
FUSE = ("always", "prompt")


class BraidConfig(PreTrainedConfig):
    """Configuration of a `BraidedLLM`.

    Parameters
    ----------
    anchor : str
        Name of the strand that speaks.
    donors : list of str
    shares : list of float
        Anchor first, or a Series or a dict by name; not negative, sum 1. With every
        donor at 0 the braid is its anchor alone.
    fusion_layers : list of int, "final" or "output"
        Decoder layers of the anchor (0-based), "final" (after the final norm),
        "output" (distributions mixed).
    strategy : str or None
        "learned_weighted", "router" or "attention"; None for a plain single model.
    sources : dict of str to str or dict
        Where each strand comes from: hub id, folder or GGUF file, or with an adapter
        a dict with "source" and "adapter", its folder.
    fuse : {"always", "prompt"}
        What donors read: everything, or the prompt only. With "prompt" writing a token
        costs the anchor alone. A generated position has no donor state beside it:
        nothing is added to it. The prompt reaches it through the anchor's keys and
        values above a fused decoder layer, and with "attention" also directly: it
        may look at the donor's states of the prompt. The places where neither holds
        would change the first new token only and are refused: "output", and "final"
        or the anchor's last layer without attention.
    donor_layers : dict of str to dict of int to int
        By donor: which of its layers feeds a fusion layer, where that is not the one
        at the same relative depth (`bridge_layer`).
    """

    model_type = "braid"

    def __init__(
        self,
        anchor: str = "",
        donors: Sequence[str] = (),
        shares: Sequence[float] = (1.0,),
        fusion_layers: Sequence[int | str] = (),
        strategy: str | None = None,
        sources: Mapping[str, Any] | None = None,
        fuse: str = "always",
        donor_layers: Mapping[str, Mapping[int, int]] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(donors, Set):
            raise TypeError(f"donors is a set, which has no order; received {donors!r}")
        if isinstance(donors, str):
            raise TypeError(f"donors is a list of names; received the text {donors!r}")
        self.anchor = anchor
        self.donors = list(donors)
        self.shares = in_order(shares, (anchor, *self.donors), "shares")
        self.fusion_layers = list(fusion_layers)
        self.strategy = strategy
        self.sources = {
            name: read_source(name, given).told()
            for name, given in (sources or {}).items()
        }
        self.fuse = fuse
        # JSON has no numbers as keys.
        self.donor_layers = {
            name: {int(layer): int(tap) for layer, tap in taps.items()}
            for name, taps in (donor_layers or {}).items()
        }
        super().__init__(**kwargs)

    def check(self, anchor_layers: int) -> None:
        """Refuse a recipe that cannot be built, saying what to change."""
        self._check_shares()
        self._check_strategy()
        self._check_layers(anchor_layers)
        self._check_fuse(anchor_layers)

    def take_over(self, anchor: Strand) -> None:
        """Note the anchor's sizes and ends, which are the braid's."""
        self.vocab_size = anchor.vocab_size
        self.hidden_size = anchor.width
        self.num_hidden_layers = anchor.n_layers
        self.max_position_embeddings = anchor.positions
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(self, key, getattr(anchor.tokenizer, key))
        self.tie_word_embeddings = False

    def note_sources(self, strands: Sequence[Strand]) -> None:
        """Note where the strands come from, for those who load the braid."""
        self.sources = {strand.name: strand.source for strand in strands}

    def _check_shares(self) -> None:
        if len(self.shares) != 1 + len(self.donors):
            raise ValueError(
                f"received {len(self.shares)} shares for {1 + len(self.donors)} "
                "strands; give one share per strand, the anchor's first"
            )
        if not all(s >= 0 for s in self.shares) or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(
                f"shares must be >= 0 and sum to 1, received {self.shares}"
            )

    def _check_strategy(self) -> None:
        if self.fusion_layers and self.strategy not in STRATEGIES:
            raise ValueError(
                f"unknown strategy {self.strategy!r}; expected one of {STRATEGIES}"
            )
        if not self.fusion_layers and self.strategy is not None:
            raise ValueError(
                f"without fusion layers nothing is fused by {self.strategy!r}; give "
                "some, or no strategy"
            )
        if self.donors and not self.fusion_layers:
            raise ValueError("a braid with donors needs at least one fusion layer")

    def _check_layers(self, depth: int) -> None:
        """Refuse fusion layers that an anchor of so many layers does not have."""
        for layer in self.fusion_layers:
            if layer in ("final", "output"):
                continue
            if isinstance(layer, bool) or not isinstance(layer, int):
                raise TypeError(
                    f"fusion layer {layer!r} is neither a layer number nor "
                    '"final" nor "output"'
                )
            if not 0 <= layer < depth:
                raise ValueError(
                    f"fusion layer {layer} is beyond the anchor {self.anchor!r}, "
                    f"which has layers 0 to {depth - 1}"
                )
        if not self.donors and any(la != "final" for la in self.fusion_layers):
            raise ValueError(
                f"fusion layers {self.fusion_layers} need a donor; without one only "
                '"final" (the anchor\'s own adapter) makes sense'
            )

    def _check_fuse(self, depth: int) -> None:
        if self.fuse not in FUSE:
            raise ValueError(f"unknown fuse {self.fuse!r}; expected one of {FUSE}")
        if self.fuse == "always" or not self.donors:
            return
        blind: set[int | str] = {"output"}
        if self.strategy != "attention":
            blind |= {"final", depth - 1}
        lost = [layer for layer in self.fusion_layers if layer in blind]
        if lost:
            raise ValueError(
                f'with fuse="prompt" fusion layers {lost} would change the first new '
                f"token only; give decoder layers below {depth - 1}, or "
                '"final" with the strategy "attention"'
            )

    def check_donor_layers(self, depths: Mapping[str, int]) -> None:
        """Refuse donor layers that are not there; ``depths`` are layers by donor."""
        for name, taps in self.donor_layers.items():
            if name not in depths:
                raise ValueError(
                    f"donor_layers names {name!r}, the donors are {sorted(depths)}"
                )
            for layer, tap in taps.items():
                if layer not in self.fusion_layers or not 0 <= tap < depths[name]:
                    raise ValueError(
                        f"donor_layers feeds layer {layer} from layer {tap} of "
                        f"{name!r}; expected one of the fusion layers "
                        f"{self.fusion_layers}, from 0 to {depths[name] - 1}"
                    )


def one_recipe(
    config: BraidConfig | None,
    model_configs: Sequence[Mapping[str, Any]] | None,
    fusion_strategy: str | None = None,
    fusion_layers: Sequence[int | str] | None = None,
    shares: Sequence[float] | None = None,
    fuse: str | None = None,
) -> BraidConfig:
    """The configuration that was given, or the one that was written `by_hand`.

    Raises TypeError when neither was given, ValueError when both were, or when the
    configuration names no anchor: it is not one of a saved braid.
    """
    if config is None:
        if model_configs is None:
            raise TypeError("give a BraidConfig and strands, or model_configs")
        return by_hand(model_configs, fusion_strategy, fusion_layers, shares, fuse)
    written = {
        "fusion_strategy": fusion_strategy,
        "fusion_layers": fusion_layers,
        "shares": shares,
        "fuse": fuse,
    }
    unused = [name for name, value in written.items() if value is not None]
    if unused or model_configs is not None:
        raise ValueError(
            "a BraidConfig says everything: give it, or model_configs with "
            f"{list(written)}; received both, {unused} among them"
        )
    if not config.anchor:
        raise ValueError(
            "the configuration names no anchor; give that of a saved braid, or one "
            "with the name of a strand"
        )
    return config


def by_hand(
    model_configs: Sequence[Mapping[str, Any]],
    strategy: str | None = None,
    layers: Sequence[int | str] | None = None,
    shares: Sequence[float] | None = None,
    fuse: str | None = None,
) -> BraidConfig:
    """The configuration of a braid that a person wrote down."""
    layers = ("final", "output") if layers is None else layers
    known = {"model_name", "source", "adapter", "role", "share", "domain"}
    for entry in model_configs:
        if "model_name" not in entry or not set(entry) <= known:
            raise KeyError(
                f"a model config has 'model_name' and may have {sorted(known)}; "
                f"received {sorted(entry)}"
            )
    names = [str(entry["model_name"]) for entry in model_configs]
    if not names:
        raise ValueError("model_configs is empty; name at least one model")
    if len(set(names)) < len(names):
        raise ValueError(f"every model is named once, received {names}")
    if strategy is None and layers:
        strategy = "learned_weighted"
    if shares is not None and any("share" in entry for entry in model_configs):
        raise ValueError("give shares, or a share in the model configs; not both")
    if shares is None:
        given = [float(e.get("share", 1 / len(names))) for e in model_configs]
        if not sum(given) > 0:
            raise ValueError(f"the shares {given} come to nothing; one is above 0")
        shares = [s / sum(given) for s in given]
    return BraidConfig(
        anchor=names[0],
        donors=names[1:],
        shares=shares,
        fusion_layers=layers,
        strategy=strategy,
        sources={
            str(e["model_name"]): {k: e[k] for k in ("source", "adapter") if k in e}
            for e in model_configs
        },
        fuse="always" if fuse is None else fuse,
    )


def bridge_layer(layer: int, anchor_layers: int, donor_layers: int) -> int:
    """The donor layer at the same relative depth as an anchor layer.

    Examples
    --------
    >>> bridge_layer(29, 30, 18), bridge_layer(14, 30, 18), bridge_layer(0, 30, 18)
    (17, 8, 0)
    """
    return max(0, round((layer + 1) / anchor_layers * donor_layers) - 1)
