"""Speed of a ledger that has grown: a million decisions by default.

    python examples/bench_ledger.py --json
    python examples/bench_ledger.py --decisions 100000 --url postgresql+psycopg://...

Fills an empty ledger, half of the decisions with an outcome, and then measures what a
service does: choose and record a decision, record an outcome (which waits for the disk;
one such wait alone is measured beside it), and catch up with outcomes that another
process has written.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from braidbandit import BraidRecommender, Catalogue, Ledger, Outcome, TaskEncoder
from braidbandit.ledger.transfer import restore

MODELS = ("general", "coder", "medic")
BATCH = 1000


def embed(texts: Any) -> Any:
    """Sixteen numbers of a text: choosing needs no language model."""
    digests = [hashlib.sha256(text.encode()).digest()[:16] for text in texts]
    return np.array([list(digest) for digest in digests]) / 255.0 - 0.5


def fill(ledger: Ledger, agent: BraidRecommender, n: int, quiet: bool) -> None:
    """Write n decisions, each of 500 different ones under many ids."""
    made = [agent.recommend(f"task {i}") for i in range(500)]
    agent.pending_.clear()
    numbers = iter(range(n))
    bar = tqdm(total=n, desc="filling", disable=quiet)
    while batch := list(islice(numbers, BATCH)):
        decisions = [
            (dataclasses.replace(made[i % 500], id=f"filled-{i}"), None) for i in batch
        ]
        rated = [d for d, _ in decisions[::2]]
        events = [("outcome", 0, Outcome(d.id, 0.5)) for d in rated]
        restore(ledger, decisions, events)
        bar.update(len(batch))
    bar.close()


def milliseconds(calls: Any) -> dict[str, float]:
    """Median and 95th percentile of as many calls."""
    spent = []
    for call in calls:
        start = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - start))
    return {
        "median_ms": round(float(np.median(spent)), 3),
        "p95_ms": round(float(np.quantile(spent, 0.95)), 3),
    }


def measure(
    ledger: Ledger, agent: BraidRecommender, outcomes: int, rounds: int
) -> dict[str, Any]:
    decided = []

    def decide(number: int) -> None:
        decision = agent.recommend(f"another task {number}")
        ledger.record_decision(decision)
        decided.append(decision)

    def rate(number: int) -> None:
        ledger.record_outcome(Outcome(decided[number].id, 0.5))

    found: dict[str, Any] = {
        "recommend_and_record": milliseconds(
            lambda i=i: decide(i) for i in range(rounds)
        ),
        "record_outcome": milliseconds(lambda i=i: rate(i) for i in range(rounds)),
    }
    found["disk_alone"] = milliseconds(disk_waits(rounds))
    position = ledger.last_sequence()
    pending = islice((d for d, _ in ledger.decisions()), 1, 2 * outcomes, 2)
    batch = [("outcome", 0, Outcome(d.id, 0.25)) for d in pending]
    restore(ledger, [], batch)
    start = time.perf_counter()
    agent.sync(ledger, position)
    found["sync"] = {
        "outcomes": agent.n_updates_,
        "seconds": round(time.perf_counter() - start, 3),
    }
    start = time.perf_counter()
    found["counts"] = ledger.counts()
    found["count_seconds"] = round(time.perf_counter() - start, 3)
    return found


def disk_waits(rounds: int) -> Iterator[Callable[[], None]]:
    """Writes of one page that wait for the disk, without any database."""
    with tempfile.NamedTemporaryFile() as file:

        def wait() -> None:
            os.write(file.fileno(), b"x" * 4096)
            os.fsync(file.fileno())

        yield from [wait] * rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--outcomes", type=int, default=10_000, help="to catch up with")
    parser.add_argument("--rounds", type=int, default=500, help="calls of each median")
    parser.add_argument("--url", help="of an empty ledger; default: a temporary file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.decisions < 2 * options.outcomes or options.rounds < 1:
        parser.error("--decisions must be at least twice --outcomes, --rounds 1")
    agent = BraidRecommender(
        Catalogue.build(MODELS, layer_sets=("output", "final")),
        TaskEncoder(embedder=embed),
        random_state=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        with Ledger(options.url or f"{folder}/ledger.db") as ledger:
            if ledger.counts()["decisions"]:
                parser.error("the ledger at --url holds decisions; give an empty one")
            start = time.perf_counter()
            fill(ledger, agent, options.decisions, options.json)
            filling = time.perf_counter() - start
            report = {
                "decisions": options.decisions,
                "arms": len(agent.arm_ids_),
                "fill_seconds": round(filling, 1),
                **measure(ledger, agent, options.outcomes, options.rounds),
            }
        if not options.url:
            report["megabytes"] = Path(folder, "ledger.db").stat().st_size // 10**6
    print(json.dumps(report, indent=None if options.json else 1))


if __name__ == "__main__":
    main()
