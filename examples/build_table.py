"""The real table of rewards of the demo's braids, and what the bandit reaches on it.

    python examples/build_table.py                # every braid on every packaged task
    python examples/build_table.py --tasks 4      # a small version, to try it

Every braid of the demo's catalogue is scored on every packaged task, as the demo
scores: by how well it predicts the reference answer (an unfit braid by its anchor,
which answers in its place). It can be stopped at any moment and goes on where it was;
folder, calibration and scorer are the demo's. Then the bandit is replayed on the table,
which knows what every choice would have earned: it gets some tasks scored on every
braid, and chooses for the rest one by one, learning as it goes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from demo import Scorer, calibrate, open_agent, prepare, write_json

from braidbandit import BraidRecommender, Catalogue, TaskEncoder, build_table
from braidbandit.evaluation.replay import Shuffle, Table, replay, shuffles
from braidbandit.tasks.packaged import load_tasks, without_answer


def main() -> None:
    options = read_options()
    prepare()
    started = time.perf_counter()
    agent = open_agent(options)
    calibrate(agent)
    catalogue, tasks = agent.catalogue, spread(load_tasks(), options.tasks)
    scorer = Scorer(agent)
    # New weights are measured anew, in a file of their own.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unfit braids were reported above
        weights = json.dumps([scorer._key(braid) for braid in catalogue])
    name = f"table-{hashlib.sha256(weights.encode()).hexdigest()[:12]}.jsonl"
    print(f"\n{len(catalogue)} braids on {len(tasks)} tasks:")
    rewards = build_table(catalogue, tasks, scorer.quality, path=options.folder / name)
    seconds = time.perf_counter() - started
    encoder = agent.recommender.encoder_
    agent.close()
    shown = [without_answer(task) for task in tasks]
    save(options.folder / "table.npz", catalogue, tasks, rewards, encoder)
    report = measure(catalogue, shown, rewards, encoder, options)
    write_json(options.folder / "table.json", {**report, "seconds": seconds})
    show(report)
    print(f"\n{seconds / 60:.1f} minutes for what had not been measured before.")
    print(f"The table is {options.folder / 'table.npz'}.")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Score every braid of the demo on every packaged task.",
        epilog="A run that was killed continues where it was.",
    )
    parser.add_argument("--folder", type=Path, default=Path("demo-output"))
    parser.add_argument("--tasks", type=int, help="only so many (default: all 168)")
    parser.add_argument("--probes", type=int, help="default: a quarter of the tasks")
    parser.add_argument("--seeds", type=int, default=20, help="shuffles of the replay")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="calibrate on few texts, as the demo",
    )
    options = parser.parse_args()
    options.seed = 0
    if options.tasks is not None and options.tasks < 2:
        parser.error(f"--tasks must be at least 2, received {options.tasks}")
    tasks = options.tasks or 168
    if options.probes is not None and not 1 <= options.probes < tasks:
        parser.error(
            f"--probes must be at least 1 and less than the {tasks} tasks, received "
            f"{options.probes}"
        )
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, received {options.seeds}")
    return options


def spread(tasks: list[dict[str, Any]], n: int | None) -> list[dict[str, Any]]:
    """The first n tasks, in turn from every type."""
    types = list(dict.fromkeys(task["type"] for task in tasks))
    places = dict.fromkeys(types, 0)
    ranked = []
    for task in tasks:
        ranked.append((places[task["type"]], types.index(task["type"]), task))
        places[task["type"]] += 1
    ranked.sort(key=lambda row: row[:2])
    return [task for *_, task in ranked][:n]


def save(
    file: Path, catalogue: Catalogue, tasks: Any, rewards: Any, encoder: TaskEncoder
) -> None:
    """As a table that the other benchmarks read too (``bench_bandits.py --table``)."""
    np.savez_compressed(
        file,
        rewards=rewards,
        embeddings=encoder.embed([task["prompt"] for task in tasks]),
        arms=np.array([braid.label() for braid in catalogue]),
        source=np.array([task["type"] for task in tasks]),
    )


class Player:
    """A fresh recommender that was shown the probe tasks on every braid."""

    def __init__(
        self,
        catalogue: Catalogue,
        tasks: Any,
        rewards: Any,
        encoder: Any,
        order: Shuffle,
    ) -> None:
        braids = [catalogue.braids[column] for column in order.arms]
        shuffled = Catalogue(catalogue.cards.values(), braids)
        self._rows = {arm_id: row for row, arm_id in enumerate(shuffled.ids)}
        self._tasks = tasks
        self.agent = BraidRecommender(
            shuffled, encoder, price=0.0, random_state=order.seed
        )
        self.agent.warm_start(
            [tasks[row] for row in order.probe],
            shuffled.ids,
            rewards[np.ix_(order.probe, order.arms)],
        )

    def choose(self, row: int) -> int:
        self._decision = self.agent.recommend(self._tasks[row])
        return self._rows[self._decision.braid.id]

    def learn(self, row: int, arm: int, reward: float) -> None:
        self.agent.update(self._decision, reward)


def measure(
    catalogue: Catalogue, tasks: Any, rewards: Any, encoder: Any, options: Any
) -> dict[str, Any]:
    """Mean quality of everybody over the rounds of every shuffle."""
    probes = options.probes or max(len(tasks) // 4, 1)
    table = Table(
        rewards, np.zeros((len(tasks), 1)), catalogue, np.arange(len(catalogue))
    )
    singles = [i for i, braid in enumerate(catalogue) if braid.is_single]
    alone = [i for i, braid in enumerate(catalogue) if not braid.donors]
    found: dict[str, list[float]] = {}
    for order in shuffles(table, len(tasks), options.seeds, probes):
        player = Player(catalogue, tasks, rewards, encoder, order)
        run = replay(table, order, player)
        probed, played = rewards[order.probe], rewards[order.run]
        values = {
            "bandit": run.rewards.mean(),
            "bandit, last quarter of the rounds": run.last_quarter,
            "random braid": played.mean(),
            "best single model of the probe": _picked(probed, played, singles),
            "best model of the probe, calibrated or not": _picked(
                probed, played, alone
            ),
            "best fixed braid of the probe": _picked(probed, played, None),
            "best single model in hindsight": played[:, singles].mean(0).max(),
            "best fixed braid in hindsight": played.mean(0).max(),
            "oracle (best braid for each task)": played.max(1).mean(),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(float(value))
    gain = {name: np.subtract(found["bandit"], v) for name, v in found.items()}
    return {
        "braids": len(catalogue),
        "tasks": len(tasks),
        "probes": probes,
        "shuffles": options.seeds,
        "quality": {
            name: {
                "mean": float(np.mean(v)),
                "bandit_minus_this": float(gain[name].mean()),
                "error": float(gain[name].std(ddof=1) / np.sqrt(len(v))),
            }
            for name, v in found.items()
        },
    }


def _picked(probed: Any, played: Any, columns: list[int] | None) -> float:
    """What the column that was best on the probe tasks earns on the others."""
    among = list(range(probed.shape[1])) if columns is None else columns
    return float(played[:, among[int(probed[:, among].mean(0).argmax())]].mean())


def show(report: dict[str, Any]) -> None:
    print(
        f"\nMean quality in {report['shuffles']} shuffles of {report['tasks']} tasks; "
        f"{report['probes']} of them were scored on all {report['braids']} braids "
        "before.\n"
    )
    print("| | quality | bandit minus this, +- standard error over shuffles |")
    print("| --- | --- | --- |")
    for name, row in report["quality"].items():
        print(
            f"| {name} | {row['mean']:.4f} | {row['bandit_minus_this']:+.4f} +- "
            f"{row['error']:.4f} |"
        )


if __name__ == "__main__":
    main()
