"""What a probe table is worth by how it was filled: whole rows, or cells as planned.

    python examples/bench_probes.py --table llmrouter9 --seeds 32
    python examples/bench_probes.py --table my.npz --share 0.5 --json

Tables are those of bench_bandits.py. The recommender starts from 40 whole rows, from
the cells that ``plan_probe`` picks (a share of as many), from so many random cells of
those rows, and from as many whole rows as that share has room for; then it plays the
same rounds. Planned prompts come from 200 that are put aside, the 40 among them, or
from the 40 alone. The encoder has seen the prompts that were put aside, as a user has
them, and is the same for all. Rewards are points of 100 a round.

What the plan expected of each next piece of cells is put beside what choosing the best
arm earned more on all other prompts once they were there.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
from bench_bandits import find_table
from tqdm import tqdm

from braidbandit import BraidRecommender, Catalogue, TaskEncoder, plan_probe
from braidbandit.evaluation.replay import (
    BraidPlayer,
    Shuffle,
    Table,
    read_table,
    replay,
    shuffles,
)

WHOLE = "whole rows"
PLANNED = "planned cells"
PLANNED_SAME = "planned cells of the same rows"
RANDOM = "random cells of the same rows"
FEWER = "fewer whole rows"
PIECES = 4


class Watch:
    """What a plan expected of each piece, what it had then, and how long it took."""

    def __init__(self) -> None:
        self.gains: list[float] = []
        self.tables: list[tuple[Any, list[str], np.ndarray]] = []
        self.seconds = 0.0

    def see(
        self, gain: float, learnt: tuple[Any, list[str], np.ndarray], seconds: float
    ) -> None:
        self.gains.append(gain)
        self.tables.append(learnt)
        self.seconds += seconds


class Probe:
    """The prompts that are put aside of one shuffle, and ways to score them."""

    def __init__(self, table: Table, shuffle: Shuffle, rows: int, share: float) -> None:
        known = table.catalogue
        self.catalogue = Catalogue(
            known.cards.values(), [known.braids[column] for column in shuffle.arms]
        )
        self.prompts = table.embeddings[shuffle.probe].astype(np.float64)
        self.rewards = table.rewards[np.ix_(shuffle.probe, shuffle.arms)]
        self.encoder = TaskEncoder(types=()).fit(self.prompts)
        self.rows, self.seed = rows, shuffle.seed
        self.cells = round(share * rows * len(shuffle.arms))
        self._row = {prompt.tobytes(): i for i, prompt in enumerate(self.prompts)}

    def scorer(self, braid: Any, prompt: np.ndarray) -> float:
        row = self._row[prompt.tobytes()]
        return float(self.rewards[row, self.catalogue.index(braid.id)])

    def whole(self, rows: int) -> tuple[np.ndarray, list[str], np.ndarray]:
        return self.prompts[:rows], list(self.catalogue.ids), self.rewards[:rows]

    def random(self) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Cells at random, at least one of each row and column."""
        rng = np.random.default_rng(self.seed)
        n, arms = self.rows, len(self.catalogue)
        order = rng.permutation(n * arms)
        must = {int(i) * arms + int(rng.integers(arms)) for i in range(n)}
        must |= {int(rng.integers(n)) * arms + j for j in range(arms)}
        chosen = [*must, *(cell for cell in order if cell not in must)][: self.cells]
        table = np.full(n * arms, np.nan)
        table[chosen] = self.rewards[:n].ravel()[chosen]
        return self.prompts[:n], list(self.catalogue.ids), table.reshape(n, arms)

    def planned(
        self, rows: int, watch: Watch | None = None
    ) -> tuple[np.ndarray, list[str], np.ndarray]:
        """Cells as planned, in pieces; ``watch`` sees what each is to buy."""
        plan = plan_probe(
            self.catalogue,
            self.prompts[:rows],
            encoder=self.encoder,
            random_state=self.seed,
        )
        for stop in np.linspace(0, self.cells, PIECES + 1).astype(int)[1:]:
            gain = plan.forecast(int(stop) - plan.n_scored).gain if watch else 0.0
            start = time.perf_counter()
            plan.measure(self.scorer, most=int(stop), progress=False)
            learnt = plan.tasks, plan.arm_ids, plan.table
            if watch:
                watch.see(gain, learnt, time.perf_counter() - start)
        return learnt


def started(probe: Probe, given: tuple[Any, list[str], np.ndarray]) -> BraidRecommender:
    """Return a recommender that has learnt a table."""
    agent = BraidRecommender(
        probe.catalogue, probe.encoder, price=0.0, random_state=probe.seed
    )
    return agent.warm_start(*given)


def greedy_reward(table: Table, shuffle: Shuffle, agent: BraidRecommender) -> float:
    """Return what the best arm for each prompt earns on all prompts not put aside."""
    rest = np.setdiff1d(np.arange(len(table.rewards)), shuffle.probe)
    means = agent.decision_function(table.embeddings[rest].astype(np.float64))
    arms = shuffle.arms[means.argmax(axis=1)]
    return float(table.rewards[rest, arms].mean())


def play(table: Table, given: argparse.Namespace) -> dict[str, Any]:
    """Play every shuffle with every probe table."""
    names = (WHOLE, PLANNED, PLANNED_SAME, RANDOM, FEWER)
    runs: dict[str, list[np.ndarray]] = {name: [] for name in names}
    every, pieces, seconds, cells = [], [], [], []
    orders = list(shuffles(table, given.rounds, given.seeds, given.prompts))
    for order in tqdm(orders, disable=given.json, unit="shuffle"):
        probe, watch = Probe(table, order, given.rows, given.share), Watch()
        tables = {
            WHOLE: probe.whole(given.rows),
            PLANNED: probe.planned(given.prompts, watch),
            PLANNED_SAME: probe.planned(given.rows),
            RANDOM: probe.random(),
            FEWER: probe.whole(round(given.share * given.rows)),
        }
        for name in names:
            player = BraidPlayer(table, order, probe.encoder, warm=False)
            player.agent.warm_start(*tables[name])
            runs[name].append(replay(table, order, player).rewards)
        reached = [
            greedy_reward(table, order, started(probe, learnt))
            for learnt in watch.tables
        ]
        pieces.append([watch.gains[1:], np.diff(reached)])
        seconds.append(watch.seconds / probe.cells)
        cells.append(probe.cells)
        every.append(table.origin + table.unit * table.rewards[order.run])
    return {
        "runs": runs,
        "every": every,
        "pieces": table.unit * np.array(pieces),
        "seconds": float(np.mean(seconds)),
        "cells": int(np.mean(cells)),
    }


def mean_se(values: Any) -> tuple[float, float]:
    values = np.asarray(values, dtype=float)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values.mean()), spread / len(values) ** 0.5


def summary(played: dict[str, Any], rounds: list[int]) -> dict[str, Any]:
    """Return the object that --json prints, in points of 100."""
    found: dict[str, Any] = {
        "cells": played["cells"],
        "seconds_per_cell": played["seconds"],
        "rounds": {},
    }
    for T in rounds:
        best = [100 * r[:T].mean(axis=0).max() for r in played["every"]]
        whole = np.array([100 * run[:T].mean() for run in played["runs"][WHOLE]])
        rows = {}
        for name, runs in played["runs"].items():
            earned = np.array([100 * run[:T].mean() for run in runs])
            rows[name] = {
                "over_best_fixed": mean_se(earned - best),
                "over_whole_rows": mean_se(earned - whole),
            }
        found["rounds"][str(T)] = {"best_fixed": mean_se(best)[0], "probes": rows}
    stated, realised = 100 * np.moveaxis(played["pieces"], 1, 0)
    found["pieces"] = [
        {"stated": mean_se(s), "realised": mean_se(r)}
        for s, r in zip(stated.T, realised.T, strict=True)
    ]
    found["all_pieces"] = {
        "stated": mean_se(stated.sum(axis=1)),
        "realised": mean_se(realised.sum(axis=1)),
    }
    return found


def show(found: dict[str, Any]) -> None:
    """Print the summary as a table."""
    for T, row in found["rounds"].items():
        print(f"\n{T} rounds; best fixed arm in hindsight {row['best_fixed']:.2f}")
        print(f"{'probe table':<36}{'over best fixed':>18}{'over whole rows':>18}")
        for name, probe in row["probes"].items():
            for key in ("over_best_fixed", "over_whole_rows"):
                if key == "over_best_fixed":
                    print(f"{name:<36}", end="")
                mean, se = probe[key]
                print(f"{mean:>+9.2f} +-{se:>5.2f} ", end="")
            print()
    print(f"\n{found['cells']} cells, {found['seconds_per_cell']:.3f} s to plan each")
    print("piece of the plan, after the first: stated gain, realised gain")
    for i, piece in enumerate([*found["pieces"], found["all_pieces"]]):
        name = str(i + 2) if i < len(found["pieces"]) else "all these"
        (s, _), (r, se) = piece["stated"], piece["realised"]
        print(f"{name:<12}{s:>8.2f}{r:>8.2f} +-{se:>5.2f}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", default="llmrouter9", help="name or .npz file")
    parser.add_argument("--data", help="folder of the named tables")
    parser.add_argument("--rounds", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--rows", type=int, default=40, help="whole rows to match")
    parser.add_argument("--prompts", type=int, default=200, help="put aside")
    parser.add_argument("--share", type=float, default=0.6, help="of the cells")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    if not 0 < given.share <= 1 or not 0 < given.rows <= given.prompts:
        parser.error("--share lies in (0, 1], and --rows is at most --prompts")
    table = read_table(find_table(given.table, given.data))
    table = replace(table, embeddings=table.embeddings.astype(np.float64))
    played = play(table, given)
    found = summary(played, sorted({min(200, given.rounds), given.rounds}))
    if given.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
