"""A braid as one real model: an anchor that speaks, donors whose states it reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import GENERATION_CONFIG_NAME

from .._files import replacing
from ..strands.pool import Pool
from ..strands.strand import CACHE
from .braiding import Braiding, BraidStates
from .cache import BraidCache
from .checkpoint import load_weights, refuse_options, write_weights
from .configuration import BraidConfig
from .donors import crop_layers

__all__ = ["BraidStates", "BraidedLLM"]

_LOG = logging.getLogger(__name__)

# What would change the result of a call, and the value with which it does not: other
# inputs than text, more outputs than logits, texts packed into one row.
REFUSED = {
    "inputs_embeds": None,
    "encoder_hidden_states": None,
    "encoder_attention_mask": None,
    "output_hidden_states": False,
    "output_attentions": False,
    "output_router_logits": False,
    "is_causal": True,
    "cu_seq_lens_q": None,
    "cu_seq_lens_k": None,
    "seq_idx": None,
}

# What transformers hands to any model and no braid has a use for.
PASSED_OVER = frozenset(
    ["tokenizer", "assistant_tokenizer", "num_items_in_batch"]
    + ["max_length_q", "max_length_k", "token_type_ids", "mm_encoder_outputs"]
)


@lru_cache
def _pass_over(name: str) -> None:
    """Say once that an argument does nothing."""
    _LOG.warning("forward was given %r, which braids pass over; is it spelt so?", name)


def _parameters(model: nn.Module) -> set[str]:
    """Names of what a model's forward takes."""
    return set(signature(model.forward).parameters) - {"kwargs"}


def _one_cache(cache: Any, past_key_values: Any) -> Any:
    """The cache by either of its names."""
    if cache is not None and past_key_values is not None:
        raise ValueError(
            "received both cache and past_key_values, which are one thing; give one"
        )
    return past_key_values if cache is None else cache


class BraidedLLM(Braiding, GenerationMixin):
    """Several frozen language models as one causal language model.

    Parameters
    ----------
    config : BraidConfig
    strands : sequence of Strand
        The anchor and the donors, by name; shared, never copied, never trained.
    model_configs : sequence of dict, optional
        By hand, instead of config and strands: ``{"model_name": ...}`` each, the
        anchor first, with optional ``source``, ``role`` and ``share``.
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

    accepts_loss_kwargs = False  # for Trainer: the loss is a mean over tokens

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
        anchor_options = self._anchor_options(options)
        cache = _one_cache(cache, past_key_values)
        if cache is not None and not isinstance(cache, BraidCache):
            raise TypeError(
                f"the cache is a {type(cache).__name__}; a braid keeps its "
                "donors' state too: pass fusion.BraidCache()"
            )
        if cache is None and use_cache:
            cache = BraidCache()
        before = [] if cache is None else cache.rows
        past = 0 if cache is None else cache.get_seq_length()
        try:
            states = self.encode(
                input_ids,
                attention_mask,
                position_ids,
                cache,
                prompt_length=prompt_length,
                anchor_options=anchor_options,
            )
            logits = self._kept(states, logits_to_keep)
        except BaseException:
            if cache is not None:  # what was refused or stopped has not been read
                cache.rows = before
                crop_layers(cache, past)
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
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 2 and not bool(mask[:, -1].all()):
            raise ValueError(
                "a row ends in padding, behind which nothing can be written; pad on "
                "the left: tokenizer.padding_side = 'left'"
            )
        kind = self._setting("cache_implementation", generation_config, kwargs)
        if kind is not None:
            raise ValueError(
                f"received cache_implementation={kind!r}; braids keep a cache of their "
                "own, fusion.BraidCache: leave it out"
            )
        if self._setting("stop_strings", generation_config, kwargs) is not None:
            kwargs.setdefault("tokenizer", self.tokenizer)
        use_cache = self._setting("use_cache", generation_config, kwargs) is not False
        given = [kwargs.pop(name, None) for name in ("cache", "past_key_values")]
        cache = _one_cache(*given)
        if cache is None and use_cache:
            cache = BraidCache()
        if cache is not None:
            kwargs[CACHE] = cache
        ids = kwargs.get("input_ids") if inputs is None else inputs
        if ids is not None and self.config.fuse == "prompt":
            # In the cache where there is one: an assistant gets the other arguments.
            if not isinstance(cache, BraidCache):
                kwargs.setdefault("prompt_length", ids.shape[1])
            elif not cache.rows and "prompt_length" not in kwargs:
                cache.prompt_length = ids.shape[1]
        return super().generate(  # type: ignore[misc]
            inputs, generation_config, **kwargs
        )

    def _kept(self, states: BraidStates, keep: int | Tensor) -> Tensor:
        """Logits (B, n, V) of the last ``keep`` columns, or of those that it lists."""
        columns: Any = keep
        if isinstance(keep, Tensor):
            columns = keep.to(states.hidden.device)
        else:
            columns = slice(-keep, None) if keep else slice(None)
        logits = self.head(states, (slice(None), columns))
        return logits.view(len(states.hidden), -1, self.anchor.vocab_size)

    def prepare_inputs_for_generation(
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
            if past and whole and self.anchor.is_long(length) != cache.long:
                prompts = [row.prompt for row in cache.rows]
                cache.reset()
                if None not in prompts:
                    cache.prompt_length = torch.tensor(prompts)
                next_sequence_length = None
        found: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, next_sequence_length=next_sequence_length, **kwargs
        )
        return found

    def _anchor_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What of these the anchor takes; TypeError where a braid would differ."""
        for name, value in options.items():
            if value is None or value is REFUSED.get(name):
                continue
            if name in REFUSED:
                raise TypeError(
                    f"forward received {name}, which would change what comes back and "
                    "which braids do not have; leave it out"
                )
        takes = _parameters(self.anchor.body) if options else set()
        for name in set(options) - takes - set(REFUSED) - PASSED_OVER:
            _pass_over(name)
        return {name: options[name] for name in options if name in takes}

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        # What only the anchor takes is no mistake either.
        takes = _parameters(self.anchor.body)
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
        return self._written(read, tokens[0].tolist())

    def _written(self, prompt: list[int], tokens: list[int]) -> str:
        """What the tokens write behind the prompt.

        Not what they write alone: many tokenizers drop a space in front of a text.
        """
        before, whole = (
            str(
                self.tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )
            for ids in (prompt, tokens)
        )
        if whole.startswith(before):
            return whole[len(before) :]
        # Bytes of no character spoil those beside them, the prompt's last ones too.
        new = self.anchor.tokens.join(tokens[len(prompt) :])
        return new.decode(errors="replace")

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
        self.config.sources = {s.name: s.source for s in (self.anchor, *self.donors)}
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
            dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
            pool = Pool(config.sources, dtype=dtype)
        model = cls(config, pool=pool)
        load_weights(path, model, (model.anchor, *model.donors))
        if (path / GENERATION_CONFIG_NAME).is_file():
            model.generation_config = GenerationConfig.from_pretrained(path)
        return model
