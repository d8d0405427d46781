"""Bits per byte of many braids on held-out texts, by domain."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from .._files import json_lines
from ..braid.model import BraidedLLM
from ..calibration.store import identity
from ..judging.scoring import StateCache, scored_bytes, scored_tokens, target_log_probs
from ..strands.strand import Strand
from .controls import PromptWeighted
from .held_out import Text, whole


def score(
    braids: Sequence[BraidedLLM],
    held_out: Sequence[Text],
    positions: int,
    store: Path,
    progress: bool = False,
) -> list[dict[str, float]]:
    """Bits per byte of each braid by domain: total bits over total bytes.

    Strands alone are scored at every position. What a braid adds to its anchor is
    scored at a sample of positions, the same for all braids of an anchor: the head of
    a large vocabulary is most of the work. Until all texts are scored, those that are
    stay in a file, and an interrupted run goes on from there.

    Parameters
    ----------
    braids : sequence of BraidedLLM
        One may be there several times; it is scored once.
    held_out : sequence of dict
        With ``domain``, ``prompt`` and ``reference``.
    positions : int
        About so many a domain are scored with a braid.
    store : Path
        Folder of that file.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    list of dict
        For each braid, bits per byte by domain.

    Raises
    ------
    ValueError
        For a text of one token, which nothing predicts.
    """
    # What is not trained is the same braid for every seed.
    distinct = list(dict.fromkeys(braids))
    shares = _shares(held_out)
    file = store / f"scores-{_key(distinct, held_out, positions)}.jsonl"
    rows = _kept(file, len(distinct))
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
            count = math.ceil(positions * shares[number])
            rows.append(bits_of_text(distinct, held_out[number], count, number))
            kept.write(json.dumps(rows[-1]) + "\n")
            kept.flush()
    bits: dict[BraidedLLM, dict[str, float]] = {braid: {} for braid in distinct}
    for text, share, row in zip(held_out, shares, rows, strict=True):
        for braid, per_byte in zip(distinct, row, strict=True):
            before = bits[braid].get(text["domain"], 0.0)
            bits[braid][text["domain"]] = before + per_byte * share
    file.unlink()
    return [bits[braid] for braid in braids]


def _shares(held_out: Sequence[Text]) -> list[float]:
    """Each text's part of the bytes of its domain."""
    lengths = [len(whole(text).encode()) for text in held_out]
    size: dict[str, int] = {}
    for text, length in zip(held_out, lengths, strict=True):
        size[text["domain"]] = size.get(text["domain"], 0) + length
    return [
        length / size[text["domain"]]
        for text, length in zip(held_out, lengths, strict=True)
    ]


class _Alone(NamedTuple):
    """What a strand says of a text."""

    ids: list[int]
    logs: np.ndarray  # (n,) nats of every token that is scored, the last of ``ids``
    at: np.ndarray  # (count,) which of these are scored with braids too
    n_bytes: int


def bits_of_text(
    braids: Sequence[BraidedLLM], text: Text, count: int, seed: int
) -> list[float]:
    """Bits per byte of one text for each braid.

    Parameters
    ----------
    braids : sequence of BraidedLLM
    text : dict
    count : int
        Of the text's positions, at which a braid is compared with its anchor.
    seed : int
        Of the draw of positions.

    Returns
    -------
    list of float
    """
    states = StateCache()
    alone: dict[Strand, _Alone] = {}
    found = []
    for braid in braids:
        anchor = braid.anchor
        if anchor not in alone:
            alone[anchor] = _alone(anchor, whole(text), count, seed, states)
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


def _alone(
    strand: Strand, text: str, count: int, seed: int, states: StateCache
) -> _Alone:
    # The bytes of a first token that nothing predicts are not counted.
    n_bytes = scored_bytes(strand, "", text)
    if not n_bytes:
        raise ValueError(
            f"held-out text {text!r} is one token for {strand.name}, which nothing "
            "predicts; leave it out"
        )
    ids, start = scored_tokens(strand, "", text)
    every = list(range(start, len(ids)))
    logs = target_log_probs(strand, ids, every, states).cpu().numpy()
    at = np.random.default_rng(seed).permutation(len(every))[:count]
    return _Alone(ids, logs, at, n_bytes)


def _key(braids: Sequence[BraidedLLM], held_out: Sequence[Text], positions: int) -> str:
    """What scores depend on, as text: recipes, weights, texts, positions."""
    digest = hashlib.sha256()
    for braid in braids:
        told(digest, braid)
    digest.update(json.dumps([list(held_out), positions]).encode())
    return digest.hexdigest()[:16]


def told(digest: Any, braid: BraidedLLM) -> None:
    """Add to a digest all that a braid's scores depend on: recipe, strands, weights."""
    strands = [identity(strand) for strand in (braid.anchor, *braid.donors)]
    recipe: list[Any] = [type(braid).__name__, braid.config.to_dict(), strands]
    digest.update(json.dumps(recipe, default=str).encode())
    for name, weights in sorted(braid.state_dict().items()):
        digest.update(name.encode() + weights.float().cpu().numpy().tobytes())


def _kept(file: Path, width: int) -> list[list[float]]:
    """Scores of the texts that an interrupted run has scored: every whole line."""
    rows: list[list[float]] = []
    if not file.exists():
        return rows
    for _, row in json_lines(file, as_far_as_whole=True):
        if not (isinstance(row, list) and len(row) == width):
            break
        rows.append(row)
    return rows
