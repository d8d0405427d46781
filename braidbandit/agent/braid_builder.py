"""Where braids are built: strands are loaded once, fusers trained once."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidbandit._files import write_atomic
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard
from braidbandit.tasks.packaged import calibration_texts as packaged_texts

if TYPE_CHECKING:
    from fusion import BraidedLLM, CalibrationReport, Pool

_FACTS = ("parameters", "layers", "width", "vocab_size", "quantisation", "licence")
_NEEDED = ("parameters", "layers", "width", "vocab_size")
_MOST_BRAIDS = 64


class BraidBuilder:
    """Builds and calibrates braids, and keeps the newest of them.

    Parameters
    ----------
    sources : mapping of str to str
        Where each model comes from, by name.
    folder : Path
        Keeps trained parts in ``store/`` and the settings in ``calibration.json``.
    texts : sequence, optional
        Calibration texts; by default those of the folder, else the packaged ones.
    dtype : str, optional
        Of strands; by default that of the folder, else "float32".
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        folder: Path,
        texts: Sequence[Any] | None = None,
        dtype: str | None = None,
    ) -> None:
        self.sources, self.folder = dict(sources), folder
        self.texts, self.dtype = _settings(folder, texts, dtype)
        self._strands: Pool | None = None
        self._braids: OrderedDict[str, BraidedLLM] = OrderedDict()
        self.after_fork()

    def after_fork(self) -> None:
        """Begin with locks that no other thread holds."""
        self._keeping = threading.RLock()
        self._building: dict[str, threading.RLock] = {}

    @property
    def strands(self) -> Pool:
        """The loaded strands by name; a strand is loaded when it is first asked for."""
        with self._keeping:
            if self._strands is None:
                import torch

                from fusion import Pool

                self._strands = Pool(self.sources, dtype=getattr(torch, self.dtype))
            return self._strands

    def __contains__(self, braid: Braid) -> bool:
        return braid.id in self._braids

    def __getitem__(self, braid: Braid) -> BraidedLLM:
        """A braid; built and calibrated if it is not kept."""
        with self._keeping:
            if braid in self:
                self._braids.move_to_end(braid.id)
                return self._braids[braid.id]
        return self._built(braid)[0]

    def build(
        self, braid: Braid, *, progress: bool = False
    ) -> CalibrationReport | None:
        """Build a braid and train its fusers, or read them from the store.

        Returns
        -------
        CalibrationReport or None
            None for a model alone, which has nothing to train.
        """
        return self._built(braid, progress)[1]

    def _built(
        self, braid: Braid, progress: bool = False
    ) -> tuple[BraidedLLM, CalibrationReport | None]:
        from fusion import BraidConfig, BraidedLLM, calibrate

        with self._keeping:
            lock = self._building.setdefault(braid.id, threading.RLock())
        # One thread a braid: the others go on with other braids, or wait for this one.
        with lock:
            with self._keeping:
                strands = [self.strands[name] for name in braid.strands]
            sources = {name: self.sources[name] for name in braid.strands}
            model = BraidedLLM(BraidConfig(**braid.recipe(), sources=sources), strands)
            report = None
            if braid.fusion_layers:
                store = self.folder / "store"
                report = calibrate(model, self.texts, store=store, progress=progress)
            with self._keeping:
                self._braids[braid.id] = model
                while len(self._braids) > _MOST_BRAIDS:
                    self._braids.popitem(last=False)
        return model, report


def completed(card: ModelCard, sources: Mapping[str, str]) -> ModelCard:
    """Fill in what a card leaves open from the model's configuration."""
    if all(getattr(card, key) is not None for key in _NEEDED):
        return card
    from fusion import Pool

    facts = Pool(sources).facts(card.name)
    return replace(
        card, **{key: facts[key] for key in _FACTS if getattr(card, key) is None}
    )


def check_settings(texts: Any, dtype: Any) -> None:
    """Refuse calibration texts and a dtype that no braid could be built with."""
    if dtype not in (None, "float32", "bfloat16"):
        raise ValueError(f"dtype is 'float32' or 'bfloat16', received {dtype!r}")
    if texts is None:
        return
    if isinstance(texts, str | Mapping) or hasattr(texts, "columns"):
        raise TypeError(
            f"calibration_texts is a {type(texts).__name__}; give a list of texts"
        )
    if not len(texts):
        raise ValueError("calibration_texts is empty; give some, or None")
    for text in texts:
        whole = isinstance(text, Mapping) and {"prompt", "reference"} <= set(text)
        if not whole and not (isinstance(text, str) and text.strip()):
            raise TypeError(
                "a calibration text is text, or a dict with 'prompt' and 'reference'; "
                f"received {text!r}"
            )


def _settings(
    folder: Path, texts: Sequence[Any] | None, dtype: str | None
) -> tuple[Sequence[Any], str]:
    """Return calibration texts and dtype: as given, else as the folder has them."""
    file = folder / "calibration.json"
    known = json.loads(file.read_text("utf-8")) if file.exists() else {}
    check_settings(texts, dtype)
    kept: Sequence[Any] = known.get("texts") or packaged_texts()
    settings: dict[str, Any] = {
        "dtype": dtype or known.get("dtype", "float32"),
        "texts": list(kept if texts is None else texts),
    }
    if settings != known:
        write_atomic(file, json.dumps(settings).encode())
    return settings["texts"], settings["dtype"]
