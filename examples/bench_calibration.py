"""Seconds of calibration: a first braid of a pair, further ones, middle layers.

    python examples/bench_calibration.py --texts texts.jsonl
    python examples/bench_calibration.py --models gemma-3-270m SmolLM2-135M-Instruct

The first model is the anchor, the other its donor. So many tokens of calibration
text are used, with a store that is empty at the start: the first braid pays for both
strands' pass over the text, all others find it there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fusion import BraidConfig, BraidedLLM, Pool, Strand, calibrate
from fusion.report.controls import STRATEGIES, layers_at
from fusion.report.held_out import packaged_texts, read_texts
from fusion.strands.machine import dtype_of, reuse_memory
from fusion.strands.pool import PACKAGED


def recipes(anchor: Strand, donor: Strand) -> list[BraidConfig]:
    """Ten braids of a pair that share what they can, then three decoder layers."""
    donors = [donor.name]

    def braid(share: float, layers: list[str | int], strategy: str) -> BraidConfig:
        return BraidConfig(anchor.name, donors, [share, 1 - share], layers, strategy)

    ten = [braid(0.7, ["final"], "router"), braid(0.7, ["output"], "router")]
    for share in (0.7, 0.6, 0.8, 0.5):
        for strategy in ("learned_weighted", "router"):
            ten.append(braid(share, ["final", "output"], strategy))
    middle = layers_at("sparse", anchor.n_layers)
    return ten + [braid(0.7, middle, strategy) for strategy in STRATEGIES]


def measure(
    anchor: Strand, donor: Strand, texts: Sequence[Any], tokens: int, progress: bool
) -> list[dict[str, Any]]:
    """One row per braid, in the order in which they share a store."""
    rows = []
    with tempfile.TemporaryDirectory() as store:
        for config in recipes(anchor, donor):
            model = BraidedLLM(config, [anchor, donor])
            done = calibrate(
                model, texts, store=store, budget=tokens, progress=progress
            )
            rows.append(
                {
                    "layers": config.fusion_layers,
                    "strategy": config.strategy,
                    "shares": config.shares,
                    "seconds": round(done.seconds, 1),
                    "trained": list(done.trained),
                    "bits_before": done.bits_before,
                    "bits_after": done.bits_after,
                }
            )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text, numbered from 1."""
    shown = pd.DataFrame(rows, index=range(1, len(rows) + 1))
    shown["layers"] = ["+".join(map(str, row["layers"])) for row in rows]
    shown["trained"] = [", ".join(row["trained"]) for row in rows]
    return shown[["layers", "strategy", "seconds", "trained"]].to_string()


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs=2, default=list(PACKAGED)[::-1])
    parser.add_argument("--texts", type=Path, help="JSON lines; default: packaged")
    parser.add_argument("--tokens", type=int, default=40_000)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    options = parser.parse_args(arguments)
    if options.tokens < 1:
        parser.error(f"--tokens is {options.tokens}; give at least 1")
    reuse_memory()
    dtype = dtype_of(options.dtype)
    pool = Pool(dtype=dtype, native=False)  # for decoder layers too
    anchor, donor = (pool[name] for name in options.models)
    found = read_texts(options.texts) if options.texts else packaged_texts()
    rows = measure(anchor, donor, found[0], options.tokens, not options.json)
    print(json.dumps(rows, indent=1) if options.json else table(rows))


if __name__ == "__main__":
    main()
