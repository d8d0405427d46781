"""Checks of writing: greedy, sampled, beams and batches, cached and not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..modeling import BraidedLLM
from .tools import ATOL, TEXTS, agree, batch_of, ids_of, logits_of


def _write(
    model: BraidedLLM, ids: Tensor, new_tokens: int, **options: Any
) -> list[list[int]]:
    """What `generate` writes after each row, always with the same random numbers."""
    options.setdefault("attention_mask", torch.ones_like(ids))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        out = model.generate(ids, max_new_tokens=new_tokens, **options)
    rows: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return rows


@torch.no_grad()
def check_greedy(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, new_tokens: int = 4
) -> None:
    """Greedy writing takes the largest logits, alone and in a batch padded left."""
    end = model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end or ())
    prompts = [ids_of(model, text) for text in texts]
    alone = []
    for text, prompt in zip(texts, prompts, strict=True):
        ids = batch_of(model, [prompt])
        alone.append(_write(model, ids, new_tokens, do_sample=False)[0])
        fused = {} if model.config.fuse == "always" else {"prompt_length": len(prompt)}
        byhand: list[int] = []
        while len(byhand) < new_tokens and not ends & set(byhand):
            logits = logits_of(model, [prompt + byhand], **fused)
            byhand.append(int(logits[0, -1].argmax()))
        assert alone[-1] == byhand, (
            f"generate, {text!r}: greedy wrote {alone[-1]}, the largest logits are "
            f"{byhand}"
        )
    # Prompts of different lengths in one batch, padded left as transformers does.
    length = max(len(p) for p in prompts)
    pad = model.generation_config.pad_token_id or 0
    rows = [[pad] * (length - len(p)) + p for p in prompts]
    mask = [[0] * (length - len(p)) + [1] * len(p) for p in prompts]
    together = _write(
        model,
        batch_of(model, rows),
        new_tokens,
        attention_mask=torch.tensor(mask, device=model.device),
        do_sample=False,
    )
    for text, wanted, got in zip(texts, alone, together, strict=True):
        got = got[: len(wanted)]  # shorter rows are filled up after their end
        assert got == wanted, (
            f"generate, {text!r}: wrote {got} in a batch and {wanted} alone"
        )


@torch.no_grad()
def check_sampling(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, new_tokens: int = 4
) -> None:
    """With one seed, samples with and without a cache are the same."""
    ids = batch_of(model, [ids_of(model, texts[0])])
    sample = {"do_sample": True, "temperature": 0.8}
    cached, plain = (
        _write(model, ids, new_tokens, use_cache=c, **sample) for c in (True, False)
    )
    assert cached == plain, (
        f"generate, {texts[0]!r}: with one seed sampled {cached} with a cache and "
        f"{plain} without"
    )


@torch.no_grad()
def check_beams(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, new_tokens: int = 4
) -> None:
    """Beam search with and without a cache finds the same beams, scored alike."""
    what = f"generate, {texts[0]!r}"
    ids = batch_of(model, [ids_of(model, texts[0])])
    beams = [
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            num_beams=2,
            num_return_sequences=2,
            do_sample=False,
            use_cache=cached,
            output_scores=True,
            return_dict_in_generate=True,
        )
        for cached in (True, False)
    ]
    # Scores too: a beam that follows another beam's text may still find the best one.
    agree(
        beams[0].sequences_scores[:, None],
        beams[1].sequences_scores[:, None],
        ATOL,
        f"{what}: scores of beams with and without a cache",
    )
    assert torch.equal(beams[0].sequences, beams[1].sequences), (
        f"{what}: beam search wrote {beams[0].sequences.tolist()} with a cache and "
        f"{beams[1].sequences.tolist()} without"
    )
