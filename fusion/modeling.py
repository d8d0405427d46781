"""A braid as one real model: an anchor that speaks, donors whose states it reads."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .cache import BraidCache, DonorStates, Row, gather_rows
from .configuration import BraidConfig, bridge_layer
from .fusers import FUSERS
from .mixing import OutputMixer
from .pool import Pool
from .strand import Strand, Tap
from .vocabulary import VocabularyMap

WEIGHTS = "model.safetensors"


@dataclass
class BraidStates:
    """Everything the heads need: fused states, and donors' beside each position."""

    hidden: Tensor  # (B, T, width) after the final norm and its fuser
    donors: list[Tensor]  # (B, T, width_i) final states, for the output mixture
    present: list[Tensor]  # (B, T) bool


_MAPS: WeakKeyDictionary[Strand, WeakKeyDictionary[Strand, VocabularyMap]] = (
    WeakKeyDictionary()
)


def vocabulary_map(anchor: Strand, donor: Strand) -> VocabularyMap:
    """How the donor's tokens are told in the anchor's vocabulary; made once a pair."""
    known = _MAPS.setdefault(anchor, WeakKeyDictionary())
    if donor not in known:
        ends = (donor.tokenizer.eos_token_id, anchor.tokenizer.eos_token_id)
        known[donor] = VocabularyMap(
            anchor.tokens.table,
            donor.tokens.table,
            anchor.vocab_size,
            donor.vocab_size,
            [] if None in ends else [ends],
        )
    return known[donor]


def by_hand(
    model_configs: Sequence[Mapping[str, Any]],
    strategy: str,
    layers: Sequence[int | str],
    shares: Sequence[float] | None,
) -> BraidConfig:
    """The configuration of a braid that a person wrote down."""
    known = {"model_name", "source", "role", "share", "domain"}
    for entry in model_configs:
        if "model_name" not in entry or not set(entry) <= known:
            raise KeyError(
                f"a model config has 'model_name' and may have {sorted(known)}; "
                f"received {sorted(entry)}"
            )
    names = [str(entry["model_name"]) for entry in model_configs]
    if not names:
        raise ValueError("model_configs is empty; name at least one model")
    if shares is None:
        given = [float(e.get("share", 1 / len(names))) for e in model_configs]
        shares = [s / sum(given) for s in given]
    return BraidConfig(
        anchor=names[0],
        donors=names[1:],
        shares=shares,
        fusion_layers=layers,
        strategy=strategy if layers else None,
        sources={
            str(e["model_name"]): str(e.get("source", e["model_name"]))
            for e in model_configs
        },
    )


class BraidedLLM(PreTrainedModel, GenerationMixin):
    """Several frozen language models as one causal language model.

    Parameters
    ----------
    config : BraidConfig
    strands : sequence of Strand
        The anchor and the donors, by name; shared, never copied, never trained.
    model_configs : sequence of dict, optional
        By hand, instead of config and strands: ``{"model_name": ...}`` each, the
        anchor first, with optional ``source``, ``role`` and ``share``.
    fusion_strategy : {"learned_weighted", "router", "attention"}
    fusion_layers : sequence of int, "final" or "output"
    shares : sequence of float, optional
        Anchor first; equal by default.
    pool : Pool, optional
        Where strands come from when they are not given.

    Notes
    -----
    Only fusers are parameters of this module. State of a request lives in the
    `BraidCache` that is passed in and returned, so requests can run side by side.
    `from_models` and `from_pretrained` (see `fusion.pool`) load strands themselves.
    """

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
        fusion_strategy: str = "learned_weighted",
        fusion_layers: Sequence[int | str] = ("final", "output"),
        shares: Sequence[float] | None = None,
        pool: Pool | None = None,
    ) -> None:
        if model_configs is not None:
            config = by_hand(model_configs, fusion_strategy, fusion_layers, shares)
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
        anchor = by_name[config.anchor]
        config.check(anchor.n_layers)
        config.vocab_size = anchor.vocab_size
        config.hidden_size = anchor.width
        config.num_hidden_layers = anchor.n_layers
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, key, getattr(anchor.tokenizer, key))
        config.tie_word_embeddings = False
        super().__init__(config)
        # Plain attributes, not submodules: strands are shared and are not saved.
        self.__dict__["anchor"] = anchor
        self.__dict__["donors"] = [by_name[name] for name in config.donors]
        self._build()
        self.eval()
        self.generation_config.update(
            bos_token_id=config.bos_token_id,
            eos_token_id=anchor.model.generation_config.eos_token_id
            or config.eos_token_id,
            pad_token_id=config.pad_token_id
            if config.pad_token_id is not None
            else config.eos_token_id,
        )

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

    def _apply(self, fn: Any, recurse: bool = True) -> BraidedLLM:
        # Fusers move with their strands but stay in float32 (see `_build`).
        super()._apply(lambda t: fn(t).to(t.dtype), recurse)
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
    ) -> BraidStates:
        """Run all strands and fuse up to (not including) the output.

        ``input_ids`` (B, T); with a cache, only the new tokens and a mask over all.
        Braids of the same strands may share a ``memo`` while they read one text
        after the other without padding or cache: a strand then reads a text once.
        """
        memo = {} if memo is None else memo
        text = tuple(map(tuple, input_ids.tolist()))
        rows, columns = self._rows(input_ids, attention_mask, cache)
        if position_ids is None and attention_mask is not None:
            # Padding must not shift a token: positions count real tokens only.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            position_ids = position_ids[:, -input_ids.shape[1] :]
        sources: dict[int | str, list[DonorStates]] = {}
        for donor in self.donors if self.active else ():
            taps = self.donor_taps(donor)
            unique = list(dict.fromkeys(taps.values()))
            key = (self.anchor.name, donor.name, tuple(unique), text)
            got = memo.get(key)
            if got is None:
                got = memo[key] = gather_rows(
                    rows, self.anchor, donor, columns, input_ids.shape[1], unique
                )
            for layer, tap in taps.items():
                sources.setdefault(layer, []).append(got[tap])
        edits = {
            layer: lambda h, la=layer: self.fuse(la, h, sources[la])
            for layer in (self.layers() if self.active else ())
        }
        hidden = None if edits else memo.get((self.anchor.name, text))
        if hidden is None:
            hidden = self.anchor.run(
                input_ids,
                taps=["final"],
                edits=edits,
                cache=cache,
                attention_mask=attention_mask,
                position_ids=position_ids,
            )["final"]
            if not edits:
                memo[self.anchor.name, text] = hidden
        if self.active and "final" in self.fusers:
            hidden = self.fuse("final", hidden, sources.get("final", []))
        if self.mixer is None or not self.active:
            return BraidStates(hidden, [], [])
        aligned = [source.aligned() for source in sources["final"]]
        return BraidStates(
            hidden, [a for a, _ in aligned], [p[..., 0] for _, p in aligned]
        )

    def fuse(
        self, layer: int | str, hidden: Tensor, sources: Sequence[DonorStates]
    ) -> Tensor:
        fuser = self.fusers[str(layer)]
        out = fuser(hidden.float(), sources, self.config.shares[1:])
        return out.to(hidden.dtype)

    def _rows(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        cache: BraidCache | None,
    ) -> tuple[list[Row], list[list[int]]]:
        """Append this step's real tokens to each row; say which columns they are."""
        B, T = input_ids.shape
        if B == 0 or T == 0:
            raise ValueError(
                f"received input_ids of shape {tuple(input_ids.shape)}; give at least "
                "one row with one token"
            )
        real = torch.ones(B, T, dtype=torch.bool)
        if attention_mask is not None:
            real = attention_mask[:, -T:].bool().cpu()
        if cache is not None and not cache.rows:
            cache.rows = [Row() for _ in range(B)]
        rows = [Row() for _ in range(B)] if cache is None else cache.rows
        if len(rows) != B:
            raise ValueError(f"the cache holds {len(rows)} rows, received {B}")
        columns = [torch.nonzero(r).flatten().tolist() for r in real]
        for row, ids, cols in zip(rows, input_ids.tolist(), columns, strict=True):
            row.ids = [*row.ids, *(ids[c] for c in cols)]
        return rows, columns

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

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: BraidCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """As any causal language model of transformers; the cache is a `BraidCache`.

        ``logits_to_keep`` > 0 computes logits for the last positions only.
        """
        cache = past_key_values
        if cache is not None and not isinstance(cache, BraidCache):
            raise TypeError(
                f"past_key_values is a {type(cache).__name__}; a braid keeps its "
                "donors' state too: pass fusion.BraidCache()"
            )
        if cache is None and use_cache:
            cache = BraidCache()
        states = self.encode(input_ids, attention_mask, position_ids, cache)
        keep = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
        B = input_ids.shape[0]
        logits = self.head(states, (slice(None), keep)).view(
            B, -1, self.anchor.vocab_size
        )
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, inputs: Any = None, **kwargs: Any
    ) -> Any:
        """Write. Tensors as in transformers; a ``str`` in gives a ``str`` out.

        For text, ``max_new_tokens`` defaults to 128 and only what was written comes
        back. Raises ValueError on an empty prompt.
        """
        if isinstance(inputs, str):
            return self._write(inputs, **kwargs)
        if kwargs.get("use_cache", True) and "past_key_values" not in kwargs:
            kwargs["past_key_values"] = BraidCache()
        return super().generate(inputs, **kwargs)  # type: ignore[misc]

    def _write(self, prompt: str, **kwargs: Any) -> str:
        if not prompt.strip():
            raise ValueError("the prompt is empty; write at least one word")
        batch = self.tokenizer(prompt, return_tensors="pt").to(self.device)
        kwargs.setdefault("max_new_tokens", 128)
        out = self.generate(
            batch["input_ids"], attention_mask=batch["attention_mask"], **kwargs
        )
        new = out[0, batch["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(new, skip_special_tokens=True))

    def save_pretrained(  # type: ignore[override]
        self, save_directory: Any, **kwargs: Any
    ) -> None:
        """Write the recipe and the fusers; strands stay where they come from."""
        self.config.sources = {s.name: s.source for s in (self.anchor, *self.donors)}
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.contiguous().cpu() for k, v in self.state_dict().items()},
            folder / WEIGHTS,
            metadata={"format": "pt"},
        )
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path: Any, *, pool: Pool | None = None, **kwargs: Any
    ) -> BraidedLLM:
        """Load what `save_pretrained` wrote, and the strands from a pool.

        Raises ValueError when the weights do not fit the recipe.
        """
        config = BraidConfig.from_pretrained(path)
        model = cls(config, pool=pool)
        file = Path(path) / WEIGHTS
        if not file.is_file():
            raise ValueError(f"no {WEIGHTS} in {path}; expected a saved braid")
        found, wanted = load_file(file), model.state_dict()
        differ = sorted(set(found) ^ set(wanted)) + [
            k for k in set(found) & set(wanted) if found[k].shape != wanted[k].shape
        ]
        if differ:
            raise ValueError(
                f"weights in {path} do not fit its recipe at {differ[:3]} "
                f"({len(differ)} tensors); recalibrate the braid"
            )
        model.load_state_dict(found)
        return model
