"""One frozen language model, read and edited layer by layer.

A strand is shared by every braid that uses it, so nothing of a request may live on
its modules. Each decoder layer gets one permanent hook that does nothing unless the
current context carries a request; requests in other threads carry their own.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from inspect import signature
from itertools import count
from operator import attrgetter
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..tokens.token_bytes import TokenBytes
from .twins import kin

# What the installed transformers calls a cache: "past_key_values" until 5.23.
CACHE = next(
    field.name
    for field in fields(CausalLMOutputWithPast)
    if field.name in ("cache", "past_key_values")
)

_NUMBERS = count()


def next_number() -> int:
    """A number that no other strand of this process has."""
    return next(_NUMBERS)


def soft_capped(logits: Tensor, cap: float | None) -> Tensor:
    """Logits between a soft cap and its negative; None for no cap."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


Edit = Callable[[Tensor], Tensor]
Tap = int | str  # a decoder layer (its output), or "final" (after the final norm)


@dataclass
class _Request:
    strand: Strand
    taps: frozenset[Tap]
    edits: Mapping[int, Edit]
    last: int | None  # stop after this layer
    states: dict[Tap, Tensor] = field(default_factory=dict)


class _Reached(Exception):
    """The deepest layer that anyone asked for has run."""


_CURRENT: ContextVar[_Request | None] = ContextVar("strand_request", default=None)


def _visit(strand: Strand, layer: int, _module: Any, _args: Any, output: Any) -> Any:
    request = _CURRENT.get()
    if request is None or request.strand is not strand:
        return None
    hidden = output[0] if isinstance(output, tuple) else output
    edit = request.edits.get(layer)
    if edit is not None:
        hidden = edit(hidden)
    if layer in request.taps:
        request.states[layer] = hidden
    if layer == request.last:
        raise _Reached
    if edit is None:
        return None
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


_ROPE = threading.Lock()


def _one_at_a_time(module: Any, *args: Any, **kwargs: Any) -> Any:
    """A rotary embedding that sets its frequencies for each text that it is shown."""
    with _ROPE:
        return type(module).forward(module, *args, **kwargs)


def _rope_types(kinds: Any) -> set[str]:
    """The names in a rotary embedding's `rope_type`: one, or one per kind of layer."""
    return {str(k) for k in (kinds.values() if isinstance(kinds, dict) else [kinds])}


@contextmanager
def _carrying(request: _Request) -> Iterator[None]:
    token = _CURRENT.set(request)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def decoder_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """The model's list of decoder layers, found by its length."""
    found = [
        m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count
    ]
    if len(found) != 1:
        raise ValueError(
            f"found {len(found)} module lists of length {count} in "
            f"{type(model).__name__}; expected exactly one (its decoder layers)"
        )
    return found[0]


def memo_key(strand: Strand) -> tuple[str, int]:
    """Key of what a strand made of a text; keeps no strand alive, as itself would.

    The name tells controls apart that read another strand in their own way.
    """
    return strand.name, strand.number


class Strand:
    """A frozen causal language model with its tokenizer.

    Parameters
    ----------
    name : str
        What recipes call it.
    model : PreTrainedModel
        A causal language model; it is put in eval mode and frozen.
    tokenizer : PreTrainedTokenizerFast
    source : str or dict, optional
        Where it came from (hub id, folder or file, or with an adapter a dict as of
        `Pool`); kept for saving.
    tokens : TokenBytes, optional
        Of the tokenizer, where they are known already.
    settings : str
        What of an adapter is in no weight: fingerprints tell it too.
    base : object, optional
        What it shares with other strands, which is kept as long as it is.

    Attributes
    ----------
    n_layers, width, vocab_size : int
        Of the model: decoder layers, hidden size, rows of the LM head.
    number : int
        Tells the strands of a process apart, those of one name too.
    turn : float
        With long RoPE: a text of more tokens is read with other positions, from its
        first token on. Keys and values of a shorter one are of no use to it. Infinity
        for all other models.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        source: str | dict[str, str] | None = None,
        *,
        tokens: TokenBytes | None = None,
        settings: str = "",
        base: object = None,
    ) -> None:
        self.name = name
        self.base = base
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.source = source or name
        self.tokens = TokenBytes(tokenizer) if tokens is None else tokens
        self._settings = settings
        self._config = config = model.config.get_text_config(decoder=True)
        self.n_layers = int(config.num_hidden_layers)
        self.width = int(config.hidden_size)
        self.body = model.base_model
        self.head = model.get_output_embeddings()
        self.vocab_size = int(self.head.weight.shape[0])
        self.number = next_number()
        self._fingerprints: dict[Any, str] = {}
        self._softcap = getattr(config, "final_logit_softcapping", None)
        # Below the text model: an image encoder may have as many layers.
        text = model.get_decoder()
        for i, layer in enumerate(decoder_layers(text, self.n_layers)):
            layer.register_forward_hook(partial(_visit, self, i))
        self._said_too_long = False
        self._ropes: set[str] = set()
        for module in self.body.modules():
            kinds = _rope_types(getattr(module, "rope_type", None))
            if "longrope" in kinds:
                module.forward = MethodType(_one_at_a_time, module)
            self._ropes |= kinds
        self.turn = self._turn()
        self._check_head()
        self._check_cache()

    # Without a frame of Python's: generation asks for them all the time.
    device = property(attrgetter("head.weight.device"))
    dtype = property(attrgetter("head.weight.dtype"))

    @property
    def generation_config(self) -> Any:
        """How the model writes by default."""
        return self.model.generation_config

    context_memory = 0  # bytes for each text that do not grow with it

    @property
    def memory(self) -> int:
        """Bytes of weights."""
        return int(self.model.get_memory_footprint())

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All that the model learnt, by name."""
        return self.model.named_parameters()  # type: ignore[no-any-return]

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Change where weights are or what type they have, as `nn.Module._apply`.

        With them moves all that stands on the same base.
        """
        for model in kin(self.model):
            model._apply(function)

    @property
    def moves(self) -> frozenset[int]:
        """Identities of the models that `move` moves: those that share weights."""
        return frozenset(id(model) for model in kin(self.model))

    def check_layers(self, layers: Iterable[Tap]) -> None:
        """All decoder layers can be read and edited."""

    @property
    def window(self) -> int | None:
        """How many positions back a layer with a sliding window sees, if there is one.

        Counted in columns: padding between two tokens takes its place too.
        """
        if self._local:
            return int(self._config.window_size)
        kinds = getattr(self._config, "layer_types", None)
        if kinds and "sliding_attention" not in kinds:
            return None
        return getattr(self._config, "sliding_window", None)

    @property
    def _local(self) -> bool:
        """Whether layers have a window that no mask from outside can tell (GPT-Neo)."""
        return "local" in (getattr(self._config, "attention_layers", None) or ())

    @cached_property
    def positions(self) -> int | None:
        """How many tokens the model was made for, if its configuration says so."""
        names = ("max_position_embeddings", "max_seq_len")  # the latter is MPT's
        known = (getattr(self._config, name, None) for name in names)
        limit = next((n for n in known if n is not None), None)
        for rope in self._rope_settings():
            # A stretch by a factor may stand beside the length of before.
            if limit is not None and rope.get("rope_type") == "yarn":
                before = rope.get("original_max_position_embeddings") or 0
                limit = max(limit, int(before * (rope.get("factor") or 1)))
        return limit

    def _turn(self) -> float:
        if "longrope" not in self._ropes:
            return math.inf
        lengths = {
            int(rope["original_max_position_embeddings"])
            for rope in self._rope_settings()
            if rope.get("rope_type") == "longrope"
        }
        if len(lengths) != 1:
            raise ValueError(
                f"{self.name} has long RoPE with original lengths {sorted(lengths)}; "
                "expected one, use another model"
            )
        return lengths.pop()

    def _rope_settings(self) -> list[dict[str, Any]]:
        """What the configuration says of RoPE: once, or for each kind of layer."""
        found = getattr(self._config, "rope_parameters", None) or {}
        return [rope for rope in found.values() if isinstance(rope, dict)] or [found]

    @cached_property
    def counts_columns(self) -> bool:
        """Whether padding between tokens takes its place, as with MPT's ALiBi.

        Tried once, on a small text with and without a gap of 8 columns.
        """
        gap = 8
        if self.window is not None and self.window < gap + 4:
            return False  # the window is what counts, see there

        def last_two(ids: list[int], mask: list[int], places: list[int]) -> Tensor:
            return self.run(
                torch.tensor([ids], device=self.device),
                taps=["final"],
                attention_mask=torch.tensor([mask], device=self.device),
                position_ids=torch.tensor([places], device=self.device),
            )["final"][0, -2:]

        a, b, c, d = (min(i, self.vocab_size - 1) for i in (3, 4, 5, 6))
        wanted = last_two([a, b, c, d], [1] * 4, [0, 1, 2, 3])
        found = last_two(
            [a, b, *[a] * gap, c, d], [1, 1, *[0] * gap, 1, 1], [0, 1, *[1] * gap, 2, 3]
        )
        return bool((found - wanted).norm() > 0.02 * wanted.norm())

    @property
    def takes(self) -> set[str]:
        """Names of what the model's forward takes."""
        return set(signature(self.body.forward).parameters) - {"kwargs"}

    @property
    def ends(self) -> set[int]:
        """Tokens that end a text, or the strand's turn in a chat."""
        found = self.generation_config.eos_token_id
        found = found if isinstance(found, list) else [found]
        ends = {i for i in (self.tokenizer.eos_token_id, *found) if i is not None}
        return {i for i in ends if i < self.vocab_size}

    @torch.no_grad()
    def _check_head(self) -> None:
        """`logits` must be what the model itself says; odd heads are refused."""
        width = int(self.head.weight.shape[1])
        if width != self.width:
            raise ValueError(
                f"{type(self.model).__name__} has layers of width {self.width} and a "
                f"head of width {width}; expected one width, use another model"
            )
        ids = self._probe(8)
        try:
            ours = self.logits(self.run(ids, taps=["final"])["final"]).float()
            theirs = self.model(input_ids=ids, use_cache=False).logits.float()
        except Exception as error:  # whatever such a model raises
            raise ValueError(
                f"{type(self.model).__name__} cannot be run as a body with a head on "
                f"top ({type(error).__name__}: {error}); use another model as a strand"
            ) from error
        # Small logits may not hide a factor, nor equal ones anything at all.
        most = min(1e-2, 1e-2 * float(theirs.abs().max()))
        told = bool((theirs.amax(-1) > theirs.amin(-1)).all())
        if not told or not torch.allclose(ours, theirs, atol=most, rtol=1e-2):
            raise ValueError(
                f"{type(self.model).__name__} does something between its final norm "
                "and its logits that is not supported; use another model as a strand"
            )

    def _probe(self, most: int) -> Tensor:
        """Tokens of the text to try a model on: padding often has a row of zeros."""
        n = min(self.vocab_size, len(self.tokens.table))
        specials = set(self.tokens.specials.values())
        ordinary = [i for i in range(n) if i not in specials] or list(range(n))
        chosen = [ordinary[i * len(ordinary) // most] for i in range(most)]
        return torch.tensor([chosen], device=self.device)

    @torch.no_grad()
    def _check_cache(self) -> None:
        """Tokens are read one by one and taken back: a state cannot do that."""
        ids = self._probe(3)
        cache, cause, kept = DynamicCache(), None, 0
        try:
            self.run(ids, taps=["final"], cache=cache)
            cache.crop(-2)
            self.run(ids[:, 1:], taps=["final"], cache=cache)
            kept = cache.get_seq_length()
        except Exception as error:  # whatever such a model raises
            cause = error
        if kept != 3:
            raise ValueError(
                f"{type(self.model).__name__} keeps no keys and values from which the "
                "last tokens can be taken back, as recurrent models do not; use "
                "another model as a strand"
            ) from cause

    def tree_mask(self, visible: Tensor, depth: Tensor) -> Any:
        """The attention mask of a tree of tokens, as this model takes it.

        Parameters
        ----------
        visible : Tensor (m, n), bool
            Which of n tokens each of the last m may see.
        depth : Tensor (n,), int64
            How many tokens come before each; a sliding window goes by it.
        """
        window = self.window
        kinds = set(getattr(self._config, "layer_types", None) or ())
        if not kinds:
            kinds = {"full_attention" if window is None else "sliding_attention"}
        if not kinds <= {"full_attention", "sliding_attention"}:
            raise ValueError(f"layers of the kinds {sorted(kinds)} cannot read trees")
        distance = depth[-len(visible) :, None] - depth[None, :]
        masks = {}
        for kind in kinds:
            sees = visible
            if kind == "sliding_attention" and window is not None:
                sees = visible & (distance < window)
            mask = torch.zeros(sees.shape, dtype=self.dtype, device=self.device)
            mask.masked_fill_(~sees.to(self.device), torch.finfo(self.dtype).min)
            masks[kind] = mask[None, None]
        return masks if len(masks) > 1 else masks.popitem()[1]

    @property
    def fingerprint(self) -> str:
        """Tells this model and tokenizer from others of the same name and source."""
        # Weights that were moved to another type are others: they were rounded.
        return self._once("weights", self._fingerprint)

    @property
    def content(self) -> str:
        """All that decides what the strand computes: the key of what is kept of it.

        `fingerprint`, which saved braids know, is the same for a model with another
        configuration, and for one whose rows stand in another order.
        """
        return self._once("content", self._content)

    @property
    def stamp(self) -> int:
        """Another one after weights were replaced or changed in place."""
        # Moved to another type and back they are rounded, and may lie where they were.
        some = self.head.weight[0, :8].tolist()
        weights = self.model.parameters()
        places = [
            (p.data_ptr(), 0 if p.is_inference() else p._version) for p in weights
        ]
        return hash((*some, *places))

    def _once(self, kind: str, make: Callable[[], str]) -> str:
        key = (kind, self.dtype, self.stamp)
        if key not in self._fingerprints:
            self._fingerprints[key] = make()
        return self._fingerprints[key]

    @torch.no_grad()
    def _content(self) -> str:
        # What differs from the defaults: a later transformers has more of these.
        config = self.model.config.to_diff_dict()
        for name in ("transformers_version", "dtype", "torch_dtype", "_name_or_path"):
            config.pop(name, None)
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        model = self.model
        # Of buffers what a file has of them: the others follow from the configuration,
        # and a rotary embedding sets its own for each text.
        stored = model.state_dict().keys()
        buffers = (b for b in model.named_buffers() if b[0] in stored)
        for name, p in (*model.named_parameters(), *buffers):
            # By row and by column, each with a weight of its own.
            table = p.reshape(len(p), -1) if p.dim() else p.reshape(1, 1)
            sums = [table.sum(axis, dtype=torch.float64) for axis in (0, 1)]
            told = [float(s @ torch.arange(1, len(s) + 1).to(s)) for s in sums]
            digest.update(str([name, *(f"{t:.5e}" for t in told)]).encode())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def _fingerprint(self) -> str:
        digest = hashlib.sha256((self.tokens.state + self._settings).encode())
        for name, p in self.model.named_parameters():
            # Few digits: the order of a sum depends on the number of threads.
            sums = p.sum(dtype=torch.float64), p.float().norm()
            facts = [name, tuple(p.shape), *(f"{float(x):.5e}" for x in sums)]
            digest.update(str(facts).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def reads_trees(self) -> bool:
        """Whether a tree of tokens can be run at once; tried once, on a small one.

        Two branches from one token, of one token and of two: the second must give
        what it gives alone.
        """
        if self._local:
            return False
        ids = self._probe(4)[0].tolist()
        visible = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]])
        depth = torch.tensor([0, 1, 1, 2])
        try:
            tree = self.run(
                torch.tensor([ids], device=self.device),
                taps=["final"],
                attention_mask=self.tree_mask(visible.bool(), depth),
                position_ids=depth[None].to(self.device),
            )["final"][0, [0, 2, 3]]
            branch = torch.tensor([[ids[0], *ids[2:]]], device=self.device)
            alone = self.run(branch, taps=["final"])["final"][0]
        except Exception:  # whatever a model that cannot do it raises
            return False
        return bool((tree - alone).norm() < 0.02 * alone.norm())

    def head_rows(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The head's rows (n, width) of some tokens, and their biases."""
        bias = getattr(self.head, "bias", None)
        return self.head.weight[tokens], None if bias is None else bias[tokens]

    def own_logits(self, ids: list[int]) -> Tensor:
        """Logits (n, V) of a text as the model itself gives them."""
        rows = torch.tensor([ids], device=self.device)
        logits: Tensor = self.model(input_ids=rows, use_cache=False).logits[0]
        return logits

    def logits(self, hidden: Tensor) -> Tensor:
        """LM head on states after the final norm: ``(..., width) -> (..., V)``."""
        return self.cap(self.head(hidden.to(self.dtype)))

    def cap(self, logits: Tensor) -> Tensor:
        """The model's own soft cap on logits, if it has one."""
        return soft_capped(logits, self._softcap)

    def run(
        self,
        input_ids: Tensor,
        *,
        taps: Iterable[Tap],
        edits: Mapping[int, Edit] | None = None,
        cache: Any = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[Tap, Tensor]:
        """Run the model as far as the deepest tap and return the tapped states.

        Parameters
        ----------
        input_ids : Tensor (B, T)
            Moved to where the model is, as the positions are.
        taps : iterable of int or "final"
            Decoder layers whose (edited) output to return, each ``(B, T, width)``.
        edits : mapping of layer to function, optional
            Replaces the layer's output; runs before the layer's tap.
        cache : Cache, optional
            Keys and values of earlier positions; extended in place.
        attention_mask : Tensor (B, n), or from `tree_mask`, optional
        position_ids : Tensor (B, T), optional
        options : mapping, optional
            What else this model takes.
        """
        wanted = frozenset(taps)
        edits = edits or {}
        deepest = max((t for t in wanted if isinstance(t, int)), default=-1)
        request = _Request(
            self, wanted, edits, None if "final" in wanted else max(deepest, *edits, 0)
        )
        options = {**(options or {}), "use_cache": cache is not None}
        if cache is not None:
            options[CACHE] = cache
        if attention_mask is not None:
            options["attention_mask"] = attention_mask
        if position_ids is not None:
            options["position_ids"] = position_ids.to(self.device)
        length = input_ids.shape[1] + (0 if cache is None else cache.get_seq_length())
        if position_ids is not None:
            length = int(position_ids.max()) + 1
        too_long = self.positions is not None and length > self.positions
        if too_long and "dynamic" in self._ropes:
            raise ValueError(
                f"{self.name} cannot read this: beyond its {self.positions} positions "
                "dynamic RoPE moves earlier tokens with each later one; give shorter "
                f"text than these {length} tokens, or leave this strand out"
            )
        with _carrying(request):
            try:
                out = self.body(
                    input_ids=input_ids.to(self.device), return_dict=True, **options
                )
                request.states["final"] = out.last_hidden_state
            except _Reached:
                pass
            except (IndexError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not too_long:
                    raise
                raise ValueError(
                    f"{self.name} cannot read this: its configuration has "
                    f"{self.positions} positions and {self.vocab_size} tokens; give "
                    "shorter text, or leave this strand out"
                ) from error
        if too_long and not self._said_too_long:
            warnings.warn(
                f"{self.name} was made for {self.positions} tokens and reads {length}: "
                "what it says of them may be worth little; give shorter text, or leave "
                "this strand out (said once)",
                stacklevel=2,
            )
            self._said_too_long = True
        return request.states
