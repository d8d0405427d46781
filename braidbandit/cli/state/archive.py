"""An agent as one file: what it decided, heard and learnt; and back to a folder.

A zip file with a header, the ledger as an SQLite file, the saved policy, and the
calibration settings. Trained parts and converted models are left out: they are made
again. Only files of these names are read back, and each has to have the content that
the header says.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
import zipfile
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from braidbandit._files import replacing

FORMAT = 1
_KIND = "braidbandit agent"
_HEADER = "agent.json"
_LEDGER = "ledger.sqlite"
_NAMES = re.compile(
    r"ledger\.sqlite|calibration\.json|policy/manifest\.json"
    r"|policy/arrays-[0-9a-f]{16}\.safetensors"
)
_MOST_BYTES = 2**33


def export_agent(folder: Path, file: Path) -> dict[str, Any]:
    """Write what an agent knows to a file.

    The agent may go on meanwhile: the policy is read first, so that the ledger has
    all that it has learnt.

    Parameters
    ----------
    folder : Path
        Of the agent.
    file : Path
        Ending in ``.zip``.

    Returns
    -------
    dict
        The header.

    Raises
    ------
    FileNotFoundError
        When there is neither a ledger nor a policy in the folder.
    """
    with tempfile.TemporaryDirectory() as temporary:
        inside = Path(temporary)
        files = [*_policy_of(folder), *_calibration_of(folder)]
        if (folder / _LEDGER).exists():
            _copy_ledger(folder / _LEDGER, inside / _LEDGER)
            files.append((_LEDGER, inside / _LEDGER))
        if not files:
            raise FileNotFoundError(f"{folder} holds no agent: no ledger, no policy")
        header = {
            "kind": _KIND,
            "format": FORMAT,
            "created_at": datetime.now(timezone.utc).isoformat(),
            "files": {name: _digest(path) for name, path in files},
        }
        with replacing(file) as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
                packed.writestr(_HEADER, json.dumps(header))
                for name, path in files:
                    packed.write(path, name)
    return header


def import_agent(file: Path, folder: Path) -> dict[str, Any]:
    """Make the folder of an agent from a file of :func:`export_agent`.

    Parameters
    ----------
    file : Path
    folder : Path
        Must not exist, or be empty.

    Returns
    -------
    dict
        The header.

    Raises
    ------
    ValueError
        When the file is damaged, of a newer version, or no agent, or the folder is in
        use; nothing was written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} is there already; an agent is imported to a new folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".importing-", dir=folder.parent))
    try:
        header = _unpack(file, made)
        _check(made)
        if folder.exists():
            folder.rmdir()
        os.replace(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return header


def import_records(file: Path, ledger_file: Path) -> int:
    """Add the records of a file to a ledger, as :func:`import_ledger`: all, or none.

    Parameters
    ----------
    file : Path
    ledger_file : Path
        Of the ledger; it is made, with its folder, where there is none.

    Raises
    ------
    ValueError
        As :func:`import_ledger`; nothing was written.
    """
    from braidbandit.ledger.ledger import Ledger
    from braidbandit.ledger.transfer import import_ledger

    # Records are written some at a time: what is wrong with a late one is found on a
    # copy, before the first is written.
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / _LEDGER
        if ledger_file.exists():
            with Ledger(ledger_file):  # says what is wrong with one that is damaged
                _copy_ledger(ledger_file, copy)
        with Ledger(copy) as tried:
            import_ledger(file, tried)
    ledger_file.parent.mkdir(parents=True, exist_ok=True)
    with Ledger(ledger_file) as ledger:
        return import_ledger(file, ledger)


def header_of(file: Path) -> dict[str, Any]:
    """Return the header of an exported agent.

    Raises
    ------
    ValueError
        When it is none, or of a newer version.
    """
    try:
        with zipfile.ZipFile(file) as packed:
            return _header(packed, file)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{file} is no exported agent: {error}") from error


def _unpack(file: Path, folder: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as packed:
            header = _header(packed, file)
            for name, digest in header["files"].items():
                if not _NAMES.fullmatch(name):
                    raise ValueError(f"{file} holds {name!r}, which no agent has")
                if packed.getinfo(name).file_size > _MOST_BYTES:
                    raise ValueError(f"{name} of {file} is too large to be an agent's")
                target = folder / name
                target.parent.mkdir(exist_ok=True)
                with packed.open(name) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                if _digest(target) != digest:
                    raise ValueError(f"{name} of {file} is damaged; copy it again")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{file} is damaged: {error}; copy it again") from error
    return header


def _header(packed: zipfile.ZipFile, file: Path) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(packed.read(_HEADER))
        kind, number, files = header["kind"], int(header["format"]), header["files"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is no exported agent: {error!r}") from error
    if kind != _KIND or not isinstance(files, dict):
        raise ValueError(f"{file} holds {kind!r}, expected {_KIND!r}")
    if number > FORMAT:
        raise ValueError(
            f"{file} has format {number}, this version reads up to {FORMAT}; upgrade "
            "braidbandit"
        )
    return header


def _check(folder: Path) -> None:
    """Refuse an agent that could not be opened."""
    from braidbandit.cli.machine.doctor.ledger_file import check_ledger
    from braidbandit.recommender.state_files import read_state

    found = check_ledger(folder / _LEDGER)
    if found.level == "error":
        raise ValueError(f"the ledger cannot be imported: {found.found}; {found.fix}")
    if (folder / "policy").exists():
        read_state(folder / "policy")


def _policy_of(folder: Path) -> list[tuple[str, Path]]:
    from braidbandit.recommender.state_files import read_state

    policy = folder / "policy"
    if not (policy / "manifest.json").exists():
        return []
    manifest, _ = read_state(policy)  # refuses a damaged one
    return [(f"policy/{n}", policy / n) for n in ("manifest.json", manifest["arrays"])]


def _calibration_of(folder: Path) -> list[tuple[str, Path]]:
    file = folder / "calibration.json"
    return [("calibration.json", file)] if file.exists() else []


def _copy_ledger(ledger: Path, copy: Path) -> None:
    """Copy a ledger as it is at one moment; its sequence numbers stay."""
    with (
        closing(sqlite3.connect(ledger)) as source,
        closing(sqlite3.connect(copy)) as to,
    ):
        source.backup(to)


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(2**24):
            digest.update(part)
    return digest.hexdigest()
