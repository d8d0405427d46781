"""The store behind calibration: every strand's features and every trained part.

Each is one file, keyed by what it depends on, written whole or not at all. Braids that
share a part train it once; an interrupted calibration goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..braid.model import BraidedLLM
from ..strands.strand import Strand, memo_key
from .training import SampledSoftmax, TextFeatures, mean_distribution, read_texts, train

FORMAT = 5
HELD_OUT_EVERY = 6


class Session:
    """One calibration: texts, features, and the store behind them."""

    # By strand, not by name: two strands may share a name, and none is kept alive.
    _memory: WeakKeyDictionary[Strand, dict[Any, list[TextFeatures]]] = (
        WeakKeyDictionary()
    )

    _together: WeakKeyDictionary[Strand, dict[Any, dict[Any, Any]]] = (
        WeakKeyDictionary()
    )

    def __init__(
        self, texts: Sequence[str], store: Path | None, seed: int, progress: bool
    ) -> None:
        self.texts, self.store, self.seed, self.progress = texts, store, seed, progress
        data = json.dumps([FORMAT, *texts])
        self.data = hashlib.sha256(data.encode()).hexdigest()[:16]
        order = np.random.default_rng(seed).permutation(len(texts)).tolist()
        self.held_out = sorted(order[::HELD_OUT_EVERY])
        self.training = sorted(set(order) - set(self.held_out))
        self._losses: dict[Strand, SampledSoftmax] = {}
        self._named: dict[Strand, bool] = {}
        self.trained: list[str] = []
        self.reused: list[str] = []

    def _path(self, kind: str, key: Any) -> Path | None:
        if self.store is None:
            return None
        # What strands make of the texts is the same for every seed.
        seed = None if kind == "features" else self.seed
        digest = hashlib.sha256(json.dumps([self.data, seed, kind, key]).encode())
        return self.store / f"{kind}-{digest.hexdigest()[:16]}.safetensors"

    @staticmethod
    def _write(path: Path | None, tensors: Mapping[str, Tensor]) -> None:
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        work = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, work)
        os.replace(work, path)  # a part is in the store whole or not at all

    def _stored(
        self, kind: str, key: Any, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        path = self._path(kind, key)
        found = _load(path)
        if found is not None:
            return found
        made = make()
        self._write(path, made)
        return made

    def features(
        self, strand: Strand, anchor: Strand | None = None
    ) -> list[TextFeatures]:
        """The strand's features of every text; read once per process and store.

        Where the strand is, wherever they were computed. Of an ``anchor`` it is a
        donor, which matters where special tokens are written out in a text.
        """
        if anchor is not None and not any(map(self._names, (strand, anchor))):
            anchor = None  # it reads the same by itself
        whose = [] if anchor is None else [who(anchor)]
        known = self._memory.setdefault(strand, {})
        key = (self.data, *whose, *_state(strand))
        if key not in known:
            label = f"{strand.name} reads {len(self.texts)} texts"

            def read() -> dict[str, Tensor]:
                texts = read_texts(
                    strand,
                    self.texts,
                    anchor=anchor,
                    label=label,
                    progress=self.progress,
                )
                return _pack(texts)

            who_reads = [who(strand), *whose] if whose else who(strand)
            arrays = self._stored("features", who_reads, read)
            known[key] = _unpack(arrays, strand.device)
        return known[key]

    def _names(self, strand: Strand) -> bool:
        """Whether special tokens of the strand are written out in any of the texts."""
        if strand not in self._named:
            words = "\n".join(self.texts)
            self._named[strand] = strand.tokens.mentions_specials(words)
        return self._named[strand]

    def memo(self, model: BraidedLLM, i: int) -> dict[Any, Any]:
        """What the model's strands made of text i together, for `BraidedLLM.encode`.

        The same for all braids of these strands, in this process.
        """
        known = self._together.setdefault(model.anchor, {})
        states = map(_state, (model.anchor, *model.donors))
        key = (self.data, i, *states, *map(memo_key, model.donors))
        if key not in known:
            own = self.features(model.anchor)[i]
            text = (tuple(own.ids.tolist()),)
            known[key] = {(*memo_key(model.anchor), text): own.hidden[None]}
        return known[key]

    def part(
        self, kind: str, key: Any, module: nn.Module, fit: Callable[[], object]
    ) -> None:
        """Fill ``module`` from the store, or by ``fit()`` and then store it."""
        path = self._path(kind, key)
        found = _load(path)
        if found is not None:
            module.load_state_dict(found)
            self.reused.append(kind)
            return
        fit()
        self._write(path, module.state_dict())
        self.trained.append(kind)

    def softmax(self, strand: Strand) -> SampledSoftmax:
        """The cheap loss over the strand's vocabulary, for these texts."""
        known = self._losses.get(strand)
        if known is None:
            texts = self.features(strand)
            mean = self._stored(
                "vocabulary",
                who(strand),
                lambda: {"mean": mean_distribution(strand, texts, self.seed)},
            )["mean"].to(strand.device)
            targets = torch.cat([t.targets for t in texts])
            known = self._losses[strand] = SampledSoftmax(strand, mean, targets)
        return known

    def figures(
        self, kind: str, key: Any, measure: Callable[[], Sequence[float]]
    ) -> list[float]:
        """Figures of parts in the store; measured anew if a part was trained now."""
        path = self._path(kind, key)
        if self.trained and path is not None:
            path.unlink(missing_ok=True)

        def found() -> dict[str, Tensor]:
            return {"figures": torch.tensor(measure(), dtype=torch.float64)}

        figures: list[float] = self._stored(kind, key, found)["figures"].tolist()
        return figures

    def train(
        self,
        module: nn.Module,
        loss: Callable[[Sequence[int]], Tensor],
        items: tuple[Sequence[int], Sequence[int]],
        group: int,
        epochs: int,
        rate: float,
        label: str,
    ) -> None:
        """Train a module on items, training and held out: texts or positions."""
        train(
            module,
            loss,
            *items,
            epochs=epochs,
            learning_rate=rate,
            seed=self.seed,
            group=group,
            label=label,
            progress=self.progress,
        )


def _load(path: Path | None) -> dict[str, Tensor] | None:
    """A file of the store, if it is there and whole: a power failure may cut it off."""
    if path is None:
        return None
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None


def _pack(found: Sequence[TextFeatures]) -> dict[str, Tensor]:
    return {
        "length": torch.tensor([len(f.ids) for f in found]),
        "ids": torch.cat([f.ids for f in found]),
        "ends": torch.cat([torch.from_numpy(f.ends) for f in found]),
        "hidden": torch.cat([f.hidden for f in found]),
    }


def _unpack(arrays: Mapping[str, Tensor], device: torch.device) -> list[TextFeatures]:
    lengths = arrays["length"].tolist()
    ids, hidden = (arrays[k].to(device).split(lengths) for k in ("ids", "hidden"))
    ends = (e.numpy() for e in arrays["ends"].split(lengths))
    return [TextFeatures(*of_text) for of_text in zip(ids, ends, hidden, strict=True)]


def _state(strand: Strand) -> tuple[torch.dtype, torch.device, int]:
    """What of a strand may change while the process knows it."""
    return strand.dtype, strand.device, strand.stamp


def who(strand: Strand) -> str:
    return f"{strand.name}:{strand.source}:{strand.dtype}:{strand.content}"


def plain_text(text: str | Mapping[str, Any]) -> str:
    if isinstance(text, str):
        return text
    if not isinstance(text, Mapping):
        raise TypeError(
            f"a calibration text is a string or a mapping, received {text!r}"
        )
    try:
        return f"{text['prompt']}\n{text['reference']}"
    except KeyError as error:
        raise KeyError(
            f"a calibration text is a string or has 'prompt' and 'reference'; "
            f"received {sorted(text)}"
        ) from error
