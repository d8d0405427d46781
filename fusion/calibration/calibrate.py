"""Calibration: strands read the text once, then the small parts are trained.

Trained parts are a strand's own adapter, a fuser, a gate. `store` keeps them, so that
braids share what they have in common.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..braid.model import BraidedLLM
from .fit_choice import Choice, fit_choice
from .fit_final import fit_adapter, fit_final
from .fit_gate import active_gate, fit_gate
from .fit_middle import fit_middle
from .sample import bits_per_token, sample_states
from .store import CalibrationStore, braid_key
from .texts import checked_questions, numbers_within_budget, plain_texts

OBJECTIVES = ("text", "choice")
SCORE_POSITIONS = 768


@dataclass(frozen=True)
class CalibrationReport:
    """What calibration did.

    Attributes
    ----------
    bits_before, bits_after : float
        Bits per byte of the anchor alone and of the braid, exact, on sampled
        positions of held-out texts that no gate was fitted on.
    fit : bool
        False when the braid is no better than its anchor: do not serve it.
    tokens : int
        Anchor tokens of the training texts.
    seconds : float
    trained, reused : tuple of str
        Parts trained now, and parts found in the store.
    """

    bits_before: float
    bits_after: float
    fit: bool
    tokens: int
    seconds: float
    trained: tuple[str, ...]
    reused: tuple[str, ...]


def calibrate(
    model: BraidedLLM,
    texts: Sequence[str | Mapping[str, Any]],
    *,
    store: str | Path | None = None,
    budget: int | None = None,
    epochs: int = 4,
    seed: int = 0,
    progress: bool = True,
    objective: str = "text",
) -> CalibrationReport:
    """Train a braid's fusers in place on plain text; strands stay as they are.

    From the beginning: what the fusers learnt before is forgotten. A braid with
    ``fuse="prompt"`` is trained and judged as if its donors read everything.

    Parameters
    ----------
    model : BraidedLLM
    texts : sequence of str, or of dicts with ``prompt`` and ``reference``
        At least 12; every sixth is held out to stop early, and half of those to fit
        a gate and the other half to judge.
    store : path, optional
        Folder that keeps features and trained parts. Braids with the same store
        share them, and an interrupted call goes on where it stopped.
    budget : int, optional
        Tokens of the anchor at most, which is what the time follows: some of the
        texts, drawn at random, the same for every seed. All by default.
    epochs : int
        Passes over the text; the state that is best on held-out text is kept.
    seed : int
        Of the split, the order and the starting weights.
    progress : bool
        Show progress bars.
    objective : {"text", "choice"}
        With "choice", texts are questions: dicts with ``prompt``, ``choices`` (each
        with the space in front of it) and ``answer``, the index of the right one. What
        is trained on their text, the prompt with the right choice, then learns to tell
        the right choice from the others: the fuser after the final norm, and the gate.

    Returns
    -------
    CalibrationReport

    Raises
    ------
    ValueError
        For fewer than 12 texts, also within the budget, an empty one, one that a
        tokenizer cannot round-trip, or held-out texts of one token each.
    TypeError
        For a text that is neither a string nor a mapping.
    RuntimeError
        Within ``torch.inference_mode()``.
    """
    started = time.monotonic()
    asked = _asked(model, texts, objective)
    plain = plain_texts(texts) if asked is None else [q.text for q in asked]
    if torch.is_inference_mode_enabled():
        raise RuntimeError("calibrate trains; call it outside torch.inference_mode()")
    if epochs < 1:
        raise ValueError(f"received epochs={epochs}; give at least 1")
    if budget is not None:
        some = numbers_within_budget(plain, model.anchor, budget)
        plain = [plain[i] for i in some]
        asked = None if asked is None else [asked[i] for i in some]
    folder = Path(store).expanduser() if store else None
    parts = CalibrationStore(plain, folder, seed, progress)
    cards = [model.device] if model.device.type == "cuda" else []
    # The caller's generator stays as it is; so does what it does without gradients.
    with torch.random.fork_rng(devices=cards), torch.enable_grad():
        torch.manual_seed(seed)
        _fit(parts, model, epochs)
        if asked is not None:
            fit_choice(parts, model, asked, epochs)
        return _report(parts, model, epochs, started, objective)


def _asked(
    model: BraidedLLM, texts: Sequence[str | Mapping[str, Any]], objective: str
) -> list[Choice] | None:
    """The questions to learn to choose on; None where text is all."""
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; expected one of {OBJECTIVES}")
    if objective == "text":
        return None
    if model.layers():
        raise ValueError(
            f"objective='choice' trains what comes after the final norm; this braid "
            f"fuses decoder layers {model.layers()}: calibrate it on text"
        )
    return [Choice(*question) for question in checked_questions(texts)]


def _fit(store: CalibrationStore, model: BraidedLLM, epochs: int) -> None:
    # Every strand reads the texts before anything is changed: one may refuse them.
    for donor in model.donors:
        store.features(donor, model.anchor)
        if model.mixer is not None and not model.layers():
            store.features(model.anchor, donor)
    _check_positions(store, model)
    # Anew: parts in the store must not depend on what this braid learnt before.
    model.build_fusers()
    if model.layers():
        fit_middle(store, model, epochs)
    if "final" in model.fusers:
        fit_final(store, model, epochs)
    if model.mixer is not None:
        # An anchor that is fused in the middle is not the one that a donor would learn.
        anchor = None if model.layers() else model.anchor
        for i, donor in enumerate(model.donors):
            fit_adapter(store, model.mixer.adapters[i], donor, anchor, epochs)
        fit_gate(store, model, epochs)


def _check_positions(store: CalibrationStore, model: BraidedLLM) -> None:
    """Refuse texts that leave nothing to train on, to judge by, or for a gate."""
    texts = store.features(model.anchor)
    parts = [store.training, store.held_out[::2]]
    if active_gate(model) is not None:
        parts.append(store.held_out[1::2])
    for part in parts:
        if not any(len(texts[i].targets) for i in part):
            raise ValueError(
                f"texts {part} are one token each for {model.anchor.name}; give "
                "longer ones, or other texts: one token alone predicts nothing"
            )


def _report(
    store: CalibrationStore,
    model: BraidedLLM,
    epochs: int,
    started: float,
    objective: str,
) -> CalibrationReport:
    def measure() -> list[float]:
        sample = sample_states(store, model, store.held_out[::2], SCORE_POSITIONS)
        return [
            bits_per_token(logits, sample.targets) / sample.bytes_per_token
            for logits in (
                lambda at: model.anchor.logits(sample.before[at]),
                lambda at: model.head(sample.states, (slice(None), at)),
            )
        ]

    key = braid_key(model, epochs)
    key += [] if objective == "text" else [objective]
    before, after = store.load_or_measure("report", key, measure)
    texts = store.features(model.anchor)
    return CalibrationReport(
        bits_before=before,
        bits_after=after,
        fit=after < before or not model.config.fusion_layers,
        tokens=sum(len(texts[i].ids) for i in store.training),
        seconds=time.monotonic() - started,
        trained=tuple(store.trained),
        reused=tuple(store.reused),
    )
