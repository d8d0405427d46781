"""What a saved state is, told from its headers, wherever it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from braidbandit.cli.machine.doctor.ledger_file import LedgerFile
from braidbandit.cli.state.archive import header_of


def inspect(path: Path) -> dict[str, Any]:
    """Return what is known of a folder of an agent, a saved policy, or an export.

    Parameters
    ----------
    path : Path

    Raises
    ------
    FileNotFoundError
        When there is nothing of that kind.
    ValueError
        When it is damaged.
    """
    if path.is_file():
        return {"kind": "export", "path": path, **_without_kind(header_of(path))}
    if (path / "manifest.json").exists():
        return {"kind": "policy", "path": path, "policy": policy_of(path)}
    policy, ledger = path / "policy", path / "ledger.sqlite"
    if not (policy / "manifest.json").exists() and not ledger.exists():
        raise FileNotFoundError(
            f"{path} is no folder of an agent, no saved policy and no export"
        )
    found: dict[str, Any] = {"kind": "agent", "path": path}
    if (policy / "manifest.json").exists():
        found["policy"] = policy_of(policy)
    if ledger.exists():
        found["ledger"] = _ledger_of(ledger)
    return found


def policy_of(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a saved policy says."""
    file = folder / "manifest.json"
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        catalogue = saved["catalogue"]
        return {
            "format": saved["format"],
            "models": [card["name"] for card in catalogue["cards"]],
            "arms": len(catalogue["braids"]),
            "unfit": len(catalogue["unfit"]),
            "policy": saved["policy"]["name"],
            "price": saved["price"],
            "encoder": saved["encoder"]["model"],
            "encoder_hash": saved["encoder_hash"],
            "updates": saved["n_updates"],
            "pending": len(saved["pending"]),
            "warm_started": "start" in saved["scales"],
            "ledger_position": saved["ledger_position"],
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error!r}; restore a backup") from error


def _ledger_of(file: Path) -> dict[str, Any]:
    ledger = LedgerFile(file)
    damage = ledger.damage()
    if damage is not None:
        return {"damage": damage}
    return {
        "revision": ledger.revision(),
        **ledger.counts(),
        "encoders": ledger.encoders(),
        "bytes": file.stat().st_size,
    }


def _without_kind(header: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in header.items() if key != "kind"}
