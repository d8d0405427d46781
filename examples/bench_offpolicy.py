"""Off-policy estimates beside the truth, on a table that knows every arm's reward.

    python examples/bench_offpolicy.py --data DIR --table llmrouter9 --runs 200 --json

In every run four policies write a log of prompts drawn from the table, three of them
learning as they go. Two targets are fixed beforehand on 40 other prompts: the best
single arm there, and the best arm for each prompt by ridge regression. Each estimate
is compared with what the target earns on the whole table. ``refused`` counts logs that
cannot answer; they count neither as covered nor in the errors.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from braidbandit import (
    EpsilonGreedy,
    Greedy,
    LinUCB,
    Log,
    ThompsonSampling,
    Uniform,
    evaluate,
)
from braidbandit.bandit.online_posterior import OnlinePosterior
from braidbandit.evaluation.replay import read_table
from braidbandit.evaluation.reward_model import predict_rewards

LOGGERS = {
    "uniform": Uniform(),
    "epsilon-greedy 0.2": EpsilonGreedy(floor=0.2),
    "Thompson, floor 0.1": ThompsonSampling(floor=0.1),
    "LinUCB, floor 0.1": LinUCB(floor=0.1),
}
PROBES = 40
COMPONENTS = 8


def write_log(policy: Any, X: Any, rewards: Any, seed: int) -> Log:
    """Let a policy choose for every row in turn, and learn what it earned."""
    n, n_arms = rewards.shape
    rng, z = np.random.default_rng(seed), np.ones(1)
    online = OnlinePosterior.start(["bias"], X.shape[1] + 1, n_arms)
    cost, eligible = np.zeros(n_arms), np.ones(n_arms, dtype=bool)
    arms, propensities = np.zeros(n, dtype=int), np.zeros(n)
    for t in range(n):
        x = np.append(1.0, X[t])
        belief = online.posterior.belief(np.ones((n_arms, 1)), x)
        choice = policy.select(belief, cost, eligible, rng)
        arms[t], propensities[t] = choice.arm, choice.propensity
        online.update(choice.arm, z, x, float(rewards[t, choice.arm]))
    earned = rewards[np.arange(n), arms]
    return Log(X, arms, earned, propensities, range(n_arms))


def project(embeddings: Any) -> Any:
    """Standardised principal components of the prompts, which are unlabelled."""
    centred = embeddings - embeddings.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    X = centred @ vectors[:, -COMPONENTS:]
    return X / X.std(axis=0)


def targets_of(X: Any, rewards: Any) -> dict[str, Any]:
    """Arms of each prompt of a table by what 40 prompts with all rewards say."""
    n, n_arms = rewards.shape
    probed = np.repeat(X[:PROBES], n_arms, axis=0)
    arms = np.tile(np.arange(n_arms), PROBES)
    scores = predict_rewards(probed, arms, rewards[:PROBES].ravel(), X, n_arms)
    best = int(rewards[:PROBES].mean(axis=0).argmax())
    return {"best single": np.full(n, best), "ridge": scores.argmax(axis=1)}


def measure(table: Any, runs: int, rounds: int) -> list[dict[str, Any]]:
    """Return one record per log, target, run and estimator."""
    X, found = project(table.embeddings), []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(X))
        shown, rewards = X[order], table.rewards[order]
        targets = targets_of(shown, rewards)
        # With replacement: the table is the population the prompts come from.
        rows = rng.integers(PROBES, len(X), size=rounds)
        for logger, policy in LOGGERS.items():
            log = write_log(policy, shown[rows], rewards[rows], seed)
            for name, arms in targets.items():
                truth = rewards[np.arange(len(X)), arms][PROBES:].mean()
                case = {"log": logger, "target": name, "truth": float(truth)}
                try:
                    estimates = evaluate(arms[rows], log, random_state=seed)
                except ValueError as reason:
                    found.append({**case, "refused": str(reason)})
                    continue
                found.extend(
                    {**case, "refused": "", **vars(estimate)} for estimate in estimates
                )
    return found


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return root mean squared error and coverage of every case and estimator."""
    cases = []
    for log, target in dict.fromkeys((row["log"], row["target"]) for row in found):
        case = [r for r in found if (r["log"], r["target"]) == (log, target)]
        answered = [row for row in case if not row["refused"]]
        record: dict[str, Any] = {
            "log": log,
            "target": target,
            "refused": len(case) - len(answered),
            "error": {},
            "coverage": {},
            "width": {},
        }
        for name in dict.fromkeys(row["estimator"] for row in answered):
            rows = [row for row in answered if row["estimator"] == name]
            off = np.array([row["value"] - row["truth"] for row in rows])
            inside = [row["low"] <= row["truth"] <= row["high"] for row in rows]
            record["error"][name] = float(np.sqrt((off**2).mean()))
            record["coverage"][name] = float(np.mean(inside))
            record["width"][name] = float(np.mean([r["high"] - r["low"] for r in rows]))
            if name == "DR":
                record["effective_n"] = float(
                    np.median([row["effective_n"] for row in rows])
                )
                always = [
                    row["sequence_low"] <= row["truth"] <= row["sequence_high"]
                    for row in rows
                ]
                wide = [row["sequence_high"] - row["sequence_low"] for row in rows]
                record["sequence_coverage"] = float(np.mean(always))
                record["sequence_width"] = float(np.mean(wide))
        cases.append(record)
    return cases


def deterministic_is_refused(table: Any, rounds: int) -> bool:
    """Whether a log without exploration is refused for another policy."""
    X = project(table.embeddings)[:rounds]
    log = write_log(Greedy(), X, table.rewards[:rounds], 0)
    certain = Log(X, log.columns, log.rewards, np.ones(len(X)), log.arm_ids)
    try:
        evaluate(int((log.columns[0] + 1) % len(log.arm_ids)), certain)
    except ValueError:
        return True
    return False


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data", help="folder of the tables")
    parser.add_argument("--table", default="llmrouter9")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1000, help="rows of each log")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.runs < 1 or options.rounds < 20:
        parser.error("--runs must be at least 1 and --rounds at least 20")
    start = time.perf_counter()
    path = Path(options.data) / f"{options.table}.npz"
    if not path.is_file():
        parser.error(f"no table {path}; --data is its folder, --table its name")
    table = read_table(path)
    cases = summary(measure(table, options.runs, options.rounds))
    report = {
        "table": options.table,
        "runs": options.runs,
        "rounds": options.rounds,
        "least_coverage": min(c["coverage"].get("DR", 0.0) for c in cases),
        "DR_at_most_IPS": all(
            c["error"] and c["error"]["DR"] <= c["error"]["IPS"] for c in cases
        ),
        "deterministic_refused": deterministic_is_refused(table, options.rounds),
        "seconds": round(time.perf_counter() - start, 1),
        "cases": cases,
    }
    if options.json:
        print(json.dumps(report))
        return
    names = list(max((c["error"] for c in cases), key=len))
    head = " ".join(f"{name:>11}" for name in names)
    print(f"root mean squared error\n{'log':20} {'target':12} {head}  DR covers")
    for c in cases:
        errors = " ".join(f"{c['error'].get(n, np.nan):11.4f}" for n in names)
        covers = c["coverage"].get("DR", np.nan)
        print(
            f"{c['log']:20} {c['target']:12} {errors}  {covers:.3f} of "
            f"{options.runs - c['refused']}, refused {c['refused']}; at any time "
            f"{c.get('sequence_coverage', np.nan):.3f}"
        )
    print({key: value for key, value in report.items() if key != "cases"})


if __name__ == "__main__":
    main()
