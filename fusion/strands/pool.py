"""Strands loaded once and shared, from a hub id, a folder or a GGUF file."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import GENERATION_CONFIG_NAME

from ..tokens.token_bytes import TokenBytes
from .adapters import adapted, adapter_parameters, read_adapter
from .gguf import converted, digest_of, tokenizer_of
from .loading import load, load_model
from .native_strand import NativeStrand, native_facts
from .packaged import PACKAGED
from .shelf import Shelf
from .sources import Source, read_source
from .strand import Strand
from .twins import twin

_LOG = logging.getLogger(__name__)


def default_cache() -> Path:
    """``$BRAIDBANDIT_CACHE``, or a folder in the user's cache."""
    named = os.environ.get("BRAIDBANDIT_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(named or Path(base) / "braidbandit").expanduser()
    except RuntimeError as error:
        raise RuntimeError(
            "this user has no home folder to keep converted models in; set "
            "BRAIDBANDIT_CACHE to a folder"
        ) from error


def _path(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # whose home, nobody knows here
        return Path(source)


def _anywhere(source: str) -> str:
    """A source as it is found in whatever folder a program later runs."""
    path = _path(source)
    known = source not in PACKAGED and path.exists()
    return str(path.absolute()) if known else source


@dataclass(frozen=True, eq=False)
class _Base:
    """What strands of one source share."""

    model: Any  # the plain strand's
    frame: Any  # a twin of it as it was loaded, of which others are made
    tokenizer: Any
    tokens: TokenBytes


class Pool(Mapping[str, Strand]):
    """Every strand once, loaded on first use.

    Parameters
    ----------
    sources : mapping of name to source, or one or several sources, optional
        A source is a hub id, a folder, a ``.gguf`` file, or the name of a packaged
        model (`PACKAGED`). A name without a source is its own source. With an adapter
        it is ``{"source": base, "adapter": folder}``: however many stand on a base, it
        is in memory once (`fusion.strands.adapters`).
    cache_dir : path, optional
        Where converted models go; default `default_cache`.
    dtype : torch.dtype
        Of strands that transformers runs.
    native : bool, optional
        Whether GGUF files stay as they are and are run by llama.cpp; False converts
        them, once, to folders that transformers runs. By default they stay where
        llama-cpp-python is installed (``pip install 'braidbandit[native]'``).
    memory_limit : int, optional
        Most bytes of weights in memory. Before a strand is loaded that would go beyond,
        those that were not asked for for longest are let go, and loaded again when they
        are asked for. A strand that somebody else holds, such as a braid, stays and
        counts until it is gone; so does one that was added.

    Raises
    ------
    ValueError
        On a limit that is not above 0.

    Notes
    -----
    Weights are read from safetensors only, and no code of a model is ever run.
    """

    def __init__(
        self,
        sources: Mapping[str, Any] | Iterable[str] | str | None = None,
        cache_dir: str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        native: bool | None = None,
        memory_limit: int | None = None,
    ) -> None:
        if isinstance(sources, str):
            sources = [sources]
        if not isinstance(sources, Mapping):
            sources = {source: source for source in sources or ()}
        self.sources: dict[str, Any] = {
            name: read_source(name, given).told() for name, given in sources.items()
        }
        self._bases: WeakValueDictionary[str, _Base] = WeakValueDictionary()
        self._cache_dir = cache_dir
        self.dtype, self.native = dtype, native
        self._shelf = Shelf(memory_limit)
        self._named: dict[str, None] = {}  # asked for or added
        self._lock = threading.Lock()

    @property
    def cache_dir(self) -> Path:
        """Where converted models go; looked up when there are some."""
        return Path(self._cache_dir or default_cache()).expanduser()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.sources, *self._named]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the strands in memory, the least recently used first."""
        with self._lock:
            return tuple(dict.fromkeys(name for name, _ in self._shelf))

    def add(self, strand: Strand) -> None:
        """Put a strand that is already in memory into the pool."""
        with self._lock:
            self._named[strand.name] = None
            self._shelf.put((strand.name, False), strand, keep=True)

    def folder(self, name: str) -> str:
        """A folder or hub id that transformers can load; converts GGUF files once.

        Raises
        ------
        ValueError
            When the source is none of the kinds above, or has an adapter.
        """
        base, adapter = self._given(name)
        if adapter is not None:
            raise ValueError(
                f"{name!r} is {base!r} with the adapter {adapter!r}, which no folder "
                "holds; merge the two (peft's merge_and_unload) and give that folder"
            )
        return self._folder(name)

    def _given(self, name: str) -> Source:
        return read_source(name, self.sources.get(name, name))

    def _folder(self, name: str) -> str:
        """The same of a strand's base, where it has an adapter."""
        file = self._gguf(name)
        if file is not None:
            return str(converted(file, self.cache_dir))
        source = self._place(name)
        path = _path(source)
        if path.is_dir() or (source.count("/") == 1 and not path.is_absolute()):
            return str(path) if path.is_dir() else source
        raise ValueError(
            f"unknown model source {source!r} for {name!r}: expected a hub id "
            "(owner/name), a folder, an existing .gguf file, or one of the packaged "
            f"models {sorted(PACKAGED)} with its package installed"
        )

    def _place(self, name: str) -> str:
        """A strand's source; for a packaged model, where its file is."""
        source = self._given(name).base
        if source in PACKAGED:
            return str(PACKAGED[source].file(self.cache_dir) or source)
        return source

    def _gguf(self, name: str) -> Path | None:
        """The GGUF file that a strand comes from; None where it comes from none."""
        path = _path(self._place(name))
        return path if path.suffix == ".gguf" and path.is_file() else None

    def _native_file(self, name: str) -> Path | None:
        """The same where it stays as it is: not where an adapter is put on it."""
        native = self.native
        if self._given(name).adapter is not None:
            return None
        if native is None:
            native = importlib.util.find_spec("llama_cpp") is not None
        return self._gguf(name) if native else None

    def facts(self, name: str) -> dict[str, Any]:
        """Size and shape of a model, from its configuration alone.

        With an adapter, "parameters" counts its own too.
        """
        source, adapter = self._given(name)
        told = {
            "licence": PACKAGED[source].licence if source in PACKAGED else None,
            "source": source,
            "adapter": adapter,
        }
        file = self._native_file(name)
        if file is not None:
            return {**native_facts(file), **told}
        folder = self._folder(name)
        more = 0 if adapter is None else adapter_parameters(str(_path(adapter)))
        config, shape = self._shape(folder)
        return {
            "parameters": sum(p.numel() for p in shape.parameters()) + more,
            "layers": int(config.num_hidden_layers),
            "width": int(config.hidden_size),
            "vocab_size": int(config.vocab_size),
            "memory": self._bytes(shape) + more * self.dtype.itemsize,
            "quantisation": None if folder in (source, str(_path(source))) else "gguf",
            **told,
        }

    def _shape(self, folder: str) -> tuple[Any, torch.nn.Module]:
        """Configuration of a model, and the model without its weights."""
        config = load(AutoConfig, folder, folder).get_text_config(decoder=True)
        with torch.device("meta"):
            return config, AutoModelForCausalLM.from_config(config)

    def _bytes(self, shape: torch.nn.Module) -> int:
        """What a model of this shape takes when it is loaded here."""
        weights = sum(p.numel() for p in shape.parameters()) * self.dtype.itemsize
        # Buffers keep the type that the model gives them.
        return weights + sum(b.numel() * b.dtype.itemsize for b in shape.buffers())

    def engine(self, name: str, layered: bool = False) -> str:
        """What runs a strand: "llama.cpp" or "transformers".

        ``layered`` is as `with_layers` has it.
        """
        native = not layered and self._native_file(name) is not None
        return "llama.cpp" if native else "transformers"

    def content(self, name: str) -> str | None:
        """Hash of the files that a strand comes from; nothing is loaded.

        None where they are not on this machine, as of a hub id.
        """
        places = [_path(self._place(name))]
        adapter = self._given(name).adapter
        places += [] if adapter is None else [_path(adapter)]
        digest = hashlib.sha256()
        for place in places:
            files = sorted(place.iterdir()) if place.is_dir() else [place]
            if not place.exists():
                return None
            for file in (file for file in files if file.is_file()):
                digest.update(f"{file.name} {digest_of(file)}\n".encode())
        return digest.hexdigest()[:32]

    def __contains__(self, name: object) -> bool:
        return name in self.sources or name in self._named

    def __getitem__(self, name: str) -> Strand:
        return self._get(name, self._native_file(name))

    def with_layers(self, name: str) -> Strand:
        """A strand whose decoder layers can be read and edited.

        The same as by its name, but where llama.cpp runs that one: then another one,
        which transformers runs from the file converted once.
        """
        with self._lock:
            known = self._shelf.get((name, False))
        if isinstance(known, Strand):
            return known
        if self._native_file(name) is None:
            return self[name]
        return self._get(name, None, layered=True)

    def _get(self, name: str, file: Path | None, layered: bool = False) -> Strand:
        """A strand that is here, or is loaded now; ``file`` where llama.cpp runs it."""
        key = (name, layered)
        with self._lock:
            found = self._shelf.get(key)
            if found is None:
                self._shelf.make_room(name, partial(self._needed, name, file))
                found = self._load(name, file)
                self._shelf.put(key, found)
                if not layered:
                    self._named[name] = None
            return found

    def _needed(self, name: str, file: Path | None) -> int:
        """Bytes of weights that come into memory when a strand is loaded."""
        if file is not None:
            return int(native_facts(file)["memory"])
        adapter = self._given(name).adapter
        own = 0 if adapter is None else adapter_parameters(str(_path(adapter)))
        own *= self.dtype.itemsize
        folder = self._folder(name)
        if self._base_key(folder) in self._bases:
            return own
        return self._bytes(self._shape(folder)[1]) + own

    def _load(self, name: str, file: Path | None) -> Strand:
        given = self._given(name)
        where = Source(_anywhere(given.base))
        if file is not None:
            _LOG.info("%s: llama.cpp runs %s as it is", name, file.name)
            tokenizer = tokenizer_of(file, self.cache_dir)
            # It stands wherever a strand stands.
            return cast(Strand, NativeStrand(name, file, tokenizer, where.base))
        folder = self._folder(name)
        _LOG.info("%s: transformers runs %s", name, folder)
        base = self._base(folder)
        model, settings = base.model, ""
        if given.adapter is not None:
            where = where._replace(adapter=str(_path(given.adapter).absolute()))
            adapter = read_adapter(str(where.adapter))
            settings = adapter.settings
            model = adapted(base.frame, adapter, given.base, base.tokenizer)
        return Strand(
            name,
            model,
            base.tokenizer,
            where.told(),
            tokens=base.tokens,
            settings=settings,
            base=base,
        )

    def _base(self, folder: str) -> _Base:
        """A model that was loaded, the same for all strands of one source."""
        key = self._base_key(folder)
        base = self._bases.get(key)
        if base is None:
            model = load_model(folder, folder, dtype=self.dtype, use_safetensors=True)
            tokenizer = load(AutoTokenizer, folder, folder)
            if (Path(folder) / GENERATION_CONFIG_NAME).is_file():
                # transformers passes over a damaged one.
                load(GenerationConfig, folder, folder)
            tokens = TokenBytes(tokenizer)
            base = _Base(model, twin(model), tokenizer, tokens)
            self._bases[key] = base
        return base

    def _base_key(self, folder: str) -> str:
        return str(Path(folder).resolve()) if Path(folder).is_dir() else folder
