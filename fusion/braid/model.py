"""A braid as one real model: an anchor that speaks, donors whose states it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import GENERATION_CONFIG_NAME

from .._files import replacing
from ..strands.pool import Pool
from ..strands.strand import CACHE, Edit, Strand, Tap, memo_key
from ..tokens.vocabulary import VocabularyMap
from .cache import BraidCache, Gathered, Step, advance, gather_rows
from .checkpoint import load_weights, write_weights
from .configuration import BraidConfig, bridge_layer, one_recipe
from .fusers import ADAPTERS, FUSERS, DonorStates
from .generation import generation_config
from .options import options_of_anchor, refuse_options
from .output_mixture import OutputMixer, Said, Voice, vocabulary_map
from .sharing import living_sharers, note, sharers, strands_of

__all__ = ["BraidStates", "BraidedLLM"]


@dataclass
class BraidStates:
    """Everything the heads need: fused states, and donors' beside each position."""

    hidden: Tensor  # (B, T, width) after the final norm and its fuser
    donors: list[np.ndarray]  # (B, T) of Reading or None, for the output mixture
    beside: np.ndarray  # (B, T) of Tensor (n, width), the anchor's that donors hear
    said: Said | None = None  # what donors said at the places of the step before


class _Feed(NamedTuple):
    """A donor, and which of its layers feeds which fusion layer."""

    donor: Strand
    taps: dict[int | str, Tap]  # fusion layer -> layer of the donor
    tapped: list[Tap]  # each layer once
    key: tuple[Any, ...]  # of what the donor says, beside the text


def _one_cache(cache: Any, past_key_values: Any) -> Any:
    """The cache by either of its names."""
    if cache is not None and past_key_values is not None:
        raise ValueError(
            "received both cache and past_key_values, which are one thing; give one"
        )
    return past_key_values if cache is None else cache


def _strands_of(
    config: BraidConfig,
    strands: Sequence[Strand] | None,
    pool: Pool | None,
    model_configs: Sequence[Mapping[str, Any]] | None,
) -> list[Strand]:
    """The anchor and the donors of a recipe, which come from where it says."""
    names = [config.anchor, *config.donors]
    given = strands is not None or pool is not None
    if strands is None:
        pool = Pool(config.sources) if pool is None else pool
        layered = any(isinstance(layer, int) for layer in config.fusion_layers)
        read = pool.with_layers if layered else pool.__getitem__
        strands = [read(name) for name in names]
    by_name = {s.name: s for s in strands}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise KeyError(
            f"no strand named {missing[0]!r}; received {sorted(by_name)}, "
            f"the recipe needs {names}"
        )
    for entry in (model_configs or ()) if given else ():
        name, found = entry["model_name"], by_name[entry["model_name"]].source
        known = found if isinstance(found, dict) else {"source": found}
        for key in ("source", "adapter"):
            if key in entry and str(entry[key]) != str(known.get(key)):
                raise ValueError(
                    f"{name!r} comes from {found!r}, its model config says "
                    f"{entry[key]!r}; leave the {key} out, or give no strands "
                    "and no pool"
                )
    return [by_name[name] for name in names]


class BraidedLLM(PreTrainedModel, GenerationMixin):
    """Several frozen language models as one causal language model.

    Parameters
    ----------
    config : BraidConfig
    strands : sequence of Strand
        The anchor and the donors, by name; shared, never copied, never trained.
    model_configs : sequence of dict, optional
        By hand, instead of config and strands: ``{"model_name": ...}`` each, the
        anchor first, with optional ``source``, ``adapter``, ``role`` and ``share``.
    fusion_strategy : {"learned_weighted", "router", "attention"}, optional
        This and the next three go with ``model_configs``; "learned_weighted" by
        default.
    fusion_layers : sequence of int, "final" or "output", optional
        By default "final" and "output".
    shares : sequence of float, or dict by name, optional
        Anchor first; by default as the model configs say, else equal.
    fuse : {"always", "prompt"}, optional
        What donors read, "always" by default; see `BraidConfig`.
    pool : Pool, optional
        Where strands come from when they are not given.

    Notes
    -----
    Only fusers are parameters of this module. State of a request lives in the
    `BraidCache` that is passed in and returned, so requests can run side by side.
    After `import fusion`, ``AutoModelForCausalLM.from_pretrained`` loads a saved one.
    """

    config_class = BraidConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    accepts_loss_kwargs = False  # for Trainer: the loss is a mean over tokens
    _supports_sdpa = True

    anchor: Strand
    donors: list[Strand]

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
        config = one_recipe(
            config, model_configs, fusion_strategy, fusion_layers, shares, fuse
        )
        if strands is not None and pool is not None:
            raise ValueError("give strands or a pool, where they come from; not both")
        anchor, *donors = _strands_of(config, strands, pool, model_configs)
        config.check(anchor.n_layers)
        config.check_donor_layers({donor.name: donor.n_layers for donor in donors})
        config.take_over(anchor)
        super().__init__(config)
        # Strands are no modules: they are shared, and are not saved.
        self.anchor, self.donors = anchor, donors
        self.build_fusers()
        self._key = memo_key(anchor)
        self._feeds = [self._feed(donor) for donor in donors]
        anchor.check_layers(self.layers())
        for feed in self._feeds:
            feed.donor.check_layers(feed.tapped)
        self.eval()
        self.generation_config = generation_config(anchor)
        note(self)

    def build_fusers(self) -> None:
        """Make the fusers anew, as they are before any training.

        All that they learnt is forgotten; strands and recipe stay as they are. Draws
        starting weights from the global generator of torch.
        """
        config, anchor = self.config, self.anchor
        widths = [d.width for d in self.donors]
        self.fusers = nn.ModuleDict()
        self.mixer: OutputMixer | None = None
        for layer in config.fusion_layers:
            if layer == "output":
                maps = [vocabulary_map(anchor, d) for d in self.donors]
                gated = config.strategy != "learned_weighted"
                self.mixer = OutputMixer(
                    anchor.width, widths, maps, ADAPTERS[config.strategy], gated
                )
            else:
                fuser = FUSERS[config.strategy]
                self.fusers[str(layer)] = fuser(anchor.width, widths, layer == "final")
        # Fusers stay in float32 whatever the strands are in: they are small, and
        # half precision loses the small steps of their training.
        self.to(device=anchor.device)  # type: ignore[call-arg]

    def _feed(self, donor: Strand) -> _Feed:
        taps = self.donor_taps(donor)
        tapped = list(dict.fromkeys(taps.values()))
        key = (*self._key, *memo_key(donor), tuple(tapped))
        return _Feed(donor, taps, tapped, key)

    @property
    def device(self) -> torch.device:
        """Where the anchor is, and so the braid."""
        return self.anchor.device

    @property
    def dtype(self) -> torch.dtype:
        """The anchor's number type; fusers are in float32 whatever it is."""
        return self.anchor.dtype

    @property
    def tokenizer(self) -> Any:
        """The anchor's tokenizer: it is the braid's."""
        return self.anchor.tokenizer

    def _apply(self, fn: Any, recurse: bool = True) -> BraidedLLM:
        """Move the braid, its strands, and all braids that share some of them.

        Raises ValueError, and nothing has moved, where numbers of another type would
        change what the other braids compute.
        """
        if "anchor" not in self.__dict__:
            return self.move_fusers(fn, recurse)
        going = [
            (strand, fn(torch.empty(0, dtype=strand.dtype, device=strand.device)))
            for strand in strands_of([self])
            if strand.moves
        ]
        self._refuse_rounding([s.name for s, to in going if to.dtype != s.dtype])
        moves = any(to.device != strand.device for strand, to in going)
        braids = [self, *sharers(self)] if moves else [self]
        for braid in braids:
            braid.move_fusers(fn, recurse)
        for strand in strands_of(braids):
            strand.move(fn)
        return self

    def move_fusers(self, fn: Any, recurse: bool = True) -> BraidedLLM:
        """Move what was trained; it stays in float32 (see `build_fusers`)."""

        def move(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            # Not by way of the other type, which would round it.
            same = moved.dtype == tensor.dtype
            return moved if same else tensor.to(moved.device)

        super()._apply(move, recurse)
        return self

    def _refuse_rounding(self, rounded: Sequence[str]) -> None:
        if rounded and (others := living_sharers(self)):
            raise ValueError(
                f"{rounded} would compute with numbers of another type, also in other "
                f"braids ({len(others)}) that use them or share their base, whose "
                "fusers were made for the present one; give this braid strands of its "
                "own, such as those of another Pool(dtype=...), or let go of the others"
            )

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
        step = advance(
            self.anchor,
            input_ids,
            attention_mask,
            position_ids,
            cache,
            fuse=self.config.fuse if self.donors else "always",
            prompt_length=prompt_length,
            followed=bool(self.donors) and self.active,
        )
        # Where no donor has a state beside a position, only attention does anything.
        fusing = self.active and (step.reads or self.config.strategy == "attention")
        found = self._gather(step, text, memo) if fusing else []
        edits = self._edits(found) if fusing else {}
        known = (*self._key, text)
        hidden = None if edits else memo.get(known)
        if hidden is None:
            hidden = self.anchor.run(
                input_ids,
                taps=["final"],
                edits=edits,
                cache=cache,
                attention_mask=attention_mask,
                position_ids=step.position_ids,
                options=anchor_options,
            )["final"]
            if not edits:
                memo[known] = hidden
        beside = np.full(hidden.shape[:2], None, dtype=object)
        if self.mixer is not None:
            for b, (row, columns) in enumerate(
                zip(step.rows, step.columns, strict=True)
            ):
                row.hear(hidden[b, columns])
                for t in columns:
                    beside[b, t] = row.hidden
        said = None if cache is None else cache.said
        return self._fused(hidden, beside, found if fusing else None, said)

    def fuse_read(
        self,
        hidden: Tensor,
        beside: np.ndarray,
        gather: Callable[[Strand, Sequence[Tap], VocabularyMap | None], Gathered],
    ) -> BraidStates:
        """Fuse what the strands made of some positions elsewhere, as `encode` does.

        Parameters
        ----------
        hidden : Tensor (1, N, width)
            The anchor's states after the final norm.
        beside : ndarray (1, N) of Tensor (n, width)
            At each position, the anchor's states of the text that it is in.
        gather : callable
            From a donor, its taps and what carries its distribution (None where that is
            not asked for) to what it makes of the positions.

        Raises
        ------
        ValueError
            For a braid that fuses decoder layers: its anchor has to read anew.
        """
        if self.layers():
            raise ValueError(
                f"this braid fuses decoder layers {self.layers()}, so that its anchor "
                "has to read every text with them; use encode"
            )
        found = None
        if self.active:
            asked = zip(self._feeds, self._carriers(), strict=True)
            found = [gather(feed.donor, feed.tapped, how) for feed, how in asked]
        return self._fused(hidden, beside, found)

    def _fused(
        self,
        hidden: Tensor,
        beside: np.ndarray,
        found: Sequence[Gathered] | None,
        said: Said | None = None,
    ) -> BraidStates:
        """What the heads need; ``found`` is None where nothing is fused."""
        if found is None:
            return BraidStates(hidden, [], beside)
        if "final" in self.fusers:
            sources = self._sources("final", found)
            hidden = self.fusers["final"](hidden, sources, self.config.shares[1:])
        readings = [] if self.mixer is None else [got.readings for got in found]
        return BraidStates(hidden, readings, beside, said)

    def _carriers(self) -> Sequence[VocabularyMap | None]:
        """For each donor, what carries its distribution, where outputs are mixed."""
        return [None] * len(self._feeds) if self.mixer is None else self.mixer.maps

    def _gather(
        self, step: Step, text: object, memo: MutableMapping[Any, Any]
    ) -> list[Gathered]:
        """What each donor makes of the step."""
        found = []
        for feed, carrier in zip(self._feeds, self._carriers(), strict=True):
            key = (*feed.key, text, step.key, carrier is None)
            got = memo.get(key)
            if got is None:
                got = gather_rows(step, self.anchor, feed.donor, feed.tapped, carrier)
                memo[key] = got
            found.append(got)
        return found

    def _sources(
        self, layer: int | str, found: Sequence[Gathered]
    ) -> list[DonorStates]:
        """What donors say beside the step, for one fusion layer."""
        feeds = zip(self._feeds, found, strict=True)
        return [got.states[feed.taps[layer]] for feed, got in feeds]

    def _edits(self, found: Sequence[Gathered]) -> dict[int, Edit]:
        """What fuses the output of each of the anchor's layers that has a fuser."""
        shares = self.config.shares[1:]
        return {
            layer: partial(
                self.fusers[str(layer)],
                sources=self._sources(layer, found),
                shares=shares,
            )
            for layer in self.layers()
        }

    def head(self, states: BraidStates, index: Any = ...) -> Tensor:
        """Logits (N, V) for the positions ``states.*[index]``, flattened."""
        hidden = states.hidden[index].reshape(-1, self.anchor.width)
        logits = self.anchor.logits(hidden)
        if self.mixer is None or not states.donors:
            return logits
        return self.mixer(logits, self._voices(states, index), self.config.shares)

    def distributions(
        self, states: BraidStates, index: Any = ...
    ) -> Iterator[tuple[list[Tensor], Tensor | None, list[bool]]]:
        """What an output mixture mixes at some positions; see `OutputMixer.parts`."""
        if self.mixer is None:
            raise ValueError(
                "this braid mixes no distributions; build one with 'output' among "
                f"its fusion layers, which are {self.config.fusion_layers}"
            )
        hidden = states.hidden[index].reshape(-1, self.anchor.width)
        return self.mixer.parts(self.anchor.logits(hidden), self._voices(states, index))

    def mix(
        self, parts: Sequence[Tensor], seen: Tensor | None, there: Sequence[bool]
    ) -> Tensor:
        """Log-probabilities (V,) at a position, of what `distributions` says of it."""
        assert self.mixer is not None  # else there is nothing to mix
        return self.mixer.mixed(parts, seen, there, self.config.shares)

    def _voices(self, states: BraidStates, index: Any) -> list[Voice]:
        """What the output mixture asks of each donor at some positions."""
        if isinstance(index, tuple):
            index = tuple(
                i.cpu().numpy() if isinstance(i, Tensor) else i for i in index
            )
        beside = states.beside[index].reshape(-1)
        return [
            Voice(readings[index].reshape(-1), donor.logits, states.said, beside)
            for donor, readings in zip(self.donors, states.donors, strict=True)
        ]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: BraidCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        prompt_length: int | Tensor | None = None,
        return_dict: bool | None = None,
        cache: BraidCache | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """As any causal language model of transformers; the cache is a `BraidCache`.

        Parameters
        ----------
        input_ids : Tensor (B, T)
        attention_mask : Tensor (B, n), optional
        position_ids : Tensor (B, T), optional
        cache, past_key_values : BraidCache, optional
            Two names of one thing: transformers renamed it in 5.24. The output has
            both.
        labels : Tensor (B, T), optional
            -100 is skipped.
        use_cache : bool, optional
        logits_to_keep : int or Tensor
            Above 0, logits for the last positions only; a tensor says for which.
        prompt_length : int or Tensor (B,), optional
            Of a braid with ``fuse="prompt"``: how many columns, padding included,
            belong to the prompt. By default all columns of the first call with a
            cache, or of a call without one. `generate` sees to it by itself; other
            braids do not need it.
        return_dict : bool, optional
            False for a tuple.
        **options
            Handed to the anchor where it takes them. Others are passed over, but for
            those that would change what comes back: these raise TypeError.
        """
        for_anchor = options_of_anchor(options, self.anchor.takes) if options else {}
        cache = _one_cache(cache, past_key_values)
        if cache is not None and not isinstance(cache, BraidCache):
            raise TypeError(
                f"the cache is a {type(cache).__name__}; a braid keeps its "
                "donors' state too: pass fusion.BraidCache()"
            )
        if cache is None and use_cache:
            cache = BraidCache()
        before = None if cache is None else (cache.rows, cache.get_seq_length())
        try:
            states = self.encode(
                input_ids,
                attention_mask,
                position_ids,
                cache,
                prompt_length=prompt_length,
                anchor_options=for_anchor,
            )
            logits = self._kept(states, logits_to_keep)
        except BaseException:
            if cache is not None and before is not None:
                cache.restore(*before)
            raise
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            )
        found: dict[str, Any] = {"loss": loss, "logits": logits, CACHE: cache}
        out = CausalLMOutputWithPast(**found)
        out.cache = cache  # beside the field where that has the older name
        return out.to_tuple() if return_dict is False else out

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, inputs: Any = None, generation_config: Any = None, **kwargs: Any
    ) -> Any:
        """Write. Tensors as in transformers; a ``str`` in gives a ``str`` out.

        What is not given is as the anchor's generation configuration has it. For text,
        128 tokens are written unless either says how many, special tokens that are
        written out are read as such (the text of a chat template has its own), and only
        what was written comes back, once. With ``fuse="prompt"`` what goes in is the
        prompt; with a cache that was begun before, what went in then.

        Raises ValueError on an empty prompt, a row that ends in padding, another kind
        of cache, and several sequences of one text.
        """
        if isinstance(inputs, str):
            return self._write(inputs, generation_config=generation_config, **kwargs)
        if inputs is not None and not isinstance(inputs, Tensor):
            raise TypeError(
                f"generate takes a text or a tensor, received {type(inputs).__name__}; "
                "for several texts give braid.tokenizer(texts, padding=True, "
                "padding_side='left', return_tensors='pt')"
            )
        self._refuse_writing(generation_config, kwargs)
        if self._setting("stop_strings", generation_config, kwargs) is not None:
            kwargs.setdefault("tokenizer", self.tokenizer)
        keep = self._setting("use_cache", generation_config, kwargs) is not False
        ids = kwargs.get("input_ids") if inputs is None else inputs
        return super().generate(  # type: ignore[misc]
            inputs, generation_config, **self._with_cache(ids, keep, kwargs)
        )

    def _refuse_writing(self, given: Any, kwargs: Mapping[str, Any]) -> None:
        """Refuse what would be garbled, and a cache that has no place for donors."""
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and not bool(mask[:, -1].all()):
            raise ValueError(
                "a row ends in padding, behind which nothing can be written; pad on "
                "the left: tokenizer.padding_side = 'left'"
            )
        kind = self._setting("cache_implementation", given, kwargs)
        if kind is not None:
            raise ValueError(
                f"received cache_implementation={kind!r}; braids keep a cache of their "
                "own, fusion.BraidCache: leave it out"
            )

    def _with_cache(
        self, ids: Tensor | None, keep: bool, kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Arguments of `generate` with a cache, and with how long the prompt is."""
        options = dict(kwargs)
        given = [options.pop(name, None) for name in ("cache", "past_key_values")]
        cache = _one_cache(*given)
        if cache is None and keep:
            cache = BraidCache()
        if cache is not None:
            options[CACHE] = cache
        if ids is not None and self.config.fuse == "prompt":
            # In the cache where there is one: an assistant gets the other arguments.
            if not isinstance(cache, BraidCache):
                options.setdefault("prompt_length", ids.shape[1])
            elif not cache.rows and "prompt_length" not in options:
                cache.expect(ids.shape[1])
        return options

    def _kept(self, states: BraidStates, keep: int | Tensor) -> Tensor:
        """Logits (B, n, V) of the last ``keep`` columns, or of those that it lists."""
        columns: Any = keep
        if isinstance(keep, Tensor):
            columns = keep.to(states.hidden.device)
        else:
            columns = slice(-keep, None) if keep else slice(None)
        logits = self.head(states, (slice(None), columns))
        return logits.view(len(states.hidden), -1, self.anchor.vocab_size)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As transformers has it; where the anchor's positions turn, all is read anew.

        See `Strand.turn`: the cache then begins again with the whole text.
        """
        cache, places = kwargs.get(CACHE), kwargs.get("position_ids")
        if isinstance(cache, BraidCache) and next_sequence_length is not None:
            past = cache.get_seq_length()
            length = int(places.max()) + 1 if places is not None else input_ids.shape[1]
            whole = past + next_sequence_length == input_ids.shape[1]
            if past and whole and (length > self.anchor.turn) != cache.long:
                cache.restart()
                next_sequence_length = None
        found: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, next_sequence_length=next_sequence_length, **kwargs
        )
        return found

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        # What only the anchor takes is no mistake either.
        takes = self.anchor.takes
        super()._validate_model_kwargs(  # type: ignore[misc]
            {name: v for name, v in model_kwargs.items() if name not in takes}
        )

    def _write(self, prompt: str, **kwargs: Any) -> str:
        if not prompt.strip():
            raise ValueError("the prompt is empty; write at least one word")
        given = kwargs.get("generation_config")
        count = self._setting("num_return_sequences", given, kwargs) or 1
        if count > 1:
            raise ValueError(
                f"a text comes back for a text, received num_return_sequences={count}; "
                "give tensors: braid.tokenizer(prompt, return_tensors='pt')"
            )
        limits = ("max_new_tokens", "max_length")
        if all(self._setting(name, given, kwargs) is None for name in limits):
            kwargs["max_new_tokens"] = 128
        read = self.anchor.tokens.read(prompt)
        ids = torch.tensor([read], device=self.device)
        out = self.generate(ids, attention_mask=torch.ones_like(ids), **kwargs)
        tokens = getattr(out, "sequences", out)  # of return_dict_in_generate
        return self.anchor.tokens.written_behind(read, tokens[0].tolist())

    def _setting(self, name: str, given: Any, kwargs: Mapping[str, Any]) -> Any:
        """An argument of `generate`, wherever it is set."""
        configs = (given, self.generation_config)
        values = (kwargs.get(name), *(getattr(c, name, None) for c in configs))
        return next((value for value in values if value is not None), None)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: Any,
        *,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the recipe and the fusers; strands stay where they come from.

        The tokenizer is the anchor's: ``braid.tokenizer.save_pretrained`` writes it
        beside, for programs that load both from one folder.
        """
        if not is_main_process:
            return
        self.config.note_sources((self.anchor, *self.donors))
        weights = self.state_dict() if state_dict is None else state_dict
        with replacing(Path(save_directory).expanduser()) as folder:
            write_weights(folder, weights, (self.anchor, *self.donors))
            self.config.save_pretrained(folder)
            # As it is: an anchor's may have what transformers would not save anew.
            self.generation_config.to_json_file(folder / GENERATION_CONFIG_NAME)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        path: Any,
        *,
        pool: Pool | None = None,
        config: BraidConfig | None = None,
        dtype: torch.dtype | str | None = None,
        **options: Any,
    ) -> BraidedLLM:
        """Load what `save_pretrained` wrote, and the strands from a pool.

        Parameters
        ----------
        path : str or Path
        pool : Pool, optional
            By default a new one; strands come from where the recipe says.
        config : BraidConfig, optional
            In place of the saved one.
        dtype : torch.dtype, optional
            Of strands that are loaded now; fusers stay in float32.

        Raises
        ------
        ValueError
            When the weights do not fit the recipe, or were trained on other strands.
        TypeError
            On an option that is not known.
        """
        refuse_options("from_pretrained", options, "pool, config and dtype")
        path = Path(path).expanduser()
        if not path.is_dir():
            raise ValueError(f"{str(path)!r} is no folder; expected a saved braid")
        config = BraidConfig.from_pretrained(path) if config is None else config
        if dtype is not None and dtype != "auto":
            if pool is not None:
                raise ValueError("give a dtype or a pool, which has one; not both")
            kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
            pool = Pool(config.sources, dtype=kind)
        model = cls(config, pool=pool)
        load_weights(path, model, (model.anchor, *model.donors))
        if (path / GENERATION_CONFIG_NAME).is_file():
            model.generation_config = GenerationConfig.from_pretrained(path)
        return model
