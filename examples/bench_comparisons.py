"""Learn from comparisons of two answers beside learning from scores, simulated.

    python examples/bench_comparisons.py --worlds 200 --scores 200 --json

Each world has a quality of its own for every arm and task. One recommender is given a
score of each answer; another, for as many tasks as --pairs says, two answers to choose
between; both see the same noise. Regret is that of their best arm on fresh tasks,
against the truly best one. ``ratio`` is the regret of pairs over that of scores, with a
bootstrap interval over worlds; ``coverage`` is how often the 95 % interval of a
difference of two arms holds the true one; ``taken back`` is how far the posterior is
off, after comparisons were taken back, from one that never had them.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from braidbandit import BraidRecommender, Catalogue, ModelCard, TaskEncoder
from braidbandit.bandit.prior import GROUPS, PriorScales

Array = NDArray[np.float64]

WIDTH, FRESH = 8, 300
TRUTH = PriorScales(
    mean=0.5,
    intercept=0.04,
    task=0.02,
    braid=0.05,
    interaction=0.03,
    knob=0.02,
    knob_slope=0.01,
    pair=0.02,
    gain=0.02,
    arm_intercept=0.015,
    arm_slope=0.015,
    noise=0.1,
)


class World:
    """A true quality of every arm on every task, drawn from a prior."""

    def __init__(self, seed: int, given: argparse.Namespace) -> None:
        self.rng = np.random.default_rng(seed)
        self.given = given
        self.agent = self.learner(seed)
        model = self.agent.start().arm_model_
        features = self.agent.encoder_.features(self.tasks(1))
        model.require(features.shape[1])
        posterior = model.posterior
        scales = np.array([getattr(TRUTH, name) for name in GROUPS])
        shape = posterior.groups.shape
        self.W = scales[posterior.groups] * self.rng.standard_normal(shape)
        self.W[posterior.groups < 0] = 0.0
        self.W[0, 0] += TRUTH.mean
        width = posterior.own_width
        sd = scales[posterior.own_groups]
        self.own = sd * self.rng.standard_normal((posterior.n_arms, width))

    def learner(self, seed: int) -> BraidRecommender:
        """Return a recommender that has learnt nothing."""
        cards = [
            ModelCard(name, parameters=10**9, layers=24, width=64, vocab_size=1000)
            for name in ("general", "coder", "writer")
        ]
        encoder = TaskEncoder(embedder=_given, n_components=WIDTH - 2, types=())
        return BraidRecommender(
            Catalogue.build(
                cards,
                layer_sets=("output",),
                strategies=("learned_weighted",),
                shares=((0.7, 0.3),),
                max_strands=2,
            ),
            encoder,
            price=0.0,
            prior=TRUTH if self.given.prior == "true" else None,
            random_state=seed,
        )

    def tasks(self, n: int) -> list[str]:
        """Return n new tasks: texts that are numbers."""
        rows = self.rng.standard_normal((n, WIDTH))
        return [" ".join(map(str, row.round(4))) for row in rows]

    def quality(self, agent: BraidRecommender, tasks: list[str]) -> Array:
        """Return the true quality of every arm on every task, shape (n, A)."""
        X = agent.encoder_.features(tasks)
        own = X[:, : self.own.shape[1]] @ self.own.T
        return np.asarray(X @ self.W.T @ agent.Z_.T + own)

    def seen(self, quality: Array) -> Array:
        """Return what qualities on one task look like, how hard it is included."""
        noise = TRUTH.noise * self.rng.standard_normal(len(quality))
        return quality + noise + self.given.hard * self.rng.standard_normal()


def _given(texts: list[str]) -> Array:
    """Return the embedding that a text spells, of length 1 as usual."""
    rows = np.array([[float(word) for word in text.split()] for text in texts])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def learn_scores(world: World, agent: BraidRecommender, n: int) -> None:
    """Recommend, and learn the score of the answer."""
    for task in world.tasks(n):
        decision = agent.recommend(task)
        quality = world.quality(agent, [task])[0]
        row = agent.arm_ids_.index(decision.braid.id)
        agent.update(decision, float(np.clip(world.seen(quality)[row], 0.0, 1.0)))


def learn_pairs(world: World, agent: BraidRecommender, n: int) -> list[Any]:
    """Recommend twice, and learn which of the two answers looks better."""
    compared = []
    for task in world.tasks(n):
        one = agent.recommend(task)
        other = agent.recommend(task, excluded=[one.braid.id])
        seen = world.seen(world.quality(agent, [task])[0])
        rows = [agent.arm_ids_.index(d.braid.id) for d in (one, other)]
        better, worse = (one, other) if seen[rows[0]] >= seen[rows[1]] else (other, one)
        agent.prefer(better, worse)
        compared.append((better, worse))
    return compared


def judged(world: World, agent: BraidRecommender) -> tuple[float, float]:
    """Return the regret on fresh tasks, and the coverage of differences."""
    tasks = world.tasks(FRESH)
    truth, model = world.quality(agent, tasks), agent.arm_model_
    X = agent.encoder_.features(tasks)
    best = model.means(X).argmax(axis=1)
    regret = truth.max(axis=1) - truth[np.arange(FRESH), best]
    held, Z = [], agent.Z_
    for x, quality in zip(X[:30], truth, strict=False):
        for arm in range(1, len(Z)):
            mean, variance = model.posterior.difference((0, arm), (Z[0], Z[arm]), x)
            held.append(abs(quality[0] - quality[arm] - mean) < 1.96 * variance**0.5)
    return float(regret.mean()), float(np.mean(held))


def taken_back(world: World, seed: int) -> float:
    """Return the largest error of a belief after every second pair was taken back."""
    one, other = world.learner(seed), world.learner(seed)
    pairs = learn_pairs(world, one, 40)
    records = list(one.arm_model_.log.compared.values())
    other.start().arm_model_.require(world.W.shape[1])
    for at, (better, worse) in enumerate(pairs):
        if at % 2:
            one.retract_comparison(better, worse)
            continue
        record = records[at]
        rows = [one.arm_ids_.index(d.braid.id) for d in (better, worse)]
        Z = other.Z_
        other.arm_model_.posterior.compare(
            (rows[0], rows[1]),
            (Z[rows[0]], Z[rows[1]]),
            np.array(record.x),
            record.value,
            record.applied,
        )
    x = one.encoder_.features(world.tasks(1))[0]
    beliefs = [a.arm_model_.posterior.belief(a.Z_, x) for a in (one, other)]
    return float(
        max(
            np.abs(beliefs[0].mean - beliefs[1].mean).max(),
            np.abs(beliefs[0].sd - beliefs[1].sd).max(),
        )
    )


def interval(pairs: Array, scores: Array) -> list[float]:
    """Return the 95 % interval of the ratio of two means, over worlds."""
    rng = np.random.default_rng(0)
    at = rng.integers(len(pairs), size=(4000, len(pairs)))
    ratios = pairs[at].mean(axis=1) / scores[at].mean(axis=1)
    return [float(q) for q in np.quantile(ratios, [0.025, 0.975])]


def main() -> None:
    """Run the simulation and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--scores", type=int, default=200)
    parser.add_argument("--pairs", type=float, default=1.5, help="pairs for a score")
    parser.add_argument(
        "--hard", type=float, default=0.0, help="deviation of how hard tasks are"
    )
    parser.add_argument(
        "--prior",
        choices=("true", "default"),
        default="true",
        help="scales that recommenders begin with: those of the worlds, or the usual",
    )
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if min(given.worlds, given.scores) < 1 or given.pairs <= 0:
        parser.error(f"--worlds, --scores and --pairs are above 0: {given}")
    report = simulate(given)
    if given.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:16}  {value}")


def simulate(given: argparse.Namespace) -> dict[str, Any]:
    """Return the mean regrets and coverages over worlds, and their ratio."""
    found: dict[str, list[float]] = {}
    for seed in tqdm(range(given.worlds), disable=None):
        world = World(seed, given)
        scores, pairs = world.learner(seed), world.learner(seed)
        learn_scores(world, scores, given.scores)
        learn_pairs(world, pairs, round(given.pairs * given.scores))
        for name, agent in (("scores", scores), ("pairs", pairs)):
            regret, coverage = judged(world, agent)
            found.setdefault(f"{name} regret", []).append(regret)
            found.setdefault(f"{name} coverage", []).append(coverage)
    regrets = [np.array(found[f"{name} regret"]) for name in ("pairs", "scores")]
    return {
        "arms": len(World(0, given).agent.arm_ids_),
        "worlds": given.worlds,
        **{name: float(np.mean(values)) for name, values in found.items()},
        "ratio": float(regrets[0].mean() / regrets[1].mean()),
        "interval": interval(*regrets),
        "taken back": taken_back(World(0, given), 0),
    }


if __name__ == "__main__":
    main()
