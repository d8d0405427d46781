"""Checks of the braid as a whole: identity, threads, files, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import DynamicCache

from ..braid.model import BraidedLLM
from ..strands.native_strand import NativeStrand
from ..strands.strand import CACHE
from .tools import (
    ATOL,
    TEXTS,
    agree,
    batch_of,
    cached_logits,
    expect,
    ids_of,
    logits_of,
    prompt_of,
    reported,
    same,
)


@reported
@torch.no_grad()
def check_identity(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, atol: float = ATOL
) -> None:
    """The braid is its anchor, bit for bit: at share 0, or before calibration.

    Parameters
    ----------
    model : BraidedLLM
        With every donor's share at 0, or freshly built without an "output" layer.
    atol : float
        Allowed where llama.cpp runs the anchor: its head reads the last position only,
        and rounds otherwise than where it reads several.
    """
    if isinstance(model.anchor, NativeStrand):
        _check_native_identity(model, texts, atol)
        return
    anchor = model.anchor.model
    for text in texts:
        ids = batch_of(model, [ids_of(model, text)])
        ours, theirs = model(input_ids=ids).logits, anchor(input_ids=ids).logits
        same(ours, theirs, f"identity, {text!r}")
        mask = torch.ones_like(ids)
        ours = model(input_ids=ids, attention_mask=mask).logits
        theirs = anchor(input_ids=ids, attention_mask=mask).logits
        same(ours, theirs, f"identity, {text!r} with a mask")
        if ids.shape[1] == 1:
            continue  # nothing to keep in a cache
        first, then = ids[:, :-1], ids[:, -1:]
        left = model(input_ids=first, use_cache=True).cache
        # The same kind of cache: a sliding one rounds differently.
        right = DynamicCache()
        anchor(input_ids=first, use_cache=True, **{CACHE: right})
        ours = model(input_ids=then, cache=left).logits
        theirs = anchor(input_ids=then, **{CACHE: right}).logits
        same(ours, theirs, f"identity, {text!r} cached")


def _check_native_identity(
    model: BraidedLLM, texts: Sequence[str], atol: float
) -> None:
    for text in texts:
        ids = ids_of(model, text)
        theirs = model.anchor.own_logits(ids)
        ours = logits_of(model, [ids])[0]
        agree(ours, theirs, atol, f"identity, {text!r}")
        ours = cached_logits(model, ids, lambda i: 1)[0]
        agree(ours, theirs, atol, f"identity, {text!r} cached")


@reported
def check_concurrency(
    model: BraidedLLM,
    texts: Sequence[str] = TEXTS,
    atol: float = ATOL,
    others: Sequence[BraidedLLM] = (),
) -> None:
    """Requests in several threads give what they give one after the other.

    ``others`` are braids that share strands with ``model``; they run beside it.
    """
    work = [(m, text) for text in texts for m in (model, *others)]

    def read(m: BraidedLLM, text: str) -> Tensor:
        ids = ids_of(m, text)
        whole = logits_of(m, [ids], **prompt_of(m, len(ids)))[0]
        return torch.cat([whole, cached_logits(m, ids, lambda i: 3)[0]])

    serial = [read(m, text) for m, text in work]
    barrier = Barrier(len(work))

    def together(item: tuple[BraidedLLM, str]) -> Tensor:
        barrier.wait(timeout=60)  # all start at once, so that they overlap
        return read(*item)

    with ThreadPoolExecutor(len(work)) as threads:
        results = list(threads.map(together, work))
    for (_, text), got, wanted in zip(work, results, serial, strict=True):
        agree(got, wanted, atol, f"concurrency, {text!r}")


@reported
def check_save_load(
    model: BraidedLLM, path: str | Path, pool: Any, texts: Sequence[str] = TEXTS
) -> None:
    """Saving keeps the fusers and nothing else; loading gives the same bits."""
    model.save_pretrained(path)
    files = sorted(Path(path).glob("*.safetensors"))
    expect(
        len(files) == 1,
        f"save: expected one weights file in {path}, found {files}",
    )
    with safe_open(files[0], framework="pt") as opened:
        names = set(opened.keys())
    wanted = set(model.state_dict())
    expect(
        names == wanted,
        f"save: the file lacks {sorted(wanted - names)[:3]} and has "
        f"{sorted(names - wanted)[:3]} beyond the fusers",
    )
    strands = (model.anchor, *model.donors)
    frozen = {id(p) for strand in strands for _, p in strand.named_parameters()}
    expect(
        not frozen & {id(p) for p in model.parameters()},
        "save: parameters of a strand are parameters of the braid",
    )
    loaded = BraidedLLM.from_pretrained(path, pool=pool)
    for text in texts:
        ids = ids_of(model, text)
        got, before = logits_of(loaded, [ids]), logits_of(model, [ids])
        expect(
            torch.equal(got, before),
            f"save: after loading, logits of {text!r} differ by "
            f"{float((got - before).abs().max()):.3g}, expected the same bits",
        )


@reported
def check_frozen(model: BraidedLLM, texts: Sequence[str] = TEXTS) -> None:
    """Training reaches every trainable fuser parameter and no strand."""
    strands = (model.anchor, *model.donors)
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.zero_grad(set_to_none=True)
    try:
        for text in texts:
            _learn_from(model, text, bool(trainable))
        for strand in strands:
            for name, p in strand.named_parameters():
                who = f"{strand.name}: {name}"
                expect(
                    not p.requires_grad,
                    f"frozen: {who} is trainable",
                )
                expect(p.grad is None, f"frozen: {who} received a gradient")
        for name, p in model.named_parameters():
            if p.requires_grad:
                grad = p.grad
                expect(grad is not None, f"frozen: {name} received no gradient")
                finite = grad is not None and bool(torch.isfinite(grad).all())
                expect(finite, f"frozen: the gradient of {name} is not finite")
    finally:
        model.zero_grad(set_to_none=True)


def _learn_from(model: BraidedLLM, text: str, trainable: bool) -> None:
    """Add the gradients of one text, whose loss has to be a number."""
    ids = batch_of(model, [ids_of(model, text)])
    if ids.shape[1] == 1:
        return  # no token follows whose loss there could be
    loss = model(input_ids=ids, labels=ids).loss
    expect(
        loss is not None,
        "frozen: no loss though labels were given",
    )
    expect(
        bool(torch.isfinite(loss)),
        f"frozen: the loss of {text!r} is {loss}",
    )
    if trainable:
        expect(
            loss.requires_grad,
            "frozen: the loss does not depend on the fusers",
        )
        loss.backward()
