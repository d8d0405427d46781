"""Memory of a braid as llama.cpp and as transformers run it, or of an agent.

    python examples/bench_memory.py --json
    python examples/bench_memory.py --tasks 100000 --megabytes 16

Without ``--tasks``: a braid of two models is loaded and writes a few words, each kind
in a process of its own. Predicted is what the profiles of its strands say, which were
measured one by one, and the fusers. Beside it stands what the process grew by once the
libraries were there: a tokenizer of 262,144 tokens and its tables are in it too.

With ``--tasks``: an agent is asked about so many different tasks. Every task is
embedded and its embedding kept, in memory and in a folder, each within a limit. Random
numbers take the place of embeddings. Told is how much more memory the process holds in
the end than after the first 1,000 tasks, and the most that the folder ever took.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from braidbandit import BraidRecommender, Catalogue, TaskEncoder, profile
from braidbandit.agent.measuring import held

MODELS = ("general", "coder")
WIDTH = 384
PACKAGED = ("gemma-3-270m", "SmolLM2-135M-Instruct")
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


def of_braid(kind: str, models: list[str], profiled: float) -> dict[str, Any]:
    """Load a braid in this process and let it write; the first model is the anchor.

    ``profiled`` is what the profiles of its strands say, in bytes.
    """
    import fusion  # noqa: F401  libraries are not of the braid

    before = held()
    braid = written_by(kind, models)
    grown = (held() - before) / MEGABYTE
    strands = [braid.anchor, *braid.donors]
    weights = sum(strand.memory for strand in strands) / MEGABYTE
    contexts = sum(strand.context_memory for strand in strands) / MEGABYTE
    predicted = (profiled + braid.get_memory_footprint()) / MEGABYTE
    row = {
        "kind": kind,
        "anchor": models[0],
        "donors": models[1:],
        "weights_mb": weights,
        "contexts_mb": contexts,
        "predicted_mb": predicted,
        "process_mb": grown,
        "of_predicted": grown / predicted,
    }
    if kind == "native":
        row["files_mb"] = sum(s.file.stat().st_size for s in strands) / MEGABYTE
        row["anchor_head_mb"] = braid.anchor.head.matrix.memory / MEGABYTE
    return {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}


def written_by(kind: str, models: list[str]) -> Any:
    """A braid that has read and written a few words."""
    from fusion import BraidConfig, BraidedLLM, Pool

    config = BraidConfig(
        models[0], models[1:], [0.6, 0.4], ["final", "output"], "router"
    )
    braid = BraidedLLM(config, pool=Pool(native=kind == "native"))
    text = "A rope is made of many threads that are twisted together. " * 20
    braid.generate(text, max_new_tokens=8, do_sample=False)
    return braid


def of_models(models: list[str]) -> list[dict[str, Any]]:
    """One row for each kind, each measured in a fresh process."""
    found = profile(models, layers=True, anew=True).values()
    profiled = {"transformers": sum(f.at_layers().memory for f in found)}
    if all(f.engine == "llama.cpp" for f in found):
        profiled = {"native": sum(f.memory for f in found), **profiled}
    context = multiprocessing.get_context("spawn")
    rows = []
    for kind, memory in profiled.items():
        with context.Pool(1) as process:
            rows.append(process.apply(of_braid, (kind, models, memory)))
    return rows


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs=2, default=list(PACKAGED))
    parser.add_argument("--tasks", type=int, help="ask an agent about so many")
    parser.add_argument(
        "--megabytes", type=float, default=64.0, help="limit of the agent's folder"
    )
    parser.add_argument("--folder", help="default: a temporary one, deleted at the end")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.tasks is not None and options.tasks <= FIRST:
        parser.error(f"--tasks must be above {FIRST}, received {options.tasks}")
    if options.megabytes < 0.25:
        parser.error(
            f"--megabytes must be at least 0.25, received {options.megabytes}: a "
            "smaller folder keeps nothing"
        )
    if not STATM.exists():
        parser.error(f"the memory of a process is read in {STATM}, which is not there")
    if options.tasks is None:
        report: Any = of_models(options.models)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.folder or temporary
            report = measure(options.tasks, options.megabytes, folder, options.json)
    print(json.dumps(report, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
