"""The agent that settings describe, for the service and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from braidbandit._files import read_lines
from braidbandit.agent.meta_braider import MetaBraider
from braidbandit.service.settings import ServiceSettings
from braidbandit.tasks.encoder import TaskEncoder


def open_agent(settings: ServiceSettings, folder: Path | None = None) -> MetaBraider:
    """Open the agent that settings describe.

    Parameters
    ----------
    settings : ServiceSettings
    folder : Path, optional
        In place of the one in the settings.
    """
    catalogue, learning = settings.catalogue, settings.learning
    folder = learning.folder if folder is None else folder
    return MetaBraider(
        settings.cards,
        encoder=_encoder(learning.encoder, folder),
        folder=folder,
        layer_sets=catalogue.layer_sets,
        strategies=catalogue.strategies,
        shares=catalogue.shares,
        price=learning.price,
        keep_text=learning.keep_text,
        random_state=learning.random_state,
        dtype=learning.dtype,
        calibration_texts=_texts(learning.calibration_texts),
    )


def _encoder(model: str | None, folder: Path) -> TaskEncoder | None:
    """Return the encoder for a folder; None for the one that it has, or the default.

    Another one than the folder has is returned all the same: it is refused with the
    reason when the policy is loaded.
    """
    if model is None or model == _saved(folder / "policy" / "manifest.json"):
        return None
    return TaskEncoder(model, cache_dir=folder / "embeddings")


def _saved(manifest: Path) -> str | None:
    """Return the model of a saved encoder; a damaged manifest is found by others."""
    try:
        model = json.loads(manifest.read_text(encoding="utf-8"))["encoder"]["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if model is None else str(model)


def _texts(path: Path | None) -> list[Any] | None:
    return None if path is None else [text for _, text in read_lines(path)]
