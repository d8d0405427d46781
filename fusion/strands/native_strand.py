"""A strand that stays in its GGUF file and is run by llama.cpp."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..tokens.token_bytes import TokenBytes
from .context_layer import ContextLayer, Contexts
from .gguf import digest_of
from .llama import Head, Weights, most_at_once, stored
from .strand import Tap, next_number, soft_capped

_HEADS = ("output.weight", "token_embd.weight")


def native_facts(file: Path) -> dict[str, Any]:
    """Size and shape of a model in a GGUF file."""
    weights = Weights(file, at_once=False)
    return {
        "parameters": weights.parameters,
        "layers": int(weights.setting("{}.block_count") or 0),
        "width": weights.width,
        "vocab_size": weights.vocab_size,
        "quantisation": "gguf",
        "memory": weights.size + weights.having(stored(file, _HEADS)).memory,
    }


class TreeMask(NamedTuple):
    """Which tokens each of the last m may see, (m, n)."""

    visible: Tensor


class NativeStrand:
    """A frozen causal language model in a GGUF file, run by llama.cpp as it is.

    It stands wherever a `Strand` stands, but for decoder layers, which llama.cpp does
    not show: a braid fuses it at "final" and "output".

    Parameters
    ----------
    name : str
        What recipes call it.
    file : Path
    tokenizer : PreTrainedTokenizerFast
    source : str, optional
        Where it came from; kept for saving.

    Attributes
    ----------
    n_layers, width, vocab_size : int
        Of the model: decoder layers, hidden size, rows of the LM head.
    number : int
        Tells the strands of a process apart, those of one name too.
    head : Head
        In the numbers of the file.

    Raises
    ------
    ImportError
        Where llama-cpp-python is not installed.
    ValueError
        When the file cannot be run, or not as a body with a head on top.

    Notes
    -----
    Several threads may use it: each text has a context of its own. Computed with as
    many threads as torch has; layers are on a GPU where llama.cpp has one.
    """

    turn = math.inf
    window = None
    counts_columns = False
    reads_trees = True
    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(
        self, name: str, file: Path, tokenizer: Any, source: str | None = None
    ) -> None:
        self.name, self.file, self.tokenizer = name, file, tokenizer
        self.source = source or str(file)
        self.tokens = TokenBytes(tokenizer)
        self.weights = Weights(file)
        self._contexts = Contexts(self.weights)
        self.width = self.weights.width
        self.n_layers = int(self.weights.setting("{}.block_count") or 0)
        self.head = Head(self.weights.having(stored(file, _HEADS)))
        self.vocab_size = self.head.matrix.rows
        self.number = next_number()
        cap = self.weights.setting("{}.final_logit_softcapping")
        self._said_too_long = False
        self._softcap = float(cap) if cap else None
        self.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        self._check_head()

    @property
    def takes(self) -> set[str]:
        """Names of what else it takes: nothing."""
        return set()

    @cached_property
    def positions(self) -> int | None:
        """How many tokens the model was made for, if the file says so."""
        found = self.weights.setting("{}.context_length")
        return int(found) if found else None

    @property
    def ends(self) -> set[int]:
        """Tokens that end a text, or the strand's turn in a chat."""
        found = (
            self.tokenizer.eos_token_id,
            *(
                int(token)
                for key in ("eos", "eot")
                if (token := self.weights.setting(f"tokenizer.ggml.{key}_token_id"))
            ),
        )
        return {i for i in found if i is not None and i < self.vocab_size}

    @cached_property
    def fingerprint(self) -> str:
        """Tells this model and tokenizer from others of the same name and source."""
        digest = hashlib.sha256(self.tokens.state.encode())
        digest.update(digest_of(self.file).encode())
        return digest.hexdigest()[:16]

    @property
    def content(self) -> str:
        """All that decides what the strand computes: the key of what is kept of it."""
        return f"llama.cpp-{self.fingerprint}"

    @property
    def stamp(self) -> int:
        """Always the same: nothing changes the weights once they are read."""
        return self.number

    @property
    def memory(self) -> int:
        """Bytes of weights: those of the file, and a head that llama.cpp reorders."""
        return self.weights.size + self.head.matrix.memory

    @property
    def context_memory(self) -> int:
        """Bytes of logits that a context of llama.cpp has room for."""
        return 4 * self.vocab_size * most_at_once(self.vocab_size)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Nothing: weights are in the file, and in no tensor."""
        return iter(())

    def move(self, _function: Callable[[Tensor], Tensor]) -> None:
        """Stay: where its layers are is llama.cpp's to say."""

    @property
    def moves(self) -> frozenset[int]:
        """Nothing: braids that share it move on their own."""
        return frozenset()

    def _check_head(self) -> None:
        """`logits` must be what llama.cpp itself says; odd heads are refused."""
        ids = [i * self.vocab_size // 8 for i in range(8)]
        ours = self.logits(self.run(torch.tensor([ids]), taps=["final"])["final"][0])
        theirs = self.own_logits(ids)
        if ours.shape != theirs.shape or not torch.allclose(
            ours, theirs, atol=1e-2 * float(theirs.abs().max()), rtol=1e-2
        ):
            raise ValueError(
                f"{self.file} does something between its final norm and its logits "
                "that is not supported; convert it: Pool(..., native=False)"
            )

    def own_logits(self, ids: list[int]) -> Tensor:
        """Logits (n, V) of a text as llama.cpp itself gives them."""
        context = self._contexts.take(len(ids))
        places = range(len(ids))
        try:
            return context.decode(ids, places, [[0]] * len(ids), whole=True)
        finally:
            self._contexts.give_back([context])

    def head_rows(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The head's rows (n, width) of some tokens, and their biases."""
        return self.head.rows(tokens), None

    def logits(self, hidden: Tensor) -> Tensor:
        """LM head on states after the final norm: ``(..., width) -> (..., V)``."""
        flat = self.head(hidden.reshape(-1, self.width))
        return self.cap(flat).view(*hidden.shape[:-1], self.vocab_size)

    def cap(self, logits: Tensor) -> Tensor:
        """The model's own soft cap on logits, if it has one."""
        return soft_capped(logits, self._softcap)

    def tree_mask(self, visible: Tensor, depth: Tensor) -> TreeMask:
        """What `run` takes for a tree of tokens; see `Strand.tree_mask`."""
        return TreeMask(visible)

    def check_layers(self, layers: Iterable[Tap]) -> None:
        """Refuse decoder layers, which llama.cpp does not show.

        Raises
        ------
        ValueError
        """
        asked = [layer for layer in layers if layer != "final"]
        if asked:
            raise ValueError(
                f"{self.name!r} is run by llama.cpp from {self.file}, which does not "
                f"show decoder layers: asked for {asked}; fuse at 'final' and 'output',"
                " or convert the file: Pool(..., native=False)"
            )

    def run(
        self,
        input_ids: Tensor,
        *,
        taps: Iterable[Tap],
        edits: Mapping[int, Any] | None = None,
        cache: Any = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[Tap, Tensor]:
        """Read tokens; the states after the final norm, as `Strand.run` gives them.

        Parameters
        ----------
        input_ids : Tensor (B, T)
        taps : iterable of "final"
        edits : mapping, optional
            Empty.
        cache : Cache, optional
            Of earlier positions; extended in place.
        attention_mask : Tensor (B, n), or from `tree_mask`, optional
            0 for padding, of which no state is given.
        position_ids, options
            As counted here: every row is one text from its first token on.

        Raises
        ------
        ValueError
            For decoder layers, and tokens that the model does not have.
        """
        self.check_layers([*taps, *(edits or ())])
        B, T = input_ids.shape
        rows = input_ids.tolist()
        if not all(0 <= i < self.vocab_size for row in rows for i in row):
            raise ValueError(
                f"{self.name} cannot read this: it has {self.vocab_size} tokens, "
                f"received {input_ids.min()} to {input_ids.max()}"
            )
        layer = self._layer(cache, B)
        before = layer.get_seq_length()
        self._say_too_long(before + T)
        if isinstance(attention_mask, TreeMask):
            states = layer.rows[0].read_tree(rows[0], attention_mask.visible)[None]
            return {"final": states}
        states = torch.zeros(B, T, self.width)
        real = torch.ones(B, T, dtype=torch.bool)
        if attention_mask is not None:
            real = attention_mask[:, -T:].bool().cpu()
        try:
            for b, (row, mask) in enumerate(zip(rows, real, strict=True)):
                ids = [i for i, there in zip(row, mask.tolist(), strict=True) if there]
                found = layer.rows[b].read(ids, mask.tolist())
                states[b, mask] = found
        except BaseException:
            for row in layer.rows:
                row.crop(len(row.real) - before)
            raise
        return {"final": states}

    def _say_too_long(self, length: int) -> None:
        if self.positions is None or length <= self.positions or self._said_too_long:
            return
        warnings.warn(
            f"{self.name} was made for {self.positions} tokens and reads {length}: "
            "what it says of them may be worth little; give shorter text, or leave "
            "this strand out (said once)",
            stacklevel=3,
        )
        self._said_too_long = True

    def _layer(self, cache: Any, rows: int) -> ContextLayer:
        """What a cache has of this model, made where there is nothing yet."""
        if cache is None:
            return ContextLayer(self._contexts, rows)
        if cache.layers and not isinstance(cache.layers[0], ContextLayer):
            raise TypeError("this cache is of a model that transformers runs")
        if not cache.layers or not cache.layers[0].rows:
            cache.layers[:] = [ContextLayer(self._contexts, rows)]
        return cache.layers[0]  # type: ignore[no-any-return]
