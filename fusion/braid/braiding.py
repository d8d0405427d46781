"""The strands of a braid together: states fused as far as the output."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from ..strands.pool import Pool
from ..strands.strand import Strand, Tap, memo_key
from .cache import BraidCache, DonorStates, Step, advance, gather_rows
from .configuration import BraidConfig, bridge_layer, by_hand
from .fusers import FUSERS
from .output_mixture import OutputMixer, vocabulary_map


def _refuse_gaps(mask: Tensor, anchor: Strand) -> None:
    """What counts the columns of a gap would see less of the text, or from further."""
    if mask.ndim != 2:
        return
    real = mask.long()
    # A column of padding with tokens on both sides of it.
    between = (real.cumsum(-1) > 0) & (real.flip(-1).cumsum(-1).flip(-1) > 0)
    if not bool((between & (real == 0)).any()):
        return
    if anchor.window is not None and mask.shape[1] > anchor.window:
        does = f"sees {anchor.window} columns back and would miss text"
    elif anchor.counts_columns:
        does = "counts columns, and would take what is before it for further away"
    else:
        return
    raise ValueError(
        f"attention_mask has padding between tokens; {anchor.name} {does}; pad on the "
        "left: tokenizer.padding_side = 'left'"
    )


def _turn(
    anchor: Strand, cache: BraidCache | None, new: Tensor, position_ids: Tensor | None
) -> None:
    """Note in the cache whether texts are long for the anchor; refuse what is mixed."""
    if anchor.turn is None:
        return
    past = 0 if cache is None else cache.get_seq_length()
    lengths = [past + new.shape[1]]
    if position_ids is not None:
        lengths = (position_ids.amax(-1) + 1).tolist()
    long = {anchor.is_long(length) for length in lengths}
    if len(long) > 1:
        raise ValueError(
            f"rows of {min(lengths)} to {max(lengths)} tokens in one batch: "
            f"{anchor.name} reads texts of more than {anchor.turn} tokens with other "
            "positions, and all rows alike; give longer and shorter texts apart"
        )
    if cache is None:
        return
    if past and cache.long not in long:
        raise ValueError(
            f"the cache holds {past} tokens; {anchor.name} reads texts of more than "
            f"{anchor.turn} tokens with other positions from the first token on; give "
            "the whole text with a new cache, as generate does"
        )
    cache.long = long.pop()


def _generation_config(anchor: Strand) -> GenerationConfig:
    """How the anchor's model writes, but for its cache: braids keep their own."""
    found = copy.deepcopy(anchor.model.generation_config)
    found.cache_implementation = found.cache_config = None
    found.output_attentions = found.output_hidden_states = None  # they show none
    tokenizer = anchor.tokenizer
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(found, key) is None:
            setattr(found, key, getattr(tokenizer, key))
    if found.pad_token_id is None:
        found.pad_token_id = tokenizer.eos_token_id
    return found


@dataclass
class BraidStates:
    """Everything the heads need: fused states, and donors' beside each position."""

    hidden: Tensor  # (B, T, width) after the final norm and its fuser
    donors: list[Tensor]  # (B, T, width_i) final states, for the output mixture
    present: list[Tensor]  # (B, T) bool


class Braiding(PreTrainedModel):
    """An anchor, donors and fusers; `BraidedLLM` makes a language model of it."""

    config_class = BraidConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(
        self,
        config: BraidConfig | None = None,
        strands: Sequence[Strand] | None = None,
        *,
        model_configs: Sequence[Mapping[str, Any]] | None = None,
        fusion_strategy: str | None = None,
        fusion_layers: Sequence[int | str] | None = None,
        shares: Sequence[float] | None = None,
        fuse: str | None = None,
        pool: Pool | None = None,
    ) -> None:
        written: dict[str, Any] = {
            "fusion_strategy": fusion_strategy,
            "fusion_layers": fusion_layers,
            "shares": shares,
            "fuse": fuse,
        }
        unused = [name for name, value in written.items() if value is not None]
        if config is not None and (unused or model_configs is not None):
            raise ValueError(
                "a BraidConfig says everything: give it, or model_configs with "
                f"{list(written)}; received both, {unused} among them"
            )
        if strands is not None and pool is not None:
            raise ValueError("give strands or a pool, where they come from; not both")
        if model_configs is not None:
            config = by_hand(
                model_configs, fusion_strategy, fusion_layers, shares, fuse
            )
        if config is None:
            raise TypeError("give a BraidConfig and strands, or model_configs")
        if strands is None:
            pool = Pool(config.sources) if pool is None else pool
            strands = [pool[name] for name in (config.anchor, *config.donors)]
        by_name = {s.name: s for s in strands}
        missing = [n for n in (config.anchor, *config.donors) if n not in by_name]
        if missing:
            raise KeyError(
                f"no strand named {missing[0]!r}; received {sorted(by_name)}, "
                f"the recipe needs {[config.anchor, *config.donors]}"
            )
        for entry in model_configs or ():
            name, found = entry["model_name"], by_name[entry["model_name"]].source
            if entry.get("source", found) != found:
                raise ValueError(
                    f"{name!r} comes from {found!r}, its model config says "
                    f"{entry['source']!r}; leave the source out, or give no strands "
                    "and no pool"
                )
        anchor = by_name[config.anchor]
        config.check(anchor.n_layers)
        config.check_donor_layers({n: by_name[n].n_layers for n in config.donors})
        config.vocab_size = anchor.vocab_size
        config.hidden_size = anchor.width
        config.num_hidden_layers = anchor.n_layers
        config.max_position_embeddings = anchor.positions
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, key, getattr(anchor.tokenizer, key))
        config.tie_word_embeddings = False
        super().__init__(config)
        # Plain attributes, not submodules: strands are shared and are not saved.
        self.__dict__["anchor"] = anchor
        self.__dict__["donors"] = [by_name[name] for name in config.donors]
        self._build()
        self.eval()
        self.generation_config = _generation_config(anchor)

    anchor: Strand
    donors: list[Strand]

    def _build(self) -> None:
        config, anchor = self.config, self.anchor
        widths = [d.width for d in self.donors]
        self.fusers = nn.ModuleDict()
        self.mixer: OutputMixer | None = None
        for layer in config.fusion_layers:
            if layer == "output":
                maps = [vocabulary_map(anchor, d) for d in self.donors]
                gated = config.strategy != "learned_weighted"
                self.mixer = OutputMixer(widths, maps, gated)
            else:
                fuser = FUSERS[config.strategy]
                self.fusers[str(layer)] = fuser(anchor.width, widths, layer == "final")
        # Fusers stay in float32 whatever the strands are in: they are small, and
        # half precision loses the small steps of their training.
        self.to(device=anchor.device)  # type: ignore[call-arg]

    @property
    def device(self) -> torch.device:
        return self.anchor.device

    @property
    def dtype(self) -> torch.dtype:
        return self.anchor.dtype

    @property
    def tokenizer(self) -> Any:
        """The anchor's tokenizer: it is the braid's."""
        return self.anchor.tokenizer

    def _apply(self, fn: Any, recurse: bool = True) -> Braiding:
        # Fusers move with their strands but stay in float32 (see `_build`).
        def move(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            # Not by way of the other type, which would round it.
            same = moved.dtype == tensor.dtype
            return moved if same else tensor.to(moved.device)

        super()._apply(move, recurse)
        for strand in (self.anchor, *self.donors) if "anchor" in self.__dict__ else ():
            strand.model._apply(fn)
        return self

    @property
    def active(self) -> bool:
        """False when every donor's share is 0: then the anchor speaks alone."""
        return not self.donors or any(s > 0 for s in self.config.shares[1:])

    def layers(self) -> list[int]:
        """The anchor's decoder layers that have a fuser."""
        return [int(name) for name in self.fusers if name != "final"]

    def donor_taps(self, donor: Strand) -> dict[int | str, Tap]:
        """Fusion layer -> the donor layer that feeds it."""
        taps: dict[int | str, Tap] = {
            layer: bridge_layer(layer, self.anchor.n_layers, donor.n_layers)
            for layer in self.layers()
        }
        taps |= self.config.donor_layers.get(donor.name, {})
        if "final" in self.fusers or self.mixer is not None:
            taps["final"] = "final"
        return taps

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: BraidCache | None = None,
        memo: MutableMapping[Any, Any] | None = None,
        prompt_length: int | Tensor | None = None,
        anchor_options: Mapping[str, Any] | None = None,
    ) -> BraidStates:
        """Run all strands and fuse up to (not including) the output.

        ``input_ids`` (B, T); with a cache, only the new tokens and a mask over all.
        Braids of the same strands may share a ``memo`` while they read one text
        after the other without padding or cache: a strand then reads a text once.
        ``prompt_length`` is as in `forward`; ``anchor_options`` are what else the
        anchor takes, and do not go with a memo.
        """
        memo = {} if memo is None else memo
        text = tuple(map(tuple, input_ids.tolist()))
        if attention_mask is not None:
            _refuse_gaps(attention_mask, self.anchor)
        followed = position_ids if self.donors and self.active else None
        if position_ids is None and attention_mask is not None:
            # Padding must not shift a token: positions count real tokens only.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            position_ids = position_ids[:, -input_ids.shape[1] :]
        fuse = self.config.fuse if self.donors else "always"
        _turn(self.anchor, cache, input_ids, position_ids)
        step = advance(input_ids, attention_mask, cache, fuse, prompt_length, followed)
        # Where no donor has a state beside a position, only attention does anything.
        fusing = self.active and (step.reads or self.config.strategy == "attention")
        sources = self._sources(step, text, memo) if fusing else {}
        edits = {
            layer: lambda h, la=layer: self.fuse(la, h, sources[la])
            for layer in (self.layers() if fusing else ())
        }
        known = (*memo_key(self.anchor), text)
        hidden = None if edits else memo.get(known)
        if hidden is None:
            hidden = self.anchor.run(
                input_ids,
                taps=["final"],
                edits=edits,
                cache=cache,
                attention_mask=attention_mask,
                position_ids=position_ids,
                options=anchor_options,
            )["final"]
            if not edits:
                memo[known] = hidden
        if fusing and "final" in self.fusers:
            hidden = self.fuse("final", hidden, sources.get("final", []))
        if self.mixer is None or not fusing:
            return BraidStates(hidden, [], [])
        aligned = [source.aligned() for source in sources["final"]]
        return BraidStates(
            hidden, [a for a, _ in aligned], [p[..., 0] for _, p in aligned]
        )

    def _sources(
        self, step: Step, text: object, memo: MutableMapping[Any, Any]
    ) -> dict[int | str, list[DonorStates]]:
        """What donors say beside the step, for each fusion layer."""
        sources: dict[int | str, list[DonorStates]] = {}
        for donor in self.donors:
            taps = self.donor_taps(donor)
            unique = list(dict.fromkeys(taps.values()))
            strands = (*memo_key(self.anchor), *memo_key(donor))
            key = (*strands, tuple(unique), text, step.key)
            got = memo.get(key)
            if got is None:
                got = memo[key] = gather_rows(step, self.anchor, donor, unique)
            for layer, tap in taps.items():
                sources.setdefault(layer, []).append(got[tap])
        return sources

    def fuse(
        self, layer: int | str, hidden: Tensor, sources: Sequence[DonorStates]
    ) -> Tensor:
        """States (B, T, width) at a fusion layer, fused with what donors say there."""
        fuser = self.fusers[str(layer)]
        out = fuser(hidden.float(), sources, self.config.shares[1:])
        return out.to(hidden.dtype)

    def head(self, states: BraidStates, index: Any = ...) -> Tensor:
        """Logits (N, V) for the positions ``states.*[index]``, flattened."""
        anchor, donors, present = self._head_inputs(states, index)
        if self.mixer is None or not donors:
            return anchor
        return self.mixer(anchor, donors, present, self.config.shares)

    def distributions(
        self, states: BraidStates, index: Any = ...
    ) -> tuple[list[Tensor], Tensor | None]:
        """What an output mixture mixes, (N, V) per strand, and what its gate sees."""
        if self.mixer is None:
            raise ValueError(
                "this braid mixes no distributions; build one with 'output' among "
                f"its fusion layers, which are {self.config.fusion_layers}"
            )
        anchor, donors, _ = self._head_inputs(states, index)
        return self.mixer.parts(anchor, donors)

    def _head_inputs(
        self, states: BraidStates, index: Any
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        hidden = states.hidden[index].reshape(-1, self.anchor.width)
        logits = self.anchor.logits(hidden)
        if self.mixer is None or not states.donors:
            return logits, [], []
        donors = []
        for i, (donor, h) in enumerate(zip(self.donors, states.donors, strict=True)):
            adapted = self.mixer.adapt(i, h[index].reshape(-1, donor.width).float())
            donors.append(donor.logits(adapted.to(donor.dtype)))
        return logits, donors, [p[index].reshape(-1) for p in states.present]
