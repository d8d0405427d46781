"""The folder of an agent: can it be written to, and is what is kept there whole?"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from braidbandit.cli.machine.doctor.files import damage_of, may
from braidbandit.cli.machine.doctor.finding import Finding, error, ok, warning

_LEAST_FREE = 1_000_000_000
_EMBEDDINGS = "braidbandit-embeddings.sqlite"


def check_folder(folder: Path) -> Finding:
    """Check that the folder of an agent can be written to, or can be made."""
    there = _first_that_exists(folder)
    if not there.is_dir():
        return error(
            "folder",
            f"{there} is a file",
            "name another folder in braid.toml ([learning] folder)",
        )
    try:
        # What the file system allows is only known for sure once it was tried.
        tried = there / f".braidbandit-{secrets.token_hex(8)}"
        os.close(os.open(tried, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        tried.unlink()
    except OSError as problem:
        return error(
            "folder",
            f"{there} cannot be written to: {problem.strerror}",
            f"chmod u+rwx {there} (or chown it to yourself), or name another folder "
            "in braid.toml ([learning] folder)",
        )
    locked = _locked_in(folder)
    if locked is not None:
        return error(
            "folder",
            f"{locked} cannot be written to",
            f"chmod u+rw {locked}, or chown it to yourself",
        )
    new = "" if there == folder else " will be made"
    return ok("folder", f"{folder}{new}")


def check_space(folder: Path, least: int = _LEAST_FREE) -> Finding:
    """Check that the disk of a folder is not full."""
    free = shutil.disk_usage(_first_that_exists(folder)).free
    found = f"{free / 1e9:.1f} GB free at {folder}"
    if free < least:
        return warning("disk", found, "make room: converted models take gigabytes")
    return ok("disk", found)


def check_kept(name: str, folder: Path) -> Finding:
    """Check that files of weights that are kept in a folder are whole.

    Parameters
    ----------
    name : str
        Of the check.
    folder : Path
        Of trained parts, or the cache of converted models.
    """
    damaged = [(file, why) for file, why in _damaged_in(folder) if why]
    if damaged:
        shown = "; ".join(f"{file}: {why}" for file, why in damaged[:3])
        more = f" and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        return error(name, f"{shown}{more}", _how_to_mend([f for f, _ in damaged]))
    if not folder.exists():
        return ok(name, f"nothing is kept in {folder} yet")
    return ok(name, f"{folder} is whole")


def check_embeddings(folder: Path) -> Finding:
    """Check the file of embeddings in the folder of an agent."""
    file = folder / "embeddings" / _EMBEDDINGS
    if not file.exists():
        return ok("embeddings", "none are kept yet")
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            said = str(connection.execute("PRAGMA quick_check").fetchone()[0])
        finally:
            connection.close()
    except sqlite3.Error as problem:
        said = str(problem)
    if said != "ok":
        return error(
            "embeddings",
            f"{file} is damaged: {said}",
            f"rm {file}: embeddings are computed again when they are needed",
        )
    return ok("embeddings", f"{file.stat().st_size / 1e6:.1f} MB in {file}")


def _first_that_exists(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _locked_in(folder: Path) -> Path | None:
    """Return something in the folder that this user cannot write to."""
    kept = ("policy", "store", "embeddings", "ledger.sqlite", "calibration.json")
    there = [folder / name for name in kept if (folder / name).exists()]
    return next((path for path in there if not may(path, os.W_OK)), None)


def _damaged_in(folder: Path) -> Iterator[tuple[Path, str | None]]:
    for file in sorted(folder.rglob("*.safetensors")) if folder.exists() else []:
        yield file, damage_of(file)


def _how_to_mend(files: list[Path]) -> str:
    # A converted model is a folder, and made again only where that is gone.
    places = [file.parent if (file.parent / "config.json").exists() else file
              for file in files]  # fmt: skip
    names = " ".join(str(place) for place in dict.fromkeys(places))
    return f"rm -r {names}: it is made again when it is needed"
