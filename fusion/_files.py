"""Files: all of a folder replaced at once, or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to write to; its files replace those of ``folder`` once all are there.

    After an error nothing has changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as work:
        yield Path(work)
        for file in sorted(Path(work).iterdir()):
            os.replace(file, folder / file.name)
