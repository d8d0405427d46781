"""Are files whole? Told from their headers, without reading all of them."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import BinaryIO

_MOST_HEADER = 100_000_000
_GGUF = b"GGUF"
_VERSIONS = (2, 3)
# Bytes of the fixed kinds of values in a GGUF header, by their number.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


def may(path: Path, mode: int) -> bool:
    """Whether this user may do something with a file: ``os.R_OK`` or ``os.W_OK``."""
    effective = os.access in os.supports_effective_ids
    return os.access(path, mode, effective_ids=effective)


def damage_of(file: Path) -> str | None:
    """Return what is wrong with a file of weights, None where it looks whole.

    Parameters
    ----------
    file : Path
        Ending in ``.safetensors`` or ``.gguf``; others are taken for whole.
    """
    checks = {".safetensors": _safetensors_damage, ".gguf": _gguf_damage}
    check = checks.get(file.suffix.lower())
    if check is None:
        return None
    try:
        return check(file)
    except OSError as problem:
        return f"it cannot be read: {problem.strerror or problem}"


def _safetensors_damage(file: Path) -> str | None:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER):
            return "its header is cut off"
        try:
            header = json.loads(opened.read(length))
            ends = [t["data_offsets"][1] for n, t in header.items() if n[:2] != "__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "its header makes no sense"
    wanted = 8 + length + max(ends, default=0)
    if size != wanted:
        return f"it has {size:,} bytes, its header says {wanted:,}"
    return None


def _gguf_damage(file: Path) -> str | None:
    size = file.stat().st_size
    with file.open("rb") as opened:
        magic = opened.read(4)
        if magic != _GGUF:
            return "it is no GGUF file, or its beginning is lost"
        try:
            version, tensors, pairs = struct.unpack("<IQQ", opened.read(20))
            if version not in _VERSIONS:
                return f"it is of GGUF version {version}, which nothing here reads"
            for _ in range(pairs):
                _skip_string(opened)
                _skip_value(opened, *struct.unpack("<I", opened.read(4)))
            last = 0
            for _ in range(tensors):
                _skip_string(opened)
                (dimensions,) = struct.unpack("<I", opened.read(4))
                opened.seek(8 * dimensions + 4, 1)
                last = max(last, *struct.unpack("<Q", opened.read(8)))
            # The last tensor has at least one byte behind where it begins.
            if tensors and size <= opened.tell() + last:
                return f"it ends before its last weights, after {size:,} bytes"
        except (struct.error, ValueError, OverflowError):
            return "its header is cut off or makes no sense"
    return None


def _skip_string(opened: BinaryIO) -> None:
    (length,) = struct.unpack("<Q", opened.read(8))
    if length > _MOST_HEADER:
        raise ValueError(length)
    opened.seek(length, 1)


def _skip_value(opened: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _skip_string(opened)
    elif kind == _ARRAY:
        inner, length = struct.unpack("<IQ", opened.read(12))
        if inner in _SIZES:
            opened.seek(_SIZES[inner] * length, 1)
        else:
            for _ in range(length):
                _skip_value(opened, inner)
    elif kind in _SIZES:
        opened.seek(_SIZES[kind], 1)
    else:
        raise ValueError(kind)
