"""The store behind calibration: every strand's features and every trained part.

Each is one file, keyed by what it depends on, written whole or not at all. Braids that
share a part train it once; an interrupted calibration goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from .strand import Strand
from .training import TextFeatures, read_text, train

FORMAT = 2
HELD_OUT_EVERY = 6


class Session:
    """One calibration: texts, features, and the store behind them."""

    # By strand, not by name: two strands may share a name, and none is kept alive.
    _memory: WeakKeyDictionary[Strand, dict[str, list[TextFeatures]]] = (
        WeakKeyDictionary()
    )

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
        known = self._memory.setdefault(strand, {})
        if self.data not in known:
            path = self._path("features", who(strand))
            if path is not None and path.exists():
                known[self.data] = _unpack(load_file(path))
            else:
                label = f"{strand.name} reads {len(self.texts)} texts"
                bar = tqdm(self.texts, desc=label, disable=not self.progress)
                known[self.data] = [read_text(strand, text) for text in bar]
                self._write(path, _pack(known[self.data]))
        return known[self.data]

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

    def train(
        self,
        module: nn.Module,
        loss: Callable[[Sequence[int]], Tensor],
        epochs: int,
        rate: float,
        label: str,
        limit: int | None = None,
    ) -> None:
        """Train a module on the training texts, at most ``limit`` of them."""
        train(
            module,
            loss,
            self.training[:limit],
            self.held_out[: None if limit is None else max(4, limit // 4)],
            epochs=epochs,
            learning_rate=rate,
            seed=self.seed,
            label=label,
            progress=self.progress,
        )


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


def who(strand: Strand) -> str:
    return f"{strand.name}:{strand.source}:{strand.dtype}"


def plain_text(text: str | Mapping[str, Any]) -> str:
    if isinstance(text, str):
        return text
    try:
        return f"{text['prompt']}\n{text['reference']}"
    except KeyError as error:
        raise KeyError(
            f"a calibration text is a string or has 'prompt' and 'reference'; "
            f"received {sorted(text)}"
        ) from error
