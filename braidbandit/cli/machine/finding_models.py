"""Models that are on this machine already: GGUF files, adapters, packages, servers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from braidbandit.cli.machine.doctor.models import PACKAGED
from braidbandit.cli.machine.servers import Server

_DEEPEST = 6
_MOST_FILES = 20_000
# Parts of a model in several files, and the part of one that reads pictures.
_PART = re.compile(r"-\d{5}-of-\d{5}$")
_NOT_ALONE = ("mmproj", "imatrix", "lora")
_SKIPPED = {"node_modules", "__pycache__", "site-packages", "proc", "sys"}
_DOMAINS = (
    ("code", ("code", "coder", "starcoder", "devstral", "codestral")),
    ("medical", ("medic", "medgemma", "biomistral", "clinical")),
    ("maths", ("math",)),
    ("legal", ("legal", "law")),
    ("finance", ("finance", "fingpt")),
)


@dataclass(frozen=True)
class Found:
    """A model that could be an arm.

    Attributes
    ----------
    card : dict
        As a pool has it.
    kind : str
        "file", "adapter", "package" or the name of a server.
    where : str
        For people.
    """

    card: dict[str, Any]
    kind: str
    where: str


def usual_folders() -> list[Path]:
    """Return the folders where programs of this machine keep models."""
    home = Path.home()
    caches = [
        os.environ.get("HF_HUB_CACHE"),
        os.environ.get("LLAMA_CACHE"),
        home / ".cache/huggingface/hub",
        home / ".cache/llama.cpp",
        home / ".lmstudio/models",
        home / ".cache/lm-studio/models",
        home / "models",
        Path.cwd(),
    ]
    places = [Path(place).resolve() for place in caches if place]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def find_models(
    folders: Sequence[Path], servers: Iterable[Server], others: Iterable[Found] = ()
) -> list[Found]:
    """Return every model that is found; each has a name of its own.

    Parameters
    ----------
    folders : sequence of Path
        Searched for GGUF files and adapters, six folders deep.
    servers : iterable of Server
    others : iterable of Found
        That are known already, such as :func:`packaged_models`.
    """
    found = [*others, *_on_disk(folders), *_served(servers)]
    return _named_apart(found)


def domain_of(name: str) -> str:
    """Return what a model is good at, by its name.

    Examples
    --------
    >>> domain_of("qwen2.5-coder:7b"), domain_of("llama-3.2-3b")
    ('code', 'general')
    """
    low = name.lower()
    for domain, words in _DOMAINS:
        if any(word in low for word in words):
            return domain
    return "general"


def packaged_models() -> list[Found]:
    """Return the models that are installed as packages."""
    return [
        Found(_card(name), "package", module)
        for name, (module, _) in PACKAGED.items()
        if importlib.util.find_spec(module) is not None
    ]


def _served(servers: Iterable[Server]) -> Iterator[Found]:
    for server in servers:
        for model in server.models:
            card = {
                **_card(model.removesuffix(":latest")),
                "source": model,
                "endpoint": server.endpoint,
                "price": {"input": 0.0, "output": 0.0},
            }
            yield Found(card, server.kind, server.endpoint)


def _on_disk(folders: Sequence[Path]) -> Iterator[Found]:
    seen = set[Path]()
    for folder in folders:
        for file in _files_in(folder):
            real = file.resolve()
            if real in seen:
                continue
            seen.add(real)
            if file.name == "adapter_config.json":
                yield from _adapter(file.parent)
            elif not any(word in file.name.lower() for word in _NOT_ALONE):
                if not _PART.search(file.stem):
                    card = {**_card(file.stem), "source": str(file)}
                    size = f"{file.stat().st_size / 1e9:.1f} GB"
                    yield Found(card, "file", f"{file} ({size})")


def _adapter(folder: Path) -> Iterator[Found]:
    try:
        text = (folder / "adapter_config.json").read_text(encoding="utf-8")
        base = json.loads(text)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if (
        isinstance(base, str)
        and base
        and (folder / "adapter_model.safetensors").exists()
    ):
        beside = folder / base
        source = str(beside.resolve()) if beside.is_dir() else base
        card = {**_card(folder.name), "source": source, "adapter": str(folder)}
        yield Found(card, "adapter", f"{folder} on {base}")


def _files_in(folder: Path) -> Iterator[Path]:
    """Walk a folder for what may be a model, not too deep and not for ever."""
    looked_at = 0
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        hidden = {name for name in folders if name.startswith(".")}
        kept = set(folders) - _SKIPPED - hidden if depth < _DEEPEST else set[str]()
        folders[:] = sorted(kept)
        for name in sorted(names):
            if name.lower().endswith(".gguf") or name == "adapter_config.json":
                yield Path(place) / name
        looked_at += len(names)
        if looked_at > _MOST_FILES:
            return


def _card(name: str) -> dict[str, Any]:
    return {"model_name": name, "domain": domain_of(name)}


def _named_apart(found: Iterable[Found]) -> list[Found]:
    """Give models of one name different ones: a pool knows them by their names."""
    taken, apart = set[str](), list[Found]()
    for model in found:
        name = str(model.card["model_name"])
        if name in taken:
            name = f"{name} ({model.kind})"
            number = 2
            while name in taken:
                name = f"{model.card['model_name']} ({model.kind} {number})"
                number += 1
        taken.add(name)
        apart.append(replace(model, card={**model.card, "model_name": name}))
    return apart
