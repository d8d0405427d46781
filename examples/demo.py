"""The whole loop on two small real models: choose, braid, measure, learn, explain.

    python examples/demo.py            # the first run builds everything: minutes
    python examples/demo.py            # later runs resume and learn on
    python examples/demo.py --quick    # a small version of the same

Two models are combined in every way of the catalogue, and an agent learns which
combination suits which task. The quality of a braid on a task is how well it predicts
the task's reference answer, in bits per byte, against one fixed yardstick: the model
YARDSTICK alone scores 1/2, half its bits score 1. Utility is quality minus the priced
compute. Everything is measured here; what was measured once in the folder is read the
next time, for the models are frozen and a score is a number.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import time
import warnings
from collections import Counter
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from braidbandit import Braid, Catalogue, MetaBraider, ModelCard
from braidbandit.recommender.objectives import quality_from_bits, utility
from braidbandit.tasks.packaged import calibration_texts, load_tasks, task_of

POOL = [
    {"model_name": "SmolLM2-135M-Instruct", "domain": "general", "role": "instruction"},
    {"model_name": "gemma-3-270m", "domain": "general", "role": "knowledge"},
]
YARDSTICK = "gemma-3-270m"
# Quality given up to go from the dearest arm to the cheapest. The best braids are one
# to three hundredths better than the best model alone, so a higher price buys nothing.
PRICE = 0.01
GAP = "\n"  # between a prompt and its answer, as in calibration


def main() -> None:
    options = read_options()
    prepare()
    started = time.perf_counter()
    agent = open_agent(options)
    calibrate(agent)
    scorer = Scorer(agent)
    train, test = load_tasks("train"), load_tasks("test")
    probes = per_type(train, 1 if options.quick else 2)
    test = per_type(test, 1 if options.quick else 5)
    warm_start(agent, scorer, probes)
    probe_ids = {task["id"] for task in probes}
    online = [task for task in train if task["id"] not in probe_ids]
    rounds = learn(agent, scorer, online, options)
    results = evaluate(agent, scorer, probes, test)
    picture = draw(agent, rounds, test[0], options.folder / "demo.png")
    explain(agent, [test[0], test[len(test) // 2], test[-1]])
    write_json(options.folder / "results.json", {**results, "pass": rounds[-1]["pass"]})
    minutes = (time.perf_counter() - started) / 60
    print(
        f"\nDone in {minutes:.1f} minutes. Picture: {picture}. Ledger: "
        f"{agent.ledger.counts()}. Run it again and it learns on from here."
    )
    agent.close()


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Learn which braid of two small language models suits which task.",
        epilog="A run that was killed continues where it was: no outcome is lost.",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("demo-output"),
        help="where everything is kept (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help="online rounds of one run, at most 112 (default: 42, quick: 14)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the exploring policy")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the two models (default: the faster on this machine, measured)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="14 rounds, 7 probes, 7 test tasks"
    )
    options = parser.parse_args()
    if options.rounds is None:
        options.rounds = 14 if options.quick else 42
    if not 1 <= options.rounds <= 112:
        parser.error(f"--rounds must lie in 1 to 112, received {options.rounds}")
    return options


def prepare() -> None:
    """Leave the screen to what the demo itself has to say, and go faster."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    from fusion.strands.machine import reuse_memory

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fusion").setLevel(logging.INFO)
    reuse_memory()


# ---- 1 and 2: the models and their braids ----


def open_agent(options: argparse.Namespace) -> MetaBraider:
    from fusion.strands.machine import dtype_of

    resumed = (options.folder / "ledger.sqlite").exists()
    print("Two small language models and one sentence encoder:")
    with redirect_stderr(io.StringIO()):  # a bar of transformers while it converts
        cards = [
            ModelCard.from_dict({**converted(model["model_name"]), **model})
            for model in POOL
        ]
    agent = MetaBraider(
        cards,
        catalogue=choose_braids(cards),
        folder=options.folder,
        calibration_texts=calibration_texts(per_domain=4 if options.quick else 26),
        dtype=str(dtype_of(options.dtype)).removeprefix("torch."),
        price=PRICE,
        random_state=options.seed,
    )
    for card in agent.catalogue.cards.values():
        millions = (card.parameters or 0) / 1e6
        print(
            f"  {card.name}: {millions:.0f} M weights, {card.layers} layers, "
            f"vocabulary {card.vocab_size} ({card.licence})"
        )
    print("  all-MiniLM-L6-v2: reads the tasks (Apache-2.0)")
    if resumed:
        counts = agent.ledger.counts()
        print(
            f"Resuming from {options.folder}: {counts['outcomes']} outcomes recorded."
        )
    return agent


def converted(name: str) -> dict[str, Any]:
    """Facts and source of a packaged model as transformers runs it.

    Also where llama.cpp is installed: fusers are trained sooner so.
    """
    from fusion import Pool

    strands = Pool(native=False)
    return {**strands.facts(name), "source": strands.folder(name)}


def choose_braids(cards: list[ModelCard]) -> Catalogue:
    """Twelve arms. The library's default has more; here each is scored many times."""
    everything = Catalogue.build(
        cards,
        shares=((0.75, 0.25),),
        layer_sets=("output", "final", "final+output"),
        strategies=("learned_weighted", "router"),
    )
    return Catalogue(
        cards,
        [
            braid
            for braid in everything
            if braid.strategy != "router" or braid.layer_set == "final+output"
        ],
    )


def calibrate(agent: MetaBraider) -> None:
    """Train every braid's fusers once; unfit braids are masked."""
    print(f"\nThe {len(agent.catalogue)} arms, bits per byte on held-out calibration")
    print("text before and after training (lower is better):")
    for braid in agent.catalogue:
        report = agent.calibrate(braid, progress=True)
        if report is None:
            print(f"  {braid.label():<75} nothing to train")
            continue
        note = "" if report.fit else "  unfit, masked"
        print(
            f"  {braid.label():<75} {report.bits_before:.3f} -> "
            f"{report.bits_after:.3f}{note}"
        )


# ---- measuring ----


class Scorer:
    """Bits per byte of a braid on a task; measured once, then read from the folder."""

    def __init__(self, agent: MetaBraider, yardstick: str = YARDSTICK) -> None:
        self.agent = agent
        self.yardstick = Braid(yardstick)
        self.file = agent.folder / "scores.jsonl"
        self.known: dict[tuple[str, str], float] = {}
        self._prints: dict[str, str] = {}
        self._task = ""
        for line in self.file.read_text().splitlines() if self.file.exists() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that was killed
                continue
            self.known[row["key"], row["task"]] = row["bits"]

    def bits(self, braid: Braid, task: dict[str, Any]) -> float:
        from fusion import bits_per_byte
        from fusion.judging.scoring import StateCache

        key = self._key(braid)
        if (key, task["id"]) not in self.known:
            if self._task != task["id"]:  # strands' states serve one task's arms
                self._task, self._states = task["id"], StateCache()
            model = self.agent.create_braided_model(braid)
            prompt = task["prompt"] + GAP
            bits = bits_per_byte(model, prompt, task["reference"], states=self._states)
            row = {"key": key, "arm": braid.label(), "task": task["id"], "bits": bits}
            with self.file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.known[key, task["id"]] = bits
        return self.known[key, task["id"]]

    def quality(self, braid: Braid, task: dict[str, Any]) -> float:
        reference = self.bits(self.yardstick, task)
        return quality_from_bits(self.bits(braid, task), reference)

    def utility(self, braid: Braid, task: dict[str, Any]) -> float:
        catalogue = self.agent.catalogue
        cost = catalogue.relative_costs()[catalogue.index(braid.id)]
        price = self.agent.recommender.price
        return utility(self.quality(braid, task), float(cost), price)

    def _key(self, braid: Braid) -> str:
        """The braid and its trained weights: new weights are measured anew."""
        if braid.id not in self._prints:
            digest = hashlib.sha256(braid.id.encode())
            model = self.agent.create_braided_model(braid)
            for name, weight in model.named_parameters():
                digest.update(name.encode() + weight.detach().float().numpy().tobytes())
            self._prints[braid.id] = digest.hexdigest()[:16]
        return self._prints[braid.id]


def fit_braids(agent: MetaBraider) -> list[Braid]:
    return [b for b in agent.catalogue if b.id not in agent.catalogue.unfit]


def singles(agent: MetaBraider) -> list[Braid]:
    return [braid for braid in agent.catalogue if braid.is_single]


def per_type(tasks: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """The first n tasks of each type."""
    seen: Counter[str] = Counter()
    kept = []
    for task in tasks:
        seen[task["type"]] += 1
        if seen[task["type"]] <= n:
            kept.append(task)
    return kept


# ---- 3: a few tasks scored on every arm ----


def warm_start(agent: MetaBraider, scorer: Scorer, probes: list[Any]) -> None:
    braids = fit_braids(agent)
    print(f"\nWarm start: {len(probes)} probe tasks scored on {len(braids)} arms.")
    table = np.array(
        [
            [scorer.quality(braid, task) for braid in braids]
            for task in tqdm(probes, desc="probing", leave=False)
        ]
    )
    if agent.recommender.n_updates_ == 0:
        ids = [braid.id for braid in braids]
        agent.warm_start([task_of(t) for t in probes], ids, table)


# ---- 4: online learning ----


def learn(
    agent: MetaBraider, scorer: Scorer, tasks: list[Any], options: Any
) -> list[dict[str, Any]]:
    """Run what is left of this pass over the tasks; return every round ever run."""
    from braidbandit.tasks.encoder import hash_as_given, task_hash

    # A folder of an earlier version has the other hash.
    by_hash = {
        hashed(task_of(task)): task
        for task in load_tasks("train")
        for hashed in (hash_as_given, task_hash)
    }
    rounds = []
    for _, decision, outcome in agent.ledger.pairs():
        kind, _, number = outcome.source.partition(" ")
        if kind == "demo":
            task = by_hash[decision.task_hash]
            rounds.append(compare(agent, scorer, task, decision, int(number), options))
    number = rounds[-1]["pass"] if rounds else 1
    left = to_do(rounds, tasks, number, options)
    if not left and evaluated(agent) >= number:
        number += 1
        left = to_do(rounds, tasks, number, options)
        print(
            f"\nPass {number - 1} is learnt and evaluated. A fresh pass on top of it:"
        )
    print(
        f"\nOnline: pass {number}, {len(left)} tasks to go. Utility is quality minus "
        "priced compute."
    )
    for task in tqdm(left, desc="learning", leave=False):
        decision = agent.forward(task_of(task))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unfit braids were reported above
            agent.create_braided_model(decision)
        row = compare(agent, scorer, task, decision, number, options)
        quality = scorer.quality(decision.braid, task)
        agent.learn_from_feedback(
            task_of(task), decision, quality, source=f"demo {number}"
        )
        rounds.append(row)
        if len(rounds) % 20 == 0:
            tqdm.write(f"  after {len(rounds):3d} rounds: {progress(rounds)}")
    print(f"  all {len(rounds)} rounds:     {progress(rounds)}")
    return rounds


def to_do(
    rounds: list[dict[str, Any]], tasks: list[Any], number: int, options: Any
) -> list[Any]:
    """The tasks of a pass that are not in the ledger yet, in the pass's order."""
    done = {row["task"] for row in rounds if row["pass"] == number}
    order = np.random.default_rng((options.seed, number)).permutation(len(tasks))
    return [tasks[i] for i in order[: options.rounds] if tasks[i]["id"] not in done]


def compare(
    agent: MetaBraider,
    scorer: Scorer,
    task: dict[str, Any],
    decision: Any,
    number: int,
    options: Any,
) -> dict[str, Any]:
    """Utility of the decision, of a random arm and of each model alone, on one task."""
    seed = int(hashlib.sha256(task["id"].encode()).hexdigest()[:8], 16)
    rng = np.random.default_rng((options.seed, number, seed))
    arms = fit_braids(agent)
    return {
        "pass": number,
        "task": task["id"],
        "arm": decision.braid.label(),
        "policy": scorer.utility(decision.braid, task),
        "random": scorer.utility(arms[rng.integers(len(arms))], task),
        "singles": {b.label(): scorer.utility(b, task) for b in singles(agent)},
    }


def best_single(rounds: list[dict[str, Any]]) -> str:
    names = list(rounds[0]["singles"])
    return max(names, key=lambda n: float(np.mean([r["singles"][n] for r in rounds])))


def progress(rounds: list[dict[str, Any]]) -> str:
    best = best_single(rounds)
    return (
        f"policy {np.mean([r['policy'] for r in rounds]):.4f}, "
        f"random arm {np.mean([r['random'] for r in rounds]):.4f}, "
        f"{best} {np.mean([r['singles'][best] for r in rounds]):.4f}"
    )


def evaluated(agent: MetaBraider) -> int:
    """The last pass that was evaluated."""
    file = agent.folder / "results.json"
    return int(json.loads(file.read_text())["pass"]) if file.exists() else 0


# ---- 5: what it is worth on tasks nobody learnt from ----


def evaluate(
    agent: MetaBraider, scorer: Scorer, probes: list[Any], test: list[Any]
) -> dict[str, Any]:
    braids = fit_braids(agent)
    column = {braid.id: i for i, braid in enumerate(braids)}
    print(f"\nEvaluation: {len(test)} test tasks, every arm scored once on each.")
    table = np.array(
        [
            [scorer.utility(braid, task) for braid in braids]
            for task in tqdm(test, desc="evaluating", leave=False)
        ]
    )
    bits = np.array([[scorer.bits(b, task) for b in braids] for task in test])
    trained = [np.mean([scorer.utility(b, t) for t in probes]) for b in braids]
    picked = [column[i] for i in agent.recommender.predict([task_of(t) for t in test])]
    fixed = int(np.argmax(trained))
    everyone = np.arange(len(test))
    rows = {
        "learned policy": (table[everyone, picked], bits[everyone, picked]),
        "best fixed arm of the probes": (table[:, fixed], bits[:, fixed]),
        "random arm (mean of all arms)": (table.mean(1), bits.mean(1)),
        "oracle (best arm of each task)": (
            table.max(1),
            bits[everyone, table.argmax(1)],
        ),
    }
    for braid in (b for b in braids if b.is_single or b.is_control):
        i = column[braid.id]
        rows[braid.label()] = (table[:, i], bits[:, i])
    policy = rows["learned policy"][0]
    width = max(map(len, rows))
    print(f"  {'':<{width}}  bits/byte  utility +- se     policy minus this +- se")
    for name, (value, bit) in rows.items():
        gain = policy - value
        print(
            f"  {name:<{width}}  {bit.mean():9.3f}  {value.mean():.4f} +- "
            f"{error(value):.4f}  {gain.mean():+.4f} +- {error(gain):.4f}"
        )
    print(f"  The best fixed arm of the probes is {braids[fixed].label()}.")
    return {
        name: {
            "bits_per_byte": float(bit.mean()),
            "utility": float(value.mean()),
            "standard_error": float(error(value)),
            "policy_minus_this": float((policy - value).mean()),
            "policy_minus_this_error": float(error(policy - value)),
        }
        for name, (value, bit) in rows.items()
    }


def error(values: Any) -> float:
    """Standard error of the mean."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


# ---- 6 and 7: picture and words ----


def draw(
    agent: MetaBraider, rounds: list[dict[str, Any]], task: Any, file: Path
) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(17, 5), width_ratios=(1, 1, 1.05), layout="constrained"
    )
    draw_learning(left, rounds)
    draw_arms(middle, rounds)
    draw_explanation(right, agent, task)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file


def draw_learning(axes: Any, rounds: list[dict[str, Any]]) -> None:
    best = best_single(rounds)
    lines = {
        "learned policy": ([r["policy"] for r in rounds], "#1b6ca8", "-"),
        f"best single model\n({best})": (
            [r["singles"][best] for r in rounds],
            "#d9822b",
            "--",
        ),
        "random arm": ([r["random"] for r in rounds], "#8a8a8a", ":"),
    }
    steps = np.arange(1, len(rounds) + 1)
    for label, (values, colour, style) in lines.items():
        mean = np.cumsum(values) / steps
        axes.plot(steps, mean, style, color=colour, label=label, linewidth=2)
    axes.set(title="Learning", xlabel="task", ylabel="utility, running mean")
    # The first few means are mostly noise and would set the scale.
    late = [np.cumsum(v) / steps for v, _, _ in lines.values()]
    shown = np.concatenate([m[min(4, len(m) - 1) :] for m in late])
    pad = 0.15 * max(float(np.ptp(shown)), 0.01)
    axes.set_ylim(shown.min() - pad, shown.max() + pad)
    axes.legend(frameon=False, fontsize=9)


def draw_arms(axes: Any, rounds: list[dict[str, Any]], most: int = 6) -> None:
    import matplotlib.pyplot as plt

    window = max(min(20, len(rounds) // 3), 1)
    common = [arm for arm, _ in Counter(r["arm"] for r in rounds).most_common(most)]
    kinds = [*common, "other arms"]
    chosen = [r["arm"] if r["arm"] in common else "other arms" for r in rounds]
    shares = [
        [
            chosen[max(0, t - window + 1) : t + 1].count(kind) / min(t + 1, window)
            for t in range(len(rounds))
        ]
        for kind in kinds
    ]
    colours = [plt.get_cmap("tab10")(i) for i in range(most)]
    axes.stackplot(
        np.arange(1, len(rounds) + 1),
        shares,
        labels=[short(kind) for kind in kinds],
        colors=[*colours[: len(common)], (0.85, 0.85, 0.85)],
        alpha=0.85,
    )
    axes.set(
        title=f"What it chose (share of the last {window} tasks)",
        xlabel="task",
        ylim=(0, 1),
        xlim=(1, max(len(rounds), 2)),
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8, ncol=2)


def draw_explanation(axes: Any, agent: MetaBraider, task: Any) -> None:
    explanation = agent.explain(task_of(task))
    rows = explanation.top(6)[::-1]
    labels = [short(row.label) for row in rows]
    mean = np.array([row.mean for row in rows])
    exploring = np.array([row.exploration for row in rows])
    cost = np.array([-row.cost for row in rows])
    axes.barh(labels, mean, color="#1b6ca8", label="expected quality")
    axes.barh(labels, exploring, left=mean, color="#7fb7e0", label="exploration")
    # The cost is taken off the end, and the mark is what is left: the score.
    end = mean + exploring
    axes.barh(
        labels,
        -cost,
        left=end,
        color="none",
        edgecolor="#b3322b",
        hatch="////",
        label="cost (taken off)",
    )
    axes.plot(end - cost, labels, "k|", markersize=18, markeredgewidth=2, label="score")
    low, high = (end - cost).min(), max(mean.max(), end.max())
    axes.set_xlim(max(0.0, low - 0.6 * (high - low) - 0.02), high + 0.02)
    axes.set(title=f"Why: a {task['type']} task", xlabel="score")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, -0.14), fontsize=8, ncol=4)


def short(label: str) -> str:
    """A label that fits beside a bar, on two lines."""
    label = label.replace("SmolLM2-135M-Instruct", "SmolLM2")
    label = label.replace("gemma-3-270m", "Gemma-3").replace("learned_", "")
    label = label.replace("after the final norm and at the output", "final + output")
    label = label.replace("after the final norm", "final").replace("at the ", "")
    return label.replace(", ", "\n")


def explain(agent: MetaBraider, tasks: list[Any]) -> None:
    print("\nThree explanations:")
    for number, task in enumerate(tasks):
        print(f"\n[{task['type']}] {task['prompt'][:100]}")
        print(agent.explain(task_of(task)))
        if number == 0:
            best = agent.recommender.predict([task_of(task)])[0]
            model = agent.create_braided_model(str(best))
            text = model.generate(
                task["prompt"] + GAP,
                max_new_tokens=60,
                do_sample=False,
                repetition_penalty=1.2,
            )
            print(f"\nWritten by {agent.catalogue[best].label()}:\n  {text.strip()}")


def write_json(file: Path, data: dict[str, Any]) -> None:
    beside = file.with_suffix(".part")
    beside.write_text(json.dumps(data, indent=1))
    beside.replace(file)


if __name__ == "__main__":
    main()
