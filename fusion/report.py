"""What fusing two models brings, beside every control: ``python -m fusion.report``.

Bits per byte of held-out text (prompt and reference together), by domain: each strand
alone; each strand calibrated alone, which is the matched control (the same fuser fed
the strand's own states); every strategy at every place, both ways round; and fusers
trained on a donor whose states are shuffled, the control that has a donor's size.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .calibration import calibrate
from .configuration import BraidConfig
from .machine import fastest_dtype, reuse_memory
from .modeling import BraidedLLM
from .pool import PACKAGED, Pool, default_cache
from .scoring import StateCache, scored_tokens, target_log_probs
from .strand import Strand, Tap

Text = Mapping[str, str]
PLACES = (["output"], ["final"], ["final", "output"])
ANCHOR_SHARE = 0.7
SHUFFLED = " (shuffled)"


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def packaged_texts() -> tuple[list[Text], list[Text]]:
    """Calibration and held-out texts that come with the project."""
    spec = importlib.util.find_spec("braidbandit")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "the packaged texts are not installed; pass --texts FILE.jsonl"
        )
    data = Path(spec.submodule_search_locations[0]) / "data"
    rows = _lines(data / "tasks.jsonl")
    held_out = [{**r, "domain": r["type"]} for r in rows if r["split"] == "test"]
    return list(_lines(data / "calibration.jsonl")), list(held_out)


def read_texts(path: Path) -> tuple[list[Text], list[Text]]:
    """Calibration and held-out texts of a JSON-lines file.

    Each line has ``domain``, ``split`` ("calibration" or "test"), ``prompt`` and
    ``reference``.
    """
    rows = _lines(path)
    need = {"domain", "split", "prompt", "reference"}
    for number, row in enumerate(rows, 1):
        if not need <= set(row):
            raise ValueError(
                f"{path}, line {number}: expected the keys {sorted(need)}, received "
                f"{sorted(row)}"
            )
    return (
        [r for r in rows if r["split"] == "calibration"],
        [r for r in rows if r["split"] == "test"],
    )


def _first(texts: Sequence[Text], per_domain: int | None) -> list[Text]:
    if per_domain is None:
        return list(texts)
    counts: dict[str, int] = {}
    kept = []
    for text in texts:
        counts[text["domain"]] = counts.get(text["domain"], 0) + 1
        if counts[text["domain"]] <= per_domain:
            kept.append(text)
    return kept


def _whole(text: Text) -> str:
    gap = "" if text["prompt"][-1:].isspace() else "\n"
    return text["prompt"] + gap + text["reference"]


def recipes(models: Sequence[str]) -> Iterator[BraidConfig]:
    """Singles, calibrated singles, then every pair, place and strategy.

    And the pairs' control: the same fuser, trained on the donor's states shuffled.
    """
    for name in models:
        yield BraidConfig(name)
    for name in models:
        yield BraidConfig(name, fusion_layers=["final"], strategy="learned_weighted")
    for anchor in models:
        for donor in models:
            for place in PLACES if donor != anchor else ():
                for strategy in ("learned_weighted", "router", "attention"):
                    if place == ["output"] and strategy == "attention":
                        continue  # nothing to attend to: the same gate as router
                    yield BraidConfig(
                        anchor,
                        [donor],
                        [ANCHOR_SHARE, 1 - ANCHOR_SHARE],
                        place,
                        strategy,
                    )
                if donor != anchor and place != ["output"]:
                    yield BraidConfig(
                        anchor,
                        [donor + SHUFFLED],
                        [ANCHOR_SHARE, 1 - ANCHOR_SHARE],
                        place,
                        "learned_weighted",
                    )


class Shuffled:
    """A donor whose states come in the wrong order: as large, and of no use."""

    def __init__(self, strand: Strand) -> None:
        self.strand = strand
        self.name = strand.name + SHUFFLED

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strand, name)

    def run(
        self, input_ids: Tensor, *, taps: Iterable[Tap], **options: Any
    ) -> dict[Tap, Tensor]:
        """As `Strand.run`, with the positions of all taps shuffled alike."""
        generator = torch.Generator().manual_seed(int(input_ids.sum()))
        order = torch.randperm(input_ids.shape[1], generator=generator)
        states = self.strand.run(input_ids, taps=taps, **options)
        return {tap: s[:, order.to(s.device)] for tap, s in states.items()}


def score(
    braids: Sequence[BraidedLLM],
    held_out: Sequence[Text],
    positions: int,
    progress: bool,
) -> list[dict[str, float]]:
    """Bits per byte by domain for each braid: total bits over total bytes.

    Strands alone are scored at every position. What a braid adds to its anchor is
    scored at about ``positions`` positions a domain, the same for all braids of an
    anchor: the head of a large vocabulary is most of the work.
    """
    size: dict[str, int] = {}
    for text in held_out:
        n_bytes = len(_whole(text).encode())
        size[text["domain"]] = size.get(text["domain"], 0) + n_bytes
    bits: list[dict[str, float]] = [{} for _ in braids]
    for number, text in enumerate(
        tqdm(held_out, desc="held-out texts", disable=not progress)
    ):
        whole, domain = _whole(text), text["domain"]
        count = math.ceil(positions * len(whole.encode()) / size[domain])
        states = StateCache()
        alone: dict[str, tuple[list[int], np.ndarray, np.ndarray]] = {}
        for braid, sums in zip(braids, bits, strict=True):
            name = braid.anchor.name
            if name not in alone:
                ids, start = scored_tokens(braid.anchor, "", whole)
                every = np.arange(start, len(ids))
                found = target_log_probs(braid.anchor, ids, every.tolist(), states)
                at = np.random.default_rng(number).permutation(len(every))[:count]
                alone[name] = ids, found.numpy(), at
            ids, logs, at = alone[name]
            total = float(logs.sum())
            if braid.config.fusion_layers:
                start = len(ids) - len(logs)
                mine = target_log_probs(braid, ids, (start + at).tolist(), states)
                gain = float((mine.numpy() - logs[at]).sum())
                total += gain * len(logs) / len(at)
            # The bytes of a first token that nothing predicts are not counted.
            ends = braid.anchor.tokens.ends(ids)
            scored = int(ends[-1] - ends[len(ids) - len(logs) - 1])
            per_byte = -total / math.log(2) / scored
            weight = len(whole.encode()) / size[domain]
            sums[domain] = sums.get(domain, 0.0) + per_byte * weight
    return bits


def speed(braid: BraidedLLM, tokens: int = 32) -> float:
    """Tokens per second of greedy decoding."""
    started = time.monotonic()
    braid.generate("The", max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    return tokens / (time.monotonic() - started)


def rows_for(
    pool: Pool,
    models: Sequence[str],
    calibration: Sequence[Text],
    held_out: Sequence[Text],
    seeds: int,
    positions: int,
    store: Path,
    progress: bool,
) -> list[dict[str, Any]]:
    """One row per recipe: mean and spread over seeds."""
    plans = list(recipes(models))
    texts = [_whole(t) for t in calibration]
    strands: dict[str, Any] = {name: pool[name] for name in models}
    strands |= {name + SHUFFLED: Shuffled(pool[name]) for name in models}
    braids = []
    for seed in range(seeds):
        for plan in tqdm(plans, desc=f"calibrating, seed {seed}", disable=not progress):
            chosen = [strands[name] for name in (plan.anchor, *plan.donors)]
            braid = BraidedLLM(BraidConfig(**_recipe(plan)), chosen)
            if plan.fusion_layers:
                calibrate(braid, texts, store=store, seed=seed, progress=progress)
            braids.append(braid)
    scores = score(braids, held_out, positions, progress)
    per_seed = [scores[i : i + len(plans)] for i in range(0, len(scores), len(plans))]
    rows = []
    for i, (plan, braid) in enumerate(zip(plans, braids[: len(plans)], strict=True)):
        domains = list(per_seed[0][i])
        means = [float(np.mean(list(found[i].values()))) for found in per_seed]
        rows.append(
            {
                "anchor": plan.anchor,
                "donors": plan.donors,
                "strategy": plan.strategy,
                "layers": plan.fusion_layers,
                "control": bool(plan.fusion_layers) and not _real(plan.donors),
                "bits_per_byte": {
                    d: float(np.mean([found[i][d] for found in per_seed]))
                    for d in domains
                },
                "mean": float(np.mean(means)),
                "spread": float(np.std(means, ddof=1)) if seeds > 1 else None,
                "tokens_per_s": speed(braid),
            }
        )
    return rows


def _real(donors: Sequence[str]) -> bool:
    return any(not name.endswith(SHUFFLED) for name in donors)


def _recipe(plan: BraidConfig) -> dict[str, Any]:
    keys = ("anchor", "donors", "shares", "fusion_layers", "strategy")
    return {key: getattr(plan, key) for key in keys}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text, and the verdict against the best calibrated strand."""
    domains = list(rows[0]["bits_per_byte"])
    head = [f"{'braid':58}", *(f"{d[:9]:>9}" for d in domains), "     mean", "   tok/s"]
    lines = ["".join(head)]
    for row in rows:
        how = "alone" if not row["layers"] else "calibrated alone (control)"
        if row["donors"]:
            how = f"+ {' + '.join(row['donors'])}, {row['strategy']}, "
            how += "+".join(map(str, row["layers"]))
        values = [f"{row['bits_per_byte'][d]:9.4f}" for d in domains]
        label = f"{row['anchor']} {how}"[:57]
        lines.append(
            f"{label:58}{''.join(values)}{row['mean']:9.4f}{row['tokens_per_s']:8.1f}"
        )
    singles = [r for r in rows if not r["donors"]]
    braids = [r for r in rows if _real(r["donors"])]
    if not braids:
        return "\n".join(lines)
    best = min(braids, key=lambda r: float(r["mean"]))
    bar = {d: min(r["bits_per_byte"][d] for r in singles) for d in domains}
    gain = {d: 1 - best["bits_per_byte"][d] / bar[d] for d in domains}
    mean = 1 - best["mean"] / float(np.mean(list(bar.values())))
    lines += [
        "",
        f"best braid ({best['anchor']} {best['strategy']} {best['layers']}) against "
        "the best single strand of each domain, calibrated or not:",
        ", ".join(f"{d} {g:+.1%}" for d, g in gain.items()) + f"; mean {mean:+.1%}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m fusion.report", description=__doc__
    )
    parser.add_argument(
        "--texts", type=Path, help="JSON lines; default: packaged texts"
    )
    parser.add_argument("--models", nargs="+", default=list(PACKAGED))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--per-domain", type=int, help="at most so many texts of each")
    parser.add_argument(
        "--positions",
        type=int,
        default=1000,
        help="scored for each braid and domain (default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of strands; default: the fastest of this machine",
    )
    parser.add_argument("--store", type=Path, default=default_cache() / "calibration")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; give at least 1")
    if options.positions < 1:
        parser.error(f"--positions is {options.positions}; give at least 1")
    torch.manual_seed(0)
    reuse_memory()
    found = read_texts(options.texts) if options.texts else packaged_texts()
    calibration, held_out = (_first(texts, options.per_domain) for texts in found)
    dtype = getattr(torch, options.dtype) if options.dtype else fastest_dtype()
    pool = Pool(dtype=dtype)
    rows = rows_for(
        pool,
        options.models,
        calibration,
        held_out,
        options.seeds,
        options.positions,
        options.store,
        not options.json,
    )
    print(json.dumps(rows, indent=1) if options.json else table(rows))


if __name__ == "__main__":
    main()
