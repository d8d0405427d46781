"""The rows of the report: braids are built, calibrated, scored and timed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from tqdm import tqdm

from ..braid.model import BraidedLLM
from ..calibration.calibrate import calibrate
from ..conformance import parity
from ..strands.pool import Pool
from ..strands.strand import memo_key
from .controls import SHUFFLED, Plan, Shuffled
from .held_out import Text, whole
from .scores import score

_LOG = logging.getLogger(__name__)


class Row(TypedDict):
    """What the report says of one plan, over all seeds.

    Attributes
    ----------
    anchor : str
    donors : list of str
    strategy : str or None
    layers : list
        Where the braid fuses.
    control : bool
    bits_per_byte : dict of float by domain
        The mean over seeds.
    mean : float
        Over domains and seeds.
    spread : float or None
        Standard deviation between seeds of the mean over domains. Where not all
        positions are scored, most of it may be their draw.
    tokens_per_s : float
        Of greedy decoding, by the braid of the first seed, as the next two.
    memory_mb : float
    parity : dict or None
        How often decoding with caches does what one forward over the text does.
    """

    anchor: str
    donors: list[str]
    strategy: str | None
    layers: list[str | int]
    control: bool
    bits_per_byte: dict[str, float]
    mean: float
    spread: float | None
    tokens_per_s: float
    memory_mb: float
    parity: dict[str, Any] | None


def rows_for(
    pool: Pool,
    plans: Sequence[Plan],
    calibration: Sequence[Text],
    held_out: Sequence[Text],
    seeds: int,
    positions: int,
    store: Path,
    progress: bool,
) -> list[Row]:
    """One row for each plan.

    Parameters
    ----------
    pool : Pool
        Where strands come from.
    plans : sequence of Plan
    calibration, held_out : sequence of dict
        With ``domain``, ``prompt`` and ``reference``.
    seeds : int
        How many times to calibrate each braid.
    positions : int
        To score for each braid and domain, about.
    store : Path
        Folder that keeps features, trained parts and scores of an unfinished run.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    list of Row
        In the order of the plans.
    """
    braids = _calibrated(
        pool, plans, [whole(t) for t in calibration], seeds, store, progress
    )
    flat = [braid for of_seed in braids for braid in of_seed]
    scores = score(flat, held_out, positions, store, progress)
    found = [scores[i : i + len(plans)] for i in range(0, len(scores), len(plans))]
    return [
        _row(plan, braids[0][i], [of_seed[i] for of_seed in found])
        for i, plan in enumerate(tqdm(plans, "decoding speed", disable=not progress))
    ]


def _calibrated(
    pool: Pool,
    plans: Sequence[Plan],
    texts: Sequence[str],
    seeds: int,
    store: Path,
    progress: bool,
) -> list[list[BraidedLLM]]:
    """A braid for each seed and plan; what is not trained is one for all seeds."""
    models = [plan.config.anchor for plan in plans if not plan.config.fusion_layers]
    strands: dict[str, Any] = {name: pool[name] for name in models}
    strands |= {name + SHUFFLED: Shuffled(pool[name]) for name in models}
    braids: list[list[BraidedLLM]] = []
    for seed in range(seeds):
        of_seed: list[BraidedLLM] = []
        for i, plan in enumerate(plans):
            if seed and not plan.trained:
                of_seed.append(braids[0][i])
                continue
            names = (plan.config.anchor, *plan.config.donors)
            braid = plan.build([strands[name] for name in names])
            if plan.trained:
                _LOG.info("seed %d, %d of %d to calibrate", seed, i + 1, len(plans))
                calibrate(braid, texts, store=store, seed=seed, progress=progress)
            of_seed.append(braid)
        braids.append(of_seed)
    return braids


def _row(plan: Plan, braid: BraidedLLM, bits: Sequence[Mapping[str, float]]) -> Row:
    """The row of one plan from its bits per byte for each seed."""
    means = [float(np.mean(list(of_seed.values()))) for of_seed in bits]
    # States in a wrong order are in another one when they come one by one.
    comparable = not (plan.control and plan.config.donors)
    return {
        "anchor": plan.config.anchor,
        "donors": plan.config.donors,
        "strategy": plan.strategy,
        "layers": plan.config.fusion_layers,
        "control": plan.control,
        "bits_per_byte": {
            domain: float(np.mean([of_seed[domain] for of_seed in bits]))
            for domain in bits[0]
        },
        "mean": float(np.mean(means)),
        "spread": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        "tokens_per_s": speed(braid),
        "memory_mb": memory(braid),
        "parity": asdict(parity(braid)) if comparable else None,
    }


def speed(braid: BraidedLLM, tokens: int = 32) -> float:
    """Tokens per second of greedy decoding.

    Parameters
    ----------
    braid : BraidedLLM
    tokens : int
        How many to write.
    """
    started = time.monotonic()
    braid.generate("The", max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    return tokens / (time.monotonic() - started)


def memory(braid: BraidedLLM) -> float:
    """Megabytes of weights: every strand once, and what was trained."""
    strands = {memo_key(s): s.memory for s in (braid.anchor, *braid.donors)}
    return (braid.get_memory_footprint() + sum(strands.values())) / 1e6
