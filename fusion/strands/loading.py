"""Models of transformers read from their files, with what is wrong with these told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM
from transformers.utils import logging


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep the bars of transformers off the screen: the logger tells what is done."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load(kind: Any, folder: str, source: str, **options: Any) -> Any:
    """What an Auto class of transformers makes of a folder or hub id.

    Raises ValueError, which names the ``source`` that a person gave, on whatever the
    readers of damaged or missing files raise. No code of a model is run.
    """
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception as error:  # damaged files raise whatever their readers do
        raise ValueError(
            f"cannot load a model from {source!r}: {error}; give a hub id that "
            "exists (and a network to reach it), a folder or a .gguf file"
            f"{_pointers(source)}"
        ) from error


def load_model(folder: str, source: str, **options: Any) -> Any:
    """A causal language model, all of whose weights are in its files.

    transformers gives random values to those that are not: here they are a ValueError.
    """
    # Told by the error below, which names them, rather than by that of transformers.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    # A download may take its time, and keeps its bar.
    with no_bars() if Path(folder).is_dir() else nullcontext():
        model, told = load(AutoModelForCausalLM, folder, source, **options)
    without = sorted(str(name) for name in told["missing_keys"])
    for name, stored, wanted in told["mismatched_keys"]:
        without.append(f"{name} of shape {tuple(stored)} for {tuple(wanted)}")
    if without:
        raise ValueError(
            f"cannot load a model from {source!r}: its files lack {len(without)} of "
            f"the weights of a {type(model).__name__}: {', '.join(without[:5])}"
            f"{', ...' if len(without) > 5 else ''}; give all files of the model, and "
            f"those of a causal language model{_pointers(source)}"
        )
    return model


def _pointers(source: str) -> str:
    """What to do about files that git-lfs left as pointers, if there are such."""
    path = Path(source)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if file.is_file() and file.stat().st_size < 1024:
            if file.read_bytes().startswith(b"version https://git-lfs"):
                return f". {file.name} is a pointer to a file: run `git lfs pull`"
    return ". A download may have been cut off: try it again" if path.exists() else ""
