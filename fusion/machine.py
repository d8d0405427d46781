"""What suits this machine: numbers, and large arrays."""

from __future__ import annotations

import ctypes
from typing import Any

import torch


def reuse_memory() -> None:
    """Keep freed memory in this process, for programs that score or calibrate.

    By default the C library maps every large array anew, and the kernel fills it with
    zeros: with a vocabulary of 262,000 tokens that is half of the time. Does nothing
    where there is no GNU C library.

    Examples
    --------
    >>> reuse_memory()
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no array gets a mapping of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: freed memory is kept
    except (OSError, AttributeError):
        pass


def fastest_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, else float32.

    Scores in the two agree to 0.1 %.
    """
    about: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = about.get("avx512_bf16") or about.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32
