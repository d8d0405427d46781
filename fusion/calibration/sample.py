"""A braid's states at sampled positions of the texts, as it is served."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..braid.model import BraidedLLM, BraidStates
from .store import CalibrationStore

_CHUNK = 64  # positions per call of the head


@dataclass
class Sample:
    """What a braid makes of N positions.

    Attributes
    ----------
    states : BraidStates
        As of one text of N positions.
    before : Tensor (N, width)
        The anchor's own states there.
    targets : Tensor (N,), int64
        The tokens that come next.
    bytes_per_token : float
        Over the whole texts, to turn bits per token into bits per byte.
    """

    states: BraidStates
    before: Tensor
    targets: Tensor
    bytes_per_token: float


@torch.no_grad()
def sample_states(
    store: CalibrationStore, model: BraidedLLM, texts: Sequence[int], count: int
) -> Sample:
    """The braid's states at about ``count`` positions of some texts, as it is served.

    Between a donor's token ends, serving cuts the donor's text anew, and what it says
    there is worth less: a gate has to see those positions to mistrust them.

    Parameters
    ----------
    store : CalibrationStore
    model : BraidedLLM
    texts : sequence of int
        Numbers of texts of the store; each gets about as many positions.
    count : int

    Returns
    -------
    Sample
    """
    own = store.features(model.anchor)
    per_text = math.ceil(count / len(texts))
    generator = np.random.default_rng(store.seed)
    hidden, before, donors, beside, targets = [], [], [], [], []
    for i in texts:
        read = model.encode(own[i].ids[None], memo=store.memo(model, i))
        at = generator.permutation(len(own[i].ids) - 1)[:per_text]
        hidden.append(read.hidden[0, at])
        before.append(own[i].hidden[at])
        donors.append([readings[0, at] for readings in read.donors])
        beside.append(read.beside[0, at])
        targets.append(own[i].targets[at])
    states = BraidStates(
        torch.cat(hidden)[None],
        [np.concatenate(readings)[None] for readings in zip(*donors, strict=True)],
        np.concatenate(beside)[None],
    )
    n_bytes = sum(int(own[i].ends[-1] - own[i].ends[0]) for i in texts)
    n_tokens = sum(len(own[i].ids) - 1 for i in texts)
    return Sample(states, torch.cat(before), torch.cat(targets), n_bytes / n_tokens)


@torch.no_grad()
def bits_per_token(logits: Callable[[slice], Tensor], targets: Tensor) -> float:
    """Exact mean bits per token.

    Parameters
    ----------
    logits : callable
        From a slice of the positions to their logits (n, V).
    targets : Tensor (N,), int64

    Returns
    -------
    float

    Examples
    --------
    Four tokens that are equally likely take two bits each.

    >>> alike = torch.zeros(3, 4)
    >>> round(bits_per_token(lambda at: alike[at], torch.tensor([0, 1, 3])), 6)
    2.0
    """
    total = 0.0
    for low in range(0, len(targets), _CHUNK):
        at = slice(low, low + _CHUNK)
        log_p = logits(at).float().log_softmax(-1)
        total -= float(log_p.gather(1, targets[at, None]).sum())
    return total / len(targets) / math.log(2)
