"""Other bandit libraries on the same shuffles, in an environment of their own.

Imported by bench_bandits.py, which calls :func:`run_peers`; run by the Python of that
environment, where this project is not installed, to play one library.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "mabwiser",
    "vowpalwabbit",
    "bayesianbandits",
    "pandas",
    # What braidbandit imports, so that both can take turns in one process.
    "joblib",
    "safetensors",
    "filelock",
    "tqdm",
)
# Each library with the settings that are tried on shuffles of their own; the best plays
# on those that are reported. What it sees of a prompt is its choice too: 8 or 32
# principal components, or the features that our own encoder makes ("kinds"). LinTS that
# samples coefficients, its default, stayed near a random choice at any v_sq.
WIDTHS: tuple[int | str, ...] = (8, 32, "kinds")
PEERS: dict[str, list[dict[str, Any]]] = {
    "contextualbandits-LinTS": [
        {"width": width, "v_sq": v_sq, "sample_from": "ci"}
        for width in WIDTHS
        for v_sq in (0.01, 0.05, 0.2)
    ],
    "contextualbandits-LinUCB": [
        {"width": width, "alpha": alpha}
        for width in WIDTHS
        for alpha in (0.05, 0.2, 0.5)
    ],
    "mabwiser-LinUCB": [
        {"width": width, "alpha": alpha}
        for width in (8, "kinds")
        for alpha in (0.05, 0.2, 0.5)
    ],
    "vowpalwabbit-regcb": [
        {"width": width, "kind": kind, "mellowness": mellowness}
        for width in WIDTHS
        for kind in ("regcb", "regcbopt")
        for mellowness in (0.0001, 0.001, 0.01)
    ],
    "bayesianbandits-Thompson": [
        {"width": width, "alpha": alpha, "beta": beta}
        for width in (8, "kinds")
        for alpha in (5.0, 50.0)
        for beta in (10.0, 50.0)
    ],
}
# With many arms a library takes minutes a shuffle: it is tuned on one.
TUNING_SHUFFLES, MANY_ARMS = 3, 100
TUNING_ROUNDS = 800


class ContextualBandits:
    """contextualbandits: LinTS or LinUCB; it refuses random_state=0."""

    def __init__(self, name: str, arms: int, seed: int, setting: dict[str, Any]):
        from contextualbandits import online

        kind = getattr(online, name.split("-")[1])
        options = {k: v for k, v in setting.items() if k != "width"}
        if name.endswith("LinUCB"):
            options["ucb_from_empty"] = False
        # Its beta_prior breaks on rewards that are not 0 or 1.
        self.model = kind(
            nchoices=arms, beta_prior=None, random_state=seed + 1, **options
        )

    def warm(self, X: Any, arms: Any, rewards: Any) -> None:
        self.model.fit(X, arms, rewards)

    def choose(self, x: Any) -> int:
        return int(self.model.predict(x[None])[0])

    def learn(self, x: Any, arm: int, reward: float) -> None:
        self.model.partial_fit(x[None], np.array([arm]), np.array([reward]))


class AdaptiveGreedy(ContextualBandits):
    """contextualbandits: its fastest policy, on a linear regression; timed only."""

    def __init__(self, arms: int) -> None:
        from contextualbandits.linreg import LinearRegression
        from contextualbandits.online import AdaptiveGreedy as Policy

        self.model = Policy(
            LinearRegression(lambda_=1.0),
            nchoices=arms,
            beta_prior=None,
            batch_train=True,
            random_state=1,
            njobs=1,
        )


class MabWiser:
    """MABWiser: LinUCB."""

    def __init__(self, name: str, arms: int, seed: int, setting: dict[str, Any]):
        from mabwiser.mab import MAB, LearningPolicy

        self.model = MAB(
            arms=list(range(arms)),
            learning_policy=LearningPolicy.LinUCB(alpha=setting["alpha"]),
            seed=seed,
        )

    def warm(self, X: Any, arms: Any, rewards: Any) -> None:
        self.model.fit(decisions=arms, rewards=rewards, contexts=_with_bias(X))

    def choose(self, x: Any) -> int:
        return int(self.model.predict(_with_bias(x[None])))

    def learn(self, x: Any, arm: int, reward: float) -> None:
        self.model.partial_fit(
            decisions=np.array([arm]),
            rewards=np.array([reward]),
            contexts=_with_bias(x[None]),
        )


class VowpalWabbit:
    """Vowpal Wabbit: regcb with arm x context features; wants costs in a range."""

    def __init__(self, name: str, arms: int, seed: int, setting: dict[str, Any]):
        from vowpalwabbit import Workspace

        self.arms = arms
        self.rng = np.random.default_rng(seed)
        self.model = Workspace(
            f"--cb_explore_adf --{setting['kind']} --cb_min_cost -1 --cb_max_cost 0 "
            f"-q xa --mellowness {setting['mellowness']} --random_seed {seed} --quiet"
        )

    def _lines(self, x: Any, label: tuple[int, float, float] | None = None) -> Any:
        shared = "shared |x " + " ".join(f"{i}:{v:.6g}" for i, v in enumerate(x))
        lines = [f"|a arm={arm}" for arm in range(self.arms)]
        if label is not None:
            arm, reward, propensity = label
            lines[arm] = f"0:{-reward}:{propensity} " + lines[arm]
        return [shared, *lines]

    def warm(self, X: Any, arms: Any, rewards: Any) -> None:
        share = 1 / len(set(np.asarray(arms).tolist()))
        for x, arm, reward in zip(X, arms, rewards, strict=True):
            self.model.learn(self._lines(x, (int(arm), float(reward), share)))

    def choose(self, x: Any) -> int:
        p = np.array(self.model.predict(self._lines(x)))
        arm = int(self.rng.choice(len(p), p=p / p.sum()))
        self.propensity = float(p[arm])
        return arm

    def learn(self, x: Any, arm: int, reward: float) -> None:
        self.model.learn(self._lines(x, (arm, reward, self.propensity)))


class BayesianBandits:
    """bayesianbandits: one Bayesian regression per arm, Thompson sampling."""

    def __init__(self, name: str, arms: int, seed: int, setting: dict[str, Any]):
        from bayesianbandits import (
            Arm,
            ContextualAgent,
            NormalRegressor,
            ThompsonSampling,
        )

        learners = [
            Arm(a, learner=NormalRegressor(setting["alpha"], setting["beta"]))
            for a in range(arms)
        ]
        self.model = ContextualAgent(learners, ThompsonSampling(), random_seed=seed)
        self.centre = 0.0

    def warm(self, X: Any, arms: Any, rewards: Any) -> None:
        # Its prior mean is zero, so rewards are given from the mean of the probe.
        self.centre = float(np.mean(rewards))
        for arm in np.unique(arms):
            rows = np.asarray(arms) == arm
            self.model.select_for_update(int(arm)).update(
                _with_bias(X[rows]), np.asarray(rewards)[rows] - self.centre
            )

    def choose(self, x: Any) -> int:
        return int(self.model.pull(_with_bias(x[None]))[0])

    def learn(self, x: Any, arm: int, reward: float) -> None:
        self.model.select_for_update(arm).update(
            _with_bias(x[None]), np.array([reward - self.centre])
        )


class BayesianShared:
    """bayesianbandits: one regression on arm features times context; timed only.

    The model of our own posterior, of a context that is given, or projected to (d, k).
    """

    def __init__(self, descriptors: Any, project: Any = None) -> None:
        from bayesianbandits import (
            Arm,
            LipschitzContextualAgent,
            NormalRegressor,
            ThompsonSampling,
        )

        class Both:
            def transform(self, X: Any, *, action_tokens: Any) -> Any:
                X = _with_bias(X if project is None else X @ project)
                Z = descriptors[np.asarray(action_tokens)][:, None, :, None]
                return (Z * X[:, None]).reshape(len(Z) * len(X), -1)

        self.model = LipschitzContextualAgent(
            [Arm(a) for a in range(len(descriptors))],
            ThompsonSampling(),
            arm_featurizer=Both(),
            learner=NormalRegressor(50.0, 10.0),
            random_seed=0,
        )

    def choose(self, x: Any) -> int:
        return int(self.model.pull(x[None])[0])

    def learn(self, x: Any, arm: int, reward: float) -> None:
        self.model.select_for_update(arm).update(x[None], np.array([reward]))


ADAPTERS = {
    "contextualbandits": ContextualBandits,
    "mabwiser": MabWiser,
    "vowpalwabbit": VowpalWabbit,
    "bayesianbandits": BayesianBandits,
}


def _with_bias(X: Any) -> Any:
    return np.column_stack([np.ones(len(X)), X])


def play_one(
    data: dict[str, Any], name: str, setting: dict[str, Any], seed: int, rounds: int
) -> dict[str, Any]:
    """Replay one library with one setting on one shuffle."""
    rewards, X = data["rewards"], data[f"X{setting['width']}"]
    probe, run, order, known = (
        data[f"{key}{seed}"] for key in ("probe", "run", "arms", "known")
    )
    player = ADAPTERS[name.split("-")[0]](name, len(order), seed, setting)
    rows, arms = np.repeat(probe, len(known)), np.tile(known, len(probe))
    player.warm(X[rows], arms, rewards[rows, order[arms]])
    earned, spent = [], []
    for row in run[:rounds]:
        x, start = X[row], time.perf_counter()
        arm = player.choose(x)
        reward = float(rewards[row, order[arm]])
        player.learn(x, arm, reward)
        spent.append(time.perf_counter() - start)
        earned.append(reward)
    try:
        size = len(pickle.dumps(player.model)) / 1e6
    except Exception:
        size = float("nan")
    return {"earned": earned, "ms": 1e3 * float(np.median(spent)), "mb": size}


def play_library(file: str, name: str) -> None:
    """Tune one library on shuffles of its own, then play; JSON lines to stdout."""
    warnings.filterwarnings("ignore")
    data = dict(np.load(file))
    seeds = int(data["seeds"])
    settings = PEERS[name]
    tuned, few = [], data["rewards"].shape[1] <= MANY_ARMS
    for setting in settings:
        tries = data["tuning"][: TUNING_SHUFFLES if few else 1].tolist()
        found = [play_one(data, name, setting, s, TUNING_ROUNDS) for s in tries]
        tuned.append(float(np.mean([np.sum(f["earned"]) for f in found])))
        print(f"{name} {setting}: {tuned[-1]:.1f}", file=sys.stderr, flush=True)
    best = settings[int(np.argmax(tuned))]
    for seed in range(seeds):
        print(f"{name}, shuffle {seed}", file=sys.stderr, flush=True)
        found = play_one(data, name, best, seed, len(data["run0"]))
        print(json.dumps({"setting": best, **found}), flush=True)


def environment(cache: Path) -> Path:
    """Return the Python of the other libraries' environment, made on first use."""
    folder = cache / "peers-env"
    python, made_of = folder / "bin" / "python", folder / "packages.txt"
    wanted = "\n".join(PACKAGES)
    if not made_of.exists() or made_of.read_text() != wanted:
        print(f"making an environment for other libraries in {folder}", file=sys.stderr)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        # contextualbandits is compiled against the numpy that is there.
        tools = ["cython", "numpy", "scipy", "scikit-learn", "setuptools", "wheel"]
        for packages in (
            [*tools, *PACKAGES],
            ["--no-build-isolation", "contextualbandits"],
        ):
            print("installing", *packages, file=sys.stderr)
            subprocess.run([*install, *packages], check=True)
        made_of.write_text(wanted)
    return python


def run_peers(
    table: Any,
    orders: Any,
    widths: dict[int | str, Any],
    names: list[str],
    cache: Path,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Play other libraries; runs and sizes by name.

    What one has played is kept in ``cache``: an hour's work that ends early goes on
    with the next library. Delete ``peers-runs`` there to time them anew.
    """
    from braidbandit.evaluation.replay import score, shuffles

    python = environment(cache)
    rounds, after = min(TUNING_ROUNDS, len(orders[0].run)), 100 + len(orders)
    tuning = list(shuffles(table, rounds, after + TUNING_SHUFFLES))[after:]
    data = {"rewards": table.rewards, "seeds": np.array(len(orders))}
    data["tuning"] = np.array([order.seed for order in tuning])
    data |= {f"X{width}": X for width, X in widths.items()}
    for order in (*orders, *tuning):
        data[f"probe{order.seed}"] = order.probe
        data[f"run{order.seed}"] = order.run
        data[f"arms{order.seed}"] = order.arms
        data[f"known{order.seed}"] = order.probe_arms(table)
    runs, sizes = {}, {}
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "shuffles.npz")
        np.savez(file, **data)
        for name in names:
            kept = _kept(cache, file, name)
            if not kept.exists():
                done = subprocess.run(
                    [str(python), __file__, file, name],
                    stdout=subprocess.PIPE,
                    text=True,
                    env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **clean},
                    check=True,
                )
                kept.parent.mkdir(exist_ok=True)
                kept.with_suffix(".tmp").write_text(done.stdout)
                os.replace(kept.with_suffix(".tmp"), kept)
            found = [json.loads(line) for line in kept.read_text().splitlines()]
            setting = " ".join(f"{k}={v}" for k, v in found[0]["setting"].items())
            label = f"{name} ({setting})"
            runs[label] = [
                score(table, order, np.array(one["earned"]), one["ms"])
                for order, one in zip(orders, found, strict=True)
            ]
            sizes[label] = found[-1]["mb"]
    return runs, sizes


def _kept(cache: Path, file: str, name: str) -> Path:
    """Where the runs of one library on these shuffles are kept."""
    played = hashlib.sha256(Path(__file__).read_bytes())
    played.update(Path(file).read_bytes())
    return cache / "peers-runs" / f"{name}-{played.hexdigest()[:16]}.jsonl"


def main() -> None:
    """Play one library on shuffles, as :func:`run_peers` asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="shuffles, as run_peers writes them (.npz)")
    parser.add_argument("library", choices=PEERS)
    options = parser.parse_args()
    play_library(options.file, options.library)


if __name__ == "__main__":
    main()
