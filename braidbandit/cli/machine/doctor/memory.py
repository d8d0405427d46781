"""Is there memory enough for the models of a pool?"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from braidbandit.catalogue.cards import ModelCard
from braidbandit.cli.machine.doctor.finding import Finding, error, ok, warning

# What Python, torch and transformers take before any weight is loaded.
_BESIDE = 1_500_000_000
# Weights of a file that is converted are at float32: eight times four bits.
_EXPANDED = 8


def check_memory(cards: Sequence[ModelCard], available: int | None = None) -> Finding:
    """Check that the largest model fits into memory, and whether all do.

    Parameters
    ----------
    cards : sequence of ModelCard
    available : int, optional
        Bytes; by default what the machine, or its container, has left.
    """
    room = available_memory() if available is None else available
    sizes = {card.name: bytes_of(card) for card in cards if not card.is_served}
    known = {name: size for name, size in sizes.items() if size}
    if room is None:
        return warning(
            "memory",
            "how much memory this machine has cannot be told",
            "see that the weights of the pool fit into it",
        )
    said = f"{room / 1e9:.1f} GB free"
    if not known:
        return ok("memory", f"{said}; no model of known size is loaded here")
    largest = max(known, key=lambda name: known[name])
    needed, whole = known[largest] + _BESIDE, sum(known.values()) + _BESIDE
    if needed > room:
        return error(
            "memory",
            f"{said}, and {largest} takes about {needed / 1e9:.1f} GB",
            "close other programs, take the model out of the pool, use a file with "
            "fewer bits a weight (such as Q4_K_M), or pip install "
            "'braidbandit[native]', which loads GGUF files as they are",
        )
    if whole > room:
        return warning(
            "memory",
            f"{said}, and all models together take about {whole / 1e9:.1f} GB",
            "take models out of the pool, or close other programs",
        )
    return ok("memory", f"{said}, all models together take about {whole / 1e9:.1f} GB")


def bytes_of(card: ModelCard) -> int:
    """Return about how many bytes the weights of a model take; 0 where unknown."""
    if card.memory is not None:
        return card.memory
    path = Path(str(card.source)).expanduser()
    if path.is_file():
        # Apparent size: a file with holes is loaded whole.
        size = path.stat().st_size
        native = importlib.util.find_spec("llama_cpp") is not None
        return size if native or path.suffix != ".gguf" else _EXPANDED * size
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return 4 * card.parameters if card.parameters is not None else 0


def available_memory() -> int | None:
    """Return the bytes that are free, within the limit of a container."""
    found = [free for free in (_of_machine(), _of_container()) if free is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None  # Windows


def _of_container() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        most = (folder / "memory.max").read_text("utf-8").strip()
        used = int((folder / "memory.current").read_text("utf-8"))
        return None if most == "max" else max(int(most) - used, 0)
    except (OSError, ValueError):
        return None
