"""How far cached decoding is from reading the whole text, measured on a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..braid.model import BraidedLLM
from .tools import TEXTS, cached_logits, ids_of, logits_of, prompt_of, resegmented


@dataclass(frozen=True)
class Parity:
    """What `parity` found.

    Attributes
    ----------
    positions : int
        Compared, of all texts.
    largest_gap : float
        Largest absolute difference of two log-probabilities that are not negligible
        (above 1e-6 in the full forward).
    same_choice : float
        Share of positions with the same most likely token.
    recut : dict of str to float
        For each donor, the share of positions after which later text changes how it
        cuts the text so far: where a reading of the finished text would differ.
    """

    positions: int
    largest_gap: float
    same_choice: float
    recut: dict[str, float]


def parity(model: BraidedLLM, texts: Sequence[str] = TEXTS) -> Parity:
    """Compare decoding step by step, as in generation, with one full forward.

    Parameters
    ----------
    model : BraidedLLM
        Of any strands and dtype; in bfloat16 the gap is its rounding.
    texts : sequence of str

    Raises
    ------
    ValueError
        Without texts, or when a tokenizer cannot round-trip one.
    """
    if not texts:
        raise ValueError("received no texts; give at least one")
    gap, same, count = torch.zeros(()), 0, 0
    recut = {donor.name: 0 for donor in model.donors}
    for text in texts:
        ids = ids_of(model, text)
        whole = logits_of(model, [ids], **prompt_of(model, len(ids)))[0]
        steps = cached_logits(model, ids, lambda i: 1)[0]
        whole, steps = (x.float().log_softmax(-1) for x in (whole, steps))
        likely = whole > torch.log(torch.tensor(1e-6))
        # Where a logit is no number, neither is the gap.
        gaps = (whole - steps).abs()[likely | whole.isnan()]
        gap = torch.maximum(gap, gaps.max().cpu())
        same += int((whole.argmax(-1) == steps.argmax(-1)).sum())
        count += len(ids)
        for donor in model.donors:
            recut[donor.name] += len(resegmented(model.anchor, donor, ids))
    shares = {name: n / count for name, n in recut.items()}
    return Parity(count, float(gap), same / count, shares)
