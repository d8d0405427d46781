"""Calibration: strands read the text once, then the small parts are trained.

Trained parts are a strand's own adapter, a fuser, a gate; `session` stores them, so
that braids share what they have in common.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..braid.model import BraidedLLM, BraidStates
from ..braid.output_mixture import BLOCK
from .fitting import fit_final, fit_mid, own_map
from .store import Session, plain_text, who

MIN_TEXTS = 12
GATE_POSITIONS = 1536
GATE_PRIOR = 0.2  # standard deviation of a gate's weights before it sees any text
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


@dataclass
class _Sample:
    states: BraidStates  # (1, N, ...) at sampled positions
    before: Tensor  # (N, width) the anchor's own states there
    targets: Tensor  # (N,)
    bytes_per_token: float


@torch.no_grad()
def _sample(
    session: Session, model: BraidedLLM, texts: Sequence[int], count: int
) -> _Sample:
    """The braid's states at about ``count`` positions of some texts, as it is served.

    Between a donor's token ends, serving cuts the donor's text anew, and what it says
    there is worth less: a gate has to see those positions to mistrust them.
    """
    own = session.features(model.anchor)
    per_text = math.ceil(count / len(texts))
    generator = np.random.default_rng(session.seed)
    hidden, before, donors, present, targets = [], [], [], [], []
    n_bytes = n_tokens = 0
    for i in texts:
        read = model.encode(own[i].ids[None], memo=session.memo(model, i))
        at = generator.permutation(len(own[i].ids) - 1)[:per_text]
        hidden.append(read.hidden[0, at])
        before.append(own[i].hidden[at])
        donors.append([d[0, at] for d in read.donors])
        present.append([p[0, at] for p in read.present])
        targets.append(own[i].targets[at])
        n_bytes += int(own[i].ends[-1] - own[i].ends[0])
        n_tokens += len(own[i].ids) - 1
    states = BraidStates(
        torch.cat(hidden)[None],
        [torch.cat(d)[None] for d in zip(*donors, strict=True)],
        [torch.cat(p)[None] for p in zip(*present, strict=True)],
    )
    return _Sample(states, torch.cat(before), torch.cat(targets), n_bytes / n_tokens)


def _key(model: BraidedLLM, epochs: int) -> list[Any]:
    """What belongs to one braid alone depends on its whole recipe."""
    config = model.config
    key = [who(model.anchor), [who(d) for d in model.donors], config.strategy,
           config.fusion_layers, config.shares, epochs]  # fmt: skip
    return [*key, config.donor_layers] if config.donor_layers else key


def _gate(model: BraidedLLM) -> nn.Linear | None:
    """The gate of the output mixture, where there is something to weigh."""
    return model.mixer.gate if model.mixer is not None and model.active else None


def _fit_gate(session: Session, model: BraidedLLM, epochs: int) -> None:
    mixer, gate = model.mixer, _gate(model)
    if mixer is None or gate is None:
        return

    def fit() -> None:
        # Not the training texts: fusers that know a text by heart look too certain.
        sample = _sample(session, model, session.held_out[1::2], GATE_POSITIONS)
        states, targets = sample.states, sample.targets
        rows, picked = [], []
        with torch.no_grad():
            for low in range(0, len(targets), BLOCK):
                at = slice(low, low + BLOCK)
                parts, seen = model.distributions(states, (slice(None), at))
                assert seen is not None  # a gate sees something
                rows.append(seen)
                chosen = [p.gather(1, targets[at, None]) for p in parts]
                picked.append(torch.cat(chosen, dim=1))
        x, p = torch.cat(rows), torch.cat(picked)
        present = [p[0] for p in states.present]
        # The posterior mode: with few positions the shares stay what they are.
        optimiser = torch.optim.LBFGS(
            gate.parameters(), max_iter=100, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            weights = mixer.log_weights(x, present, model.config.shares).exp()
            nats = -(weights * p).sum(-1).clamp(min=1e-30).log().sum()
            prior = sum(w.pow(2).sum() for w in gate.parameters()) / 2 / GATE_PRIOR**2
            total = (nats + prior) / len(p)
            total.backward()
            return total

        optimiser.step(loss)

    session.part("gate", _key(model, epochs), gate, fit)


@torch.no_grad()
def _bits(logits: Callable[[slice], Tensor], targets: Tensor) -> float:
    """Exact mean bits per token."""
    total = 0.0
    for low in range(0, len(targets), 64):
        at = slice(low, low + 64)
        log_p = logits(at).float().log_softmax(-1)
        total -= float(log_p.gather(1, targets[at, None]).sum())
    return total / len(targets) / math.log(2)


def calibrate(
    model: BraidedLLM,
    texts: Sequence[str | Mapping[str, Any]],
    *,
    store: str | Path | None = None,
    budget: int | None = None,
    epochs: int = 2,
    seed: int = 0,
    progress: bool = True,
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
    if isinstance(texts, str) or hasattr(texts, "columns"):
        raise TypeError(
            f"texts is a {type(texts).__name__}; give a list of texts, or the column "
            "of a table that holds them"
        )
    if len(texts) < MIN_TEXTS:
        raise ValueError(
            f"received {len(texts)} calibration texts; give at least {MIN_TEXTS}"
        )
    if torch.is_inference_mode_enabled():
        raise RuntimeError("calibrate trains; call it outside torch.inference_mode()")
    if epochs < 1:
        raise ValueError(f"received epochs={epochs}; give at least 1")
    plain = [plain_text(text) for text in texts]
    empty = [i for i, text in enumerate(plain) if not text.strip()]
    if empty:
        raise ValueError(f"calibration text {empty[0]} is empty; leave it out")
    if budget is not None:
        plain = _within(plain, model, budget)
    session = Session(
        plain, Path(store).expanduser() if store else None, seed, progress
    )
    cards = [model.device] if model.device.type == "cuda" else []
    # The caller's generator stays as it is; so does what it does without gradients.
    with torch.random.fork_rng(devices=cards), torch.enable_grad():
        torch.manual_seed(seed)
        _fit(session, model, epochs)
        return _report(session, model, epochs, started)


def _fit(session: Session, model: BraidedLLM, epochs: int) -> None:
    # Every strand reads the texts before anything is changed: one may refuse them.
    for donor in model.donors:
        session.features(donor, model.anchor)
    _check_positions(session, model)
    # Anew: parts in the store must not depend on what this braid learnt before.
    model._build()
    if model.layers():
        fit_mid(session, model, epochs)
    if "final" in model.fusers:
        fit_final(session, model, epochs)
    if model.mixer is not None:
        for adapter, donor in zip(model.mixer.adapters, model.donors, strict=True):
            adapter.load_state_dict(own_map(session, donor, epochs))
        _fit_gate(session, model, epochs)


def _check_positions(session: Session, model: BraidedLLM) -> None:
    """Refuse texts that leave nothing to train on, to judge by, or for a gate."""
    texts = session.features(model.anchor)
    parts = [session.training, session.held_out[::2]]
    if _gate(model) is not None:
        parts.append(session.held_out[1::2])
    for part in parts:
        if not any(len(texts[i].targets) for i in part):
            raise ValueError(
                f"texts {part} are one token each for {model.anchor.name}; give "
                "longer ones, or other texts: one token alone predicts nothing"
            )


def _within(texts: Sequence[str], model: BraidedLLM, budget: int) -> list[str]:
    """Some of the texts, in their order, that come to at most so many tokens."""
    if not budget >= 1:
        raise ValueError(f"received a budget of {budget} tokens; give at least 1")
    left, chosen = budget, []
    for i in np.random.default_rng(0).permutation(len(texts)).tolist():
        left -= len(model.anchor.tokens.read(texts[i]))
        if left < 0:
            break
        chosen.append(i)
    if len(chosen) < MIN_TEXTS:
        raise ValueError(
            f"a budget of {budget} tokens pays for {len(chosen)} of {len(texts)} "
            f"texts; give more, or shorter texts: at least {MIN_TEXTS} are needed"
        )
    return [texts[i] for i in sorted(chosen)]


def _report(
    session: Session, model: BraidedLLM, epochs: int, started: float
) -> CalibrationReport:
    def measure() -> list[float]:
        sample = _sample(session, model, session.held_out[::2], SCORE_POSITIONS)
        return [
            _bits(logits, sample.targets) / sample.bytes_per_token
            for logits in (
                lambda at: model.anchor.logits(sample.before[at]),
                lambda at: model.head(sample.states, (slice(None), at)),
            )
        ]

    before, after = session.figures("report", _key(model, epochs), measure)
    texts = session.features(model.anchor)
    return CalibrationReport(
        bits_before=before,
        bits_after=after,
        fit=after < before or not model.config.fusion_layers,
        tokens=sum(len(texts[i].ids) for i in session.training),
        seconds=time.monotonic() - started,
        trained=tuple(session.trained),
        reused=tuple(session.reused),
    )
