"""Checks of writing: greedy, sampled, beams and batches, cached and not."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ..braid.model import BraidedLLM
from .tools import (
    ATOL,
    TEXTS,
    agree,
    batch_of,
    expect,
    ids_of,
    logits_of,
    padded,
    reported,
)

BEAMS = 2


def _plain(model: BraidedLLM) -> BraidedLLM:
    """The same braid without what its anchor asks for when writing, such as penalties.

    With these, what is written is not what the logits alone say.
    """
    twin = copy.copy(model)
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    settings = {name: getattr(model.generation_config, name) for name in ends}
    twin.generation_config = GenerationConfig(**settings)
    return twin


def _write(
    model: BraidedLLM, ids: Tensor, new_tokens: int, **options: Any
) -> list[list[int]]:
    """What `generate` writes after each row, always with the same random numbers."""
    options.setdefault("attention_mask", torch.ones_like(ids))
    cards = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(1)
        out = _plain(model).generate(ids, max_new_tokens=new_tokens, **options)
    rows: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return rows


@reported
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
        expect(
            alone[-1] == byhand,
            f"generate, {text!r}: greedy wrote {alone[-1]}, the largest logits are "
            f"{byhand}",
        )
    # Prompts of different lengths in one batch, padded left as transformers does.
    rows, mask = padded(model, prompts, "left")
    together = _write(
        model, batch_of(model, rows), new_tokens, attention_mask=mask, do_sample=False
    )
    for text, wanted, got in zip(texts, alone, together, strict=True):
        got = got[: len(wanted)]  # shorter rows are filled up after their end
        expect(
            got == wanted,
            f"generate, {text!r}: wrote {got} in a batch and {wanted} alone",
        )
    _check_refusal(model, prompts)


def _check_refusal(model: BraidedLLM, prompts: Sequence[Sequence[int]]) -> None:
    """Nothing can be written behind padding: it is refused, not garbled."""
    rows, mask = padded(model, prompts, "right", extra=1)
    try:
        _write(model, batch_of(model, rows), 1, attention_mask=mask, do_sample=False)
    except ValueError:
        return
    raise AssertionError(
        "generate: wrote behind padding on the right, expected a ValueError"
    )


@reported
@torch.no_grad()
def check_sampling(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, new_tokens: int = 4
) -> None:
    """With one seed, a batch sampled with and without a cache is the same."""
    rows, mask = padded(model, [ids_of(model, text) for text in texts[:2]], "left")
    options = {"attention_mask": mask, "do_sample": True, "temperature": 0.8}
    cached, plain = (
        _write(model, batch_of(model, rows), new_tokens, use_cache=c, **options)
        for c in (True, False)
    )
    expect(
        cached == plain,
        f"generate, {texts[:2]!r}: with one seed sampled {cached} with a cache and "
        f"{plain} without",
    )


@reported
@torch.no_grad()
def check_beams(
    model: BraidedLLM,
    texts: Sequence[str] = TEXTS,
    atol: float = ATOL,
    new_tokens: int = 8,
) -> None:
    """Beam search finds the same beams, scored alike, in a cached batch and alone."""
    prompts = [ids_of(model, text) for text in texts[:2]]
    together, scores = _beams(model, prompts, new_tokens, use_cache=True)
    for i, prompt in enumerate(prompts):
        alone, wanted = _beams(model, [prompt], new_tokens, use_cache=False)
        mine = slice(i * BEAMS, (i + 1) * BEAMS)
        what = f"generate, {texts[i]!r}: beams"
        # Scores too: a beam that follows another's text may still find the best one.
        agree(scores[mine], wanted, atol, f"{what}' scores, cached and not")
        for got, row in zip(together[mine], alone, strict=True):
            got = got[: len(row)]  # shorter rows are filled up after their end
            expect(
                got == row,
                f"{what} wrote {got} with a cache in a batch and {row} alone without",
            )


def _beams(
    model: BraidedLLM,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    use_cache: bool,
) -> tuple[list[list[int]], Tensor]:
    """What each beam of each prompt wrote, and its score (rows, 1)."""
    rows, mask = padded(model, prompts, "left")
    found = _plain(model).generate(
        batch_of(model, rows),
        attention_mask=mask,
        max_new_tokens=new_tokens,
        num_beams=BEAMS,
        num_return_sequences=BEAMS,
        do_sample=False,
        use_cache=use_cache,
        output_scores=True,
        return_dict_in_generate=True,
    )
    written: list[list[int]] = found.sequences[:, mask.shape[1] :].tolist()
    return written, found.sequences_scores[:, None]
