"""What fusing two models brings, beside every control: ``python -m fusion.report``.

Bits per byte of held-out text (prompt and reference together), by domain: each strand
alone; each strand calibrated alone, which is the matched control (the same fuser fed
the strand's own states); every strategy at every place, both ways round; and fusers
trained on a donor whose states are shuffled, the control that has a donor's size.
An interrupted report goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..braid.model import BraidedLLM
from ..calibration.calibrate import calibrate
from ..conformance import parity as parity_of
from ..strands.machine import dtype_of, reuse_memory
from ..strands.pool import PACKAGED, Pool, default_cache
from .controls import PLACES, SHUFFLED, STRATEGIES, Plan, Shuffled, plans
from .held_out import Text, first_of_each, packaged_texts, read_texts, score, whole

_LOG = logging.getLogger("fusion.report")


def speed(braid: BraidedLLM, tokens: int = 32) -> float:
    """Tokens per second of greedy decoding."""
    started = time.monotonic()
    braid.generate("The", max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    return tokens / (time.monotonic() - started)


def rows_for(
    pool: Pool,
    chosen: Sequence[Plan],
    calibration: Sequence[Text],
    held_out: Sequence[Text],
    seeds: int,
    positions: int,
    store: Path,
    progress: bool,
) -> list[dict[str, Any]]:
    """One row per plan: mean and spread over seeds."""
    models = [plan.config.anchor for plan in chosen if not plan.config.fusion_layers]
    texts = [whole(t) for t in calibration]
    strands: dict[str, Any] = {name: pool[name] for name in models}
    strands |= {name + SHUFFLED: Shuffled(pool[name]) for name in models}
    braids: list[BraidedLLM] = []
    for seed in range(seeds):
        for i, plan in enumerate(chosen):
            if seed and not plan.trained:
                braids.append(braids[i])
                continue
            names = (plan.config.anchor, *plan.config.donors)
            braid = plan.build([strands[name] for name in names])
            if plan.trained:
                _LOG.info("seed %d, %d of %d to calibrate", seed, i + 1, len(chosen))
                calibrate(braid, texts, store=store, seed=seed, progress=progress)
            braids.append(braid)
    scores = score(braids, held_out, positions, store, progress)
    found = [scores[i : i + len(chosen)] for i in range(0, len(scores), len(chosen))]
    rows = []
    for i, plan in enumerate(tqdm(chosen, "decoding speed", disable=not progress)):
        mine = [of_seed[i] for of_seed in found]
        means = [float(np.mean(list(bits.values()))) for bits in mine]
        rows.append(
            {
                "anchor": plan.config.anchor,
                "donors": plan.config.donors,
                "strategy": plan.strategy,
                "layers": plan.config.fusion_layers,
                "control": plan.control,
                "bits_per_byte": {
                    domain: float(np.mean([bits[domain] for bits in mine]))
                    for domain in mine[0]
                },
                "mean": float(np.mean(means)),
                "spread": float(np.std(means, ddof=1)) if seeds > 1 else None,
                "tokens_per_s": speed(braids[i]),
                "memory_mb": memory(braids[i]),
                # States in a wrong order are in another one when they come one by one.
                "parity": None
                if plan.control and plan.config.donors
                else asdict(parity_of(braids[i])),
            }
        )
    return rows


def memory(braid: BraidedLLM) -> float:
    """Megabytes of weights: every strand once, and what was trained."""
    strands = {id(s.model): s.model for s in (braid.anchor, *braid.donors)}
    parts = [braid, *strands.values()]
    return sum(part.get_memory_footprint() for part in parts) / 1e6


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """The best braid against the best single strand of each domain."""
    domains = list(rows[0]["bits_per_byte"])
    singles = [r for r in rows if not r["donors"]]
    best = min(_braids(rows), key=lambda r: float(r["mean"]))
    bar = {d: min(r["bits_per_byte"][d] for r in singles) for d in domains}
    gain = {d: 1 - best["bits_per_byte"][d] / bar[d] for d in domains}
    mean = 1 - best["mean"] / float(np.mean(list(bar.values())))
    return (
        f"best braid ({_label(best)}) against the best single strand of each domain, "
        "calibrated or not:\n"
        + ", ".join(f"{d} {g:+.1%}" for d, g in gain.items())
        + f"; mean {mean:+.1%}"
    )


def _braids(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [r for r in rows if r["donors"] and not r["control"]]


def _label(row: Mapping[str, Any]) -> str:
    if not row["layers"]:
        return f"{row['anchor']} alone"
    if not row["donors"]:
        return f"{row['anchor']} calibrated alone (control)"
    places = "+".join(map(str, row["layers"]))
    return f"{row['anchor']} + {' + '.join(row['donors'])}, {row['strategy']}, {places}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text, and the verdict.

    "parity" is how often decoding with caches takes the token that one forward over
    the whole text takes.
    """
    domains = list(rows[0]["bits_per_byte"])
    width = max(len(_label(row)) for row in rows) + 2
    names = [*(d[:9] for d in domains), "mean", "spread", "tok/s", "MB", "parity"]
    lines = [f"{'braid':{width}}" + "".join(f"{n:>10}" for n in names)]
    for row in rows:
        values = [f"{row['bits_per_byte'][d]:10.4f}" for d in domains]
        spread = "" if row["spread"] is None else f"{row['spread']:.4f}"
        parity = f"{row['parity']['same_choice']:.1%}" if row["parity"] else ""
        lines.append(
            f"{_label(row):{width}}{''.join(values)}{row['mean']:10.4f}{spread:>10}"
            f"{row['tokens_per_s']:10.1f}{row['memory_mb']:10.0f}{parity:>10}"
        )
    if _braids(rows):
        lines += ["", verdict(rows)]
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """The mean of every row as a picture: strands, controls and braids apart."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def kind(row: Mapping[str, Any]) -> str:
        if row["control"]:
            return "control"
        return "braid" if row["donors"] else "strand alone"

    ordered = sorted(rows, key=lambda row: float(-row["mean"]))
    figure, axes = plt.subplots(figsize=(10, 1 + 0.27 * len(rows)))
    for name, colour in (
        ("strand alone", "tab:gray"), ("control", "tab:orange"), ("braid", "tab:blue")
    ):  # fmt: skip
        at = [i for i, row in enumerate(ordered) if kind(row) == name]
        axes.errorbar(
            [ordered[i]["mean"] for i in at],
            at,
            xerr=[ordered[i]["spread"] or 0.0 for i in at],
            fmt="o",
            color=colour,
            label=name,
        )
    axes.set_yticks(range(len(ordered)), [_label(row) for row in ordered], fontsize=7)
    axes.set_xlabel("bits per byte of held-out text, mean of domains (less is better)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=110, bbox_inches="tight")
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m fusion.report", description=__doc__
    )
    parser.add_argument(
        "--texts", type=Path, help="JSON lines; default: packaged texts"
    )
    parser.add_argument("--models", nargs="+", default=list(PACKAGED))
    parser.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES
    )
    parser.add_argument(
        "--places",
        nargs="+",
        choices=PLACES,
        default=PLACES[:3],
        help="where to fuse; sparse: three decoder layers (default: all others)",
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--per-domain", type=int, help="at most so many texts of each")
    parser.add_argument(
        "--positions",
        type=int,
        default=1000,
        help="scored for each braid and domain (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of strands; default: the fastest of this machine",
    )
    parser.add_argument(
        "--store", type=Path, help="default: calibration, in the cache folder"
    )
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="a picture too")
    options = parser.parse_args(arguments)
    for name in ("seeds", "positions", "per_domain"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}; give at least 1")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fusion").setLevel(logging.INFO)
    store = options.store or default_cache() / "calibration"
    torch.manual_seed(0)
    reuse_memory()
    found = read_texts(options.texts) if options.texts else packaged_texts()
    calibration, held_out = (
        first_of_each(texts, options.per_domain) for texts in found
    )
    dtype = dtype_of(options.dtype)
    pool = Pool(dtype=dtype)
    depths = {name: pool.facts(name)["layers"] for name in options.models}
    rows = rows_for(
        pool,
        list(plans(depths, options.strategies, options.places)),
        calibration,
        held_out,
        options.seeds,
        options.positions,
        store,
        not options.json,
    )
    print(json.dumps(rows, indent=1) if options.json else table(rows))
    if options.plot:
        plot(rows, options.plot)
