"""Kill an agent at random moments, again and again, and count what was lost.

    python examples/kill_test.py                # 200 runs, a few minutes
    python examples/kill_test.py --runs 20 --json
    python examples/kill_test.py --url postgresql+psycopg://user@host/empty_database

Each run opens the agent's folder in a process of its own, which decides, learns,
revises and retracts as fast as it can and notes everything that was acknowledged. At a
random moment the process is killed with SIGKILL. The folder is then opened again: every
acknowledged outcome must be in the posterior exactly once, as it was last said, and the
posterior must be the one that the ledger alone gives.
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
from collections import Counter
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
    rated: list[str] = []

    def note(decision: str, kind: str, reward: float | None) -> None:
        os.write(notes, f"{json.dumps([decision, kind, reward])}\n".encode())

    for number in range(10**6):
        task = f"task {run} {number}"
        waiting.append((task, agent.forward(task).id))
        while waiting and chance.random() < 0.5:
            task, decision = waiting.pop(chance.randrange(len(waiting)))
            reward = chance.random()
            agent.learn_from_feedback(task, decision, reward)
            note(decision, "outcome", reward)
            rated.append(decision)
        if rated and chance.random() < 0.2:
            reward = chance.random()
            agent.revise(decision := chance.choice(rated), reward)
            note(decision, "revision", reward)
        if rated and chance.random() < 0.1:
            agent.retract(decision := rated.pop(chance.randrange(len(rated))))
            note(decision, "retraction", None)


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
    """How much is lost and doubled, and how far the posterior is off."""
    agent = open_agent(folder, url)
    said = [
        (event.decision.id, event.kind, event.outcome and event.outcome.reward)
        for event in agent.ledger.events()
    ]
    true = {d.id: outcome.reward for _, d, outcome in agent.ledger.pairs()}
    fresh = BraidRecommender(
        agent.catalogue, agent.recommender.encoder_, random_state=0
    )
    gap = 0.0
    if said:
        fresh.sync(agent.ledger)
        gap = difference(agent.recommender.posterior_, fresh.posterior_)
    learnt = agent.recommender.settled_
    # Not in the record, or in the record and not (or otherwise) in the posterior.
    lost = len(set(acknowledged(folder)) - set(said))
    lost += sum(learnt.get(name) != reward for name, reward in true.items())
    doubled = len(said) - len(set(said)) + len(set(learnt) - set(true))
    doubled += abs(agent.recommender.n_updates_ - len(learnt))
    agent.ledger.close()
    agent.close()
    return lost, doubled, gap


def acknowledged(folder: Path) -> list[tuple[str, str, float | None]]:
    file = folder / "acknowledged"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(name, kind, reward) for name, kind, reward in map(json.loads, lines)]


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
    parser.add_argument("--url", help="of an empty ledger, postgresql+psycopg://...")
    parser.add_argument("--json", action="store_true", help="one object as JSON")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error(f"--runs must be at least 1, received {options.runs}")
    if options.url:
        with Ledger(options.url) as ledger:
            if ledger.counts()["decisions"]:
                parser.error("the ledger at --url holds decisions; give an empty one")
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
        kinds = Counter(kind for _, kind, _ in acknowledged(folder))
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
            f"{options.runs} runs, acknowledged {dict(kinds)}: {lost} lost, {doubled} "
            f"doubled; the posterior differs from the ledger's by {gap:.1e}."
        )
    if lost or doubled:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
