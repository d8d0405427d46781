"""Replay real tables of model quality: this library, simple controls, other libraries.

    python examples/bench_bandits.py --table llmrouter9 --rounds 800 --seeds 10
    python examples/bench_bandits.py --table my.npz --catalogue braid512 --peers --json

A table is an .npz file with ``rewards`` (prompts x models), ``embeddings`` (prompts x
width) and, optionally, ``arms``, ``prompts`` and ``source``; see `read_table`. A name
is looked for in --data, in the folder named by the variable BRAIDBANDIT_DATA, and in
../shared/data. Some prompts are reserved as the probe table that everybody starts from;
regret is against the best fixed arm in hindsight, and so are points, hundredths of
reward per round. Other libraries run in an environment of their own, made on first use.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from bench_peers import PEERS, run_peers
from tqdm import tqdm

from braidbandit import (
    Braid,
    Catalogue,
    ConservativePolicy,
    DeclineToDefault,
    EpsilonGreedy,
    Greedy,
    LinUCB,
    ModelCard,
    TaskEncoder,
)
from braidbandit.evaluation.replay import (
    BraidPlayer,
    Player,
    Run,
    Shuffle,
    Table,
    encoder_of,
    read_table,
    replay,
    score,
    shuffles,
)

ROOT = Path(__file__).resolve().parent.parent
OURS = "braidbandit"
PROBED = "best single of the probe"
DEPTH = 10


def find_table(name: str, data: str | None) -> Path:
    """Return the file of a table, given by path or by name."""
    folders = [data, os.environ.get("BRAIDBANDIT_DATA"), ROOT.parent / "shared/data"]
    tried = [Path(name), *(Path(f) / f"{name}.npz" for f in folders if f)]
    for path in tried:
        if path.suffix == ".npz" and path.exists():
            return path
    raise SystemExit(f"no table {name!r}; tried {', '.join(map(str, tried))}")


def braid512(table: Table, probed: int = 0) -> Table:
    """Return 512 simulated braids of the first eight models of a table.

    The models alone, and every set of two or three with one of six weights w:
    ``w max + (1 - w) mean - 0.05 (k - 1)(0.5 + w)`` of the rewards of its k models,
    with noise of 0.1 on everything. As braids, w is the depth of their fusion layer.
    The single models are probed, and so many of the others, drawn at random.
    """
    models = list(table.catalogue.cards)[:8]
    if len(models) < 8:
        raise SystemExit(f"braid512 needs 8 models, the table has {len(models)}")
    rewards = table.origin + table.unit * table.rewards[:, :8]
    braids, columns = [Braid(model) for model in models], [*rewards.T]
    for k in (2, 3):
        for group in combinations(range(8), k):
            best, mean = rewards[:, group].max(axis=1), rewards[:, group].mean(axis=1)
            anchor, *donors = (models[i] for i in group)
            for step in range(6):
                w = step / 5
                layer = max(round(w * DEPTH) - 1, 0)
                shares = (1 / k,) * k
                braids.append(
                    Braid(anchor, tuple(donors), shares, (layer,), "learned_weighted")
                )
                price = 0.05 * (k - 1) * (0.5 + w)
                columns.append(w * best + (1 - w) * mean - price)
    rng = np.random.default_rng(512)
    noise = rng.standard_normal((len(rewards), len(braids)))
    scores = np.column_stack(columns) + 0.1 * noise
    cards = [ModelCard(model, layers=DEPTH) for model in models]
    braided = Table.scaled(
        scores,
        table.embeddings,
        Catalogue(cards, braids),
        np.append(np.arange(8), 8 + rng.permutation(len(braids) - 8)[:probed]),
        float(scores.min()),
        float(scores.max()),
    )
    return replace(braided, prompts=table.prompts, source=table.source)


class Uniform:
    """Any arm, equally often."""

    def __init__(self, table: Table, shuffle: Shuffle) -> None:
        self._rng = np.random.default_rng(shuffle.seed)
        self._arms = len(shuffle.arms)

    def choose(self, row: int) -> int:
        return int(self._rng.integers(self._arms))

    def learn(self, row: int, arm: int, reward: float) -> None:
        pass


class BestProbed:
    """Always the arm that was best on the probe prompts."""

    def __init__(self, table: Table, shuffle: Shuffle) -> None:
        arms = shuffle.probe_arms(table)
        probe = table.rewards[np.ix_(shuffle.probe, shuffle.arms[arms])]
        self._arm = int(arms[probe.mean(axis=0).argmax()])

    def choose(self, row: int) -> int:
        return self._arm

    def learn(self, row: int, arm: int, reward: float) -> None:
        pass


class ContextFree:
    """Thompson sampling on one mean per arm, started from the probe prompts."""

    def __init__(self, table: Table, shuffle: Shuffle) -> None:
        arms = shuffle.probe_arms(table)
        probe = table.rewards[np.ix_(shuffle.probe, shuffle.arms[arms])]
        self._rng = np.random.default_rng(shuffle.seed)
        # Two prompts' worth of prior at the mean of the probe table.
        self._count = np.full(len(shuffle.arms), 2.0)
        self._sum = 2.0 * np.full(len(shuffle.arms), probe.mean())
        self._count[arms] += len(probe)
        self._sum[arms] += probe.sum(axis=0)
        self._sd = float(probe.std())

    def choose(self, row: int) -> int:
        mean = self._sum / self._count
        sd = self._sd / np.sqrt(self._count)
        return int(np.argmax(mean + sd * self._rng.standard_normal(len(mean))))

    def learn(self, row: int, arm: int, reward: float) -> None:
        self._count[arm] += 1
        self._sum[arm] += reward


def ridge_choice(table: Table, shuffle: Shuffle, width: int = 32) -> np.ndarray:
    """Return the rewards of a ridge fitted with full information, cross-fitted.

    The rounds are cut in five; each fifth is predicted by a ridge that saw every
    arm's reward on all other prompts of the table.
    """
    X = principal_components(table.embeddings, width)
    X = np.column_stack([np.ones(len(X)), X])
    earned = np.zeros(len(shuffle.run))
    everything = np.arange(len(X))
    for part in np.array_split(np.arange(len(shuffle.run)), 5):
        rows = shuffle.run[part]
        seen = np.setdiff1d(everything, rows)
        gram = X[seen].T @ X[seen] + 30.0 * np.eye(X.shape[1])
        weights = np.linalg.solve(gram, X[seen].T @ table.rewards[seen])
        best = np.argmax(X[rows] @ weights, axis=1)
        earned[part] = table.rewards[rows, best]
    return earned


def principal_components(embeddings: np.ndarray, width: int) -> np.ndarray:
    """Return the first components, scaled to unit average variance."""
    centred = embeddings - embeddings.mean(axis=0)
    _, _, vt = np.linalg.svd(centred, full_matrices=False)
    points = centred @ vt[:width].T
    return points / np.sqrt((points**2).mean())


def megabytes(player: Player) -> float:
    """Size of what a player has learnt."""
    if isinstance(player, BraidPlayer):
        agent = player.agent
        return len(pickle.dumps((agent.posterior_, agent.Z_))) / 1e6
    return len(pickle.dumps(player.__dict__)) / 1e6


def play(table: Table, given: argparse.Namespace) -> dict[str, Any]:
    """Replay this library and the controls; everything by name."""

    def encoder(order: Shuffle) -> TaskEncoder:
        rows = order.probe if given.fit_on_probes else None
        return encoder_of(table, rows, given.types, given.words)

    everywhere = (
        None
        if given.fit_on_probes
        else encoder_of(table, None, given.types, given.words)
    )

    def ours(warm: bool = True, **settings: Any) -> Callable[[Table, Shuffle], Player]:
        return lambda t, s: BraidPlayer(
            t, s, everywhere or encoder(s), warm, **settings
        )

    makers: dict[str, Callable[[Table, Shuffle], Player]] = {
        OURS: ours(),
        f"{OURS}, declining to the default": ours(policy=DeclineToDefault()),
        f"{OURS}, guarded": ours(policy=ConservativePolicy()),
        f"{OURS}, LinUCB": ours(policy=LinUCB()),
        f"{OURS}, greedy": ours(policy=Greedy()),
        f"{OURS}, greedy, floor 0.02": ours(policy=EpsilonGreedy(0.02)),
        f"{OURS}, cold": ours(warm=False),
        "context-free Thompson": ContextFree,
        PROBED: BestProbed,
        "random": Uniform,
    }
    seeds, quiet = given.seeds, given.json
    orders = list(shuffles(table, given.rounds, seeds, given.probes))
    rounds = len(orders[0].run)
    runs: dict[str, list[Run]] = {name: [] for name in makers}
    sizes = dict.fromkeys(makers, 0.0)
    total = len(makers) * seeds * rounds
    with tqdm(total=total, disable=quiet, unit="round", mininterval=1) as bar:
        for order in orders:
            for name, make in makers.items():
                bar.set_description(f"{name}, shuffle {order.seed}")
                player = make(table, order)
                runs[name].append(replay(table, order, player, bar.update))
                sizes[name] = megabytes(player)
    ridge = [score(table, s, ridge_choice(table, s), 0.0) for s in orders]
    return {"runs": runs, "mb": sizes, "ridge": ridge, "orders": orders}


def summary(table: Table, played: dict[str, Any]) -> dict[str, Any]:
    """Return the object that --json prints; rewards are per round."""

    def mean_se(values: list[float]) -> tuple[float, float]:
        n = len(values)
        spread = float(np.std(values, ddof=1)) if n > 1 else 0.0
        return float(np.mean(values)), spread / np.sqrt(n)

    policies = {}
    probed = np.array([run.rewards.sum() for run in played["runs"][PROBED]])
    ours = np.array([run.regret for run in played["runs"][OURS]])
    for name, runs in played["runs"].items():
        regret, se = mean_se([run.regret for run in runs])
        quarter, quarter_se = mean_se([run.last_quarter for run in runs])
        ahead = np.array([run.regret for run in runs]) - ours
        won = np.array([run.rewards.sum() for run in runs]) - probed
        won = 100 * won / len(runs[0].rewards)
        over = mean_se(list(won))
        policies[name] = {
            "regret": regret,
            "se": se,
            "last_quarter": quarter,
            "last_quarter_se": quarter_se,
            "behind": float(ahead.mean()),
            "behind_se": mean_se(list(ahead))[1],
            # Per round, over the best fixed arm in hindsight; se is paired.
            "points": -100 * regret / len(runs[0].rewards),
            "points_se": 100 * se / len(runs[0].rewards),
            "over_probed": over[0],
            "over_probed_se": over[1],
            # More than half a point below the best probed model.
            "fell_behind": float((won < -0.5).mean()),
            "default": name == OURS,
            # The worst run, as a share of what the best probed model earned in it.
            "worst": float((([r.rewards.sum() for r in runs] - probed) / probed).min()),
            "ms": float(np.median([run.ms for run in runs])),
            "mb": played["mb"][name],
        }
    fixed, late_fixed, oracle = [], [], []
    for order in played["orders"]:
        rewards = table.origin + table.unit * table.rewards[order.run]
        best = rewards.sum(axis=0).argmax()
        quarter = max(len(rewards) // 4, 1)
        fixed.append(float(rewards[:, best].mean()))
        late_fixed.append(float(rewards[-quarter:, best].mean()))
        oracle.append(float(rewards.max(axis=1).mean()))
    return {
        "policies": policies,
        "best_fixed": mean_se(fixed)[0],
        "oracle": mean_se(oracle)[0],
        "full_information": mean_se(
            [float(run.rewards.mean()) for run in played["ridge"]]
        )[0],
        "full_information_points": -100
        * mean_se([run.regret for run in played["ridge"]])[0]
        / len(played["orders"][0].run),
        "best_fixed_last_quarter": mean_se(late_fixed)[0],
        "full_information_last_quarter": mean_se(
            [run.last_quarter for run in played["ridge"]]
        )[0],
        "rounds": len(played["orders"][0].run),
        "seeds": len(played["orders"]),
    }


def show(found: dict[str, Any]) -> None:
    """Print the summary as a table."""
    print(f"\n{found['rounds']} rounds, {found['seeds']} shuffles; mean +- its error")
    print(f"{'policy':<44}{'regret':>16}{'behind us':>16}{'last quarter':>18}", end="")
    print(f"{'points':>14}{'worst':>8}{'ms':>8}{'MB':>8}")
    ranked = sorted(found["policies"].items(), key=lambda item: item[1]["regret"])
    for name, row in ranked:
        print(
            f"{name:<44}{row['regret']:>8.1f} +-{row['se']:>5.1f}"
            f"{row['behind']:>8.1f} +-{row['behind_se']:>5.1f}"
            f"{row['last_quarter']:>9.4f} +-{row['last_quarter_se']:>6.4f}"
            f"{row['points']:>7.2f} +-{row['points_se']:>4.2f}"
            f"{100 * row['worst']:>7.1f}%{row['ms']:>8.3f}{row['mb']:>8.2f}"
        )
    print("worst: its worst run against the best single model of the probe")
    print(
        f"per round: best fixed arm {found['best_fixed']:.4f}, ridge with full "
        f"information {found['full_information']:.4f}, oracle {found['oracle']:.4f}"
    )
    fixed = found["best_fixed_last_quarter"]
    gap = found["full_information_last_quarter"] - fixed
    text = f"last quarter: best fixed arm {fixed:.4f}, ridge {fixed + gap:.4f}"
    if gap > 2 * found["policies"][OURS]["last_quarter_se"]:
        closed = (found["policies"][OURS]["last_quarter"] - fixed) / gap
        text += f"; {OURS} closes {100 * closed:.0f} % of the gap"
    print(text)


def plot(table: Table, played: dict[str, Any], file: str) -> None:
    """Draw regret over rounds, mean over shuffles with a band of one error."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8, 5))
    ends = {}
    for name, runs in played["runs"].items():
        curves = []
        for order, run in zip(played["orders"], runs, strict=True):
            rewards = table.origin + table.unit * table.rewards[order.run]
            best = rewards[:, rewards.sum(axis=0).argmax()]
            curves.append(np.cumsum(best - run.rewards))
        mean, se = np.mean(curves, axis=0), np.std(curves, axis=0) / len(curves) ** 0.5
        short = name.split(" (")[0]  # without the settings of another library
        ax.plot(mean, label=short, linewidth=2.5 if name == OURS else 1)
        ends[name] = float(mean[-1])
        ax.fill_between(np.arange(len(mean)), mean - se, mean + se, alpha=0.15)
    # A random choice leaves the picture, so that the others can be told apart.
    low, high = min(ends.values()), max(v for k, v in ends.items() if k != "random")
    gap = 0.15 * (high - min(low, 0.0)) + 1e-9
    ax.set_ylim(min(low, 0.0) - gap, high + gap)
    ax.set_xlabel("round")
    ax.set_ylabel("regret against the best fixed arm in hindsight")
    ax.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", default="llmrouter9", help="name or .npz file")
    parser.add_argument("--data", help="folder of the named tables")
    parser.add_argument("--catalogue", choices=("plain", "braid512"), default="plain")
    parser.add_argument(
        "--probe-braids",
        type=int,
        default=0,
        metavar="N",
        help="of braid512, beside its 8 single models (default: none)",
    )
    parser.add_argument("--rounds", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--probes", type=int, default=40, help="prompts of the probe table"
    )
    parser.add_argument(
        "--types", action="store_true", help="tell the source of a prompt as its type"
    )
    parser.add_argument(
        "--words",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read the text of prompts, where the table has it, beside the embedding",
    )
    parser.add_argument(
        "--fit-on-probes",
        action="store_true",
        help="fit the encoder on the probe prompts only, not on all prompts",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=sorted(PEERS),
        help="other libraries to run; without names, all of them",
    )
    parser.add_argument(
        "--cache",
        default="~/.cache/braidbandit",
        help="folder for the environment of the other libraries",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plot", metavar="FILE", help="draw the regret over rounds")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.seeds < 1 or given.probes < 1:
        parser.error("--rounds, --seeds and --probes must be at least 1")
    table = read_table(find_table(given.table, given.data))
    if given.catalogue == "braid512":
        table = braid512(table, given.probe_braids)
    if given.types and table.source is None:
        parser.error(f"--types: {given.table} does not say the source of its prompts")
    played = play(table, given)
    if given.peers is not None:
        widths: dict[int | str, np.ndarray] = {
            width: principal_components(table.embeddings, width) for width in (8, 32)
        }
        encoder = TaskEncoder(types=(), n_details=0).fit(table.embeddings)
        widths["kinds"] = encoder.transform(table.embeddings)[:, 1:-2]
        runs, sizes = run_peers(
            table,
            played["orders"],
            widths,
            given.peers or sorted(PEERS),
            Path(given.cache).expanduser(),
        )
        played["runs"] |= runs
        played["mb"] |= sizes
    found = summary(table, played)
    if given.plot:
        plot(table, played, given.plot)
    if given.json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        show(found)


if __name__ == "__main__":
    main()
