"""How fast a strand is on this machine, alone and in a braid."""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from ..strands.strand import Strand
from .cache import BraidCache
from .configuration import BraidConfig
from .model import BraidedLLM

_PROMPT = 96  # tokens
_TOKENS = 12  # written behind it, one by one
# Counted on braids of two small models: mixing takes about this many times what it
# takes to go over both vocabularies once, as `_mixing` does.
_ROUNDS = 2.5


class Speed(NamedTuple):
    """How fast a strand is.

    Attributes
    ----------
    prompt_tokens_per_s : float
        Of a prompt that is read at once, without the head.
    body_seconds, head_seconds : float
        For one token that is written: up to the states after the final norm, and from
        these to logits.
    fusing_seconds : float
        What a token takes beside these two in a braid of this strand alone that is fed
        its own states after the final norm.
    mixing_seconds : float
        What its distribution takes where outputs are mixed. An estimate, from the time
        it takes to go over the vocabulary.
    """

    prompt_tokens_per_s: float
    body_seconds: float
    head_seconds: float
    fusing_seconds: float
    mixing_seconds: float


@torch.no_grad()
def measure(strand: Strand, repeats: int = 4) -> Speed:
    """Read a short prompt, write a few tokens behind it, and again; medians.

    Parameters
    ----------
    strand : Strand
    repeats : int
        At least 2: the first one warms up and does not count.

    Raises
    ------
    ValueError
        On too few repeats, or a strand that reads no text of a dozen tokens.
    """
    if repeats < 2:
        raise ValueError(
            f"repeats is at least 2, as the first one warms up; received {repeats}"
        )
    length = min(_PROMPT + _TOKENS, strand.positions or _PROMPT + _TOKENS)
    if length <= _TOKENS:
        raise ValueError(
            f"{strand.name} reads {strand.positions} tokens at most, too few to be "
            f"timed; expected more than {_TOKENS}"
        )
    # Any tokens do; those of one text alone would all lie in one part of the table.
    known = min(strand.vocab_size, len(strand.tokens.table))
    ids = torch.arange(length)[None] * 7 % known
    control = BraidedLLM(
        BraidConfig(strand.name, [], [1.0], ["final"], "learned_weighted"), [strand]
    )
    runs = [_write(strand, control, ids) for _ in range(repeats)][1:]
    tokens = [token for _, written in runs for token in written]
    return Speed(
        (length - _TOKENS) / median(read for read, _ in runs),
        median(body for body, _, _ in tokens),
        median(head for _, head, _ in tokens),
        max(median(whole - body - head for body, head, whole in tokens), 0.0),
        _ROUNDS * _mixing(strand, repeats),
    )


def _write(
    strand: Strand, control: BraidedLLM, ids: Tensor
) -> tuple[float, list[tuple[float, float, float]]]:
    """Seconds of the prompt, and of each token behind it: body, head, and in a braid.

    In turn, so that other load on the machine hits all alike.
    """
    cache, fused, written = DynamicCache(), BraidCache(), []
    n = ids.shape[1] - _TOKENS
    started = time.perf_counter()
    _wait(strand.run(ids[:, :n], taps=["final"], cache=cache)["final"])
    read = time.perf_counter() - started
    control(ids[:, :n], cache=fused, logits_to_keep=1)
    for t in range(n, n + _TOKENS):
        new = ids[:, t : t + 1]
        started = time.perf_counter()
        states = _wait(strand.run(new, taps=["final"], cache=cache)["final"])
        ran = time.perf_counter()
        _wait(strand.logits(states[:, -1]))
        spoke = time.perf_counter()
        _wait(control(new, cache=fused, logits_to_keep=1).logits)
        whole = time.perf_counter() - spoke
        written.append((ran - started, spoke - ran, whole))
    return read, written


def _mixing(strand: Strand, repeats: int) -> float:
    """Seconds to go once over a distribution, as carrying it to others does."""
    size = strand.vocab_size
    order = torch.arange(size, device=strand.device).flip(0)
    logits, taken = torch.zeros(1, size, device=strand.device), []
    for _ in range(4 * repeats):
        started = time.perf_counter()
        p = logits.log_softmax(-1)[0].exp()
        told = torch.zeros_like(p).index_add_(0, order, p[order])
        _wait(told.clamp_(min=1e-30).log_())
        taken.append(time.perf_counter() - started)
    return median(taken)


def _wait(found: Tensor) -> Tensor:
    """What a GPU is asked for comes back at once, and is there later."""
    if found.is_cuda:
        torch.cuda.synchronize(found.device)
    return found
