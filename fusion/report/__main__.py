"""What fusing two models brings, beside every control.

Bits per byte of held-out text (prompt and reference together), by domain: each strand
alone; each strand calibrated alone, which is the matched control (the same fuser fed
the strand's own states); every strategy at every place, both ways round; and fusers
trained on a donor whose states are shuffled, the control that has a donor's size.
An interrupted report goes on where it was. With ``--carrying``, what it costs to tell
each strand's distribution in another one's tokens, with nothing trained.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ..strands.machine import dtype_of, reuse_memory
from ..strands.pool import PACKAGED, Pool, default_cache
from .carrying import carrying, carrying_table
from .controls import PLACES, STRATEGIES, plans
from .held_out import first_of_each, packaged_texts, read_texts
from .rows import rows_for
from .table import table


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m fusion.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--texts", type=Path, help="JSON lines; default: packaged texts")
    add("--models", nargs="+", default=list(PACKAGED))
    add("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    add(
        "--places",
        nargs="+",
        choices=PLACES,
        default=PLACES[:3],
        help="where to fuse; sparse: three decoder layers (default: all others)",
    )
    add("--seeds", type=int, default=1)
    add("--per-domain", type=int, help="at most so many texts of each")
    add(
        "--positions",
        type=int,
        default=1000,
        help="scored for each braid and domain (default: %(default)s)",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of strands; default: the fastest of this machine",
    )
    add(
        "--native",
        action=argparse.BooleanOptionalAction,
        help="let llama.cpp run GGUF files, or convert them; default: where it is "
        "installed, and no place is sparse",
    )
    add("--store", type=Path, help="default: calibration, in the cache folder")
    add(
        "--carrying",
        action="store_true",
        help="only what telling a strand in another one's tokens costs",
    )
    add("--json", action="store_true", help="rows as JSON")
    add("--plot", type=Path, metavar="FILE.png", help="a picture too")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the command line; see ``--help``.
    """
    options = parser().parse_args(arguments)
    for name in ("seeds", "positions", "per_domain"):
        value = getattr(options, name)
        if value is not None and value < 1:
            option = f"--{name.replace('_', '-')}"
            parser().error(f"{option} is {value}; give at least 1")
    draw = None
    if options.plot:  # where it cannot be drawn, say so before the work
        from .plot import plot as draw
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fusion").setLevel(logging.INFO)
    store = options.store or default_cache() / "calibration"
    torch.manual_seed(0)
    reuse_memory()
    texts = read_texts(options.texts) if options.texts else packaged_texts()
    calibration, held_out = (first_of_each(part, options.per_domain) for part in texts)
    native = False if "sparse" in options.places else options.native
    pool = Pool(dtype=dtype_of(options.dtype), native=native)
    if options.carrying:
        found = carrying(pool, options.models, held_out, not options.json)
        told = [{**asdict(row), "loss": row.loss} for row in found]
        print(json.dumps(told, indent=1) if options.json else carrying_table(found))
        return
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
    if draw is not None:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
