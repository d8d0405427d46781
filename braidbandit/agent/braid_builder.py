"""Where braids are built: strands are loaded once, fusers trained once."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from braidbandit._files import write_atomic
from braidbandit.catalogue.braid import Braid
from braidbandit.catalogue.cards import ModelCard
from braidbandit.tasks.packaged import calibration_texts as packaged_texts

if TYPE_CHECKING:
    from fusion import BraidedLLM, CalibrationReport, Pool

_FACTS = (
    "parameters",
    "layers",
    "width",
    "vocab_size",
    "quantisation",
    "licence",
    "memory",
)
_NEEDED = ("parameters", "layers", "width", "vocab_size")
_MOST_BRAIDS = 64
_SETTINGS = "calibration.json"


class Built(NamedTuple):
    """A braid that is ready, and how its calibration went.

    Attributes
    ----------
    model : BraidedLLM
    report : CalibrationReport or None
        None for a model alone, which has nothing to train.
    """

    model: BraidedLLM
    report: CalibrationReport | None


class BraidBuilder:
    """Builds and calibrates braids, and keeps the newest 64 of them.

    Several threads may share it: each braid has a lock of its own, so that only those
    wait for a calibration that want the same braid, and they get what it built.

    Parameters
    ----------
    sources : mapping of str to str or dict
        Where each model comes from, by name, as `source_of` says.
    folder : Path
        Keeps trained parts in ``store/`` and the settings in ``calibration.json``.
    texts : sequence, optional
        Calibration texts; by default those of the folder, else the packaged ones.
    dtype : str, optional
        Of strands; by default that of the folder, else "float32".
    """

    def __init__(
        self,
        sources: Mapping[str, Any],
        folder: Path,
        texts: Sequence[Any] | None = None,
        dtype: str | None = None,
    ) -> None:
        self.sources, self.folder = dict(sources), folder
        self.texts, self.dtype = _settings(folder, texts, dtype)
        self._strands: Pool | None = None
        self._braids: OrderedDict[str, Built] = OrderedDict()
        self._keeping, self._loading = threading.RLock(), threading.Lock()
        self._building: dict[str, Any] = {}

    def after_fork(self) -> None:
        """Make new locks: a thread of the parent process may hold the old ones."""
        if self._loading.locked():
            # A thread of the parent was loading into the pool: strands are loaded anew.
            self._strands = None
        self._keeping, self._loading = threading.RLock(), threading.Lock()
        self._building = {}

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
                return self._braids[braid.id].model
        return self._built(braid).model

    def build(
        self,
        braid: Braid,
        *,
        progress: bool = False,
        judged: Callable[[CalibrationReport], None] | None = None,
    ) -> CalibrationReport | None:
        """Build a braid and train its fusers, or read them from the store.

        Parameters
        ----------
        braid : Braid
        progress : bool
            Show a bar for each part that is trained.
        judged : callable, optional
            Gets the report before any other thread can get the braid.

        Returns
        -------
        CalibrationReport or None
            None for a model alone, which has nothing to train.
        """
        return self._built(braid, progress, judged).report

    def _built(
        self,
        braid: Braid,
        progress: bool = False,
        judged: Callable[[CalibrationReport], None] | None = None,
    ) -> Built:
        """Build a braid, or wait for the thread that is building it."""
        with self._keeping:
            before = self._braids.get(braid.id)
            lock = self._building.setdefault(braid.id, threading.RLock())
        with lock:
            known = self._braids.get(braid.id)
            if known is not None and known is not before:
                return known  # it was built while this thread waited
            built = self._build_now(braid, progress)
            if judged is not None and built.report is not None:
                judged(built.report)
            with self._keeping:
                self._braids[braid.id] = built
                self._braids.move_to_end(braid.id)
                while len(self._braids) > _MOST_BRAIDS:
                    self._braids.popitem(last=False)
        return built

    def _build_now(self, braid: Braid, progress: bool) -> Built:
        from fusion import BraidConfig, BraidedLLM, calibrate

        with self._loading:
            pool = self.strands
            read = pool.with_layers if braid.mid_layers else pool.__getitem__
            strands = [read(name) for name in braid.strands]
        sources = {name: self.sources[name] for name in braid.strands}
        model = BraidedLLM(BraidConfig(**braid.recipe(), sources=sources), strands)
        if not braid.fusion_layers:
            return Built(model, None)
        store = self.folder / "store"
        return Built(
            model, calibrate(model, self.texts, store=store, progress=progress)
        )


def source_of(card: ModelCard) -> Any:
    """Where a model comes from, as `fusion.Pool` takes it.

    Examples
    --------
    >>> source_of(ModelCard("legal", source="base", adapter="tuned/legal"))
    {'source': 'base', 'adapter': 'tuned/legal'}
    """
    if card.adapter is None:
        return str(card.source)
    return {"source": str(card.source), "adapter": str(card.adapter)}


def completed(
    card: ModelCard, sources: Mapping[str, Any], dtype: str = "float32"
) -> ModelCard:
    """Fill in what a card leaves open from the model's configuration.

    Its ``memory`` is that of what will be loaded, with numbers of ``dtype``.
    """
    whole = all(getattr(card, key) is not None for key in _NEEDED)
    if whole and (card.memory is not None or card.profile is not None):
        return card
    if whole and card.quantisation is None and not _is_gguf(card):
        size = (card.parameters or 0) * (2 if dtype == "bfloat16" else 4)
        return replace(card, memory=size)
    import torch

    from fusion import Pool

    try:
        facts = Pool(sources, dtype=getattr(torch, dtype)).facts(card.name)
    except ValueError:
        if not whole:
            raise
        return card  # not here; what its card says goes as far as it can
    return replace(
        card, **{key: facts[key] for key in _FACTS if getattr(card, key) is None}
    )


def _is_gguf(card: ModelCard) -> bool:
    return str(card.source).lower().endswith(".gguf")


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


def dtype_in(folder: str | Path | None, dtype: str | None) -> str:
    """Return the dtype that a builder of a folder goes by; nothing is written."""
    known = {} if folder is None else _known(Path(folder).expanduser())
    return dtype or str(known.get("dtype", "float32"))


def _known(folder: Path) -> dict[str, Any]:
    file = folder / _SETTINGS
    known: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return known


def _settings(
    folder: Path, texts: Sequence[Any] | None, dtype: str | None
) -> tuple[Sequence[Any], str]:
    """Return calibration texts and dtype: as given, else as the folder has them."""
    file = folder / _SETTINGS
    known = _known(folder)
    check_settings(texts, dtype)
    kept: Sequence[Any] = known.get("texts") or packaged_texts()
    settings: dict[str, Any] = {
        "dtype": dtype or known.get("dtype", "float32"),
        "texts": list(kept if texts is None else texts),
    }
    if settings != known:
        write_atomic(file, json.dumps(settings).encode())
    return settings["texts"], settings["dtype"]
