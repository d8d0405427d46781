"""Three specialists, made here, and what choosing among them is worth.

    python examples/demo_specialists.py      # the first run trains all: minutes
    python examples/demo_specialists.py --quick

One small model is trained on three kinds of text that every machine has (Python, C++,
manuals of functions; see specialist_texts.py), each by an adapter of its own. The base,
the specialists, and braids of them are the arms; nobody tells the agent of which kind a
text is. Quality is bits per byte of a text's second part against the base's: the base
scores 1/2, half its bits 1. On texts of files that nobody trained on or learnt from,
the learned choice is put beside every fixed choice, within a low compute budget (one
model) and a high one (braids too). What was done is kept, and a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from demo import Scorer, converted, error, fit_braids, prepare, write_json
from specialist_texts import specialist_texts
from tqdm import tqdm

from braidbandit import Braid, Catalogue, MetaBraider, ModelCard

BASE = "SmolLM2-135M-Instruct"  # Apache-2.0
KINDS = ("python", "manual", "c++")
BUDGETS = {"low": 0.2, "high": 1.0}  # highest relative cost; low is one model
STEPS, RATE = 32, 1e-3  # of training an adapter


def main() -> None:
    options = read_options()
    prepare()
    started = time.perf_counter()
    texts = kept_texts(options)
    base = converted(BASE)
    train_adapters(texts, base["source"], options)
    agent = open_agent(texts, base, options)
    calibrate(agent)
    scorer = Scorer(agent, BASE)
    warm_start(agent, scorer, part_of(texts, "probe"))
    learn(agent, scorer, part_of(texts, "online"), options)
    results = evaluate(agent, scorer, part_of(texts, "probe"), part_of(texts, "test"))
    write_json(options.folder / "results.json", results)
    picture = draw(results, options.folder / "specialists.png")
    minutes = (time.perf_counter() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. Picture: {picture}.")
    agent.close()


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train three specialists on a CPU, and learn which one for what.",
        epilog="A run that was stopped goes on where it was.",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("demo-specialists"),
        help="where everything is kept (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the exploring policy")
    parser.add_argument(
        "--quick", action="store_true", help="few texts and steps: a trial, no result"
    )
    return parser.parse_args()


# ---- 1: texts and specialists ----


def kept_texts(options: argparse.Namespace) -> list[dict[str, str]]:
    """Read the texts of this folder; the first time, find them."""
    file = options.folder / "texts.json"
    if not file.exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        texts = specialist_texts()
        if options.quick:
            texts = [t for _, t in _first_of_each(texts, 4)]
        write_json(file, texts)
    return json.loads(file.read_text())


def _first_of_each(texts: list[dict[str, str]], n: int) -> list[tuple[int, Any]]:
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for text in texts:
        key = (text["kind"], text["part"])
        seen[key] += 1
        if seen[key] <= (8 * n if text["part"] == "adapter" else n):
            kept.append((seen[key], text))
    return kept


def part_of(texts: list[dict[str, str]], part: str) -> list[dict[str, str]]:
    """The texts of a part, kinds in turn."""
    return [
        text
        for _, text in sorted(
            _first_of_each([t for t in texts if t["part"] == part], len(texts)),
            key=lambda numbered: numbered[0],
        )
    ]


def train_adapters(
    texts: list[dict[str, str]], base: str, options: argparse.Namespace
) -> None:
    for kind in KINDS:
        out = options.folder / "adapters" / kind
        if (out / "adapter_model.safetensors").exists():
            continue
        out.mkdir(parents=True, exist_ok=True)
        file = out / "texts.jsonl"
        rows = [t for t in texts if (t["kind"], t["part"]) == (kind, "adapter")]
        lines = [json.dumps({"text": f"{t['prompt']}\n{t['reference']}"}) for t in rows]
        file.write_text("\n".join(lines))
        print(f"\nAn adapter for {kind}, {len(rows)} texts:", flush=True)
        script = Path(__file__).with_name("train_adapter.py")
        steps = 4 if options.quick else STEPS
        told = ["--out", out, "--steps", steps, "--rate", RATE, "--held-out", 0.05]
        command = [sys.executable, script, file, "--base", base, *told]
        subprocess.run([str(part) for part in command], check=True)


# ---- 2: arms ----


def open_agent(
    texts: list[dict[str, str]], base: dict[str, Any], options: argparse.Namespace
) -> MetaBraider:
    adapters = options.folder / "adapters"
    pool = [{"model_name": BASE, "domain": "general"}]
    pool += [
        {"model_name": kind, "domain": kind, "adapter": str(adapters / kind)}
        for kind in KINDS
    ]
    cards = [ModelCard.from_dict({**base, **model}) for model in pool]
    return MetaBraider(
        cards,
        catalogue=Catalogue(cards, arms_of_pool()),
        folder=options.folder / "agent",
        calibration_texts=[
            {"domain": t["kind"], "prompt": t["prompt"], "reference": t["reference"]}
            for t in part_of(texts, "calibration")
        ],
        price=0.0,  # compute is limited by the budget
        random_state=options.seed,
    )


def arms_of_pool() -> list[Braid]:
    """Each model as it is and calibrated, every two specialists, and all of them."""
    places: dict[str, Any] = {
        "fusion_layers": ("final", "output"),
        "strategy": "router",
    }
    names = (BASE, *KINDS)
    first, second, third = KINDS
    pairs = ((first, second), (second, third), (third, first))
    return [
        *(Braid(name) for name in names),
        *(
            Braid(name, fusion_layers=("final",), strategy="learned_weighted")
            for name in names
        ),
        *(Braid(one, (two,), (0.5, 0.5), **places) for one, two in pairs),
        Braid(first, (second, third), (0.4, 0.3, 0.3), **places),
    ]


def calibrate(agent: MetaBraider) -> None:
    print(f"\nThe {len(agent.catalogue)} arms, bits per byte on held-out calibration")
    print("text before and after training:")
    for braid in agent.catalogue:
        report = agent.calibrate(braid, progress=True)
        if report is not None:
            change = f"{report.bits_before:.3f} -> {report.bits_after:.3f}"
            note = "" if report.fit else "  unfit, masked"
            print(f"  {braid.label():<75} {change}{note}")


# ---- 3: learning ----


def warm_start(agent: MetaBraider, scorer: Scorer, probes: list[Any]) -> None:
    braids = fit_braids(agent)
    print(f"\nWarm start: {len(probes)} texts scored on {len(braids)} arms.")
    table = scores_of(scorer, braids, probes, "probing")
    if agent.recommender.n_updates_ == 0:
        ids = [braid.id for braid in braids]
        agent.warm_start([t["prompt"] for t in probes], ids, table)


def scores_of(
    scorer: Scorer, braids: list[Braid], texts: list[Any], label: str
) -> np.ndarray:
    return np.array(
        [
            [scorer.quality(braid, text) for braid in braids]
            for text in tqdm(texts, desc=label, leave=False)
        ]
    )


def learn(
    agent: MetaBraider, scorer: Scorer, texts: list[Any], options: argparse.Namespace
) -> None:
    """Each text once, within the low and the high budget in turn."""
    learnt = agent.ledger.counts()["outcomes"]
    order = np.random.default_rng(options.seed).permutation(len(texts))
    budgets = list(BUDGETS.values())
    print(f"\nLearning from {len(texts) - learnt} texts, one decision each.")
    for at in tqdm(range(learnt, len(texts)), desc="learning", leave=False):
        text = texts[order[at]]
        decision = agent.forward(text["prompt"], compute_budget=budgets[at % 2])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unfit braids were told above
            quality = scorer.quality(decision.braid, text)
        agent.learn_from_feedback(text["prompt"], decision, quality)


# ---- 4: what choosing is worth on files that nobody learnt from ----


def evaluate(
    agent: MetaBraider, scorer: Scorer, probes: list[Any], test: list[Any]
) -> dict[str, Any]:
    braids = fit_braids(agent)
    print(f"\nEvaluation: {len(test)} texts of other files, every arm scored on each.")
    table = scores_of(scorer, braids, test, "evaluating")
    before = scores_of(scorer, braids, probes, "probing").mean(0)
    column = {str(name): i for i, name in enumerate(agent.recommender.classes_)}
    score = agent.recommender.decision_function([text["prompt"] for text in test])
    score = score[:, [column[braid.id] for braid in braids]]
    cost = dict(zip(column, agent.catalogue.relative_costs(), strict=True))
    kinds = [text["kind"] for text in test]
    allowed = {
        "models as they are": [b.is_single for b in braids],
        "low budget": [cost[b.id] <= BUDGETS["low"] for b in braids],
        "braids": [len(b.strands) > 1 for b in braids],
        "high budget": [cost[b.id] <= BUDGETS["high"] for b in braids],
    }
    choices = [
        choice_among(name, np.flatnonzero(mask), table, score, before, kinds, braids)
        for name, mask in allowed.items()
    ]
    for choice in choices:
        print_choice(choice)
    leads = {
        kind: braids[int(table[[k == kind for k in kinds]].mean(0).argmax())].label()
        for kind in KINDS
    }
    print("\nBest arm of each kind, in hindsight:")
    for kind, label in leads.items():
        print(f"  {kind:<10} {label}")
    return {"choices": choices, "best of a kind": leads, "texts": len(test)}


def choice_among(
    name: str,
    arms: np.ndarray,
    table: np.ndarray,
    score: np.ndarray,
    before: np.ndarray,
    kinds: list[str],
    braids: list[Braid],
) -> dict[str, Any]:
    """The learned choice among some arms, less every other way to choose."""
    everyone = np.arange(len(table))
    picked = arms[score[:, arms].argmax(1)]
    policy = table[everyone, picked]
    mean = table[:, arms].mean(0)
    fixed, told = arms[mean.argmax()], arms[before[arms].argmax()]
    of_kind = np.array(kinds)
    by_kind = np.empty(len(table))
    for kind in KINDS:
        here = of_kind == kind
        best = arms[table[np.ix_(here, arms)].mean(0).argmax()]
        by_kind[here] = table[here, best]
    others = {
        f"best fixed arm in hindsight ({braids[fixed].label()})": table[:, fixed],
        f"best fixed arm of the probes ({braids[told].label()})": table[:, told],
        "a random arm": table[:, arms].mean(1),
        "the best arm of each kind, in hindsight": by_kind,
        "the best arm of each text, in hindsight": table[:, arms].max(1),
    }
    return {
        "among": name,
        "arms": [braids[i].label() for i in arms],
        "learned": float(policy.mean()),
        "beside": {
            label: {
                "quality": float(values.mean()),
                "gain": float((policy - values).mean()),
                "standard_error": error(policy - values),
            }
            for label, values in others.items()
        },
        "shares": {
            kind: {
                braids[i].label(): float(np.mean(picked[of_kind == kind] == i))
                for i in arms
            }
            for kind in KINDS
        },
    }


def print_choice(choice: dict[str, Any]) -> None:
    print(
        f"\n{choice['among']}, {len(choice['arms'])} arms: the learned choice has "
        f"quality {choice['learned']:.4f}; less"
    )
    for label, row in choice["beside"].items():
        reach = 1.96 * row["standard_error"]
        print(
            f"  {row['gain']:+.4f} (95 % {row['gain'] - reach:+.4f} to "
            f"{row['gain'] + reach:+.4f})  {label}"
        )


# ---- 5: the picture ----


def draw(results: dict[str, Any], file: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [c for c in results["choices"] if c["among"].endswith("budget")]
    colours = plt.get_cmap("tab20")(np.arange(20))
    of_arm = dict(zip(shown[-1]["arms"], colours, strict=False))
    figure, axes = plt.subplots(
        1, 3, figsize=(17, 5), width_ratios=(1, 1, 1.05), layout="constrained"
    )
    for place, choice in zip(axes, shown, strict=False):
        draw_shares(place, choice, of_arm)
    draw_gains(axes[2], results["choices"])
    for place in axes:
        place.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file


def draw_shares(axes: Any, choice: dict[str, Any], colours: dict[str, Any]) -> None:
    taken = [
        arm for arm in choice["arms"] if any(choice["shares"][k][arm] for k in KINDS)
    ]
    bottom = np.zeros(len(KINDS))
    for arm in taken:
        height = np.array([choice["shares"][kind][arm] for kind in KINDS])
        axes.bar(KINDS, height, 0.8, bottom, label=in_short(arm), color=colours[arm])
        bottom += height
    axes.set(title=f"What it chose, {choice['among']}", ylabel="share of test texts")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), fontsize=8, ncol=2)


def draw_gains(axes: Any, choices: list[dict[str, Any]]) -> None:
    for at, choice in enumerate(reversed(choices)):
        row = next(iter(choice["beside"].values()))
        reach = 1.96 * row["standard_error"]
        axes.errorbar(row["gain"], at, xerr=reach, fmt="o", color="#1b6ca8", capsize=4)
    axes.axvline(0, color="#8a8a8a", linewidth=1)
    names = [f"{c['among']}\n({len(c['arms'])} arms)" for c in reversed(choices)]
    axes.set_yticks(range(len(choices)), names)
    axes.set_ylim(-0.5, len(choices) - 0.5)
    axes.set(
        title="Learned choice less the best fixed arm in hindsight",
        xlabel="quality, 95 % interval over test texts",
    )


def in_short(label: str) -> str:
    label = label.replace(BASE, "base").replace(
        ", learned_weighted after the final norm", ""
    )
    label = label.replace(" fed its own states", ", calibrated")
    return label.replace(", router after the final norm and at the output", "")


if __name__ == "__main__":
    main()
