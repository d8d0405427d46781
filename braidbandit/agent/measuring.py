"""Profiles of a pool: how fast its models are on this machine, measured once."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidbandit._files import write_atomic
from braidbandit._json import content_hash
from braidbandit.agent.braid_builder import check_settings, source_of
from braidbandit.catalogue.cards import ModelCard, as_cards, check_names
from braidbandit.catalogue.profile import Profile

if TYPE_CHECKING:
    from fusion import Pool

_LOG = logging.getLogger(__name__)
_LIBRARIES = ("braidbandit", "torch", "transformers", "llama-cpp-python")
_STATM = Path("/proc/self/statm")


class Profiles(dict[str, Profile]):
    """Profiles by the name of the model; printed as one line each."""

    def __str__(self) -> str:
        return "\n".join(f"{name}: {profile}" for name, profile in self.items())

    def to_dict(self) -> dict[str, Any]:
        """Return them as JSON-able data."""
        return {name: profile.to_dict() for name, profile in self.items()}


def profile(
    model_pool: Iterable[ModelCard | Mapping[str, Any] | str],
    *,
    dtype: str | None = None,
    layers: bool = False,
    anew: bool = False,
    progress: bool = False,
) -> Profiles:
    """Measure how fast the models of a pool are here, how large, and how fast loaded.

    Each model is loaded, reads a short prompt and writes a few tokens: seconds for a
    small one. What was measured is kept in ``profiles.json`` in the cache folder
    (``$BRAIDBANDIT_CACHE``), for this machine, the number of threads that torch uses,
    and the content of the model's files; the next time it is read. Measure while the
    machine has nothing else to do. Served models are passed over.

    Parameters
    ----------
    model_pool : iterable of dict, ModelCard or str
        As :class:`MetaBraider` takes it.
    dtype : str, optional
        Numbers that strands compute with: "float32" (default) or "bfloat16".
    layers : bool
        Measure also what braids fused at decoder layers load, where llama.cpp runs the
        model otherwise.
    anew : bool
        Measure again what is known.
    progress : bool
        Show a bar.

    Returns
    -------
    dict of str to Profile
        By the name of the model; for :meth:`Catalogue.build`. Has ``to_dict``.

    Raises
    ------
    ValueError
        When a model's source is unknown, or two models share a name.

    Examples
    --------
    >>> pool = ["SmolLM2-135M-Instruct", "gemma-3-270m"]
    >>> print(profile(pool))  # doctest: +SKIP
    SmolLM2-135M-Instruct: llama.cpp, float32: reads 172 tokens/s, writes 76.2 ...
    gemma-3-270m: llama.cpp, float32: reads 351 tokens/s, writes 44.0 ...
    >>> catalogue = Catalogue.build(pool, profiles=profile(pool))  # doctest: +SKIP
    """
    check_settings(None, dtype)
    cards = [card for card in as_cards(model_pool) if not card.is_served]
    check_names(card.name for card in cards)
    sources = {card.name: source_of(card) for card in cards}
    if not cards:
        return Profiles()
    from tqdm import tqdm

    found = Profiles()
    kept = _Kept(anew)
    for name in tqdm(sources, "profiling", disable=not progress):
        plain = _profile_of(kept, name, sources[name], dtype or "float32", False)
        if layers and plain.engine == "llama.cpp":
            layered = _profile_of(kept, name, sources[name], dtype or "float32", True)
            plain = replace(plain, layered=layered)
        found[name] = plain
        _LOG.info("%s: %s", name, plain)
    return found


class _Kept:
    """The file of profiles: by machine and model, each with what its key is made of."""

    def __init__(self, anew: bool) -> None:
        self._anew = anew
        self._machine = machine()

    def get(self, strand: list[str]) -> Profile | None:
        if self._anew:
            return None
        entry = self._read().get(self._key(strand))
        try:
            return None if entry is None else Profile.read(entry["profile"])
        except (KeyError, TypeError, ValueError):
            return None  # a damaged one: measured again

    def put(self, strand: list[str], found: Profile) -> None:
        entry = {
            "machine": self._machine,
            "strand": strand,
            "profile": found.to_dict(),
        }
        try:
            # Read again: another process may have written meanwhile.
            entries = {**self._read(), self._key(strand): entry}
            _file().parent.mkdir(parents=True, exist_ok=True)
            write_atomic(_file(), json.dumps(entries, indent=1).encode())
        except (OSError, RuntimeError):
            _LOG.warning("profiles cannot be kept, and are measured again next time")

    def _key(self, strand: list[str]) -> str:
        return content_hash([self._machine, strand])

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(_file().read_text("utf-8"))
        except (OSError, ValueError, RuntimeError):
            return {}  # none yet, a damaged one, or no home
        return entries if isinstance(entries, dict) else {}


def _file() -> Path:
    from fusion.strands.pool import default_cache

    return default_cache() / "profiles.json"


def machine() -> dict[str, Any]:
    """Describe what the speed of a model depends on, beside the model."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        **{name: _installed(name) for name in _LIBRARIES},
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, ValueError):
        pass
    return platform.processor() or platform.machine()


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _profile_of(
    kept: _Kept, name: str, source: Any, dtype: str, layered: bool
) -> Profile:
    """Return what is known of a strand, or measure it."""
    import torch

    from fusion import Pool

    pool = Pool({name: source}, dtype=getattr(torch, dtype))
    engine, content = pool.engine(name, layered), pool.content(name)
    if content is None:
        # Not on this machine as a file: known by what is loaded.
        content = pool[name].content
    strand = [engine, dtype, content]
    found = kept.get(strand)
    if found is None:
        found = _measured(pool, name, engine, dtype, layered)
        kept.put(strand, found)
    return found


def _measured(pool: Pool, name: str, engine: str, dtype: str, layered: bool) -> Profile:
    """Load a strand and measure it."""
    from fusion import Pool
    from fusion.braid.speed import measure

    def load(pool: Pool) -> Any:
        return pool.with_layers(name) if layered else pool[name]

    load(pool)  # the first time a file may be converted, which happens once
    fresh = Pool(pool.sources, dtype=pool.dtype)
    del pool
    before = held()
    started = time.perf_counter()
    strand = load(fresh)
    seconds = time.perf_counter() - started
    speed = measure(strand)
    grown = held() - before
    return Profile(
        engine=engine,
        dtype=dtype,
        prompt_tokens_per_s=_rounded(speed.prompt_tokens_per_s),
        body_seconds=_rounded(speed.body_seconds),
        head_seconds=_rounded(speed.head_seconds),
        fusing_seconds=_rounded(speed.fusing_seconds),
        mixing_seconds=_rounded(speed.mixing_seconds),
        load_seconds=_rounded(seconds),
        memory=max(int(strand.memory + strand.context_memory), grown),
    )


def held() -> int:
    """Return the bytes of memory that this process needs; 0 where that is not told."""
    if not _STATM.exists():
        return 0
    gc.collect()
    # What was freed is given back first: glibc keeps it for what comes next.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(_STATM.read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
