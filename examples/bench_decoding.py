"""Tokens per second of a braid, beside its strands and what their times add up to.

    python examples/bench_decoding.py
    python examples/bench_decoding.py --models gemma-3-270m SmolLM2-135M-Instruct --json

The first model is the anchor, the other its donor. One thread. Predicted is the
anchor's own time per token plus the donor's, cut at its deepest tap (with its head only
where outputs are mixed); with ``fuse="prompt"`` it is the anchor's alone. The anchor is
timed both as transformers runs it and as a braid of one; the faster counts. All write
in turn, a few tokens at a time, so that other load on the machine hits all alike. Rates
are medians over the repeats; the ratio is taken within each repeat: their median, the
least and the largest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from fusion import BraidCache, BraidConfig, BraidedLLM, Pool, Strand
from fusion.strands.machine import dtype_of, reuse_memory
from fusion.strands.pool import PACKAGED

PROMPT = "Write a short story about a rope maker who learns to braid.\n\n"
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
    while ids.shape[1] < prompt + tokens:
        new = min(TURN, prompt + tokens - ids.shape[1])
        ids = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
        )
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
        embeddings = strand.model.get_input_embeddings()
        self._handle = embeddings.register_forward_pre_hook(self._count)

    def _count(self, module: Any, arguments: Any) -> None:
        self.tokens += arguments[0].numel()

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._handle.remove()


def measure(
    anchor: Strand, donor: Strand, tokens: int, repeats: int
) -> list[dict[str, Any]]:
    """One row per recipe; everything is timed in turn, again and again."""
    plain = BraidedLLM(BraidConfig(anchor.name), [anchor])
    work: dict[Any, Callable[[], Iterator[None]]] = {
        "anchor": lambda: write(anchor.model, anchor, tokens),
        "plain": lambda: write(plain, anchor, tokens),
    }
    braids = {}
    for number, (fuse, layers, strategy) in enumerate(recipes(anchor.n_layers)):
        config = BraidConfig(
            anchor.name, [donor.name], SHARES, layers, strategy, fuse=fuse
        )
        braid = BraidedLLM(config, [anchor, donor])
        need = tuple(braid.donor_taps(donor).values()), braid.mixer is not None
        braids[number] = braid, need if fuse == "always" else None
        work[number] = lambda braid=braid: write(braid, anchor, tokens)
        if fuse == "always":
            work[need] = lambda need=need: read(donor, *need, tokens)
    seconds: dict[Any, list[float]] = {name: [] for name in work}
    for _ in tqdm(range(repeats), desc="repeats"):
        for name, taken in in_turn(work).items():
            seconds[name].append(taken)
    # The faster of the two that write the anchor's own text.
    own = min(seconds["anchor"], seconds["plain"], key=median)
    rows = []
    for number, (braid, need) in braids.items():
        of_donor = seconds[need] if need else [0.0] * repeats
        predicted = [a + d for a, d in zip(own, of_donor, strict=True)]
        ratios = [p / s for p, s in zip(predicted, seconds[number], strict=True)]
        rows.append(
            {
                "fuse": braid.config.fuse,
                "layers": braid.config.fusion_layers,
                "strategy": braid.config.strategy,
                "anchor_tokens_per_s": tokens / median(own),
                "donor_tokens_per_s": tokens / median(of_donor) if need else 0.0,
                "predicted_tokens_per_s": tokens / median(predicted),
                "tokens_per_s": tokens / median(seconds[number]),
                "of_predicted": median(ratios),
                "least": min(ratios),
                "largest": max(ratios),
                "donor_tokens_per_token": donor_tokens(braid, min(tokens, 64)),
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
        f"{'fuse':8}{'layers':16}{'strategy':18}{'anchor':>8}{'donor':>8}"
        f"{'predicted':>11}{'braid':>8}{'ratio':>7}{'least':>7}{'largest':>9}"
        f"{'donor tokens':>14}"
    ]
    for row in rows:
        lines.append(
            f"{row['fuse']:8}{'+'.join(map(str, row['layers'])):16}{row['strategy']:18}"
            f"{row['anchor_tokens_per_s']:8.2f}{row['donor_tokens_per_s']:8.2f}"
            f"{row['predicted_tokens_per_s']:11.2f}{row['tokens_per_s']:8.2f}"
            f"{row['of_predicted']:7.3f}{row['least']:7.3f}{row['largest']:9.3f}"
            f"{row['donor_tokens_per_token']:14.2f}"
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
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    options = parser.parse_args(arguments)
    if options.tokens < 1 or options.repeats < 1:
        parser.error("--tokens and --repeats are at least 1")
    torch.set_num_threads(1)
    reuse_memory()
    dtype = dtype_of(options.dtype)
    pool = Pool(dtype=dtype)
    anchor, donor = (pool[name] for name in options.models)
    rows = measure(anchor, donor, options.tokens, options.repeats)
    print(json.dumps(rows, indent=1) if options.json else table(rows))


if __name__ == "__main__":
    main()
