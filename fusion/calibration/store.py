"""The store behind calibration: every strand's features and every trained part.

Each is one file, keyed by what it depends on, written whole or not at all. Braids that
share a part train it once; an interrupted calibration goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from .._files import replacing
from ..braid.model import BraidedLLM
from ..strands.strand import Strand, memo_key
from .features import TextFeatures, compute_features, pack, read_cuts, unpack
from .sampled_softmax import SampledSoftmax, mean_distribution
from .texts import split

FORMAT = 7

# What this process has read already, for all stores. By strand, not by name: two
# strands may share a name, and none is kept alive.
_FEATURES: WeakKeyDictionary[Strand, dict[Any, list[TextFeatures]]]
_FEATURES = WeakKeyDictionary()
_CUTS: WeakKeyDictionary[Strand, dict[Any, list[tuple[Tensor, Tensor]]]]
_CUTS = WeakKeyDictionary()
_OF_CUTS = ("at", "states")
_MEMOS: WeakKeyDictionary[Strand, dict[Any, dict[Any, Any]]]
_MEMOS = WeakKeyDictionary()


def identity(strand: Strand) -> str:
    """Which strand this is, with its weights: the key of what was made with it."""
    return f"{strand.name}:{strand.source}:{strand.dtype}:{strand.content}"


def strands_key(anchor: Strand, donors: Sequence[Strand]) -> list[Any]:
    """The key of what depends on a braid's strands, to be gone on with."""
    return [identity(anchor), [identity(donor) for donor in donors]]


def braid_key(model: BraidedLLM, epochs: int) -> list[Any]:
    """The key of what belongs to one braid alone: its whole recipe."""
    config = model.config
    key = [
        *strands_key(model.anchor, model.donors),
        config.strategy,
        config.fusion_layers,
        config.shares,
        epochs,
    ]
    return [*key, config.donor_layers] if config.donor_layers else key


class CalibrationStore:
    """Features and trained parts for some calibration texts, in a folder or in memory.

    Parameters
    ----------
    texts : sequence of str
    folder : Path or None
        Where files are kept; None: features stay in this process, parts nowhere.
    seed : int
        Of the split of the texts and of all training.
    progress : bool
        Whether to show progress bars.

    Attributes
    ----------
    training, held_out : list of int
        Numbers of the texts to train on, and of the others.
    trained, reused : list of str
        Kinds of parts that were trained so far, and of those found in the folder.
    """

    def __init__(
        self, texts: Sequence[str], folder: Path | None, seed: int, progress: bool
    ) -> None:
        self.texts, self.folder = texts, folder
        self.seed, self.progress = seed, progress
        data = json.dumps([FORMAT, *texts])
        self.texts_hash = hashlib.sha256(data.encode()).hexdigest()[:16]
        self.training, self.held_out = split(len(texts), seed)
        self.trained: list[str] = []
        self.reused: list[str] = []
        self._losses: dict[Strand, SampledSoftmax] = {}
        self._with_specials: dict[Strand, bool] = {}

    def features(
        self, strand: Strand, anchor: Strand | None = None
    ) -> list[TextFeatures]:
        """The strand's features of every text, read once per process and folder.

        Parameters
        ----------
        strand : Strand
        anchor : Strand, optional
            If the strand is a donor of this one, which matters where special tokens
            are written out in a text.

        Returns
        -------
        list of TextFeatures
            On the strand's device, wherever they were computed.
        """
        if anchor is not None and not any(map(self._mentions, (strand, anchor))):
            anchor = None  # it reads the same by itself
        whose = [] if anchor is None else [identity(anchor)]
        known = _FEATURES.setdefault(strand, {})
        key = (self.texts_hash, *whose, *_changeable(strand))
        if key not in known:
            names = [identity(strand), *whose] if whose else identity(strand)
            tensors = self._stored(
                "features", names, lambda: pack(self._read(strand, anchor))
            )
            known[key] = unpack(tensors, strand.device)
        return known[key]

    def cuts(self, anchor: Strand, donor: Strand) -> list[tuple[Tensor, Tensor]]:
        """Of every text, where serving cuts it otherwise for the donor: `read_cuts`."""
        known = _CUTS.setdefault(anchor, {})
        states = map(_changeable, (anchor, donor))
        key = (self.texts_hash, *states, memo_key(donor))
        if key not in known:
            tensors = self._stored(
                "cuts",
                strands_key(anchor, [donor]),
                lambda: self._read_cuts(anchor, donor),
            )
            lengths = tensors["length"].tolist()
            parts = (tensors[k].to(donor.device).split(lengths) for k in _OF_CUTS)
            known[key] = list(zip(*parts, strict=True))
        return known[key]

    def _read_cuts(self, anchor: Strand, donor: Strand) -> dict[str, Tensor]:
        texts = zip(self.features(anchor), self.features(donor, anchor), strict=True)
        label = f"{donor.name} reads what {anchor.name} has so far"
        bar = tqdm(
            texts, label, len(self.texts), leave=False, disable=not self.progress
        )
        found = [read_cuts(anchor, donor, *pair) for pair in bar]
        parts = zip(_OF_CUTS, zip(*found, strict=True), strict=True)
        lengths = torch.tensor([len(at) for at, _ in found])
        return {"length": lengths, **{k: torch.cat(part) for k, part in parts}}

    def memo(self, model: BraidedLLM, i: int) -> dict[Any, Any]:
        """What the model's strands made of text i together, for `BraidedLLM.encode`.

        The same dict for all braids of these strands, in this process.
        """
        known = _MEMOS.setdefault(model.anchor, {})
        states = map(_changeable, (model.anchor, *model.donors))
        key = (self.texts_hash, i, *states, *map(memo_key, model.donors))
        if key not in known:
            own = self.features(model.anchor)[i]
            text = (tuple(own.ids.tolist()),)
            known[key] = {(*memo_key(model.anchor), text): own.hidden[None]}
        return known[key]

    def sampled_softmax(
        self, strand: Strand, more: Tensor | None = None
    ) -> SampledSoftmax:
        """The cheap loss over the strand's vocabulary, for these texts.

        Parameters
        ----------
        strand : Strand
        more : Tensor, int64, optional
            Tokens that will be asked for beside those of the texts.
        """
        if more is None and strand in self._losses:
            return self._losses[strand]
        texts = self.features(strand)
        found = self._stored(
            "vocabulary",
            identity(strand),
            lambda: {"mean": mean_distribution(strand, texts, self.seed)},
        )
        mean = found["mean"].to(strand.device)
        targets = torch.cat([t.targets for t in texts])
        if more is not None:
            return SampledSoftmax(strand, mean, torch.cat([targets, more]))
        self._losses[strand] = SampledSoftmax(strand, mean, targets)
        return self._losses[strand]

    def load_or_fit(
        self, kind: str, key: Any, module: nn.Module, fit: Callable[[], object]
    ) -> None:
        """Fill a module from the folder, or train it and write it there.

        Parameters
        ----------
        kind : str
            Which part it is, such as "final"; comes to stand in `trained` or `reused`.
        key : JSON-able
            All that the part depends on, but for the texts and the seed.
        module : nn.Module
            Changed in place.
        fit : callable
            Trains the module where the folder does not have it.
        """
        path = self._path(kind, key)
        found = _load(path)
        if found is not None:
            module.load_state_dict(found)
            self.reused.append(kind)
            return
        fit()
        _write(path, module.state_dict())
        self.trained.append(kind)

    def load_or_measure(
        self, kind: str, key: Any, measure: Callable[[], Sequence[float]]
    ) -> list[float]:
        """Figures from the folder; measured anew if a part was trained in this call.

        Parameters
        ----------
        kind, key
            As in `load_or_fit`.
        measure : callable
            Returns the figures.

        Returns
        -------
        list of float
        """
        path = self._path(kind, key)
        if self.trained and path is not None:
            path.unlink(missing_ok=True)

        def make() -> dict[str, Tensor]:
            return {"figures": torch.tensor(measure(), dtype=torch.float64)}

        figures: list[float] = self._stored(kind, key, make)["figures"].tolist()
        return figures

    def _read(self, strand: Strand, anchor: Strand | None) -> list[TextFeatures]:
        label = f"{strand.name} reads {len(self.texts)} texts"
        return compute_features(
            strand, self.texts, anchor=anchor, label=label, progress=self.progress
        )

    def _mentions(self, strand: Strand) -> bool:
        """Whether special tokens of the strand are written out in any of the texts."""
        if strand not in self._with_specials:
            words = "\n".join(self.texts)
            self._with_specials[strand] = strand.tokens.mentions_specials(words)
        return self._with_specials[strand]

    def _path(self, kind: str, key: Any) -> Path | None:
        if self.folder is None:
            return None
        # What strands make of the texts is the same for every seed.
        seed = None if kind == "features" else self.seed
        data = json.dumps([self.texts_hash, seed, kind, key])
        digest = hashlib.sha256(data.encode()).hexdigest()[:16]
        return self.folder / f"{kind}-{digest}.safetensors"

    def _stored(
        self, kind: str, key: Any, make: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        path = self._path(kind, key)
        found = _load(path)
        if found is None:
            found = make()
            _write(path, found)
        return found


def _load(path: Path | None) -> dict[str, Tensor] | None:
    """A file of the store, if it is there and whole: a power failure may cut it off."""
    if path is None:
        return None
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError):
        return None


def _write(path: Path | None, tensors: Mapping[str, Tensor]) -> None:
    if path is None:
        return
    with replacing(path.parent) as work:
        whole = {k: v.contiguous().cpu() for k, v in tensors.items()}
        save_file(whole, work / path.name)


def _changeable(strand: Strand) -> tuple[torch.dtype, torch.device, int]:
    """What of a strand may change while the process knows it."""
    return strand.dtype, strand.device, strand.stamp
