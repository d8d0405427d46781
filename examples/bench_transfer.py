"""Transfer and few-shot: trained on some sources of prompts, started on another.

    python examples/bench_transfer.py --table paretobandit4 --seeds 10
    python examples/bench_transfer.py --table mmlupro7 --learnt "computer science" \\
        --started math

For every source with enough prompts: the recommender learns on the other sources (40
probe prompts, then one reward a round), and then plays the first rounds of the new
source, as it is and after three prompts of it that are scored on every model. Beside it
two fresh starts, without anything and with the same three prompts. Regret is against
the model that is best for those rounds in hindsight. Intervals are over sources, or
over shuffles where one source alone is started on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from bench_bandits import find_table
from tqdm import tqdm

from braidbandit import Braid, BraidRecommender, Catalogue, ModelCard, TaskEncoder

PROBES = 40
EXAMPLES = 3
STARTS = (
    "transfer",
    f"transfer + {EXAMPLES} examples",
    "fresh",
    f"fresh + {EXAMPLES} examples",
)


class Data:
    """Prompts, rewards and sources of a table, and an encoder of the prompts."""

    def __init__(self, file: Path) -> None:
        with np.load(file, allow_pickle=False) as data:
            if "source" not in data.files:
                raise SystemExit(f"{file} has no 'source'; it has {data.files}")
            embeddings = data["embeddings"].astype(np.float64)
            first = np.sort(np.unique(embeddings, axis=0, return_index=True)[1])
            self.embeddings = embeddings[first]
            self.rewards = data["rewards"].astype(np.float64)[first]
            self.source = data["source"][first]
            models = [str(name) for name in data["arms"]]
        self.encoder = TaskEncoder(types=()).fit(self.embeddings)
        self.catalogue = Catalogue(map(ModelCard, models), map(Braid, models))

    def agent(self, seed: int) -> BraidRecommender:
        return BraidRecommender(
            self.catalogue, self.encoder, price=0.0, random_state=seed
        )

    def play(self, agent: BraidRecommender, rows: Any) -> Any:
        """Play one round per row; the rewards."""
        earned = []
        for row in rows:
            decision = agent.recommend(self.embeddings[row])
            arm = self.catalogue.index(decision.braid.id)
            earned.append(float(self.rewards[row, arm]))
            agent.update(decision, earned[-1])
        return np.array(earned)

    def teach(self, agent: BraidRecommender, rows: Any) -> None:
        """Tell what every model earned on these rows."""
        ids, models = self.catalogue.ids, len(self.catalogue)
        agent.partial_fit(
            np.repeat(self.embeddings[rows], models, axis=0),
            list(ids) * len(rows),
            reward=self.rewards[rows].ravel(),
        )


def trial(
    data: Data, source: str, seed: int, options: argparse.Namespace
) -> list[float]:
    """Regret of every start on one shuffle of one source, in the order of STARTS."""
    rounds, before = options.rounds, options.before
    rng = np.random.default_rng(seed)
    learnt = data.source != source
    if options.learnt:
        learnt &= np.isin(data.source, options.learnt)
    old = rng.permutation(np.flatnonzero(learnt))
    new = rng.permutation(np.flatnonzero(data.source == source))
    examples, run = new[:EXAMPLES], new[EXAMPLES : EXAMPLES + rounds]
    best = data.rewards[run].sum(axis=0).max()
    regrets = []
    for trained in (True, False):
        for shown in (False, True):
            agent = data.agent(seed)
            if trained:
                probe = old[:PROBES]
                agent.warm_start(
                    data.embeddings[probe], data.catalogue.ids, data.rewards[probe]
                )
                data.play(agent, old[PROBES : PROBES + before])
            if shown and trained:
                data.teach(agent, examples)
            elif shown:
                agent.warm_start(
                    data.embeddings[examples],
                    data.catalogue.ids,
                    data.rewards[examples],
                )
            regrets.append(float(best - data.play(agent, run).sum()))
    return regrets


def interval(values: Any) -> dict[str, float]:
    """Mean and a 95 % interval by resampling the rows, which are independent."""
    values = np.asarray(values)
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(4000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", default="paretobandit4", help="name or .npz file")
    parser.add_argument("--data", help="folder of the named tables")
    parser.add_argument(
        "--learnt", nargs="+", metavar="SOURCE", help="default: all other sources"
    )
    parser.add_argument(
        "--started", nargs="+", metavar="SOURCE", help="default: each in turn"
    )
    parser.add_argument("--rounds", type=int, default=100, help="on the new source")
    parser.add_argument("--before", type=int, default=800, help="on the other sources")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    data = Data(find_table(given.table, given.data))
    names, counts = np.unique(data.source, return_counts=True)
    sources = [str(s) for s in names[counts >= given.rounds + EXAMPLES]]
    for option in ("learnt", "started"):
        unknown = sorted(set(getattr(given, option) or ()) - set(map(str, names)))
        if unknown:
            parser.error(f"--{option} {unknown}: the table has {[*map(str, names)]}")
    if given.started:
        sources = [s for s in sources if s in given.started]
    if set(sources) & set(given.learnt or ()):
        parser.error("a source that was learnt cannot be started on as a new one")
    if not sources:
        parser.error(f"no such source has {given.rounds + EXAMPLES} prompts")
    found: dict[str, Any] = {}
    with tqdm(total=len(sources) * given.seeds, disable=given.json) as bar:
        for source in sources:
            rows = []
            for seed in range(given.seeds):
                rows.append(trial(data, source, seed, given))
                bar.update()
            found[source] = np.array(rows)
    # Shuffles of one source share its prompts: sources are what is independent.
    by_source = np.array([rows.mean(axis=0) for rows in found.values()])
    if len(found) == 1:
        (by_source,) = found.values()
    result = {
        "rounds": given.rounds,
        "seeds": given.seeds,
        "sources": {
            source: {n: interval(rows[:, i]) for i, n in enumerate(STARTS)}
            for source, rows in found.items()
        },
        "all": {n: interval(by_source[:, i]) for i, n in enumerate(STARTS)},
        "differences": {
            f"{STARTS[i]} minus {STARTS[j]}": interval(
                by_source[:, i] - by_source[:, j]
            )
            for i, j in ((2, 0), (3, 1), (2, 3))
        },
    }
    if given.json:
        print(json.dumps(result, indent=1))
        return
    print(f"\nregret of the first {given.rounds} rounds, {given.seeds} shuffles, 95 %")
    print(f"{'source':<46}" + "".join(f"{name:>25}" for name in STARTS))
    for source, row in [*result["sources"].items(), ("all sources", result["all"])]:
        cells = (
            f"{c['mean']:.2f} [{c['low']:.2f}, {c['high']:.2f}]" for c in row.values()
        )
        print(f"{source:<46}" + "".join(f"{cell:>25}" for cell in cells))
    for name, cell in result["differences"].items():
        print(f"{name}: {cell['mean']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]")


if __name__ == "__main__":
    main()
