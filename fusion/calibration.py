"""Calibration: strands read the text once, then the small parts are trained.

Every trained part (a strand's own adapter, a fuser, a gate) and every strand's
features are files of a store, keyed by what they depend on. Braids that share a part
train it once; an interrupted calibration goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from .fusers import LearnedWeighted
from .modeling import BraidedLLM, BraidStates
from .strand import Strand
from .training import (
    TextFeatures,
    candidate_loss,
    donor_view,
    read_layers,
    read_text,
    ridge,
    same_end,
    train,
)

FORMAT = 1
HELD_OUT_EVERY = 6
MIN_TEXTS = 12
FINAL_RATE = 3e-4
MID_RATE = 5e-4
MID_TEXTS = 48  # training through the anchor is dear
GATE_POSITIONS = 1536
SCORE_POSITIONS = 768


@dataclass(frozen=True)
class CalibrationReport:
    """What calibration did.

    Attributes
    ----------
    bits_before, bits_after : float
        Bits per byte of the anchor alone and of the braid, exact, on sampled
        positions of the held-out texts.
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


def _plain(text: str | Mapping[str, Any]) -> str:
    if isinstance(text, str):
        return text
    try:
        return f"{text['prompt']}\n{text['reference']}"
    except KeyError as error:
        raise KeyError(
            f"a calibration text is a string or has 'prompt' and 'reference'; "
            f"received {sorted(text)}"
        ) from error


class _Session:
    """One calibration: texts, features, and the store behind them."""

    _memory: dict[tuple[str, str], list[TextFeatures]] = {}

    def __init__(
        self, texts: Sequence[str], store: Path | None, seed: int, progress: bool
    ) -> None:
        self.texts, self.store, self.seed, self.progress = texts, store, seed, progress
        data = json.dumps([FORMAT, seed, *texts])
        self.data = hashlib.sha256(data.encode()).hexdigest()[:16]
        order = np.random.default_rng(seed).permutation(len(texts)).tolist()
        self.held_out = sorted(order[::HELD_OUT_EVERY])
        self.training = sorted(set(order) - set(self.held_out))
        self.trained: list[str] = []
        self.reused: list[str] = []

    def _path(self, kind: str, key: Any) -> Path | None:
        if self.store is None:
            return None
        digest = hashlib.sha256(json.dumps([self.data, kind, key]).encode())
        return self.store / f"{kind}-{digest.hexdigest()[:16]}.safetensors"

    @staticmethod
    def _write(path: Path | None, tensors: Mapping[str, Tensor]) -> None:
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_suffix(f".{os.getpid()}.tmp")
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, work)
        os.replace(work, path)  # a part is in the store whole or not at all

    def features(self, strand: Strand) -> list[TextFeatures]:
        """The strand's features of every text; read once per process and store."""
        key = (self.data, f"{strand.source}:{strand.dtype}")
        if key not in self._memory:
            path = self._path("features", key[1])
            if path is not None and path.exists():
                found = _unpack(load_file(path))
            else:
                label = f"{strand.name} reads {len(self.texts)} texts"
                bar = tqdm(self.texts, desc=label, disable=not self.progress)
                found = [read_text(strand, text) for text in bar]
                self._write(path, _pack(found))
            self._memory.clear() if len(self._memory) > 8 else None
            self._memory[key] = found
        return self._memory[key]

    def part(
        self, kind: str, key: Any, module: nn.Module, fit: Callable[[], object]
    ) -> None:
        """Fill ``module`` from the store, or by ``fit()`` and then store it."""
        path = self._path(kind, key)
        if path is not None and path.exists():
            module.load_state_dict(load_file(path))
            self.reused.append(kind)
            return
        fit()
        self._write(path, module.state_dict())
        self.trained.append(kind)


def _pack(found: Sequence[TextFeatures]) -> dict[str, Tensor]:
    return {
        "length": torch.tensor([len(f.ids) for f in found]),
        "ids": torch.cat([f.ids for f in found]),
        "ends": torch.cat([torch.from_numpy(f.ends) for f in found]),
        "hidden": torch.cat([f.hidden for f in found]),
        "log_z": torch.cat([f.log_z for f in found]),
        "top": torch.cat([f.top for f in found]).int(),
    }


def _unpack(arrays: Mapping[str, Tensor]) -> list[TextFeatures]:
    lengths = arrays["length"].tolist()
    columns = [arrays[k].split(lengths) for k in ("ids", "hidden", "log_z")]
    ends, top = arrays["ends"].split(lengths), arrays["top"].long().split(lengths)
    return [
        TextFeatures(i, e.numpy(), h, z, t)
        for i, h, z, e, t in zip(*columns, ends, top, strict=True)
    ]


def _who(strand: Strand) -> str:
    return f"{strand.name}:{strand.source}:{strand.dtype}"


def _own_adapter(session: _Session, strand: Strand, epochs: int) -> LearnedWeighted:
    """The strand's own adapter after its final norm: the matched control's fuser."""
    module = LearnedWeighted(strand.width, [], add=True)
    texts = session.features(strand)

    def loss(group: Sequence[int]) -> Tensor:
        fused = [module(texts[i].hidden[None].float(), [], [])[0] for i in group]
        return candidate_loss(strand, fused, [texts[i] for i in group])

    def fit() -> None:
        label = f"{strand.name}: own adapter"
        _train(session, module, loss, epochs, FINAL_RATE, label)

    session.part("own", [_who(strand), epochs], module, fit)
    return module


def _train(
    session: _Session,
    module: nn.Module,
    loss: Callable[[Sequence[int]], Tensor],
    epochs: int,
    rate: float,
    label: str,
    limit: int | None = None,
) -> None:
    train(
        module,
        loss,
        session.training[:limit],
        session.held_out[: None if limit is None else max(4, limit // 4)],
        epochs=epochs,
        learning_rate=rate,
        seed=session.seed,
        label=label,
        progress=session.progress,
    )


def _fit_final(session: _Session, model: BraidedLLM, epochs: int) -> None:
    fuser = model.fusers["final"]
    anchor = model.anchor
    texts = session.features(anchor)
    others = [session.features(d) for d in model.donors]
    shares = [1.0] * len(others)

    def loss(group: Sequence[int]) -> Tensor:
        fused = []
        for i in group:
            views = [donor_view(texts[i], o[i], o[i].hidden) for o in others]
            fused.append(fuser(texts[i].hidden[None].float(), views, shares)[0])
        return candidate_loss(anchor, fused, [texts[i] for i in group])

    def fit() -> None:
        # The own adapter is the best start: what is left to learn is the donor.
        own = _own_adapter(session, anchor, epochs).own
        inner = getattr(fuser, "aligned", None) or fuser
        inner.own.load_state_dict(own.state_dict())
        label = f"{anchor.name}: {model.config.strategy} after the final norm"
        _train(session, fuser, loss, epochs, FINAL_RATE, label)

    key = [_who(anchor), [_who(d) for d in model.donors], model.config.strategy, epochs]
    session.part("final", key, fuser, fit)


def _fit_mid(session: _Session, model: BraidedLLM, epochs: int) -> None:
    """Bridges in closed form, then weights and bridges through the anchor."""
    anchor, layers = model.anchor, model.layers()
    chosen = [*session.training[:MID_TEXTS], *session.held_out]
    texts = session.features(anchor)
    taps = [model.donor_taps(d) for d in model.donors]
    fusers = nn.ModuleDict({str(la): model.fusers[str(la)] for la in layers})
    shares = model.config.shares[1:]
    donors = [
        dict(zip(chosen, read_layers(d, [session.features(d)[i] for i in chosen],
                                     [tap[la] for la in layers]), strict=True))
        for d, tap in zip(model.donors, taps, strict=True)
    ]  # fmt: skip

    def views(i: int, layer: int) -> list[Any]:
        return [
            donor_view(texts[i], session.features(d)[i], states[i][tap[layer]])
            for d, tap, states in zip(model.donors, taps, donors, strict=True)
        ]

    def bridge() -> None:
        own = dict(zip(chosen, read_layers(anchor, [texts[i] for i in chosen], layers), strict=True))  # fmt: skip
        for layer in layers:
            fuser = fusers[str(layer)]
            if not isinstance(fuser, LearnedWeighted):
                continue
            for j, linear in enumerate(fuser.bridges):
                rows = [views(i, layer)[j].aligned()[0][0] for i in session.training[:MID_TEXTS]]  # fmt: skip
                target = [own[i][layer] for i in session.training[:MID_TEXTS]]
                weight, bias = ridge(torch.cat(rows), torch.cat(target).float())
                linear.weight.data.copy_(weight)
                linear.bias.data.copy_(bias)
            # s = 0.05 helps a little before any training; more hurts.
            fuser.weight.data.copy_(
                torch.tensor([[0.05 / s if s > 0 else 0.0] for s in shares])
                .expand_as(fuser.weight)
            )  # fmt: skip

    def loss(group: Sequence[int]) -> Tensor:
        fused = []
        for i in group:
            edits = {
                la: lambda h, i=i, la=la: fusers[str(la)](
                    h.float(), views(i, la), shares
                ).to(h.dtype)
                for la in layers
            }
            ids = texts[i].ids[None]
            fused.append(anchor.run(ids, taps=["final"], edits=edits)["final"][0])
        return candidate_loss(anchor, fused, [texts[i] for i in group])

    def fit() -> None:
        bridge()
        label = f"{anchor.name}: {model.config.strategy} at layers {layers}"
        _train(session, fusers, loss, min(epochs, 2), MID_RATE, label, MID_TEXTS)

    key = [_who(anchor), [_who(d) for d in model.donors], model.config.strategy,
           layers, shares, epochs]  # fmt: skip
    session.part("mid", key, fusers, fit)


@dataclass
class _Sample:
    states: BraidStates  # (1, N, ...) at sampled positions
    before: Tensor  # (N, width) the anchor's own states there
    targets: Tensor  # (N,)
    bytes_per_token: float


@torch.no_grad()
def _sample(
    session: _Session, model: BraidedLLM, texts: Sequence[int], count: int
) -> _Sample:
    """The braid's states at about ``count`` positions of some texts."""
    own = session.features(model.anchor)
    others = [session.features(d) for d in model.donors]
    per_text = math.ceil(count / len(texts))
    generator = np.random.default_rng(session.seed)
    hidden, before, donors, present, targets = [], [], [], [], []
    n_bytes = n_tokens = 0
    for i in texts:
        usable = np.ones(len(own[i].ids) - 1, dtype=bool)
        for other in others:
            usable &= same_end(own[i], other[i])[:-1]
        at = generator.permutation(np.flatnonzero(usable))[:per_text]
        hidden.append(_fused(session, model, i)[at])
        before.append(own[i].hidden[at])
        views = [donor_view(own[i], o[i], o[i].hidden).aligned() for o in others]
        donors.append([a[0, at] for a, _ in views])
        present.append([p[0, at, 0] for _, p in views])
        targets.append(own[i].targets[at])
        n_bytes += int(own[i].ends[-1] - own[i].ends[0])
        n_tokens += len(own[i].ids) - 1
    mixed = model.mixer is not None
    states = BraidStates(
        torch.cat(hidden)[None],
        [torch.cat(d)[None] for d in zip(*donors, strict=True)] if mixed else [],
        [torch.cat(p)[None] for p in zip(*present, strict=True)] if mixed else [],
    )
    return _Sample(states, torch.cat(before), torch.cat(targets), n_bytes / n_tokens)


def _fused(session: _Session, model: BraidedLLM, i: int) -> Tensor:
    """The anchor's state (T, width) after all hidden fusers, for one text."""
    own = session.features(model.anchor)[i]
    hidden = own.hidden
    if model.layers():
        return model.encode(own.ids[None]).hidden[0]
    if "final" in model.fusers:
        views = [
            donor_view(own, session.features(d)[i], session.features(d)[i].hidden)
            for d in model.donors
        ]
        hidden = model.fuse("final", hidden[None], views)[0]
    return hidden


def _fit_gate(session: _Session, model: BraidedLLM) -> None:
    mixer = model.mixer
    assert mixer is not None and mixer.gate is not None  # for the type checker
    gate = mixer.gate

    def fit() -> None:
        sample = _sample(session, model, session.training, GATE_POSITIONS)
        states, targets = sample.states, sample.targets
        rows, picked = [], []
        with torch.no_grad():
            for low in range(0, len(targets), 64):
                at = slice(low, low + 64)
                parts = model.distributions(states, (slice(None), at))
                rows.append(mixer.features(parts))
                chosen = [p.gather(1, targets[at, None]) for p in parts]
                picked.append(torch.cat(chosen, dim=1))
        x, p = torch.cat(rows), torch.cat(picked)
        present = [p[0] for p in states.present]
        optimiser = torch.optim.AdamW(gate.parameters(), lr=1e-2, weight_decay=0.05)
        for _ in range(200):  # full batch, a hundred numbers: a second
            optimiser.zero_grad()
            weights = mixer.log_weights(x, present, model.config.shares).exp()
            loss = -(weights * p).sum(-1).clamp(min=1e-30).log().mean()
            loss.backward()
            optimiser.step()

    torch.manual_seed(session.seed)
    config = model.config
    key = [_who(model.anchor), [_who(d) for d in model.donors], config.strategy,
           config.fusion_layers, config.shares]  # fmt: skip
    session.part("gate", key, gate, fit)


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
    epochs: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> CalibrationReport:
    """Train a braid's fusers in place on plain text; strands stay as they are.

    Parameters
    ----------
    model : BraidedLLM
    texts : sequence of str, or of dicts with ``prompt`` and ``reference``
        At least 12; every sixth is held out, to stop early and to judge.
    store : path, optional
        Folder that keeps features and trained parts. Braids with the same store
        share them, and an interrupted call goes on where it stopped.
    epochs : int
        At most; training stops when held-out text gets no better.
    seed : int
        Of the split and the order.
    progress : bool
        Show progress bars.

    Returns
    -------
    CalibrationReport

    Raises
    ------
    ValueError
        For fewer than 12 texts, or a text that a tokenizer cannot round-trip.
    """
    started = time.monotonic()
    if len(texts) < MIN_TEXTS:
        raise ValueError(
            f"received {len(texts)} calibration texts; give at least {MIN_TEXTS}"
        )
    plain = [_plain(text) for text in texts]
    session = _Session(plain, Path(store) if store else None, seed, progress)
    torch.manual_seed(seed)
    if model.layers():
        _fit_mid(session, model, epochs)
    if "final" in model.fusers and model.donors:
        _fit_final(session, model, epochs)
    elif "final" in model.fusers:
        own = _own_adapter(session, model.anchor, epochs)
        model.fusers["final"].load_state_dict(own.state_dict(), strict=False)
    if model.mixer is not None:
        for adapter, donor in zip(model.mixer.adapters, model.donors, strict=True):
            own_part = _own_adapter(session, donor, epochs).own
            assert own_part is not None  # for the type checker: add=True
            adapter.load_state_dict(own_part.state_dict())
        if model.mixer.gate is not None:
            _fit_gate(session, model)
    return _report(session, model, time.monotonic() - started)


def _report(session: _Session, model: BraidedLLM, seconds: float) -> CalibrationReport:
    sample = _sample(session, model, session.held_out, SCORE_POSITIONS)
    before, after = (
        _bits(logits, sample.targets) / sample.bytes_per_token
        for logits in (
            lambda at: model.anchor.logits(sample.before[at]),
            lambda at: model.head(sample.states, (slice(None), at)),
        )
    )
    texts = session.features(model.anchor)
    return CalibrationReport(
        bits_before=before,
        bits_after=after,
        fit=after < before or not model.config.fusion_layers,
        tokens=sum(len(texts[i].ids) for i in session.training),
        seconds=seconds,
        trained=tuple(session.trained),
        reused=tuple(session.reused),
    )
