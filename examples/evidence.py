"""Measure what README and docs claim, and write it down in docs/evidence.md.

    python examples/evidence.py              # every claim that was not measured yet
    python examples/evidence.py specialists  # this one, anew
    python examples/evidence.py --list       # claims, their commands, and how long

Each claim has a command of this project, which can be run by hand. What it printed is
kept in the folder ``evidence``, and a claim that has its output there, of the same
command, is not run again unless it is named. Claims that need data from outside the
project are left as they are recorded where the data is absent. A number in README or
docs is tied to its record by a comment behind it, ``<!-- claim value -->``; a test
compares them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from braidbandit._files import write_atomic

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "evidence.md"
PACKAGES = ("torch", "transformers", "scikit-learn", "numpy", "sentence-transformers")
Values = dict[str, str]


class Claim(NamedTuple):
    """One thing that is said, and how to see whether it is so.

    Parameters
    ----------
    says : str
    command : str
        Of this project, run from its root; ``{out}`` is a folder of its own, ``{data}``
        the folder of the tables and texts.
    control : str
        What stands beside it.
    spread : str
        Seeds, repeats, and what an error is over.
    read : callable
        Takes what was printed and the folder; returns the values as they are told.
    minutes : int
        On two idle cores.
    needs : tuple of str
        Files of the data folder.
    """

    says: str
    command: str
    control: str
    spread: str
    read: Callable[[str, Path], Values]
    minutes: int
    needs: tuple[str, ...] = ()


# ---- what is read from what was printed ----


def _demo(_: str, out: Path) -> Values:
    rows = json.loads((out / "demo" / "results.json").read_text())
    names = {
        "policy": "learned policy",
        "fixed": "best fixed arm of the probes",
        "random": "random arm (mean of all arms)",
        "hindsight": "oracle (best arm of each task)",
    }
    singles = [n for n in rows if isinstance(rows[n], dict) and n.endswith(" alone")]
    controls = [n for n in rows if " fed its own states" in n]
    for kind, found in (("single", singles), ("calibrated", controls)):
        names[kind] = max(found, key=lambda name: rows[name]["utility"])
    values = {}
    for short, name in names.items():
        row = rows[name]
        values[f"{short}-bits"] = f"{row['bits_per_byte']:.3f}"
        values[f"{short}-utility"] = f"{row['utility']:.3f}"
        if short != "policy":
            values[f"{short}-gain"] = _told(row["policy_minus_this"], "+.3f")
            values[f"{short}-error"] = f"{row['policy_minus_this_error']:.3f}"
    return values


def _specialists(_: str, out: Path) -> Values:
    told = json.loads((out / "specialists" / "results.json").read_text())
    values = {"texts": str(told["texts"])}
    for choice in told["choices"]:
        short = choice["among"].replace(" ", "-")
        row = next(iter(choice["beside"].values()))
        gain, reach = row["gain"], 1.96 * row["standard_error"]
        parts = {"gain": gain, "low": gain - reach, "high": gain + reach}
        values |= {f"{short}-{k}": _told(v, "+.3f") for k, v in parts.items()}
    values["leading-arms"] = str(len(set(told["best of a kind"].values())))
    return values


def _decoding(printed: str, _: Path) -> Values:
    rows = json.loads(printed)
    of = {row["kind"]: row for row in rows if row["strategy"] == "router"}
    rates = {kind: row["tokens_per_s"] for kind, row in of.items()}
    values = {"times": f"{rates['native'] / rates['transformers']:.1f}"}
    for kind, row in of.items():
        values[f"{kind}-rate"] = f"{rates[kind]:.1f}"
        values[f"{kind}-of-predicted"] = f"{row['of_predicted']:.2f}"
        values[f"{kind}-first-token"] = f"{row['first_token_of_prompts']:.2f}"
    return values


def _memory(printed: str, _: Path) -> Values:
    return {
        f"{row['kind']}-{name.removesuffix('_mb')}": f"{row[name]:.0f}"
        for row in json.loads(printed)
        for name in ("weights_mb", "files_mb", "predicted_mb", "process_mb")
        if name in row
    }


def _profile(printed: str, _: Path) -> Values:
    rows = json.loads(printed)
    values = {"arms": str(len(rows)), "engine": rows[0]["engine"]}
    for name in ("time", "memory"):
        of = [row[f"{name}_of_predicted"] for row in rows]
        values |= {f"{name}-least": f"{min(of):.2f}", f"{name}-most": f"{max(of):.2f}"}
    return values


def _bits(printed: str, _: Path) -> Values:
    rows = json.loads(printed)
    domains = tuple(rows[0]["bits_per_byte"])
    calibrated = [row["bits_per_byte"] for row in rows if _is_calibrated_single(row)]
    bar = {domain: min(bits[domain] for bits in calibrated) for domain in domains}
    values = {}
    for row in rows:
        bits, short = row["bits_per_byte"], _short(row)
        values |= {f"{short}-{domain}": f"{bits[domain]:.3f}" for domain in domains}
        values[f"{short}-mean"] = f"{row['mean']:.3f}"
        if row["donors"]:
            gains = {d: 100 * (1 - bits[d] / bar[d]) for d in domains}
            gains["mean"] = 100 * (1 - row["mean"] * len(bar) / sum(bar.values()))
            values |= {
                f"{short}-{d}-gain": _told(gain, ".1f") for d, gain in gains.items()
            }
        if row["spread"] is not None:
            values[f"{short}-spread"] = f"{row['spread']:.4f}"
    return values


def _is_calibrated_single(row: Any) -> bool:
    return bool(row["control"] and not row["donors"])


def _short(row: Any) -> str:
    """A name for a row: anchor and donors, or what is done to the anchor."""
    short = {"SmolLM2-135M-Instruct": "smollm2", "gemma-3-270m": "gemma"}
    strands = (row["anchor"], *row["donors"])
    names = [short[name.removesuffix(" (shuffled)")] for name in strands]
    if row["control"]:
        names.append("shuffled" if row["donors"] else "calibrated")
    elif row["strategy"] == "prompt_perplexity":
        names.append("untrained")
    return "-".join(names)


def _answers(printed: str, _: Path) -> Values:
    told = json.loads(printed)
    values = {"questions": str(told["questions"]["test"])}
    for row in told["differences"]:
        short = _words(row["against"])
        values |= _gain(short, row["mean"], 100, "+.1f")
    for arm in told["arms"]:
        right = arm["test"][told["rule"]]
        values[f"right-{_words(arm['label'])}"] = (
            f"{100 * sum(right.values()) / len(right):.1f}"
        )
    return values


def _pooling(printed: str, _: Path) -> Values:
    told = json.loads(printed)
    values = {"questions": str(told["questions"])}
    rows = {
        **{f"learnt-{n}": row for n, row in told["learnt from"].items()},
        **{f"noise-{n}": row for n, row in told["noise on the better"].items()},
        "twice": told["the better twice, with noise"],
    }
    for name, row in rows.items():
        for part in ("first", "second"):
            values[f"{name}-{part}"] = f"{row[part]['mean']:.1f}"
        values |= _gain(f"{name}-gain", row["both less the better"], 1, "+.1f")
    return values


def _transfer(printed: str, _: Path) -> Values:
    values = {}
    for name, gain in json.loads(printed)["differences"].items():
        values |= _gain(_words(name), gain, 1, ".2f")
    return values


def _complexity(printed: str, _: Path) -> Values:
    told = json.loads(printed)
    values = {"tasks": str(told["tasks"])}
    for name, parts in told["differences"].items():
        for part, gain in parts.items():
            values |= _gain(f"{_words(name)}-{_words(part)}", gain, 1, "+.4f")
    return values


def _words(name: str) -> str:
    """A name that a mark can have: small letters, numbers and hyphens."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _gain(short: str, gain: Any, times: float, form: str) -> Values:
    """A mean and its interval."""
    parts = {f"{short}-{part}": gain[part] for part in ("mean", "low", "high")}
    return {name: _told(times * value, form) for name, value in parts.items()}


def _told(value: float, form: str) -> str:
    """A number in a form, never as a negative zero."""
    told = format(value, form)
    return told if float(told) else format(0.0, form)


def _chooser(printed: str, _: Path) -> Values:
    told = json.loads(printed)
    values = {"full-information": _told(told["full_information_points"], "+.1f")}
    for name, row in told["policies"].items():
        short = name.replace("braidbandit", "ours").replace(",", "").replace(" ", "-")
        values[short] = _told(row["points"], "+.2f")
        values[f"{short}-error"] = f"{row['points_se']:.2f}"
    return values


# ---- the claims ----

_TEXTS = "texts.jsonl"
CLAIMS = {
    "demo": Claim(
        says="On two general models the agent finds the best of twelve arms within a "
        "few dozen tasks; braids are ahead of calibrated single models.",
        command="examples/demo.py --folder {out}/demo --dtype float32",
        control="The best fixed arm of the probes, a random arm, each model alone and "
        "calibrated, and the best arm of each task in hindsight.",
        spread="One seed; errors are over 35 test tasks.",
        read=_demo,
        minutes=14,
    ),
    "specialists": Claim(
        says="Where specialists differ, the learned choice is above every fixed one.",
        command="examples/demo_specialists.py --folder {out}/specialists",
        control="The fixed arm that is best on the test texts in hindsight, among the "
        "arms that the budget allows.",
        spread="One seed; 95 % intervals over test texts, each from a file of its own.",
        read=_specialists,
        minutes=20,
    ),
    "decoding": Claim(
        says="A braid of two GGUF files in llama.cpp writes faster than the same braid "
        "in transformers: SmolLM2 with Gemma as its donor.",
        command="examples/bench_decoding.py --models SmolLM2-135M-Instruct "
        "gemma-3-270m --layers final+output --tokens 64 --repeats 5 --json",
        control="The same braid in transformers, and the rate that the strands' own "
        "times per token add up to.",
        spread="Medians of five repeats of 64 tokens in one process, one thread.",
        read=_decoding,
        minutes=4,
    ),
    "memory": Claim(
        says="A native braid of two models holds the weights of their files.",
        command="examples/bench_memory.py --json",
        control="The same braid in transformers; megabytes.",
        spread="One process for each.",
        read=_memory,
        minutes=1,
    ),
    "profile": Claim(
        says="Profiles of single models predict what braids that were never run take: "
        "seconds per token and memory, measured over predicted.",
        command="examples/bench_profile.py --json",
        control="What was predicted, for each of the twelve arms of the demo.",
        spread="One process for each arm; a task of each type.",
        read=_profile,
        minutes=5,
    ),
    "bits": Claim(
        says="A braid has fewer bits per byte than the best calibrated single model.",
        command="-m fusion.report --texts {data}/texts.jsonl --places final+output "
        "--strategies router --seeds 3 --positions 2500 --dtype float32 --no-native "
        "--store {out}/store --json",
        control="Each model alone, each calibrated (the same fuser fed its own "
        "states), and each braid with its donor's states shuffled.",
        spread="Means over three seeds, and the standard deviation between them of the "
        "mean over domains; all 260 held-out texts, 2,500 positions of a domain.",
        read=_bits,
        minutes=250,
        needs=(_TEXTS,),
    ),
    "answers": Claim(
        says="Fewer bits per byte are not more right answers: the braid that answers "
        "best on calibration questions beside calibrated strands, in points.",
        command="-m fusion.report --tasks {data}/choices.jsonl --leave-out --models "
        "gemma-3-270m SmolLM2-135M-Instruct --dtype float32 --no-native --store "
        "{out}/store --prompted-only --json",
        control="Each strand, each calibrated, the best of these for each set, the "
        "untrained output mixture and product of experts, shuffled donors.",
        spread="One seed; 95 % intervals over questions, paired.",
        read=_answers,
        minutes=210,
        needs=("choices.jsonl",),
    ),
    "pooling": Claim(
        says="Why: the weaker model's scores tell nothing of the right answers that "
        "the better one's do not, even to a judge that is told other right answers. It "
        "is not the difference in strength: made as weak by noise, the better model "
        "does add to the other.",
        command="examples/bench_pooling.py --tasks {data}/choices.jsonl --models "
        "gemma-3-270m SmolLM2-135M-Instruct --dtype float32 --no-native --store "
        "{out}/store --json",
        control="The better model alone under the same judge; the better model made "
        "worse by noise; the better model twice, with two draws of noise.",
        spread="95 % intervals over questions, paired; 8 draws of folds and noise.",
        read=_pooling,
        minutes=25,
        needs=("choices.jsonl",),
    ),
    "transfer": Claim(
        says="What was learnt on computer science, and three examples, save on "
        "maths: regret of the first 100 rounds that is avoided.",
        command="examples/bench_transfer.py --table mmlupro7 --data {data} --learnt "
        "'computer science' --started math --seeds 100 --json",
        control="A fresh start, and a fresh start with the same three examples.",
        spread="100 shuffles; 95 % intervals over shuffles.",
        read=_transfer,
        minutes=5,
        needs=("mmlupro7.npz",),
    ),
    "complexity": Claim(
        says="Complex tasks want no more fusion layers and no other strategy than "
        "simple ones: bits per byte at three decoder layers less those at nine, and "
        "with learned weights less those with attention.",
        command="examples/bench_complexity.py --dtype float32 --store {out}/store "
        "--json",
        control="The same pair at the other layers, or with the other strategy.",
        spread="One seed; 95 % intervals over 42 tasks.",
        read=_complexity,
        minutes=20,
    ),
    "chooser": Claim(
        says="Points of reward a round over the best fixed arm in hindsight, seven "
        "models on MMLU-Pro, 40 probe prompts, 4,000 rounds.",
        command="examples/bench_bandits.py --table mmlupro7 --data {data} --rounds "
        "4000 --seeds 32 --json",
        control="The best arm of the probes, a random arm, context-free Thompson "
        "sampling, and ridge that is told all rewards.",
        spread="32 shuffles; errors over shuffles.",
        read=_chooser,
        minutes=60,
        needs=("mmlupro7.npz",),
    ),
}


# ---- running ----


def main() -> None:
    options = read_options()
    if options.list:
        for name, claim in CLAIMS.items():
            print(f"{name:<14} {claim.minutes:>4} min  python {claim.command}")
        return
    options.keep.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.claims or CLAIMS:
        claim = CLAIMS[name]
        absent = [f for f in claim.needs if not (options.data / f).exists()]
        if absent:
            print(f"{name}: skipped, {options.data} has no {', '.join(absent)}")
            continue
        try:
            record = measured(name, claim, options, anew=name in options.claims)
        except subprocess.CalledProcessError as error:
            failed.append(name)
            print(f"{name}: failed with code {error.returncode}; run it again")
            continue
        write(record)
        print(f"{name}: in {PAGE.relative_to(ROOT)}")
    sys.exit(f"not measured: {', '.join(failed)}" if failed else 0)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure what README and docs claim; write docs/evidence.md.",
        epilog="What was measured is not measured again unless its claim is named.",
    )
    parser.add_argument("claims", nargs="*", choices=[[], *CLAIMS], metavar="CLAIM")
    parser.add_argument("--list", action="store_true", help="claims and commands")
    parser.add_argument(
        "--keep",
        type=Path,
        default=ROOT / "evidence",
        help="what was printed (default: evidence)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("BRAIDBANDIT_DATA", ROOT.parent / "shared" / "data"),
        help="tables and texts (default: BRAIDBANDIT_DATA, or ../shared/data)",
    )
    return parser.parse_args()


def measured(
    name: str, claim: Claim, options: argparse.Namespace, anew: bool
) -> dict[str, Any]:
    """The record of a claim, run unless its output is there."""
    out, file = options.keep / name, options.keep / f"{name}.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    if anew or kept.get("command") != claim.command:
        out.mkdir(exist_ok=True)
        told = shlex.split(claim.command.format(out=out, data=options.data))
        print(f"{name}: about {claim.minutes} minutes ...", flush=True)
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, *told],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        kept = {
            "command": claim.command,
            "printed": done.stdout,
            "date": datetime.date.today().isoformat(),
            "minutes": round((time.monotonic() - started) / 60, 1),
            "versions": {p: version(p) for p in PACKAGES},
        }
        write_atomic(file, json.dumps(kept).encode())
    return {**kept, "name": name, "values": claim.read(kept["printed"], out)}


# ---- the page ----


def write(record: dict[str, Any]) -> None:
    """Put a record on the page, in the place of the one before."""
    sections = read_page()
    sections[record["name"]] = section(record)
    ordered = [sections[name] for name in CLAIMS if name in sections]
    write_atomic(PAGE, "\n".join([HEAD, *ordered, TAIL]).encode())


HEAD = """# Evidence

What README and docs claim, each with the command that shows it, what stands beside it,
and what it came to. `make evidence` measures all of it, claim by claim; it can be
stopped at any moment. Made by `examples/evidence.py`: not to be edited by hand.
"""
TAIL = """## What is not claimed

- That fewer bits per byte make more answers right. Measured so far, they do not.
- That a braid is better than a larger model of the same cost; it was not measured.
- That the learned choice is above the best fixed arm from 40 probe prompts within 800
  rounds, where models differ as little as the seven on MMLU-Pro: it is level with it.
- Anything of models above some hundred million weights but their speed and memory.
"""


def section(record: dict[str, Any]) -> str:
    claim = CLAIMS[record["name"]]
    versions = ", ".join(
        f"{name} {number}" for name, number in record["versions"].items()
    )
    rows = [f"| {name} | {value} |" for name, value in record["values"].items()]
    return "\n".join(
        [
            f"## {record['name']}",
            "",
            claim.says,
            "",
            f"- Command: `python {claim.command}`",
            f"- Control: {claim.control}",
            f"- Spread: {claim.spread}",
            f"- Measured: {record['date']}, {record['minutes']} minutes; {versions}",
            "",
            "| | |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )


def read_page() -> dict[str, str]:
    """The sections of the page, by claim."""
    text = PAGE.read_text() if PAGE.exists() else ""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    found = {part.split("\n", 1)[0][3:]: part.rstrip("\n") + "\n" for part in parts}
    return {name: part for name, part in found.items() if name in CLAIMS}


def recorded() -> dict[tuple[str, str], str]:
    """All values of the page, by claim and name."""
    row = re.compile(r"^\| ([a-z]\S*) \| (\S+) \|$", re.MULTILINE)
    return {
        (claim, name): value
        for claim, part in read_page().items()
        for name, value in row.findall(part)
    }


if __name__ == "__main__":
    main()
