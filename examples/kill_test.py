"""Kill an agent at random moments, again and again, and count what was lost.

    python examples/kill_test.py                # 200 runs, a few minutes
    python examples/kill_test.py --runs 20 --json

Each run opens the agent's folder in a process of its own, which decides and learns as
fast as it can and notes every outcome that was acknowledged. At a random moment the
process is killed with SIGKILL. The folder is then opened again: every acknowledged
outcome must be in the posterior exactly once, and the posterior must be the one that
the ledger alone gives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from braidbandit import BraidRecommender, Catalogue, Ledger, MetaBraider, TaskEncoder

SIZE = {"parameters": 10**8, "layers": 12, "width": 64, "vocab_size": 1000}
POOL = [
    {"model_name": "general", "domain": "general", **SIZE},
    {"model_name": "coder", "domain": "code", **SIZE},
]
LONGEST = 0.8  # seconds from the start of a process to its end


def embed(texts: Any) -> Any:
    """Eight numbers of a text: choosing needs no language model."""
    digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
    return np.array([list(digest) for digest in digests]) / 255.0 - 0.5


def open_agent(folder: Path, url: str | None) -> MetaBraider:
    return MetaBraider(
        POOL,
        catalogue=Catalogue.build(POOL),
        encoder=TaskEncoder(embedder=embed, n_components=4),
        folder=folder,
        ledger=Ledger(url) if url else None,
        random_state=0,
    )


def work(folder: Path, url: str | None, run: int) -> None:
    """Decide and learn until killed; some decisions wait for their outcome."""
    chance = random.Random(run)
    notes = os.open(folder / "acknowledged", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    agent = open_agent(folder, url)
    waiting: list[tuple[str, str]] = []
    for number in range(10**6):
        task = f"task {run} {number}"
        waiting.append((task, agent.forward(task).id))
        while waiting and chance.random() < 0.5:
            task, decision = waiting.pop(chance.randrange(len(waiting)))
            agent.learn_from_feedback(task, decision, chance.random())
            os.write(notes, f"{decision}\n".encode())


def kill_once(folder: Path, url: str | None, run: int, delay: float) -> None:
    # The child is forked: what it needs is imported, and it starts at once.
    child = multiprocessing.get_context("fork").Process(
        target=work, args=(folder, url, run)
    )
    child.start()
    time.sleep(delay)
    assert child.pid is not None
    if child.exitcode is not None:
        raise SystemExit(f"run {run} ended by itself with {child.exitcode}")
    os.kill(child.pid, signal.SIGKILL)
    child.join()


def check(folder: Path, url: str | None) -> tuple[int, int, float]:
    """How many outcomes are lost and doubled, and how far the posterior is off."""
    file = folder / "acknowledged"
    noted = file.read_text().split() if file.exists() else []
    agent = open_agent(folder, url)
    recorded = [decision.id for _, decision, _ in agent.ledger.pairs()]
    fresh = BraidRecommender(
        agent.catalogue, agent.recommender.encoder_, random_state=0
    )
    learnt = agent.recommender.n_updates_
    gap = 0.0
    if recorded:
        fresh.fit(agent.ledger)
        gap = difference(agent.recommender.posterior_, fresh.posterior_)
    lost = len(set(noted) - set(recorded)) + max(len(recorded) - learnt, 0)
    doubled = len(recorded) - len(set(recorded)) + max(learnt - len(recorded), 0)
    agent.ledger.close()
    agent.close()
    return lost, doubled, gap


def difference(one: Any, other: Any) -> float:
    """Largest difference of mean and covariance."""
    spread = [p.factor @ p.factor.T for p in (one, other)]
    return float(
        max(np.abs(one.mean - other.mean).max(), np.abs(spread[0] - spread[1]).max())
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kill an agent at random moments and count what was lost.",
    )
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--url", help="ledger, for example postgresql+psycopg://...")
    parser.add_argument("--json", action="store_true", help="one object as JSON")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"--runs must be at least 1, received {options.runs}")
    moments = np.random.default_rng(options.seed).uniform(0, LONGEST, options.runs)
    lost = doubled = 0
    gap = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for run, delay in enumerate(tqdm(moments, disable=options.json)):
            kill_once(folder, options.url, run, float(delay))
            # Each check is of the whole folder: what is lost stays lost.
            now_lost, now_doubled, now_gap = check(folder, options.url)
            lost, doubled = max(lost, now_lost), max(doubled, now_doubled)
            gap = max(gap, now_gap)
        notes = folder / "acknowledged"
        outcomes = len(notes.read_text().split()) if notes.exists() else 0
    result = {
        "runs": options.runs,
        "lost": lost,
        "doubled": doubled,
        "max_difference": gap,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{options.runs} runs, {outcomes} acknowledged outcomes: {lost} lost, "
            f"{doubled} doubled; the posterior differs from the ledger's by {gap:.1e}."
        )
    if lost or doubled:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
