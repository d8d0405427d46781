"""Held-out texts, and the bits per byte of many braids on them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..braid.model import BraidedLLM
from ..calibration.store import identity
from ..judging.scoring import StateCache, scored_bytes, scored_tokens, target_log_probs
from ..strands.strand import Strand
from .controls import PromptWeighted

Text = Mapping[str, str]


def _lines(path: Path) -> list[tuple[int, Any]]:
    """What stands on each line that is not blank, and the line's number."""
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            try:
                rows += [(number, json.loads(line))] if line.strip() else []
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    return rows


def packaged_texts() -> tuple[list[Text], list[Text]]:
    """Calibration and held-out texts that come with the project."""
    spec = importlib.util.find_spec("braidbandit")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "the packaged texts are not installed; pass --texts FILE.jsonl"
        )
    data = Path(spec.submodule_search_locations[0]) / "tasks" / "data"
    rows = [row for _, row in _lines(data / "tasks.jsonl")]
    held_out = [{**r, "domain": r["type"]} for r in rows if r["split"] == "test"]
    return [row for _, row in _lines(data / "calibration.jsonl")], list(held_out)


def read_texts(path: Path) -> tuple[list[Text], list[Text]]:
    """Calibration and held-out texts of a JSON-lines file.

    Each line has ``domain``, ``split`` ("calibration" or "test"), ``prompt`` and
    ``reference``, all of them text; blank lines are passed over.
    """
    lines = _lines(path)
    need = {"domain", "split", "prompt", "reference"}
    for number, row in lines:
        if not isinstance(row, dict) or not need <= set(row):
            raise ValueError(
                f"{path}, line {number}: expected the keys {sorted(need)}, received "
                f"{sorted(row) if isinstance(row, dict) else row!r}"
            )
        wrong = sorted(key for key in need if not isinstance(row[key], str))
        if wrong:
            raise ValueError(
                f"{path}, line {number}: {wrong[0]!r} is {row[wrong[0]]!r}, expected "
                "text"
            )
    rows = [row for _, row in lines]
    calibration: list[Text] = [r for r in rows if r["split"] == "calibration"]
    held_out: list[Text] = [r for r in rows if r["split"] == "test"]
    if not calibration or not held_out:
        raise ValueError(
            f"{path} has {len(calibration)} texts with the split 'calibration' and "
            f"{len(held_out)} with 'test'; expected some of both"
        )
    return calibration, held_out


def first_of_each(texts: Sequence[Text], per_domain: int | None) -> list[Text]:
    """Return the first so many texts of each domain; None: all."""
    if per_domain is None:
        return list(texts)
    counts: dict[str, int] = {}
    kept = []
    for text in texts:
        counts[text["domain"]] = counts.get(text["domain"], 0) + 1
        if counts[text["domain"]] <= per_domain:
            kept.append(text)
    return kept


def whole(text: Text) -> str:
    """Prompt and reference together, which is what is scored."""
    gap = "" if text["prompt"][-1:].isspace() else "\n"
    return text["prompt"] + gap + text["reference"]


def score(
    braids: Sequence[BraidedLLM],
    held_out: Sequence[Text],
    positions: int,
    store: Path,
    progress: bool = False,
) -> list[dict[str, float]]:
    """Bits per byte by domain for each braid: total bits over total bytes.

    Strands alone are scored at every position. What a braid adds to its anchor is
    scored at about ``positions`` positions a domain, the same for all braids of an
    anchor: the head of a large vocabulary is most of the work. Until all texts are
    scored, those that are stay in ``store``: an interrupted run goes on from there.
    """
    size: dict[str, int] = {}
    for text in held_out:
        n_bytes = len(whole(text).encode())
        size[text["domain"]] = size.get(text["domain"], 0) + n_bytes
    # What is not trained is the same braid for every seed.
    distinct = list(dict.fromkeys(braids))
    file = store / f"scores-{_key(distinct, held_out, positions)}.jsonl"
    rows = _scored(file, len(distinct))
    store.mkdir(parents=True, exist_ok=True)
    # Anew, as the last line of an interrupted run may be half a line.
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with file.open("a") as kept:
        for number in tqdm(
            range(len(rows), len(held_out)),
            desc="held-out texts",
            initial=len(rows),
            total=len(held_out),
            disable=not progress,
        ):
            text = held_out[number]
            share = len(whole(text).encode()) / size[text["domain"]]
            count = math.ceil(positions * share)
            rows.append(_bits_per_byte(distinct, text, count, number))
            kept.write(json.dumps(rows[-1]) + "\n")
            kept.flush()
    bits: dict[BraidedLLM, dict[str, float]] = {braid: {} for braid in distinct}
    for text, row in zip(held_out, rows, strict=True):
        domain = text["domain"]
        weight = len(whole(text).encode()) / size[domain]
        for braid, per_byte in zip(distinct, row, strict=True):
            bits[braid][domain] = bits[braid].get(domain, 0.0) + per_byte * weight
    file.unlink()
    return [bits[braid] for braid in braids]


def _bits_per_byte(
    braids: Sequence[BraidedLLM], text: Text, count: int, seed: int
) -> list[float]:
    """Bits per byte of one text for each braid, at ``count`` of its positions."""
    states, everything = StateCache(), whole(text)
    alone: dict[Strand, tuple[list[int], np.ndarray, np.ndarray, int]] = {}
    found = []
    for braid in braids:
        anchor = braid.anchor
        if anchor not in alone:
            # The bytes of a first token that nothing predicts are not counted.
            n_bytes = scored_bytes(anchor, "", everything)
            if not n_bytes:
                raise ValueError(
                    f"held-out text {everything!r} is one token for {anchor.name}, "
                    "which nothing predicts; leave it out"
                )
            ids, start = scored_tokens(anchor, "", everything)
            every = list(range(start, len(ids)))
            logs = target_log_probs(anchor, ids, every, states).cpu().numpy()
            at = np.random.default_rng(seed).permutation(len(every))[:count]
            alone[anchor] = ids, logs, at, n_bytes
        if isinstance(braid, PromptWeighted):
            braid.read_prompt(text["prompt"])
        ids, logs, at, n_bytes = alone[anchor]
        total, start = float(logs.sum()), len(ids) - len(logs)
        if braid.config.fusion_layers:
            mine = target_log_probs(braid, ids, (start + at).tolist(), states)
            gain = float((mine.cpu().numpy() - logs[at]).sum())
            total += gain * len(logs) / len(at)
        found.append(-total / math.log(2) / n_bytes)
    return found


def _key(braids: Sequence[BraidedLLM], held_out: Sequence[Text], positions: int) -> str:
    """What scores depend on, as text: recipes, weights, texts, positions."""
    digest = hashlib.sha256()
    for braid in braids:
        strands = [identity(strand) for strand in (braid.anchor, *braid.donors)]
        recipe = [type(braid).__name__, braid.config.to_dict(), strands]
        digest.update(json.dumps(recipe, default=str).encode())
        for name, weights in sorted(braid.state_dict().items()):
            digest.update(name.encode() + weights.float().cpu().numpy().tobytes())
    digest.update(json.dumps([list(held_out), positions]).encode())
    return digest.hexdigest()[:16]


def _scored(file: Path, width: int) -> list[list[float]]:
    """Texts that an interrupted run has scored: every whole line."""
    rows: list[list[float]] = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not (isinstance(row, list) and len(row) == width):
            break
        rows.append(row)
    return rows
