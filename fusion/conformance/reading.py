"""Checks of reading: no look ahead, no neighbours, no padding, cached as uncached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..braid.cache import BraidCache, advance, gather_rows
from ..braid.fusers import DonorStates
from ..braid.model import BraidedLLM
from .tools import (
    ATOL,
    TEXTS,
    agree,
    batch_of,
    cached_logits,
    expect,
    ids_of,
    logits_of,
    padded,
    prompt_of,
    readings,
    reported,
    resegmented,
    ways,
)


def _cuts(model: BraidedLLM, ids: list[int], count: int = 2) -> list[int]:
    """A few positions to cut after: evenly spread, and the donors' hard ones."""
    n = len(ids) - 1
    cuts = {int(i * n / count) for i in range(count)}
    for donor in model.donors:
        cuts.update(resegmented(model.anchor, donor, ids)[:count])
    return sorted(c for c in cuts if c < n)


@reported
def check_causality(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, atol: float = ATOL
) -> None:
    """A later token changes no earlier logit.

    Each text is continued differently after several positions: by other tokens, by
    nothing, and where a donor would cut the same bytes differently.
    """
    hard = 0
    for text in texts:
        ids = ids_of(model, text)
        options = prompt_of(model, len(ids))
        whole = logits_of(model, [ids], **options)[0]
        cuts = _cuts(model, ids)
        for donor in model.donors:
            hard += len(resegmented(model.anchor, donor, ids))
        for cut in cuts:
            kept = ids[: cut + 1]
            other = kept + list(reversed(ids[cut + 1 :]))
            for name, row in (("other tokens", other), ("nothing", kept)):
                got = logits_of(model, [row], **options)[0, : cut + 1]
                what = f"{text!r} followed by {name} after position {cut}"
                agree(got, whole[: cut + 1], atol, f"causality, {what}")
    foreign = [d for d in model.donors if d.tokens.table != model.anchor.tokens.table]
    expect(
        bool(hard) or not foreign,
        "causality: these texts never change a donor's segmentation, so the check "
        "proves little; pass texts with code, emoji or CJK",
    )


@reported
@torch.no_grad()
def check_donors(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, atol: float = ATOL
) -> None:
    """What a position sees of a donor is the donor's reading of the text so far.

    Compared with the donor's own model on the tokens of that text, in one go. The
    donor follows the text at once, and three tokens at a time.
    """
    for donor in model.donors:
        for text in texts:
            ids = ids_of(model, text)
            prefixes = readings(model.anchor, donor, ids)
            wanted = [
                donor.run(batch_of(model, [prefix]), taps=["final"])["final"][0]
                if prefix
                else torch.zeros(0, donor.width)
                for prefix in prefixes
            ]
            for step in (len(ids), 3):
                cache = BraidCache()
                for low in range(0, len(ids), step):
                    new = ids[low : low + step]
                    ids_of_step = batch_of(model, [new])
                    step_of = advance(model.anchor, ids_of_step, cache=cache)
                    found = gather_rows(step_of, model.anchor, donor, ["final"])
                    view = found.states["final"]
                    what = f"donor {donor.name}, {text!r} from position {low}"
                    _check_view(view, wanted[low : low + step], atol, what)


def _check_view(
    found: DonorStates, wanted: Sequence[Tensor], atol: float, what: str
) -> None:
    newest = found.aligned()[0][0]
    for t, alone in enumerate(wanted):
        seen = found.states[0, found.visible[0, t]]
        expect(
            len(seen) == len(alone),
            f"{what} + {t}: sees {len(seen)} tokens, the text so far has {len(alone)}",
        )
        if len(alone):
            # Relative: states of strands differ by orders of magnitude.
            scale = float(alone.abs().max().clamp(min=1.0))
            agree(seen, alone, atol * scale, f"{what} + {t}")
            agree(newest[t][None], alone[-1:], atol * scale, f"{what} + {t}, newest")


@reported
@torch.no_grad()
def check_cache(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, atol: float = ATOL
) -> None:
    """Decoding with a cache, step by step and in pieces, gives the uncached logits."""
    for text in texts:
        ids = ids_of(model, text)
        whole = logits_of(model, [ids], **prompt_of(model, len(ids)))[0]
        ways: dict[str, Callable[[int], int]] = {
            "step by step": lambda i: 1,
            "in pieces": lambda i: (5, 1, 3, 2)[i % 4],
        }
        for name, sizes in ways.items():
            got = cached_logits(model, ids, sizes)[0]
            agree(got, whole, atol, f"cache, {text!r} {name}")


@reported
@torch.no_grad()
def check_prompt(model: BraidedLLM, texts: Sequence[str] = TEXTS) -> None:
    """Donors of a braid that fuses the prompt only read the prompt and no further."""
    reads = model.config.fuse == "prompt" and model.active
    for text in texts if reads else ():
        ids = ids_of(model, text)
        options = prompt_of(model, len(ids))
        cache = BraidCache()
        for low in range(0, len(ids), 3):
            piece = batch_of(model, [ids[low : low + 3]])
            model(input_ids=piece, cache=cache, **options)
        for donor in model.donors:
            read = cache.rows[0].donors[donor.name].ids
            prompt = ids[: options["prompt_length"]]
            wanted = ways(model.anchor, donor, prompt)[-1][-1]
            expect(
                read == wanted,
                f"prompt, {text!r}: {donor.name} read tokens {read}, the prompt has "
                f"{wanted}",
            )


@reported
def check_batch(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, atol: float = ATOL
) -> None:
    """A row's logits do not depend on the rows beside it, nor on their order."""
    rows = [ids_of(model, text) for text in texts]
    length = min(len(r) for r in rows)
    rows = [r[:length] for r in rows]
    options = prompt_of(model, length)
    together = logits_of(model, rows, **options)
    backwards = logits_of(model, rows[::-1], **options)
    for i, row in enumerate(rows):
        what = f"batch, row {i} of {len(rows)}"
        agree(together[i], logits_of(model, [row], **options)[0], atol, what)
        agree(backwards[len(rows) - 1 - i], together[i], atol, f"{what} reordered")


@reported
@torch.no_grad()
def check_padding(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, atol: float = ATOL
) -> None:
    """Padding, left or right, of any token, changes nothing; nor does it in a cache."""
    rows = [ids_of(model, text) for text in texts]
    prompts = [prompt_of(model, len(row)) for row in rows]
    alone = [logits_of(model, [r], **p)[0] for r, p in zip(rows, prompts, strict=True)]
    # The mask decides what padding is, whatever token fills it.
    for side, filler in (("left", None), ("right", rows[0][-1]), ("left", rows[0][-1])):
        filled, mask = padded(model, rows, side, filler, extra=3)
        length = mask.shape[1]
        options: dict[str, Any] = {"attention_mask": mask}
        if any(prompts):
            gaps = [length - len(r) if side == "left" else 0 for r in rows]
            ends = [g + p["prompt_length"] for g, p in zip(gaps, prompts, strict=True)]
            options["prompt_length"] = torch.tensor(ends)
        got = logits_of(model, filled, **options)
        for i, row in enumerate(rows):
            start = length - len(row) if side == "left" else 0
            part = got[i, start : start + len(row)]
            what = f"padding, {side} by token {filler}, row {i}"
            agree(part, alone[i], atol, what)
        if side == "left" and filler is not None:
            _check_padded_cache(model, filled, options, alone, atol, length - 3)
    _check_gap(model, rows, alone, atol)


def _check_padded_cache(
    model: BraidedLLM,
    rows: list[list[int]],
    options: dict[str, Any],
    alone: list[Tensor],
    atol: float,
    prompt: int,
) -> None:
    """Padded rows as far as column ``prompt``, then step by step: as `generate` does.

    ``alone`` has the logits of each row without its padding.
    """
    cache: Any = BraidCache()
    options = dict(options)
    mask = options.pop("attention_mask")
    ids, length = batch_of(model, rows), mask.shape[1]
    done = [0] * len(rows)
    for start, stop in ((0, prompt), *((t, t + 1) for t in range(prompt, length))):
        out = model(
            input_ids=ids[:, start:stop],
            attention_mask=mask[:, :stop],
            cache=cache,
            use_cache=True,
            **options,
        )
        cache = out.cache
        for i in range(len(rows)):
            found = out.logits[i][mask[i, start:stop].bool()]
            wanted = alone[i][done[i] : done[i] + len(found)]
            done[i] += len(found)
            what = f"padding, padded row {i}, columns {start} to {stop} cached"
            if len(found):
                agree(found, wanted, atol, what)


def _check_gap(
    model: BraidedLLM, rows: list[list[int]], alone: list[Tensor], atol: float
) -> None:
    """Rows padded right that go on: behind a gap, text reads on or is refused."""
    tail = 2
    # Something has to stand in front of the gap.
    both = [(r, a) for r, a in zip(rows, alone, strict=True) if len(r) > tail]
    rows, alone = [row for row, _ in both], [logits for _, logits in both]
    if not rows:
        return
    filled, mask = padded(model, [row[:-tail] for row in rows], "right", extra=3)
    prompt = mask.shape[1]
    longer = [f + row[-tail:] for f, row in zip(filled, rows, strict=True)]
    options: dict[str, Any] = {
        "attention_mask": torch.cat([mask, mask.new_ones(len(rows), tail)], dim=1)
    }
    if model.config.fuse == "prompt":
        ends = [prompt_of(model, len(row))["prompt_length"] for row in rows]
        options["prompt_length"] = torch.tensor(ends)
    try:
        _check_padded_cache(model, longer, options, alone, atol, prompt)
    except ValueError:
        # These count columns, the gap's too.
        if model.anchor.window is None and not model.anchor.counts_columns:
            raise
