"""A braid as files: its recipe and its fusers; strands stay where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..strands.strand import Strand

WEIGHTS = "model.safetensors"


def write_weights(
    folder: Path, weights: Mapping[str, Tensor], strands: Sequence[Strand]
) -> None:
    """Write the fusers of a braid as safetensors, and which strands they are for."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
    names = json.dumps({strand.name: _identity(strand) for strand in strands})
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", "strands": names})


def load_weights(folder: Path, module: nn.Module, strands: Sequence[Strand]) -> None:
    """Fill a braid's fusers; raises ValueError when the file is damaged or not
    for them."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise ValueError(f"no {WEIGHTS} in {folder}; expected a saved braid")
    try:
        with safe_open(file, "pt") as opened:
            known = json.loads((opened.metadata() or {}).get("strands", "{}"))
    except SafetensorError as error:
        raise ValueError(
            f"cannot read {WEIGHTS} in {folder}: {error}; the file is damaged: copy or "
            "save the braid again"
        ) from error
    for strand in strands:
        saved, now = known.get(strand.name), _identity(strand)
        # Fingerprints of other number formats cannot be compared.
        if saved is not None and saved["dtype"] == now["dtype"] and saved != now:
            raise ValueError(
                f"the fusers in {folder} were trained on another {strand.name!r} than "
                f"the one from {strand.source!r}; give that one, or recalibrate"
            )
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


def _identity(strand: Strand) -> dict[str, str]:
    return {"dtype": str(strand.dtype), "fingerprint": strand.fingerprint}
