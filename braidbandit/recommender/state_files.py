"""Save and load: one directory with a JSON manifest and a safetensors file.

The files hold data only: no pickle, no code, no import paths. The arrays file is
named by its content and written first; replacing ``manifest.json`` in one step is
what makes a save count, so a crash leaves the previous state readable. Processes that
save to one directory take turns by its lock file, and the last one counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from braidbandit._files import LOCK, WRITING, write_atomic

FORMAT = 5
"""Raised by one when older readers could not read a new file correctly."""

OLDEST = 3
"""Older formats are refused."""

_KIND = "braidbandit recommender"
# Seconds; a save takes milliseconds.
_PATIENCE = 10.0


def write_state(
    path: str | Path,
    manifest: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
) -> None:
    """Write manifest and arrays to the directory ``path``, durably and atomically.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_state(folder, {"price": 0.1}, {"mean": np.ones(2)})
    ...     manifest, arrays = read_state(folder)
    >>> manifest["price"], arrays["mean"].tolist()
    (0.1, [1.0, 1.0])
    """
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a state is saved to a directory")
    folder.mkdir(parents=True, exist_ok=True)
    text, blob = pack(manifest, arrays)
    name = _arrays_name(blob)
    # Else another process could name an arrays file that is deleted here.
    with FileLock(folder / LOCK):
        write_atomic(folder / name, blob)
        write_atomic(folder / "manifest.json", text.encode())
        for old in folder.glob("arrays-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)
        _clear(folder)


def read_state(path: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what :func:`write_state` wrote.

    Raises
    ------
    FileNotFoundError
        When there is no manifest.
    ValueError
        When the state is of a newer format, of another kind, or damaged.
    """
    folder = Path(path).expanduser()
    with ExitStack() as stack:
        # Windows drops the lock file after use, and replaces no file that is read.
        if os.name == "nt" or (folder / LOCK).exists():
            # A folder that may be read only is read without the lock.
            with suppress(OSError):
                stack.enter_context(FileLock(folder / LOCK, timeout=_PATIENCE))
        text, blob = _read(folder)
    return unpack(text, blob, str(folder / "manifest.json"))


def pack(
    manifest: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> tuple[str, bytes]:
    """Return a state as the text of its manifest and the bytes of its arrays."""
    blob = save_arrays({key: np.ascontiguousarray(a) for key, a in arrays.items()})
    header = {
        "kind": _KIND,
        "format": FORMAT,
        "arrays": _arrays_name(blob),
        "sha256": hashlib.sha256(blob).hexdigest(),
    }
    return _text({**header, **manifest}), blob


def edit_manifest(
    text: str, where: str, edit: Callable[[dict[str, Any]], dict[str, Any]]
) -> str:
    """Return the text of a manifest with a change; ``where`` is named in errors."""
    return _text(edit(_manifest(text, where)))


def edit_state(file: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the manifest of a saved state."""
    with FileLock(file.with_name(LOCK)):
        old = file.read_text(encoding="utf-8")
        new = edit_manifest(old, str(file), edit)
        if json.loads(new) != json.loads(old):
            write_atomic(file, new.encode())
        _clear(file.parent)


def is_manifest(head: bytes) -> bool:
    """Whether a file that begins like this is the manifest of a saved state."""
    return f'"kind": "{_KIND}"'.encode() in head


def unpack(
    text: str, blob: bytes, where: str
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what :func:`pack` returned; ``where`` is named in errors."""
    manifest = _manifest(text, where)
    if hashlib.sha256(blob).hexdigest() != manifest["sha256"]:
        raise ValueError(
            f"{where} is damaged: its content does not match the manifest; restore a "
            "backup, or learn again from the ledger"
        )
    try:
        return manifest, load_arrays(blob)
    except SafetensorError as error:
        raise ValueError(f"{where} is damaged: {error}") from error


def _text(manifest: Mapping[str, Any]) -> str:
    # One line per key: indenting by json takes ten times as long, and a state is
    # saved often.
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False, default=_plain)}"
        for key, value in manifest.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _plain(value: Any) -> Any:
    """Return numbers of NumPy as numbers of Python."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{value!r} cannot be saved; give a plain number, or None")


def _arrays_name(blob: bytes) -> str:
    return f"arrays-{hashlib.sha256(blob).hexdigest()[:16]}.safetensors"


def _manifest(text: str, where: str) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(text)
        kind, number = manifest["kind"], int(manifest["format"])
        _ = manifest["arrays"], manifest["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where} is damaged: {error!r}; restore a backup") from error
    if kind != _KIND:
        raise ValueError(f"{where} holds {kind!r}, expected {_KIND!r}")
    if number < OLDEST:
        raise ValueError(
            f"{where} has format {number}, which no release wrote; this version reads "
            f"{OLDEST} to {FORMAT}. Remove it and learn again from the ledger"
        )
    if number > FORMAT:
        raise ValueError(
            f"{where} has format {number}, this version reads up to {FORMAT}; upgrade "
            "braidbandit"
        )
    return manifest


def _read(folder: Path) -> tuple[str, bytes]:
    """Return the text of the manifest and the bytes of the arrays it names."""
    file = folder / "manifest.json"
    while True:
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no saved recommender in {folder}: no manifest.json"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged: {error!r}; restore a backup"
            ) from error
        name = str(_manifest(text, str(file))["arrays"])
        # A name with a folder in it could point outside the state.
        if Path(name).name == name:
            with suppress(FileNotFoundError):
                return text, (folder / name).read_bytes()
        # Without the lock, another process may just have saved a newer state.
        if file.read_text(encoding="utf-8") == text:
            raise ValueError(f"{file} is damaged: no arrays file {name!r}")


def _clear(folder: Path) -> None:
    """Remove unfinished files; with the lock held, nobody is still writing them."""
    for left in folder.glob(f"{WRITING}*"):
        left.unlink(missing_ok=True)
