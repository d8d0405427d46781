"""How good a model is on a text: bits per byte."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np
import torch

from .modeling import BraidedLLM
from .strand import Strand


class StateCache(dict[Any, Any]):
    """What strands made of a text, for `bits_per_byte`; use one per text."""


CHUNK = 64  # positions per head call: a vocabulary of 262k floats each adds up


@torch.no_grad()
def target_log_probs(
    model: BraidedLLM | Strand,
    ids: Sequence[int],
    positions: Sequence[int],
    states: MutableMapping[Any, Any] | None = None,
) -> torch.Tensor:
    """Log-probabilities (nats) of ``ids[t]`` given all before it.

    ``positions`` says which t, each at least 1; ``states`` as in `bits_per_byte`.
    """
    states = StateCache() if states is None else states
    strand = model.anchor if isinstance(model, BraidedLLM) else model
    batch = torch.tensor([list(ids)], device=strand.device)
    if isinstance(model, BraidedLLM):
        read: Any = model.encode(batch, memo=states)
    else:
        key = (model.name, (tuple(ids),))
        if key not in states:
            states[key] = model.run(batch, taps=["final"])["final"]
        read = states[key]
    found = []
    for part in torch.tensor(list(positions), device=strand.device).split(CHUNK):
        if isinstance(model, BraidedLLM):
            logits = model.head(read, (slice(None), part - 1))
        else:
            logits = model.logits(read[0, part - 1])
        targets = batch[0, part, None]
        found.append(logits.float().log_softmax(-1).gather(1, targets)[:, 0])
    return torch.cat(found) if found else torch.zeros(0)


def scored_tokens(strand: Strand, prompt: str, reference: str) -> tuple[list[int], int]:
    """The tokens of both, and which is the first that ends inside the reference."""
    ids = strand.tokens.encode(prompt + reference)
    ends = strand.tokens.ends(ids)
    before = len(prompt.encode())
    return ids, max(1, int(np.searchsorted(ends, before, side="right")))


def bits_per_byte(
    model: BraidedLLM | Strand,
    prompt: str,
    reference: str,
    states: MutableMapping[Any, Any] | None = None,
) -> float:
    """Bits per byte of the reference given the prompt.

    ``-sum log2 p(token) / bytes``, over the tokens that end inside the reference.
    Bytes, not tokens, so that strands with different tokenizers compare. With an
    empty prompt the first token counts only if the tokenizer writes a start token.

    Parameters
    ----------
    model : BraidedLLM or Strand
    prompt, reference : str
    states : dict, optional
        Pass the same (at first empty) dict for several braids of the same strands on
        one text: each strand then reads it once.
    """
    if not reference:
        raise ValueError("the reference is empty; give the text to be scored")
    strand = model.anchor if isinstance(model, BraidedLLM) else model
    ids, start = scored_tokens(strand, prompt, reference)
    ends = strand.tokens.ends(ids)
    scored = int(ends[-1]) - int(ends[start - 1])
    if scored == 0:
        raise ValueError(f"nothing to score in {reference!r}: too short")
    scores = target_log_probs(model, ids, range(start, len(ids)), states)
    return -float(scores.sum()) / math.log(2) / scored
