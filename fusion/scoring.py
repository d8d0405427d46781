"""How good a model is on a text: bits per byte."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
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
    ids: list[int],
    start: int,
    states: MutableMapping[Any, Any] | None = None,
) -> torch.Tensor:
    """Log-probabilities (nats) of ``ids[start:]``, each given all before it."""
    strand = model.anchor if isinstance(model, BraidedLLM) else model
    batch = torch.tensor([ids], device=strand.device)
    if isinstance(model, BraidedLLM):
        read: Any = model.encode(batch, memo=states)
    else:
        read = model.run(batch, taps=["final"])["final"]
    found = []
    for low in range(start, len(ids), CHUNK):
        high = min(low + CHUNK, len(ids))
        if isinstance(model, BraidedLLM):
            logits = model.head(read, (slice(None), slice(low - 1, high - 1)))
        else:
            logits = model.logits(read[0, low - 1 : high - 1])
        targets = batch[0, low:high, None]
        found.append(logits.float().log_softmax(-1).gather(1, targets)[:, 0])
    return torch.cat(found) if found else torch.zeros(0)


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
    text = prompt + reference
    ids = strand.tokens.encode(text)
    ends = strand.tokens.ends(ids)
    before = len(prompt.encode())
    start = max(1, int(np.searchsorted(ends, before, side="right")))
    scored = int(ends[-1]) - int(ends[start - 1])
    if scored == 0:
        raise ValueError(f"nothing to score in {reference!r}: too short")
    total = float(target_log_probs(model, ids, start, states).sum())
    return -total / math.log(2) / scored
