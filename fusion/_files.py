"""Files: written whole or not at all, and read line by line."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to write to; its files replace those of ``folder`` once all are there.

    Other files of ``folder`` stay. After an error nothing has changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as work:
        yield Path(work)
        for file in sorted(Path(work).iterdir()):
            os.replace(file, folder / file.name)


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """A folder to write to, which becomes ``folder`` once all is there.

    After an error there is no such folder. OSError where there is one by then that is
    not empty.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as work:
        made = Path(work) / folder.name
        made.mkdir()
        yield made
        os.replace(made, folder)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write one file; whoever reads it finds all of it, or the file of before."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path.parent) as work:
        (work / path.name).write_bytes(data)


def json_lines(path: Path, as_far_as_whole: bool = False) -> list[tuple[int, Any]]:
    """What stands on each line that is not blank, after the line's number.

    Parameters
    ----------
    path : Path
        In UTF-8, with or without a byte order mark.
    as_far_as_whole : bool
        Stop at the first line that is not JSON in UTF-8, such as the last one of a
        program that was interrupted while it wrote.

    Raises
    ------
    ValueError
        On a line that is not JSON, which the message names.
    """
    rows: list[tuple[int, Any]] = []
    with path.open("rb") as file:  # a line that is no UTF-8 spoils no other
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig")
                rows += [(number, json.loads(text))] if text.strip() else []
            except ValueError as error:
                if as_far_as_whole:
                    break
                raise ValueError(f"{path}, line {number}: {error}") from error
    return rows
