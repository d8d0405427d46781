"""Simple and complex tasks: three fusion layers or nine, which strategy.

    python examples/bench_complexity.py
    python examples/bench_complexity.py --models SmolLM2-135M-Instruct gemma-3-270m

Is a complex task worth more fusion layers, and a richer strategy? The packaged tasks
say how complex they are, from 0 to 1. Braids of two models, the first being the anchor,
are calibrated at three and at nine decoder layers and at their usual places, with
learned weights and with attention. Each is scored on the held-out tasks, prompt and
reference together. The bits of one choice less those of the other are told on the
simpler half, on the more complex half, and as the difference of the two, with 95 %
intervals over tasks.
A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit.catalogue.layer_sets import layers_of
from braidbandit.tasks import load_tasks
from fusion import BraidConfig, BraidedLLM, Pool, calibrate
from fusion.report.held_out import first_of_each, packaged_texts, whole
from fusion.report.scores import score
from fusion.strands.machine import dtype_of, reuse_memory
from fusion.strands.pool import PACKAGED, default_cache

SETS = ("sparse", "dense", "final+output")  # three decoder layers, nine, and none
STRATEGIES = ("learned_weighted", "attention")
SHARES = [0.7, 0.3]
EVERY = 10**6  # positions of a text, more than there are
DRAWS = 10_000

Arm = tuple[str, str]


def recipes(names: Sequence[str], depth: int) -> dict[Arm, BraidConfig]:
    """A braid for each strategy and each layer set that there is at this depth."""
    anchor, *donors = names
    places = {name: layers_of(name, depth) for name in SETS}
    return {
        (name, strategy): BraidConfig(anchor, donors, SHARES, list(layers), strategy)
        for name, layers in places.items()
        if layers is not None
        for strategy in STRATEGIES
    }


def bits(options: argparse.Namespace) -> tuple[dict[Arm, NDArray[Any]], NDArray[Any]]:
    """Bits per byte of every arm and task, and how complex each task is."""
    pool = Pool(options.models, dtype=dtype_of(options.dtype), native=False)
    strands = [pool[name] for name in options.models]
    texts = first_of_each(packaged_texts()[0], options.per_domain)
    arms = {}
    for arm, config in recipes(options.models, strands[0].n_layers).items():
        arms[arm] = BraidedLLM(config, strands)
        calibrate(
            arms[arm],
            [whole(text) for text in texts],
            store=options.store,
            seed=options.seed,
            progress=not options.json,
        )
    tasks = load_tasks("test")[: options.tasks]
    held_out = [{**task, "domain": task["id"]} for task in tasks]  # each for itself
    found = score(list(arms.values()), held_out, EVERY, options.store, not options.json)
    of_arm = {
        arm: np.array([row[task["id"]] for task in tasks])
        for arm, row in zip(arms, found, strict=True)
    }
    return of_arm, np.array([task["complexity"] for task in tasks])


def comparisons(arms: Collection[Arm]) -> dict[str, tuple[Arm, Arm]]:
    """What is put beside what: the first one's bits less those of the second."""
    learned, attention = STRATEGIES
    found = {
        f"three layers less nine, {strategy}": (
            ("sparse", strategy),
            ("dense", strategy),
        )
        for strategy in STRATEGIES
    }
    for layers in SETS:
        name = f"{learned} less {attention}, {layers}"
        found[name] = ((layers, learned), (layers, attention))
    return {name: pair for name, pair in found.items() if set(pair) <= set(arms)}


def halves(bits: NDArray[Any], complexity: NDArray[Any], seed: int) -> dict[str, Any]:
    """Mean of the simpler and the more complex half, and what lies between.

    Examples
    --------
    >>> found = halves(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0.1, 0.8, 0.9]), 0)
    >>> found["simple"]["mean"], found["complex less simple"]["low"]
    (1.0, 2.0)
    """
    order = complexity.argsort(kind="stable")
    parts = np.array_split(bits[order], 2)
    rng = np.random.default_rng(seed)
    drawn = [p[rng.integers(len(p), size=(DRAWS, len(p)))].mean(1) for p in parts]
    means = [float(p.mean()) for p in parts]
    return {
        "simple": _interval(means[0], drawn[0]),
        "complex": _interval(means[1], drawn[1]),
        "complex less simple": _interval(means[1] - means[0], drawn[1] - drawn[0]),
    }


def _interval(mean: float, drawn: NDArray[Any]) -> dict[str, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"mean": mean, "low": float(low), "high": float(high)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs=2, default=list(PACKAGED))
    parser.add_argument("--tasks", type=int, help="only the first so many")
    parser.add_argument(
        "--per-domain", type=int, help="at most so many calibration texts of each"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--store",
        type=Path,
        default=default_cache() / "calibration",
        help="where trained parts are kept (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.tasks is not None and options.tasks < 2:
        parser.error(f"--tasks is {options.tasks}; two halves need at least 2")
    reuse_memory()
    of_arm, complexity = bits(options)
    found = {
        "models": options.models,
        "tasks": len(complexity),
        "bits_per_byte": {" ".join(a): float(b.mean()) for a, b in of_arm.items()},
        "differences": {
            name: halves(of_arm[first] - of_arm[second], complexity, options.seed)
            for name, (first, second) in comparisons(of_arm).items()
        },
    }
    print(json.dumps(found, indent=1) if options.json else table(found))


def table(found: dict[str, Any]) -> str:
    """The findings as text."""
    lines = [f"bits per byte of {found['tasks']} held-out tasks:"]
    lines += [f"  {bits:.4f}  {arm}" for arm, bits in found["bits_per_byte"].items()]
    lines += ["", "one less the other, bits per byte (95 % interval over tasks):"]
    for name, row in found["differences"].items():
        cells = (
            f"{part} {c['mean']:+.4f} [{c['low']:+.4f}, {c['high']:+.4f}]"
            for part, c in row.items()
        )
        lines.append(f"  {name}\n    " + "; ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
