"""Conversations made from a table: what keeping an arm earns when a switch costs.

    python examples/bench_conversations.py --table mmlupro7 --seeds 8
    python examples/bench_conversations.py --switching-cost 0.02 --json

The prompts of one ``source`` of the table are cut into conversations of 5 to 10 turns;
40 prompts are reserved as the probe table. Several conversations are held at a time. A
switch within a conversation costs 0.05 of reward. Four ways to choose an arm: free
switching (which pays for no switch), the same paying for them, the arm of the first
turn until the end, and ``recommend(..., conversation=...)``. Figures are points of
reward a turn over the best fixed arm in hindsight, with paired standard errors.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_bandits import find_table
from tqdm import tqdm

from braidbandit import TaskEncoder
from braidbandit.evaluation.replay import (
    BraidPlayer,
    Shuffle,
    Table,
    encoder_of,
    replay,
    table_of,
)

FREE, PAID, FIRST, OURS = "free switching", "paying for it", "always stay", "ours"
SHORTEST, LONGEST, AT_ONCE = 5, 10, 4


@dataclass(frozen=True)
class Talks:
    """One order of the prompts, and the conversation of each row of the table."""

    order: Shuffle
    of_row: dict[int, str]


def read(path: Path) -> tuple[Table, np.ndarray]:
    """Return a table and the source of each of its prompts."""
    with np.load(path, allow_pickle=False) as data:
        if "source" not in data.files:
            raise SystemExit(f"{path} has no source: conversations are made of it")
        X = data["embeddings"].astype(np.float64)
        first = np.sort(np.unique(X, axis=0, return_index=True)[1])
        table = table_of(data["rewards"][first], X[first], data["arms"])
        return table, data["source"][first]


def conversations(
    table: Table, source: np.ndarray, rounds: int, seeds: int, probes: int
) -> Iterator[Talks]:
    """Yield one order per seed: conversations of one source, a few at a time."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        prompts = rng.permutation(len(source))
        probe, rest = prompts[:probes], prompts[probes:]
        found: list[list[int]] = []
        for name in np.unique(source):
            rows = rest[source[rest] == name].tolist()
            while rows:
                turns = int(rng.integers(SHORTEST, LONGEST + 1))
                found.append(rows[:turns])
                rows = rows[turns:]
        waiting = [found[i] for i in rng.permutation(len(found)) if len(found[i]) > 1]
        of_row = {row: f"c{i}" for i, talk in enumerate(waiting) for row in talk}
        held, run = [list(talk) for talk in waiting[:AT_ONCE]], list[int]()
        waiting = waiting[AT_ONCE:]
        while held and len(run) < rounds:
            at = int(rng.integers(len(held)))
            run.append(held[at].pop(0))
            if not held[at]:
                held.pop(at)
                held += [list(waiting.pop(0))] if waiting else []
        arms = rng.permutation(table.rewards.shape[1])
        yield Talks(Shuffle(seed, probe, np.array(run), arms), of_row)


class Talker(BraidPlayer):
    """A recommender in conversations, by one of the ways; counts its switches."""

    def __init__(
        self, table: Table, talks: Talks, encoder: TaskEncoder, way: str, cost: float
    ) -> None:
        super().__init__(table, talks.order, encoder, switching_cost=cost)
        self._of_row, self._way = talks.of_row, way
        self._last: dict[str, str] = {}
        self.switches = 0

    def choose(self, row: int) -> int:
        talk, given = self._of_row[row], dict[str, Any]()
        held = self._last.get(talk)
        if self._way == OURS:
            given["conversation"] = talk
        elif self._way == FIRST and held is not None:
            given["eligible"] = [held]
        self._decision = self.agent.recommend(self._task(row), **given)
        arm_id = self._last[talk] = self._decision.braid.id
        self.switches += held not in (None, arm_id)
        return self._rows[arm_id]


def play(
    table: Table, orders: list[Talks], cost: float, quiet: bool
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return reward a turn of every way, (seeds,), and its switches a turn."""
    encoder = encoder_of(table)
    ways = (FREE, FIRST, OURS)
    earned: dict[str, list[float]] = {way: [] for way in (*ways, PAID, "fixed")}
    switched: dict[str, list[float]] = {way: [] for way in ways}
    turns = sum(len(talks.order.run) for talks in orders)
    with tqdm(total=len(ways) * turns, disable=quiet, unit="turn") as bar:
        for talks in orders:
            n = len(talks.order.run)
            for way in ways:
                player = Talker(table, talks, encoder, way, cost)
                run = replay(table, talks.order, player, bar.update)
                paid = 0.0 if way == FREE else cost * player.switches / n
                earned[way].append(float(run.rewards.mean()) - paid)
                switched[way].append(player.switches / n)
            earned[PAID].append(earned[FREE][-1] - cost * switched[FREE][-1])
            rewards = table.origin + table.unit * table.rewards[talks.order.run]
            earned["fixed"].append(float(rewards.mean(axis=0).max()))
    switched[PAID] = switched[FREE]
    return (
        {way: np.array(values) for way, values in earned.items()},
        {way: np.array(values) for way, values in switched.items()},
    )


def summary(
    earned: dict[str, np.ndarray], switched: dict[str, np.ndarray], rounds: int
) -> dict[str, Any]:
    """Return the object that --json prints; points are hundredths of reward."""

    def points(values: np.ndarray) -> tuple[float, float]:
        error = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return 100 * float(values.mean()), 100 * error / len(values) ** 0.5

    ways = {}
    for way, rate in switched.items():
        over, error = points(earned[way] - earned["fixed"])
        behind, behind_error = points(earned[way] - earned[FREE])
        ways[way] = {
            "over_fixed": over,
            "se": error,
            "against_free": behind,
            "against_free_se": behind_error,
            "switches_a_turn": float(rate.mean()),
        }
    margin, error = points(
        (earned[OURS] - earned["fixed"]) - 0.9 * (earned[FREE] - earned["fixed"])
    )
    return {
        "ways": ways,
        "best_fixed": float(earned["fixed"].mean()),
        "kept_share": ways[OURS]["over_fixed"] / ways[FREE]["over_fixed"],
        # Above 0 where at least nine tenths of what free switching gains is kept.
        "over_nine_tenths": margin,
        "over_nine_tenths_se": error,
        "turns": rounds,
        "seeds": len(earned[OURS]),
    }


def show(found: dict[str, Any]) -> None:
    """Print the summary as a table."""
    print(
        f"\n{found['turns']} turns, {found['seeds']} seeds; points over the best fixed"
    )
    print(f"arm ({found['best_fixed']:.4f}), with standard errors, and switches a turn")
    for way, row in found["ways"].items():
        print(
            f"{way:<16}{row['over_fixed']:>7.2f} +-{row['se']:>5.2f}   against free "
            f"{row['against_free']:>6.2f} +-{row['against_free_se']:>5.2f}"
            f"{row['switches_a_turn']:>8.3f}"
        )
    print(
        f"ours keeps {100 * found['kept_share']:.0f} % of what free switching gains; "
        f"over nine tenths of it by {found['over_nine_tenths']:.2f} "
        f"+- {found['over_nine_tenths_se']:.2f}"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", default="mmlupro7", help="name or .npz file")
    parser.add_argument("--data", help="folder of the named tables")
    parser.add_argument("--rounds", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--probes", type=int, default=40)
    parser.add_argument("--switching-cost", type=float, default=0.05)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.seeds < 1:
        least = min(given.rounds, given.seeds)
        parser.error(f"--rounds and --seeds must be at least 1, received {least}")
    table, source = read(find_table(given.table, given.data))
    orders = list(conversations(table, source, given.rounds, given.seeds, given.probes))
    played = play(table, orders, given.switching_cost, quiet=given.json)
    found = summary(*played, len(orders[0].order.run))
    if given.json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        show(found)


if __name__ == "__main__":
    main()
