"""How good a model is on a text: bits per byte, multiple choice.

What a braid wrote is judged by `rewards`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..braid.model import BraidedLLM
from ..strands.strand import Strand, memo_key


class StateCache(dict[Any, Any]):
    """What strands made of a text, for `bits_per_byte`; use one per text."""


CHUNK = 64  # positions per head call: a vocabulary of 262k floats each adds up


@torch.no_grad()
def target_log_probs(
    model: BraidedLLM | Strand,
    ids: Sequence[int],
    positions: Sequence[int],
    states: MutableMapping[Any, Any] | None = None,
    prompt_length: int | None = None,
) -> Tensor:
    """Log-probabilities of tokens given all before them.

    Parameters
    ----------
    model : BraidedLLM or Strand
    ids : sequence of int
        A text of T tokens.
    positions : sequence of int
        Which of them, from 1 to T - 1.
    states : dict, optional
        As in `bits_per_byte`.
    prompt_length : int, optional
        How many tokens donors may read; needed by a braid with ``fuse="prompt"``.

    Returns
    -------
    Tensor (len(positions),)
        In nats.

    Raises
    ------
    ValueError
        For a position that nothing predicts, or without the ``prompt_length`` that is
        needed.
    """
    wrong = [t for t in positions if not 1 <= t < len(ids)]
    if wrong:
        raise ValueError(
            f"position {wrong[0]} of {len(ids)} tokens has nothing before it or does "
            f"not exist; give positions from 1 to {len(ids) - 1}"
        )
    prompt_only = isinstance(model, BraidedLLM) and model.config.fuse == "prompt"
    if prompt_only and prompt_length is None:
        raise ValueError(
            'donors of this braid read the prompt only (fuse="prompt"); give '
            "prompt_length, or a prompt and a reference to bits_per_byte"
        )
    states = StateCache() if states is None else states
    strand = model.anchor if isinstance(model, BraidedLLM) else model
    batch = torch.tensor([list(ids)], device=strand.device)
    logits = _reader(model, batch, states, prompt_length)
    found = []
    for part in torch.tensor(list(positions), device=strand.device).split(CHUNK):
        targets = batch[0, part, None]
        log_p = logits(part - 1).float().log_softmax(-1)
        found.append(log_p.gather(1, targets)[:, 0])
    return torch.cat(found) if found else torch.zeros(0)


def _reader(
    model: BraidedLLM | Strand,
    batch: Tensor,
    states: MutableMapping[Any, Any],
    prompt_length: int | None,
) -> Callable[[Tensor], Tensor]:
    """Read a text; what comes back says the logits (n, V) behind n of its positions."""
    if isinstance(model, BraidedLLM):
        read = model.encode(batch, memo=states, prompt_length=prompt_length)
        return lambda at: model.head(read, (slice(None), at))
    key = (*memo_key(model), (tuple(batch[0].tolist()),))
    if key not in states:
        states[key] = model.run(batch, taps=["final"])["final"]
    hidden: Tensor = states[key][0]
    return lambda at: model.logits(hidden[at])


def scored_tokens(strand: Strand, prompt: str, reference: str) -> tuple[list[int], int]:
    """The tokens of both, and which is the first that ends inside the reference.

    Parameters
    ----------
    strand : Strand
    prompt, reference : str

    Returns
    -------
    ids : list of int
    start : int
        At least 1, as nothing predicts the first token.
    """
    return _scored(strand, prompt, reference)[:2]


def scored_bytes(strand: Strand, prompt: str, reference: str) -> int:
    """How many bytes the scored tokens stand for; 0 if nothing predicts any."""
    return _scored(strand, prompt, reference)[2]


def _scored(strand: Strand, prompt: str, reference: str) -> tuple[list[int], int, int]:
    ids, ends = strand.tokens.read_with_ends(prompt + reference)
    before = len(prompt.encode())
    if strand.tokens.mentions_specials(prompt):
        # One at the end of the prompt may swallow the space that comes after it.
        known = strand.tokens.read(prompt)
        if ids[: len(known)] == known:
            ends[len(known) - 1] = min(ends[len(known) - 1], before)
    start = max(1, int(np.searchsorted(ends, before, side="right")))
    return ids, start, int(ends[-1] - ends[start - 1]) if len(ids) else 0


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
    Special tokens that are written out, as in the text of a chat template, are read
    as these tokens, as `BraidedLLM.generate` reads them.

    Parameters
    ----------
    model : BraidedLLM or Strand
    prompt, reference : str
    states : dict, optional
        Pass the same (at first empty) dict for several braids of the same strands on
        one text: each strand then reads it once.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        For an empty reference, or an empty prompt with a reference of one token, which
        nothing predicts.
    """
    if not reference:
        raise ValueError("the reference is empty; give the text to be scored")
    strand = model.anchor if isinstance(model, BraidedLLM) else model
    ids, start, scored = _scored(strand, prompt, reference)
    if scored == 0:
        raise ValueError(
            f"nothing to score in {reference!r}: too short, one token that nothing "
            "predicts; give a prompt or a longer reference"
        )
    scores = target_log_probs(model, ids, range(start, len(ids)), states, start)
    return -float(scores.sum()) / math.log(2) / scored


def choose(model: BraidedLLM | Strand, prompt: str, choices: Sequence[str]) -> int:
    """The choice that the model finds likeliest after the prompt, per byte.

    ``argmax_c log2 p(c | prompt) / bytes(c)``, that is the choice of fewest bits per
    byte: a sum of logarithms would favour short choices. The first of equals.

    Parameters
    ----------
    model : BraidedLLM or Strand
    prompt : str
    choices : sequence of str
        At least two; each is scored right after the prompt, so it starts with the
        space or line break that belongs there.

    Returns
    -------
    int
        Its index.

    Raises
    ------
    ValueError
        For fewer than two choices, or choices without an order.
    """
    if isinstance(choices, str | Set) or len(choices) < 2:
        raise ValueError(f"received choices {choices!r}; give a list of at least two")
    bits = [bits_per_byte(model, prompt, choice) for choice in choices]
    return min(range(len(bits)), key=bits.__getitem__)


def multiple_choice(
    model: BraidedLLM | Strand, prompt: str, choices: Sequence[str], answer: int
) -> float:
    """1 if ``choose(model, prompt, choices) = answer``, else 0.

    Over many questions its mean is the accuracy; by chance it is
    ``1 / len(choices)``.

    Parameters
    ----------
    model, prompt, choices
        As in `choose`.
    answer : int
        Index of the right choice.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        For an index that no choice has.
    """
    if isinstance(answer, bool) or not 0 <= answer < len(choices):
        raise ValueError(
            f"the answer is {answer!r}; give an index from 0 to {len(choices) - 1}"
        )
    return float(choose(model, prompt, choices) == answer)
