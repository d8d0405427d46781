"""What suits this machine: numbers, and large arrays."""

from __future__ import annotations

import ctypes
import json
import logging
import platform
import time
from typing import NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from .._files import write_atomic
from .pool import default_cache

_LOG = logging.getLogger(__name__)

# Half precision is rounded, so it has to be worth it.
_WORTH = 1.2
_TOKENS = 300
_TYPES = ("float32", "bfloat16")


class Measured(NamedTuple):
    """A number type, and the measurement that speaks for it."""

    dtype: torch.dtype
    reason: str


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


def fastest_dtype() -> Measured:
    """The number type in which this machine's processor reads text fastest.

    What a processor says it can do and what is fast on it are two things, so both are
    measured: a small model reads 300 tokens in float32 and in bfloat16, which takes
    about a second, once for a machine, a version of torch and a number of threads.
    Kept in ``machine.json`` in the cache folder. bfloat16 has to be 1.2 times as fast;
    scores in the two agree to 0.1 %.
    """
    here = [platform.node(), torch.__version__, torch.get_num_threads()]
    rates = _kept_rates(here)
    if rates is None:
        rates = _rates()
        kept = {"machine": here, "tokens_per_s": rates}
        try:
            write_atomic(default_cache() / "machine.json", json.dumps(kept))
        except (OSError, RuntimeError):
            pass  # nowhere to keep it: measured again the next time
    full, half = (rates[name] for name in _TYPES)
    name = "bfloat16" if half >= _WORTH * full else "float32"
    return Measured(
        getattr(torch, name),
        f"{name}: on this machine a small model reads {full:,.0f} tokens a second in "
        f"float32 and {half:,.0f} in bfloat16",
    )


def _kept_rates(here: list[object]) -> dict[str, float] | None:
    """What was measured here before, if it was."""
    try:
        kept = json.loads((default_cache() / "machine.json").read_text())
        rates = {name: float(kept["tokens_per_s"][name]) for name in _TYPES}
        return rates if kept["machine"] == here else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None  # none yet, a damaged one, or no home


def dtype_of(name: str | None) -> torch.dtype:
    """The number type of this name, or the fastest one, telling the log why."""
    if name is not None:
        return getattr(torch, name)  # type: ignore[no-any-return]
    found = fastest_dtype()
    _LOG.info(found.reason)
    return found.dtype


@torch.no_grad()
def _rates() -> dict[str, float]:
    """Tokens a second of a small model by number type, measured in turns."""
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    with torch.random.fork_rng([]):
        models = {
            name: LlamaForCausalLM(config).to(getattr(torch, name)).eval()
            for name in _TYPES
        }
    ids = torch.arange(_TOKENS)[None]
    best = dict.fromkeys(models, float("inf"))
    for _ in range(4):  # the first of them warms up
        for name, model in models.items():
            started = time.perf_counter()
            model(ids)
            best[name] = min(best[name], time.perf_counter() - started)
    return {name: round(_TOKENS / seconds, 1) for name, seconds in best.items()}
