"""A braid as files: its recipe and its fusers; strands stay where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = "model.safetensors"

# What AutoModel and pipelines always pass, whatever the model.
_PASSED_ALONG = {"_from_auto", "adapter_kwargs"}


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write the fusers of a braid as safetensors."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_weights(folder: Path, module: nn.Module) -> None:
    """Fill a braid's fusers; raises ValueError when the file does not fit them."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise ValueError(f"no {WEIGHTS} in {folder}; expected a saved braid")
    found, wanted = load_file(file), module.state_dict()
    differ = sorted(set(found) ^ set(wanted)) + [
        k for k in set(found) & set(wanted) if found[k].shape != wanted[k].shape
    ]
    if differ:
        raise ValueError(
            f"weights in {folder} do not fit its recipe at {differ[:3]} "
            f"({len(differ)} tensors); recalibrate the braid"
        )
    module.load_state_dict(found)


def refuse_options(method: str, options: Mapping[str, Any], known: str) -> None:
    """Raise TypeError on options that would be ignored.

    Examples
    --------
    >>> refuse_options("from_pretrained", {"adapter_kwargs": {}}, "pool")
    >>> refuse_options("from_pretrained", {"poool": 1}, "pool")
    Traceback (most recent call last):
        ...
    TypeError: from_pretrained received unknown options ['poool']; it takes pool
    """
    unknown = sorted(
        name
        for name, value in options.items()
        if name not in _PASSED_ALONG and value is not None and value is not False
    )
    if unknown:
        raise TypeError(
            f"{method} received unknown options {unknown}; it takes {known}"
        )
