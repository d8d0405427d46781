"""Files: written whole or not at all, and read line by line."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

LOCK = ".lock"
WRITING = ".writing-"

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


@contextmanager
def replacing(
    path: Path, *, durably: bool = True, mode: int = 0o600
) -> Generator[BinaryIO, None, None]:
    """A file to write to, which takes the place of ``path`` once all is written.

    Whoever reads ``path`` finds all of it, or the file of before. After an error
    nothing has changed.

    Parameters
    ----------
    path : Path
    durably : bool
        Wait for the disk, so that it outlives a power failure.
    mode : int
        Who may read the file, less what the process forbids (its umask).
    """
    beside = path.with_name(WRITING + secrets.token_hex(8))
    try:
        with os.fdopen(os.open(beside, _NEW, mode), "wb") as file:
            yield file
            file.flush()
            if durably:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if durably and os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomic(path: Path, blob: bytes, durably: bool = True) -> None:
    """Write one file as :func:`replacing` does."""
    with replacing(path, durably=durably) as file:
        file.write(blob)


def read_lines(
    path: Path, *, only_whole: bool = False, advice: str = ""
) -> Iterator[tuple[int, Any]]:
    """Iterate over a JSON-lines file: (number of the line, what stands on it).

    The file is read as it goes, never all of it at once. Blank lines are left out.

    Parameters
    ----------
    path : Path
        In UTF-8.
    only_whole : bool
        Leave out a last line that has no end: whoever wrote it was interrupted.
    advice : str
        What to do about a damaged line, for the end of the error.

    Raises
    ------
    ValueError
        On a line that is not JSON, which the message names.
    """
    with path.open("rb") as file:
        whole = (line for line in file if line.endswith(b"\n") or not only_whole)
        yield from parsed_lines(whole, path, advice)


def parsed_lines(
    lines: Iterable[str | bytes], source: Path | None = None, advice: str = ""
) -> Iterator[tuple[int, Any]]:
    """Parse lines as :func:`read_lines` does; ``source`` is where they come from."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise damaged(number, source, error, advice) from error
            yield number, value


def damaged(
    number: int, source: Path | None, error: Exception, advice: str = ""
) -> ValueError:
    """Return the error that says which line of a file cannot be used, and why."""
    place = "" if source is None else f" of {source}"
    return ValueError(f"line {number}{place} is damaged: {error!r}{advice}")


def cut_to_whole_lines(path: Path) -> None:
    """Cut off a last line that has no end, so that another one can be added."""
    with path.open("rb") as file:
        end = whole = file.seek(0, os.SEEK_END)
        while whole:
            file.seek(whole - 1)
            if file.read(1) == b"\n":
                break
            whole -= 1
    if whole < end:
        os.truncate(path, whole)
