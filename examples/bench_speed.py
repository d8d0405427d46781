"""Milliseconds of one decision and one update, beside other libraries.

    python examples/bench_speed.py --json
    python examples/bench_speed.py --long 1000000

One thread. For each size the arms are simulated; all libraries take turns in one
process of the other libraries' environment, made on first use. Each sees the context as
it comes; the shared regression of bayesianbandits, which is our model, also sees our 15
features of it. ``--long`` runs so many updates and compares the posterior with one
fresh solve over all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_peers import environment

ROOT = Path(__file__).resolve().parent.parent
# Columns of the published comparison: width of the context, number of arms.
SIZES = ((8, 24), (384, 24), (384, 200), (32, 200), (8, 2000), (32, 2000), (32, 10_000))
OURS = "braidbandit"
# Rounds in a row of one library; the first finds the caches of the one before it.
TURN = 10
COMPONENTS = 15
DESCRIPTORS = 8


def projection(width: int) -> Any:
    """Return the matrix (d, k) that makes task features of a context."""
    k = min(COMPONENTS, width)
    return np.random.default_rng(0).standard_normal((width, k)) / np.sqrt(width)


class Ours:
    """The posterior and a policy on projected contexts, as the recommender has them."""

    def __init__(self, width: int, arms: int, policy: str) -> None:
        import braidbandit
        from braidbandit.bandit.posterior import Posterior
        from braidbandit.bandit.prior import parameter_groups

        rng = np.random.default_rng(0)
        self.project = projection(width)
        # A bias, five models, two ways to combine them.
        names = ["bias", *(f"share:{i}" for i in range(5)), "strands", "layers:final"]
        self.Z = np.column_stack(
            [np.ones(arms), rng.standard_normal((arms, DESCRIPTORS - 1)) / 3]
        )
        self.posterior = Posterior(
            parameter_groups(names, self.project.shape[1] + 1), n_arms=arms, own_width=1
        )
        self.policy = getattr(braidbandit, policy)()
        self.cost = np.zeros(arms)
        self.eligible = np.ones(arms, dtype=bool)
        self.rng = rng

    def choose(self, x: Any) -> int:
        self.x = np.append(1.0, x @ self.project)
        belief = self.posterior.belief(self.Z, self.x)
        choice = self.policy.select(belief, self.cost, self.eligible, self.rng)
        return int(choice.arm)

    def learn(self, x: Any, arm: int, reward: float) -> None:
        self.posterior.update(arm, self.Z[arm], self.x, reward)

    def megabytes(self) -> float:
        arrays = [getattr(self.posterior, name) for name in self.posterior.ARRAYS]
        return sum(a.nbytes for a in (*arrays, self.Z)) / 1e6


def catalogue_of(arms: int) -> Any:
    """Return ``arms`` braids of as few models as have that many, evenly picked."""
    from braidbandit import Catalogue, ModelCard

    n, catalogue = 3, Catalogue.build([ModelCard("m0", layers=32)])
    while len(catalogue) < arms:
        cards = [ModelCard(f"m{i}", parameters=(i + 1) * 10**9, layers=32, width=2048,
                           vocab_size=32_000) for i in range(n)]  # fmt: skip
        n, catalogue = n + 1, Catalogue.build(cards)
    picked = np.linspace(0, len(catalogue) - 1, arms).astype(int)
    return Catalogue(
        catalogue.cards.values(), [catalogue.braids[row] for row in picked]
    )


class Whole:
    """The whole recommender: projection, the record of the decision, its sentence."""

    def __init__(self, width: int, arms: int, policy: str) -> None:
        import braidbandit

        rng = np.random.default_rng(0)
        encoder = braidbandit.TaskEncoder(types=()).fit(
            rng.standard_normal((100, width))
        )
        self.agent = braidbandit.BraidRecommender(
            catalogue_of(arms), encoder, getattr(braidbandit, policy)(), random_state=0
        )

    def choose(self, x: Any) -> int:
        self.decision = self.agent.recommend(x)
        return 0

    def learn(self, x: Any, arm: int, reward: float) -> None:
        self.agent.update(self.decision, reward)

    def megabytes(self) -> float:
        posterior = self.agent.posterior_
        assert posterior is not None
        arrays = [getattr(posterior, name) for name in posterior.ARRAYS]
        return sum(a.nbytes for a in (*arrays, self.agent.Z_)) / 1e6


def contestants(width: int, arms: int) -> dict[str, Any]:
    """Return makers of everything that is timed at this size."""
    from bench_peers import ADAPTERS, AdaptiveGreedy, BayesianShared

    makers: dict[str, Any] = {
        f"{OURS} recommender": lambda: Whole(width, arms, "ThompsonSampling"),
        f"{OURS} recommender (LinUCB)": lambda: Whole(width, arms, "LinUCB"),
        f"{OURS} recommender (SquareCB)": lambda: Whole(width, arms, "SquareCB"),
        f"{OURS} posterior + policy": lambda: Ours(width, arms, "ThompsonSampling"),
        f"{OURS} posterior + policy (LinUCB)": lambda: Ours(width, arms, "LinUCB"),
        f"{OURS} posterior + policy (SquareCB)": lambda: Ours(width, arms, "SquareCB"),
    }
    if arms <= 2000:
        settings: dict[str, dict[str, Any]] = {
            "contextualbandits-LinUCB": {"alpha": 0.2},
            "contextualbandits-LinTS": {"v_sq": 0.05, "sample_from": "ci"},
            "vowpalwabbit-regcb": {"kind": "regcb", "mellowness": 0.001},
            "bayesianbandits-Thompson": {"alpha": 50.0, "beta": 10.0},
            "mabwiser-LinUCB": {"alpha": 0.2},
        }
        makers["contextualbandits-AdaptiveGreedy"] = lambda: AdaptiveGreedy(arms)
        Z = np.random.default_rng(0).standard_normal((arms, DESCRIPTORS)) / 3
        makers["bayesianbandits-shared (our features)"] = lambda: BayesianShared(
            Z, projection(width)
        )
        if width <= 32:
            # Of 384 numbers it would have 3,080 parameters, and a matrix of 76 MB.
            makers["bayesianbandits-shared"] = lambda: BayesianShared(Z)
        for name, setting in settings.items():
            kind = ADAPTERS[name.split("-")[0]]
            makers[name] = lambda kind=kind, name=name, setting=setting: kind(
                name, arms, 0, setting
            )
    return makers


def measure(width: int, arms: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Time everything on the same contexts, turn by turn; milliseconds."""
    import pickle
    import warnings

    warnings.filterwarnings("ignore")
    rng = np.random.default_rng(1)
    warm = max(50, min(arms, 200))
    X = rng.standard_normal((rounds + warm, width)) / np.sqrt(width) * 4
    rewards = rng.random(rounds + warm)
    first = rng.integers(arms, size=warm)
    players, spent, used = {}, {}, {}
    for name, make in contestants(width, arms).items():
        try:
            players[name] = make()
            if hasattr(players[name], "warm"):
                players[name].warm(X[:warm], first, rewards[:warm])
            spent[name], used[name] = [], 0.0
        except Exception as error:
            print(f"{name} at {width} x {arms}: {error!r}", file=sys.stderr)
            players.pop(name, None)
    for turn in range(warm, warm + rounds, TURN):
        # In another order each time: after a large one, the caches are cold.
        for name in rng.permutation(list(players)).tolist():
            player = players[name]
            for t in range(turn, min(turn + TURN, warm + rounds)):
                # A slow library is asked less often, not waited for.
                if used[name] > seconds:
                    break
                start = time.perf_counter()
                arm = player.choose(X[t])
                player.learn(X[t], arm, float(rewards[t]))
                took = time.perf_counter() - start
                used[name] += took
                spent[name].append(1e3 * took)
    found = {}
    for name, player in players.items():
        try:
            model = getattr(player, "model", None)
            size = (
                player.megabytes() if model is None else len(pickle.dumps(model)) / 1e6
            )
        except Exception:
            size = None
        found[name] = {
            "ms": float(np.median(spent[name])),
            "se": float(1.25 * np.std(spent[name]) / len(spent[name]) ** 0.5),
            "ms_cold": float(np.median(spent[name][::TURN])),
            "rounds": len(spent[name]),
            "mb": size,
        }
    return found


def long_run(updates: int, rounds: int = 8) -> dict[str, Any]:
    """Stream many rewards; compare with one solve, and the cost of early and late."""
    from tqdm import tqdm

    from braidbandit.bandit.posterior import Posterior
    from braidbandit.bandit.prior import PriorScales, parameter_groups

    rng = np.random.default_rng(0)
    names, arms, k = ["bias", "share:a", "share:b", "strands"], 12, 9
    Z = np.column_stack([np.ones(arms), rng.standard_normal((arms, 3)) / 3])
    scales = PriorScales(mean=0.5)
    groups = parameter_groups(names, k)
    posterior = Posterior(groups, scales, arms, 1)
    seen, columns = np.nonzero(groups >= 0)
    p = len(seen)
    gram, moment = np.zeros((p + arms, p + arms)), np.zeros(p + arms)
    block, ms = max(updates // rounds, 1), []
    for _ in tqdm(range(rounds), unit="block"):
        X = np.column_stack([np.ones(block), rng.standard_normal((block, k - 1))])
        chosen, r = rng.integers(arms, size=block), rng.random(block)
        start = time.perf_counter()
        for arm, x, value in zip(chosen.tolist(), X, r.tolist(), strict=True):
            posterior.update(arm, Z[arm], x, value)
        ms.append(1e3 * (time.perf_counter() - start) / block)
        own = np.eye(arms)[chosen]
        Phi = np.hstack([Z[chosen][:, seen] * X[:, columns], own])
        gram += Phi.T @ Phi
        moment += Phi.T @ (r - scales.mean)
    sd = np.append(
        np.sqrt(np.diag(Posterior(groups, scales).factor) ** 2),
        np.full(arms, scales.arm_intercept),
    )
    precision = np.diag(sd**-2.0) + gram / scales.noise**2
    covariance = np.linalg.inv(precision)
    mean = np.linalg.solve(precision, moment / scales.noise**2)
    mean[0] += scales.mean
    got = posterior.factor @ posterior.factor.T

    def off(one: Any, two: Any) -> float:
        return float(np.linalg.norm(one - two) / np.linalg.norm(two))

    return {
        "updates": block * rounds,
        "relative_error_mean": off(posterior.mean, mean[:p]),
        "relative_error_covariance": off(got, covariance[:p, :p]),
        "ms_first_block": ms[0],
        "ms_last_block": ms[-1],
    }


def long_forgetting(updates: int, gamma: float = 0.995) -> dict[str, Any]:
    """Stream rewards on contexts of rank 8 while forgetting; count the surprises."""
    from braidbandit.bandit.posterior import Posterior
    from braidbandit.bandit.prior import PriorScales, parameter_groups

    rng = np.random.default_rng(0)
    k, arms, every = 17, 4, 50
    basis = rng.standard_normal((8, k - 1)) / 3
    Z = np.column_stack([np.ones(arms), rng.standard_normal((arms, 2)) / 3])
    groups = parameter_groups(["bias", "share:a", "share:b"], k)
    posterior = Posterior(groups, PriorScales(mean=0.5), arms, 1)
    most = posterior.factor.diagonal() ** 2
    # The truth is drawn from the prior, so that intervals should hold.
    theta = posterior.mean + np.sqrt(most) * rng.standard_normal(len(most))
    alone = posterior.scales.arm_intercept * rng.standard_normal(arms)
    inside, ms = 0, []
    for t in range(updates):
        x = np.append(1.0, rng.standard_normal(8) @ basis)
        arm = int(rng.integers(arms))
        mean = np.outer(Z[arm], x)[groups >= 0] @ theta + alone[arm]
        r = float(mean + posterior.scales.noise * rng.standard_normal())
        start = time.perf_counter()
        surprise = posterior.update(arm, Z[arm], x, r)
        if (t + 1) % every == 0:
            posterior.forget(gamma**every)
        ms.append(1e3 * (time.perf_counter() - start))
        inside += abs(surprise) <= 1.959964
    variance = (posterior.factor**2).sum(axis=1)
    tenth = max(updates // 10, 1)
    return {
        "updates": updates,
        "finite": bool(np.isfinite(posterior.factor).all()),
        "largest_variance_over_prior": float((variance / most).max()),
        "within_95_percent_interval": inside / updates,
        "ms_first_tenth": float(np.mean(ms[:tenth])),
        "ms_last_tenth": float(np.mean(ms[-tenth:])),
    }


def show(found: dict[str, Any]) -> None:
    """Print one block per size, fastest first; in brackets with cold caches."""
    for size, rows in found["sizes"].items():
        print(f"\n{size}: milliseconds of one decision and one update")
        for name, row in sorted(rows.items(), key=lambda item: item[1]["ms"]):
            mb = "" if row["mb"] is None else f"{row['mb']:9.2f} MB"
            ms = f"{row['ms']:10.3f} +-{row['se']:7.3f} ({row['ms_cold']:8.3f})"
            print(f"  {name:<44}{ms}{mb}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=8.0, help="most per library")
    parser.add_argument("--long", type=int, metavar="UPDATES")
    parser.add_argument("--cache", default="~/.cache/braidbandit")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.long is not None and given.long < 1:
        parser.error(f"--long must be at least 1, received {given.long}")
    if given.long:
        both = {
            "keeping": long_run(given.long),
            "forgetting": long_forgetting(given.long),
        }
        print(json.dumps(both, indent=1))
        return
    if not given.inside:
        python = environment(Path(given.cache).expanduser())
        command = [str(python), __file__, *sys.argv[1:], "--inside"]
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = {**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(threads, "1")}
        raise SystemExit(subprocess.run(command, env=env, check=False).returncode)
    found = {
        "sizes": {
            f"d={width} A={arms}": measure(width, arms, given.rounds, given.seconds)
            for width, arms in SIZES
        }
    }
    if given.json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        show(found)


if __name__ == "__main__":
    main()
