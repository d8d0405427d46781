"""The agent that settings describe, for the service and the command line."""

from __future__ import annotations

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
    if model is None:
        return None  # that of the folder, or the default
    return TaskEncoder(model, cache_dir=folder / "embeddings")


def _texts(path: Path | None) -> list[Any] | None:
    return None if path is None else [text for _, text in read_lines(path)]
