"""What the profiles of two models say of braids that were never run, beside what is.

    python examples/bench_profile.py
    python examples/bench_profile.py --converted --json

The two models are profiled one by one. Then every arm of the catalogue of the demo is
loaded, each in a process of its own with one thread, and reads a packaged task of each
type, its last tokens one by one as in writing: milliseconds per token and megabytes,
predicted and measured. A GGUF file is run by llama.cpp where that is installed;
``--converted`` has transformers run what it is converted to.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from statistics import mean
from typing import Any

from demo import POOL, choose_braids
from tqdm import tqdm

from braidbandit import Braid, ModelCard, profile
from braidbandit.agent.measuring import held
from braidbandit.catalogue.catalogue import with_profiles
from braidbandit.tasks.packaged import load_tasks

TOKENS = 24  # of a text, given one by one behind the others
MEGABYTE = 2**20


def measured(braid: Braid, sources: dict[str, str]) -> tuple[float, float]:
    """Seconds per token and bytes of one arm; to be run in a fresh process."""
    import torch

    from fusion import BraidConfig, BraidedLLM, Pool

    torch.set_num_threads(1)
    before = held()
    model = BraidedLLM(BraidConfig(**braid.recipe()), pool=Pool(sources))
    one_of_each = {task["type"]: task for task in load_tasks("train")}
    texts = [f"{t['prompt']}\n{t['reference']}" for t in one_of_each.values()]
    seconds = mean(per_token(model, text) for text in texts)
    return seconds, held() - before


def per_token(model: Any, text: str) -> float:
    """Seconds for one token, of those that are given one by one."""
    import torch

    from fusion import BraidCache

    ids = model.anchor.tokens.encode(text)
    cache, begin = BraidCache(), len(ids) - TOKENS
    with torch.no_grad():
        model(torch.tensor([ids[:begin]]), cache=cache, logits_to_keep=1)
        started = time.perf_counter()
        for token in ids[begin:]:
            model(torch.tensor([[token]]), cache=cache, logits_to_keep=1)
    return (time.perf_counter() - started) / TOKENS


def rows(models: list[str], converted: bool) -> list[dict[str, Any]]:
    """One for each arm: what was predicted, and what it came to."""
    import torch

    from fusion import Pool

    torch.set_num_threads(1)  # profiles are of a number of threads
    pool = Pool(models, native=False if converted else None)
    sources = {
        name: str(pool.folder(name)) if converted else str(pool.sources[name])
        for name in models
    }
    cards = [
        ModelCard.from_dict({**pool.facts(name), "model_name": name, "source": source})
        for name, source in sources.items()
    ]
    found = profile(cards, anew=True, progress=True)
    catalogue = choose_braids(with_profiles(cards, found))
    context = multiprocessing.get_context("spawn")
    told = []
    predictions = zip(catalogue.costs(), catalogue.memory(), strict=True)
    for braid, predicted in zip(tqdm(catalogue, "arms"), predictions, strict=True):
        with context.Pool(1) as process:
            seconds, memory = process.apply(measured, (braid, sources))
        told.append(
            {
                "arm": braid.label(),
                "engine": found[braid.anchor].engine,
                "predicted_ms": 1e3 * predicted[0],
                "ms": 1e3 * seconds,
                "time_of_predicted": seconds / predicted[0],
                "predicted_mb": predicted[1] / MEGABYTE,
                "mb": memory / MEGABYTE,
                "memory_of_predicted": memory / predicted[1],
            }
        )
    return [
        {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
        for row in told
    ]


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        f"{'ms a token':>12}{'predicted':>11}{'ratio':>7}"
        f"{'MB':>7}{'predicted':>11}{'ratio':>7}  arm"
    ]
    lines += [
        f"{row['ms']:12.1f}{row['predicted_ms']:11.1f}{row['time_of_predicted']:7.2f}"
        f"{row['mb']:7.0f}{row['predicted_mb']:11.0f}{row['memory_of_predicted']:7.2f}"
        f"  {row['arm']}"
        for row in found
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs=2, default=[model["model_name"] for model in POOL]
    )
    parser.add_argument("--converted", action="store_true", help="not by llama.cpp")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    options = parser.parse_args()
    found = rows(options.models, options.converted)
    print(json.dumps(found) if options.json else table(found))


if __name__ == "__main__":
    main()
