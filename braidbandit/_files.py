"""Files: written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

LOCK = ".lock"
WRITING = ".writing-"


def write_atomic(path: Path, blob: bytes, durably: bool = True) -> None:
    """Write beside, flush to disk, rename."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=WRITING)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(blob)
            file.flush()
            if durably:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if durably and os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
