"""What every braid must satisfy, as checks that run on any `BraidedLLM`.

Each check raises AssertionError with what differed, where and by how much. They are
meant for braids of small or real strands alike, and for new strategies: build a
braid, `randomise` its fusers (zeros would hide defects) and call `run_all`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import DynamicCache

from .alignment import common_prefix, complete_text
from .cache import BraidCache, DonorStates, Row, gather_rows
from .modeling import BraidedLLM
from .strand import Strand

# Code, prose, emoji and CJK: where tokenisations disagree in different ways.
TEXTS = (
    "def f(xs):\n    return sum(xs)",
    "The other strand sleeps.",
    "café 😀 party 👩‍🚀",
    "你好，世界。很好 日本",
)
ATOL = 1e-4  # float32 sums in another order; a real defect is orders larger


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
        config.shares = [float(s) for s in shares]
    return BraidedLLM(config, [model.anchor, *model.donors])


def _ids(model: BraidedLLM, text: str) -> list[int]:
    return model.anchor.tokens.encode(text)


def _batch(model: BraidedLLM, rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([list(r) for r in rows], device=model.device)


@torch.no_grad()
def _logits(model: BraidedLLM, rows: Sequence[Sequence[int]], **options: Any) -> Tensor:
    return model(input_ids=_batch(model, rows), **options).logits


@torch.no_grad()
def _cached_logits(
    model: BraidedLLM, ids: Sequence[int], sizes: Callable[[int], int]
) -> Tensor:
    """Logits of one row fed in pieces; ``sizes(i)`` is the length of piece i."""
    cache, parts, at, i = BraidCache(), [], 0, 0
    while at < len(ids):
        piece = ids[at : at + sizes(i)]
        out = model(
            input_ids=_batch(model, [piece]), past_key_values=cache, use_cache=True
        )
        cache = out.past_key_values
        parts.append(out.logits)
        at, i = at + len(piece), i + 1
    return torch.cat(parts, dim=1)


def _agree(got: Tensor, wanted: Tensor, atol: float, what: str) -> None:
    """Raise unless two (T, V) logits agree; say at which position they part."""
    assert got.shape == wanted.shape, (
        f"{what}: shapes {tuple(got.shape)} and {tuple(wanted.shape)} differ"
    )
    assert bool(torch.isfinite(got).all()), f"{what}: logits are not finite"
    gap = (got.float() - wanted.float()).abs().amax(-1).flatten()
    worst = float(gap.max())
    if worst > atol:
        first = int(torch.nonzero(gap > atol)[0])
        raise AssertionError(
            f"{what}: logits differ by {worst:.3g} (allowed {atol:.3g}), "
            f"first at position {first}"
        )


def resegmented(anchor: Strand, donor: Strand, ids: Sequence[int]) -> list[int]:
    """Positions t after which later text changes how the donor cuts the text so far.

    Here a donor that reads the whole text differs from one that reads as far as t.
    """
    data, ends = anchor.tokens.text(ids), anchor.tokens.ends(ids)
    prefixes = [complete_text(data[: int(e)]) for e in ends]
    encoded = donor.tokens.encode_many(prefixes)
    full = donor.tokens.encode(complete_text(data))
    return [
        t
        for t, prefix in enumerate(encoded)
        if common_prefix(prefix, full) < len(prefix)
    ]


def _cuts(model: BraidedLLM, ids: list[int], count: int = 2) -> list[int]:
    """A few positions to cut after: evenly spread, and the donors' hard ones."""
    n = len(ids) - 1
    cuts = {int(i * n / count) for i in range(count)}
    for donor in model.donors:
        cuts.update(resegmented(model.anchor, donor, ids)[:count])
    return sorted(c for c in cuts if c < n)


def check_causality(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, atol: float = ATOL
) -> None:
    """A later token changes no earlier logit.

    Each text is continued differently after several positions: by other tokens, by
    nothing, and where a donor would cut the same bytes differently.
    """
    hard = 0
    for text in texts:
        ids = _ids(model, text)
        whole = _logits(model, [ids])[0]
        cuts = _cuts(model, ids)
        for donor in model.donors:
            hard += len(resegmented(model.anchor, donor, ids))
        for cut in cuts:
            kept = ids[: cut + 1]
            other = kept + list(reversed(ids[cut + 1 :]))
            for name, row in (("other tokens", other), ("nothing", kept)):
                got = _logits(model, [row])[0, : cut + 1]
                what = f"{text!r} followed by {name} after position {cut}"
                _agree(got, whole[: cut + 1], atol, f"causality, {what}")
    foreign = [d for d in model.donors if d.tokens.table != model.anchor.tokens.table]
    assert hard or not foreign, (
        "causality: these texts never change a donor's segmentation, so the check "
        "proves little; pass texts with code, emoji or CJK"
    )


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
            ids = _ids(model, text)
            prefixes = Row(ids=ids).prefixes(model.anchor, donor, len(ids))
            wanted = [
                donor.model.base_model(
                    input_ids=_batch(model, [prefix])
                ).last_hidden_state[0]
                if prefix
                else torch.zeros(0, donor.width)
                for prefix in prefixes
            ]
            for step in (len(ids), 3):
                row = Row()
                for low in range(0, len(ids), step):
                    new = ids[low : low + step]
                    row.ids = [*row.ids, *new]
                    columns = [list(range(len(new)))]
                    found = gather_rows(
                        [row], model.anchor, donor, columns, len(new), ["final"]
                    )["final"]
                    what = f"donor {donor.name}, {text!r} from position {low}"
                    _check_view(found, wanted[low : low + step], atol, what)


def _check_view(
    found: DonorStates, wanted: Sequence[Tensor], atol: float, what: str
) -> None:
    newest = found.aligned()[0][0]
    for t, alone in enumerate(wanted):
        seen = found.states[0, found.visible[0, t]]
        assert len(seen) == len(alone), (
            f"{what} + {t}: sees {len(seen)} tokens, the text so far has {len(alone)}"
        )
        if len(alone):
            # Relative: states of strands differ by orders of magnitude.
            scale = float(alone.abs().max().clamp(min=1.0))
            _agree(seen, alone, atol * scale, f"{what} + {t}")
            _agree(newest[t][None], alone[-1:], atol * scale, f"{what} + {t}, newest")


@torch.no_grad()
def check_cache(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, atol: float = ATOL
) -> None:
    """Decoding with a cache, step by step and in pieces, gives the uncached logits."""
    for text in texts:
        ids = _ids(model, text)
        whole = _logits(model, [ids])[0]
        ways: dict[str, Callable[[int], int]] = {
            "step by step": lambda i: 1,
            "in pieces": lambda i: (5, 1, 3, 2)[i % 4],
        }
        for name, sizes in ways.items():
            got = _cached_logits(model, ids, sizes)[0]
            _agree(got, whole, atol, f"cache, {text!r} {name}")


def check_batch(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, atol: float = ATOL
) -> None:
    """A row's logits do not depend on the rows beside it, nor on their order."""
    rows = [_ids(model, text) for text in texts]
    length = min(len(r) for r in rows)
    rows = [r[:length] for r in rows]
    together = _logits(model, rows)
    backwards = _logits(model, rows[::-1])
    for i, row in enumerate(rows):
        what = f"batch, row {i} of {len(rows)}"
        _agree(together[i], _logits(model, [row])[0], atol, what)
        _agree(backwards[len(rows) - 1 - i], together[i], atol, f"{what} reordered")


@torch.no_grad()
def check_padding(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, atol: float = ATOL
) -> None:
    """Padding, left or right, of any token, changes nothing; nor does it in a cache."""
    rows = [_ids(model, text) for text in texts]
    length = max(len(r) for r in rows) + 3
    pad = model.config.pad_token_id
    alone = [_logits(model, [row])[0] for row in rows]
    # The mask decides what padding is, whatever token fills it.
    usual, other = 0 if pad is None else pad, rows[0][-1]
    for side, filler in (("left", usual), ("right", usual), ("left", other)):
        padded, mask = [], []
        for row in rows:
            gap = length - len(row)
            fill, zeros, ones = [filler] * gap, [0] * gap, [1] * len(row)
            left = side == "left"
            padded.append(fill + row if left else row + fill)
            mask.append(zeros + ones if left else ones + zeros)
        masks = torch.tensor(mask, device=model.device)
        got = _logits(model, padded, attention_mask=masks)
        for i, row in enumerate(rows):
            start = length - len(row) if side == "left" else 0
            part = got[i, start : start + len(row)]
            what = f"padding, {side} by token {filler}, row {i}"
            _agree(part, alone[i], atol, what)
        if side == "left" and filler == other:
            _check_padded_cache(model, padded, masks, got, atol)


def _check_padded_cache(
    model: BraidedLLM, rows: list[list[int]], mask: Tensor, whole: Tensor, atol: float
) -> None:
    """Left-padded prompts, then steps: how a batch is generated."""
    cache: Any = BraidCache()
    ids, length = _batch(model, rows), mask.shape[1]
    prompt = length - 3
    for start, stop in ((0, prompt), *((t, t + 1) for t in range(prompt, length))):
        out = model(
            input_ids=ids[:, start:stop],
            attention_mask=mask[:, :stop],
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        for i in range(len(rows)):
            real = mask[i, start:stop].bool()
            what = f"padding, row {i} padded left, columns {start} to {stop} cached"
            if bool(real.any()):
                _agree(out.logits[i][real], whole[i, start:stop][real], atol, what)


@torch.no_grad()
def check_identity(model: BraidedLLM, texts: Sequence[str] = TEXTS) -> None:
    """The braid is its anchor, bit for bit: at share 0, or before calibration.

    Parameters
    ----------
    model : BraidedLLM
        With every donor's share at 0, or freshly built without an "output" layer.
    """
    anchor = model.anchor.model
    for text in texts:
        ids = _batch(model, [_ids(model, text)])
        ours, theirs = model(input_ids=ids).logits, anchor(input_ids=ids).logits
        _same(ours, theirs, f"identity, {text!r}")
        mask = torch.ones_like(ids)
        ours = model(input_ids=ids, attention_mask=mask).logits
        theirs = anchor(input_ids=ids, attention_mask=mask).logits
        _same(ours, theirs, f"identity, {text!r} with a mask")
        first, then = ids[:, :-1], ids[:, -1:]
        left = model(input_ids=first, use_cache=True).past_key_values
        # The same kind of cache: a sliding one rounds differently.
        right = DynamicCache()
        anchor(input_ids=first, past_key_values=right, use_cache=True)
        ours = model(input_ids=then, past_key_values=left).logits
        theirs = anchor(input_ids=then, past_key_values=right).logits
        _same(ours, theirs, f"identity, {text!r} cached")


def _same(got: Tensor, wanted: Tensor, what: str) -> None:
    if not torch.equal(got, wanted):
        gap = float((got.float() - wanted.float()).abs().max())
        raise AssertionError(
            f"{what}: the braid and its anchor differ by up to {gap:.3g}, "
            "expected the same bits"
        )


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
        ids = _ids(m, text)
        whole = _logits(m, [ids])[0]
        return torch.cat([whole, _cached_logits(m, ids, lambda i: 3)[0]])

    serial = [read(m, text) for m, text in work]
    barrier = Barrier(len(work))

    def together(item: tuple[BraidedLLM, str]) -> Tensor:
        barrier.wait(timeout=60)  # all start at once, so that they overlap
        return read(*item)

    with ThreadPoolExecutor(len(work)) as threads:
        results = list(threads.map(together, work))
    for (_, text), got, wanted in zip(work, results, serial, strict=True):
        _agree(got, wanted, atol, f"concurrency, {text!r}")


def check_save_load(
    model: BraidedLLM, path: str | Path, pool: Any, texts: Sequence[str] = TEXTS
) -> None:
    """Saving keeps the fusers and nothing else; loading gives the same bits."""
    model.save_pretrained(path)
    files = sorted(Path(path).glob("*.safetensors"))
    assert len(files) == 1, f"save: expected one weights file in {path}, found {files}"
    with safe_open(files[0], framework="pt") as opened:
        names = set(opened.keys())
    wanted = set(model.state_dict())
    assert names == wanted, (
        f"save: the file lacks {sorted(wanted - names)[:3]} and has "
        f"{sorted(names - wanted)[:3]} beyond the fusers"
    )
    strands = [s.model for s in (model.anchor, *model.donors)]
    frozen = {id(p) for m in strands for p in m.parameters()}
    assert not frozen & {id(p) for p in model.parameters()}, (
        "save: parameters of a strand are parameters of the braid"
    )
    loaded = BraidedLLM.from_pretrained(path, pool=pool)
    for text in texts:
        ids = _ids(model, text)
        got, before = _logits(loaded, [ids]), _logits(model, [ids])
        assert torch.equal(got, before), (
            f"save: after loading, logits of {text!r} differ by "
            f"{float((got - before).abs().max()):.3g}, expected the same bits"
        )


def check_frozen(model: BraidedLLM, texts: Sequence[str] = TEXTS) -> None:
    """Training reaches every trainable fuser parameter and no strand."""
    strands = [s.model for s in (model.anchor, *model.donors)]
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.zero_grad(set_to_none=True)
    for text in texts:
        ids = _batch(model, [_ids(model, text)])
        loss = model(input_ids=ids, labels=ids).loss
        assert loss is not None, "frozen: no loss though labels were given"
        assert bool(torch.isfinite(loss)), f"frozen: the loss of {text!r} is {loss}"
        if trainable:
            assert loss.requires_grad, "frozen: the loss does not depend on the fusers"
            loss.backward()
    try:
        for m in strands:
            for name, p in m.named_parameters():
                who = f"{type(m).__name__}.{name}"
                assert not p.requires_grad, f"frozen: {who} is trainable"
                assert p.grad is None, f"frozen: {who} received a gradient"
        for name, p in model.named_parameters():
            if p.requires_grad:
                assert p.grad is not None, f"frozen: {name} received no gradient"
                finite = bool(torch.isfinite(p.grad).all())
                assert finite, f"frozen: the gradient of {name} is not finite"
    finally:
        model.zero_grad(set_to_none=True)


@torch.no_grad()
def check_generate(
    model: BraidedLLM, texts: Sequence[str] = TEXTS, new_tokens: int = 4
) -> None:
    """Greedy, sampled and beam search writing agree with and without a cache."""
    end = model.generation_config.eos_token_id
    ends = {end} if isinstance(end, int) else set(end or ())

    def write(ids: Tensor, seed: int = 0, **options: Any) -> list[list[int]]:
        mask = options.pop("attention_mask", torch.ones_like(ids))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=new_tokens, **options
            )
        rows: list[list[int]] = out[:, ids.shape[1] :].tolist()
        return rows

    prompts = [_ids(model, text) for text in texts]
    alone = []
    for text, prompt in zip(texts, prompts, strict=True):
        alone.append(write(_batch(model, [prompt]), do_sample=False)[0])
        byhand: list[int] = []
        while len(byhand) < new_tokens and not ends & set(byhand):
            byhand.append(int(_logits(model, [prompt + byhand])[0, -1].argmax()))
        assert alone[-1] == byhand, (
            f"generate, {text!r}: greedy wrote {alone[-1]}, the largest logits are "
            f"{byhand}"
        )
    # One text is enough for the searches: `check_cache` has seen the others.
    what = f"generate, {texts[0]!r}"
    ids = _batch(model, [prompts[0]])
    sample = {"do_sample": True, "temperature": 0.8}
    cached, plain = (write(ids, seed=1, use_cache=c, **sample) for c in (True, False))
    assert cached == plain, (
        f"{what}: with one seed sampled {cached} with a cache and {plain} without"
    )
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
    _agree(
        beams[0].sequences_scores[:, None],
        beams[1].sequences_scores[:, None],
        ATOL,
        f"{what}: scores of beams with and without a cache",
    )
    assert torch.equal(beams[0].sequences, beams[1].sequences), (
        f"{what}: beam search wrote {beams[0].sequences.tolist()} with a cache and "
        f"{beams[1].sequences.tolist()} without"
    )
    # Prompts of different lengths in one batch, padded left as transformers does.
    length = max(len(p) for p in prompts)
    pad = model.generation_config.pad_token_id or 0
    rows = [[pad] * (length - len(p)) + p for p in prompts]
    mask = [[0] * (length - len(p)) + [1] * len(p) for p in prompts]
    together = write(
        _batch(model, rows),
        attention_mask=torch.tensor(mask, device=model.device),
        do_sample=False,
    )
    for text, wanted, got in zip(texts, alone, together, strict=True):
        got = got[: len(wanted)]  # shorter rows are filled up after their end
        assert got == wanted, (
            f"generate, {text!r}: wrote {got} in a batch and {wanted} alone"
        )


def run_all(
    model: BraidedLLM,
    path: str | Path,
    pool: Any,
    texts: Sequence[str] = TEXTS,
    atol: float = ATOL,
) -> None:
    """Every check on one braid, and identity on its siblings.

    Parameters
    ----------
    model : BraidedLLM
        With fusers that do something; see `randomise`.
    path : path
        An empty folder to save into.
    pool : Pool
        Holds the model's strands by name.
    """
    check_causality(model, texts, atol)
    check_donors(model, texts[:2], atol)
    check_cache(model, texts, atol)
    check_batch(model, texts, atol)
    check_padding(model, texts, atol)
    check_concurrency(model, texts, atol)
    check_frozen(model, texts)
    check_generate(model, texts)
    check_save_load(model, path, pool, texts)
    if model.donors:
        alone = sibling(model, shares=[1.0] + [0.0] * len(model.donors))
        alone.load_state_dict(model.state_dict())
        check_identity(alone, texts)
    if model.mixer is None:
        check_identity(sibling(model), texts)
