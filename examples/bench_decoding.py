"""Tokens per second of a braid, beside its strands and what their times add up to.

    python examples/bench_decoding.py
    python examples/bench_decoding.py --models gemma-3-270m SmolLM2-135M-Instruct --json

The first model is the anchor, the other its donor. One thread. GGUF files are timed as
llama.cpp runs them (native) and as transformers runs what they are converted to, side
by side. Predicted is the anchor's own time per token plus the donor's, cut at its
deepest tap (with its head only where outputs are mixed); with ``fuse="prompt"`` it is
the anchor's alone. The anchor is timed as its library runs it and as a braid of one;
the faster counts. All write in turn, a few tokens at a time, so that other load on the
machine hits all alike. Rates are medians over the repeats; the ratio is taken within
each repeat: their median, the least and the largest.

Also shown: the time to the first token of a prompt of 400 tokens, beside what both
strands take to read it, and what one product with the anchor's head takes, which is
part of every token of a braid that fuses the final state.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from fusion import BraidCache, BraidConfig, BraidedLLM, Pool, Strand
from fusion.strands.llama import Context
from fusion.strands.machine import dtype_of, reuse_memory
from fusion.strands.pool import PACKAGED

PROMPT = "Write a short story about a rope maker who learns to braid.\n\n"
LONG = 400  # tokens of the prompt whose first token is timed
SHARES = [0.7, 0.3]
# Tokens that one writes before the next one goes on.
TURN = 16
DONE = object()


def recipes(layers: int) -> list[tuple[str, list[int | str], str]]:
    """What is timed: fuse, fusion layers, strategy."""
    middle: list[int | str] = [layers // 3, layers // 2, 2 * layers // 3]
    return [
        ("always", ["output"], "router"),
        ("always", ["final"], "router"),
        ("always", ["final", "output"], "router"),
        ("always", ["final", "output"], "attention"),
        ("always", middle, "learned_weighted"),
        ("prompt", middle, "learned_weighted"),
        ("prompt", middle, "attention"),
        ("prompt", ["final"], "attention"),
    ]


def write(model: Any, strand: Strand, tokens: int) -> Iterator[None]:
    """Greedy text of exactly so many tokens; pauses now and then."""
    ids = torch.tensor([strand.tokens.encode(PROMPT)], device=strand.device)
    prompt, cache = ids.shape[1], BraidCache()
    settings = copy.deepcopy(model.generation_config)
    settings.eos_token_id, settings.do_sample = None, False  # goes on whatever it says
    while ids.shape[1] < prompt + tokens:
        new = min(TURN, prompt + tokens - ids.shape[1])
        ids = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            generation_config=settings,
            max_new_tokens=new,
        )
        yield


def long_prompt(strand: Strand) -> list[int]:
    """So many of a strand's tokens."""
    ids = strand.tokens.encode(PROMPT * LONG)
    return ids[:LONG]


@torch.no_grad()
def of_llama(
    strand: Any, tokens: int, *, writes: bool = True, head: bool = True
) -> Iterator[None]:
    """Greedy text of so many tokens by llama.cpp alone, or what a donor does there.

    A donor reads the prompt, then so many tokens one by one.
    """
    ids = strand.tokens.encode(PROMPT)
    context = Context(strand.weights, len(ids) + tokens, stops=not head)
    step, place = ids, 0
    for token in range(tokens):
        places = range(place, place + len(step))
        found = context.decode(step, places, [[0]] * len(step), whole=head)
        place += len(step)
        step = [int(found[-1].argmax()) if writes else ids[token % len(ids)]]
        if (token + 1) % TURN == 0:
            yield


@torch.no_grad()
def first_token(model: Any, strand: Strand) -> Iterator[None]:
    """The first token behind a long prompt."""
    ids = torch.tensor([long_prompt(strand)], device=strand.device)
    model(input_ids=ids, cache=BraidCache(), logits_to_keep=1)
    yield


@torch.no_grad()
def read_prompt(strand: Strand, text: str) -> Iterator[None]:
    """What a strand takes to read a text and say what comes next."""
    ids = torch.tensor([strand.tokens.encode(text)], device=strand.device)
    states = strand.run(ids, taps=["final"], cache=BraidCache())["final"]
    strand.logits(states[:, -1])
    yield


@torch.no_grad()
def read(
    strand: Strand, taps: Sequence[int | str], head: bool, tokens: int
) -> Iterator[None]:
    """What a donor does of its own: a prompt, then so many tokens one by one."""
    cache = BraidCache()
    ids = strand.tokens.encode(PROMPT)
    step = torch.tensor([ids], device=strand.device)
    for token in range(tokens):
        states = strand.run(step, taps=taps, cache=cache)
        if head:
            strand.logits(states["final"][:, -1])
        step = torch.tensor([[ids[token % len(ids)]]], device=strand.device)
        if (token + 1) % TURN == 0:
            yield


def in_turn(work: dict[Any, Callable[[], Iterator[None]]]) -> dict[Any, float]:
    """Seconds that each takes, all of them going on together, a part at a time."""
    running = {name: start() for name, start in work.items()}
    seconds = dict.fromkeys(work, 0.0)
    while running:
        for name, parts in list(running.items()):
            started = time.perf_counter()
            if next(parts, DONE) is DONE:
                del running[name]
            seconds[name] += time.perf_counter() - started
    return seconds


class Counter:
    """How many tokens a strand reads."""

    def __init__(self, strand: Strand) -> None:
        self.tokens = 0
        self._strand, self._run = strand, strand.run

    def _count(self, input_ids: torch.Tensor, **options: Any) -> Any:
        self.tokens += input_ids.numel()
        return self._run(input_ids, **options)

    def __enter__(self) -> Counter:
        self._strand.run = self._count  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc: object) -> None:
        del self._strand.run


class Timed(NamedTuple):
    """A braid, and what its time is compared with: names of other work."""

    braid: BraidedLLM
    kind: str
    own: tuple[Any, ...]  # ways to write the anchor's own text
    donor: Any  # None where it reads nothing
    first: Any
    prompts: tuple[Any, ...]


def of_kind(
    kind: str, anchor: Strand, donor: Strand, tokens: int, layers: str | None
) -> tuple[dict[Any, Callable[[], Iterator[None]]], list[Timed]]:
    """What is timed of strands of one kind."""
    native = kind == "native"
    plain = BraidedLLM(BraidConfig(anchor.name), [anchor])
    text = anchor.tokens.text(long_prompt(anchor)).decode(errors="replace")
    work: dict[Any, Callable[[], Iterator[None]]] = {
        (kind, "plain"): lambda: write(plain, anchor, tokens),
        (kind, "prompt", anchor.name): lambda: read_prompt(anchor, text),
        (kind, "prompt", donor.name): lambda: read_prompt(donor, text),
        (kind, "own"): lambda: (
            of_llama(anchor, tokens) if native else write(anchor.model, anchor, tokens)
        ),
    }
    own = (kind, "own"), (kind, "plain")
    prompts = tuple((kind, "prompt", strand.name) for strand in (anchor, donor))
    found = []
    for number, (fuse, fused, strategy) in enumerate(recipes(anchor.n_layers)):
        if (native and isinstance(fused[0], int)) or (
            layers is not None and layers != "+".join(map(str, fused))
        ):
            continue
        config = BraidConfig(
            anchor.name, [donor.name], SHARES, fused, strategy, fuse=fuse
        )
        braid = BraidedLLM(config, [anchor, donor])
        taps, head = tuple(braid.donor_taps(donor).values()), braid.mixer is not None
        name, reading, first = (kind, number), None, (kind, "first", number)
        work[name] = lambda braid=braid: write(braid, anchor, tokens)
        work[first] = lambda braid=braid: first_token(braid, anchor)
        if fuse == "always":
            reading = (kind, taps, head)
            work[reading] = lambda taps=taps, head=head: (
                of_llama(donor, tokens, writes=False, head=head)
                if native
                else read(donor, taps, head, tokens)
            )
        found.append(Timed(braid, kind, own, reading, first, prompts))
    return work, found


def head_ms(strand: Strand, repeats: int) -> float:
    """Milliseconds of one product with a head: what a fused state costs."""
    state = torch.randn(1, strand.width)
    taken = []
    for _ in range(max(repeats, 5)):
        started = time.perf_counter()
        with torch.no_grad():
            strand.logits(state)
        taken.append(time.perf_counter() - started)
    return 1e3 * median(taken)


def measure(
    pairs: dict[str, tuple[Strand, Strand]],
    tokens: int,
    repeats: int,
    layers: str | None,
) -> list[dict[str, Any]]:
    """One row per kind and recipe; everything is timed in turn, again and again."""
    work: dict[Any, Callable[[], Iterator[None]]] = {}
    timed: dict[Any, Timed] = {}
    for kind, (anchor, donor) in pairs.items():
        more, found = of_kind(kind, anchor, donor, tokens, layers)
        work |= more
        timed |= {t.first: t for t in found}
    seconds: dict[Any, list[float]] = {name: [] for name in work}
    for _ in tqdm(range(repeats), desc="repeats"):
        for name, taken in in_turn(work).items():
            seconds[name].append(taken)
    rows = []
    for (kind, _, number), (braid, _, own, donor, first, prompts) in timed.items():
        # The faster of those that write the anchor's own text.
        alone = min((seconds[name] for name in own), key=median)
        of_donor = seconds[donor] if donor else [0.0] * repeats
        predicted = [a + d for a, d in zip(alone, of_donor, strict=True)]
        braids = seconds[kind, number]
        ratios = [p / s for p, s in zip(predicted, braids, strict=True)]
        reading = [
            sum(taken) for taken in zip(*(seconds[n] for n in prompts), strict=True)
        ]
        waits = [f / r for f, r in zip(seconds[first], reading, strict=True)]
        rows.append(
            {
                "kind": kind,
                "anchor": braid.anchor.name,
                "donors": [donor.name for donor in braid.donors],
                "fuse": braid.config.fuse,
                "layers": braid.config.fusion_layers,
                "strategy": braid.config.strategy,
                "anchor_tokens_per_s": tokens / median(alone),
                "donor_tokens_per_s": tokens / median(of_donor) if donor else 0.0,
                "predicted_tokens_per_s": tokens / median(predicted),
                "tokens_per_s": tokens / median(braids),
                "of_predicted": median(ratios),
                "least": min(ratios),
                "largest": max(ratios),
                "donor_tokens_per_token": donor_tokens(braid, min(tokens, 64)),
                "first_token_s": median(seconds[first]),
                "first_token_of_prompts": median(waits),
                "head_ms": head_ms(braid.anchor, repeats),
            }
        )
    return rows


def donor_tokens(braid: BraidedLLM, tokens: int) -> float:
    """How many tokens the donor reads for each one that is written."""
    with Counter(braid.donors[0]) as counter:
        list(write(braid, braid.anchor, 1))
        prompt = counter.tokens
        list(write(braid, braid.anchor, tokens))
        return (counter.tokens - 2 * prompt) / max(tokens - 1, 1)


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"{'kind':13}{'fuse':8}{'layers':14}{'strategy':17}{'anchor':>7}{'donor':>7}"
        f"{'predicted':>10}{'braid':>7}{'ratio':>7}{'least':>7}{'largest':>8}"
        f"{'donor tokens':>13}{'first s':>8}{'of both':>8}{'head ms':>8}"
    ]
    for row in rows:
        lines.append(
            f"{row['kind']:13}{row['fuse']:8}{'+'.join(map(str, row['layers'])):14}"
            f"{row['strategy']:17}{row['anchor_tokens_per_s']:7.2f}"
            f"{row['donor_tokens_per_s']:7.2f}{row['predicted_tokens_per_s']:10.2f}"
            f"{row['tokens_per_s']:7.2f}{row['of_predicted']:7.3f}{row['least']:7.3f}"
            f"{row['largest']:8.3f}{row['donor_tokens_per_token']:13.2f}"
            f"{row['first_token_s']:8.2f}{row['first_token_of_prompts']:8.2f}"
            f"{row['head_ms']:8.2f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs=2, default=list(PACKAGED)[::-1])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--layers", help="only braids that fuse here: final+output")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    options = parser.parse_args(arguments)
    if options.tokens < 1 or options.repeats < 1:
        parser.error("--tokens and --repeats are at least 1")
    torch.set_num_threads(1)
    reuse_memory()
    dtype = dtype_of(options.dtype)
    pairs = {}
    for kind, pool in (
        ("native", Pool(dtype=dtype)),
        ("transformers", Pool(dtype=dtype, native=False)),
    ):
        anchor, donor = (pool[name] for name in options.models)
        if kind == "transformers" or not (
            isinstance(anchor, Strand) or isinstance(donor, Strand)
        ):
            pairs[kind] = anchor, donor
    rows = measure(pairs, options.tokens, options.repeats, options.layers)
    print(json.dumps(rows, indent=1) if options.json else table(rows))


if __name__ == "__main__":
    main()
