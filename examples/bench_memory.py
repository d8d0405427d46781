"""Memory of an agent that is asked about ever new tasks: 100,000 by default.

    python examples/bench_memory.py
    python examples/bench_memory.py --tasks 20000 --megabytes 16 --json

Every task is embedded and its embedding kept, in memory and in a folder, each within a
limit. Random numbers take the place of embeddings, so that no language model is needed.
Prints how much more memory the process holds in the end than after the first 1,000
tasks, and the most that the folder ever took.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from braidbandit import BraidRecommender, Catalogue, TaskEncoder

MODELS = ("general", "coder")
WIDTH = 384
FIRST = 1000  # tasks after which growth is counted
LOOKS = 50  # how often the folder is looked at
MEGABYTE = 2**20
STATM = Path("/proc/self/statm")


class CheapEmbedder:
    """Random numbers in place of embeddings; named, so that they are kept on disk."""

    name = "random numbers"

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, texts: list[str]) -> NDArray[np.float64]:
        return self.rng.standard_normal((len(texts), WIDTH))


def memory_now() -> float:
    """Megabytes of memory that this process holds at the moment."""
    pages = int(STATM.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def size_of(folder: str) -> float:
    """Megabytes of all files in a folder."""
    return sum(file.stat().st_size for file in Path(folder).iterdir()) / MEGABYTE


def measure(tasks: int, megabytes: float, folder: str, quiet: bool) -> dict[str, Any]:
    """Ask an agent about distinct tasks, one after the other."""
    encoder = TaskEncoder(
        embedder=CheapEmbedder(),
        cache_dir=folder,
        cache_bytes=round(megabytes * MEGABYTE),
    )
    catalogue = Catalogue.build(MODELS, layer_sets=("output",))
    agent = BraidRecommender(catalogue, encoder, random_state=0)
    start = time.perf_counter()
    first, largest = 0.0, 0.0
    for number in tqdm(range(tasks), desc="asking", disable=quiet):
        agent.recommend(f"request {number}")
        if number + 1 == FIRST:
            first = memory_now()
        if number % max(tasks // LOOKS, 1) == 0:
            largest = max(largest, size_of(folder))
    spent = time.perf_counter() - start
    return {
        "tasks": tasks,
        "ms_per_task": round(1e3 * spent / tasks, 3),
        "memory_after_first_mb": round(first, 1),
        "memory_above_first_mb": round(memory_now() - first, 1),
        "folder_at_most_mb": round(max(largest, size_of(folder)), 2),
        "folder_limit_mb": megabytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument(
        "--megabytes", type=float, default=64.0, help="limit of the folder"
    )
    parser.add_argument("--folder", help="default: a temporary one, deleted at the end")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.tasks <= FIRST:
        parser.error(f"--tasks must be above {FIRST}, received {options.tasks}")
    if options.megabytes < 0.25:
        parser.error(
            f"--megabytes must be at least 0.25, received {options.megabytes}: a "
            "smaller folder keeps nothing"
        )
    if not STATM.exists():
        parser.error(f"the memory of a process is read in {STATM}, which is not there")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or temporary
        report = measure(options.tasks, options.megabytes, folder, options.json)
    print(json.dumps(report, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
