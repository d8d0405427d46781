"""What the checks share: texts, siblings of a braid, logits and their comparison."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ..braid.cache import BraidCache
from ..braid.model import BraidedLLM
from ..strands.strand import Strand
from ..tokens.token_bytes import common_prefix, complete_text

# Code, prose, emoji and CJK: where tokenisations disagree in different ways.
TEXTS = (
    "def f(xs):\n    return sum(xs)",
    "The other strand sleeps.",
    "café 😀 party 👩‍🚀",
    "你好，世界。很好 日本",
)
ATOL = 1e-4  # float32 sums in another order; a real defect is orders larger

P = ParamSpec("P")
R = TypeVar("R")


def reported(check: Callable[P, R]) -> Callable[P, R]:
    """A check that reports what a braid raises as it reports a wrong logit.

    Without texts it proves nothing, and says so.
    """
    name = check.__name__.removeprefix("check_")
    form = signature(check)

    @wraps(check)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        given = form.bind(*args, **kwargs).arguments
        expect(bool(given.get("texts", TEXTS)), f"{name}: no texts prove nothing")
        try:
            return check(*args, **kwargs)
        except AssertionError:
            raise
        except Exception as error:
            kind = type(error).__name__
            raise AssertionError(f"{name}: raised {kind}: {error}") from error

    return run


def randomise(model: BraidedLLM, seed: int = 0, std: float = 0.1) -> BraidedLLM:
    """Fill every parameter of the braid's fusers with noise, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(noise.to(parameter))
    return model


def sibling(model: BraidedLLM, shares: Sequence[float] | None = None) -> BraidedLLM:
    """A freshly built braid of the same recipe and strands."""
    config: Any = copy.deepcopy(model.config)
    if shares is not None:
        config.update({"shares": [float(s) for s in shares]})
    return BraidedLLM(config, [model.anchor, *model.donors])


def ids_of(model: BraidedLLM, text: str) -> list[int]:
    return model.anchor.tokens.encode(text)


def batch_of(model: BraidedLLM, rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([list(r) for r in rows], device=model.device)


def padded(
    model: BraidedLLM,
    rows: Sequence[Sequence[int]],
    side: str,
    filler: int | None = None,
    extra: int = 0,
) -> tuple[list[list[int]], Tensor]:
    """Rows filled up to the longest and ``extra`` more, and their mask."""
    if filler is None:
        filler = model.generation_config.pad_token_id or 0
    length = max(map(len, rows)) + extra
    filled, mask = [], []
    for row in rows:
        gap = length - len(row)
        fill, zeros, ones = [filler] * gap, [0] * gap, [1] * len(row)
        left = side == "left"
        filled.append([*fill, *row] if left else [*row, *fill])
        mask.append(zeros + ones if left else ones + zeros)
    return filled, torch.tensor(mask, device=model.device)


def prompt_of(model: BraidedLLM, length: int) -> dict[str, Any]:
    """What to tell a braid that fuses the prompt only: the first half is the prompt."""
    if model.config.fuse == "always":
        return {}
    return {"prompt_length": max(1, length // 2)}


@torch.no_grad()
def logits_of(
    model: BraidedLLM, rows: Sequence[Sequence[int]], **options: Any
) -> Tensor:
    return model(input_ids=batch_of(model, rows), **options).logits


@torch.no_grad()
def cached_logits(
    model: BraidedLLM, ids: Sequence[int], sizes: Callable[[int], int]
) -> Tensor:
    """Logits of one row fed in pieces; ``sizes(i)`` is the length of piece i."""
    options = prompt_of(model, len(ids))
    cache, parts, at, i = BraidCache(), [], 0, 0
    while at < len(ids):
        piece = ids[at : at + sizes(i)]
        out = model(
            input_ids=batch_of(model, [piece]),
            cache=cache,
            use_cache=True,
            **options,
        )
        cache = out.cache
        parts.append(out.logits)
        at, i = at + len(piece), i + 1
    return torch.cat(parts, dim=1)


def expect(holds: bool, message: str) -> None:
    """Raise where something does not hold, also with ``python -O``."""
    if not holds:
        raise AssertionError(message)


def agree(got: Tensor, wanted: Tensor, atol: float, what: str) -> None:
    """Raise unless two (T, V) logits agree; say at which position they part."""
    expect(
        got.shape == wanted.shape,
        f"{what}: shapes {tuple(got.shape)} and {tuple(wanted.shape)} differ",
    )
    expect(
        bool(torch.isfinite(got).all()),
        f"{what}: logits are not finite",
    )
    gap = (got.float() - wanted.float()).abs().amax(-1).flatten()
    worst = float(gap.max())
    # Said the other way round, since no number is larger than one that is none.
    if not worst <= atol:
        first = int(torch.nonzero(~(gap <= atol))[0])
        raise AssertionError(
            f"{what}: logits differ by {worst:.3g} (allowed {atol:.3g}), "
            f"first at position {first}"
        )


def same(got: Tensor, wanted: Tensor, what: str) -> None:
    if not torch.equal(got, wanted):
        gap = float((got.float() - wanted.float()).abs().max())
        raise AssertionError(
            f"{what}: the braid and its anchor differ by up to {gap:.3g}, "
            "expected the same bits"
        )


def ways(anchor: Strand, donor: Strand, ids: Sequence[int]) -> list[list[list[int]]]:
    """All ways in which a donor reads the text up to each position.

    Told by the text alone. White space at its end may belong to a word that follows: a
    donor that cuts so reads the text without its last character first. One that does
    not, beside an anchor that does, reads it with one more space as well.
    """
    mine, theirs = donor.tokens, anchor.tokens
    if mine.key == theirs.key:
        return [[list(ids[: t + 1])] for t in range(len(ids))]
    data, found = theirs.text(ids), []
    for end in theirs.ends(ids).tolist():
        text = complete_text(data[:end])
        texts = [text]
        if mine.leaves_space and len(text) > 1 and text[-1].isspace():
            texts = [text[:-1], text]
        elif theirs.leaves_space and not mine.leaves_space and data[:end][-1:] == b" ":
            texts = [text, f"{text} "]
        found.append([mine.encode(text) for text in texts])
    return found


def readings(anchor: Strand, donor: Strand, ids: Sequence[int]) -> list[list[int]]:
    """The donor's tokens beside each position: of the first way that has any."""
    found = ways(anchor, donor, ids)
    return [next(filter(None, mine), []) for mine in found]


def resegmented(anchor: Strand, donor: Strand, ids: Sequence[int]) -> list[int]:
    """Positions t after which later text changes how the donor cuts the text so far.

    Here a donor that reads the whole text differs from one that reads as far as t.
    """
    whole = donor.tokens.of_anchor(anchor.tokens, ids)
    return [
        t
        for t, prefix in enumerate(readings(anchor, donor, ids))
        if common_prefix(prefix, whole) < len(prefix)
    ]
