"""Where an agent is: its folder and, if there is one, the file of its settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braidbandit.agent.meta_braider import MetaBraider
    from braidbandit.ledger.ledger import Ledger
    from braidbandit.recommender.recommender import BraidRecommender
    from braidbandit.service.settings import ServiceSettings

SETTINGS = "braid.toml"
"""The file of settings, looked for where the command is run."""


@dataclass(frozen=True)
class Place:
    """The folder of an agent, and its settings where they are known.

    Attributes
    ----------
    folder : Path
    settings : ServiceSettings or None
        None where only a folder was named.
    file : Path or None
        Where the settings are from.
    """

    folder: Path
    settings: ServiceSettings | None = None
    file: Path | None = None

    @property
    def policy(self) -> Path:
        """The folder of the saved policy."""
        return self.folder / "policy"

    @property
    def ledger_file(self) -> Path:
        """The file of the ledger."""
        return self.folder / "ledger.sqlite"

    def manifest(self) -> dict[str, Any] | None:
        """Return what the saved policy says of itself; None where nothing is saved.

        Raises
        ------
        ValueError
            When it is damaged.
        """
        file = self.policy / "manifest.json"
        if not file.exists():
            return None
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged: {error}; `braidbandit doctor` says what to do"
            ) from error
        return found

    def open_ledger(self) -> Ledger:
        """Open the ledger.

        Raises
        ------
        FileNotFoundError
            When there is none: an empty one would hide a mistyped folder.
        """
        if not self.ledger_file.exists():
            raise FileNotFoundError(
                f"there is no ledger in {self.folder}; `braidbandit recommend` makes "
                "the first decision, or name another folder with --folder"
            )
        from braidbandit.ledger.ledger import Ledger

        return Ledger(self.ledger_file)

    def load_policy(self) -> BraidRecommender | None:
        """Load the saved policy without its models; None where nothing is saved."""
        if not (self.policy / "manifest.json").exists():
            return None
        from braidbandit.recommender.recommender import BraidRecommender

        return BraidRecommender.load(self.policy)

    def open_agent(self) -> MetaBraider:
        """Open the agent, with the pool of the settings or else of the folder.

        Raises
        ------
        FileNotFoundError
            When there are no settings and nothing was saved in the folder.
        """
        if self.settings is not None:
            from braidbandit.service.opening import open_agent

            return open_agent(self.settings, self.folder)
        manifest = self.manifest()
        if manifest is None:
            raise FileNotFoundError(
                f"no agent was saved in {self.folder}; `braidbandit init` looks for "
                f"models and writes {SETTINGS}"
            )
        from braidbandit.agent.meta_braider import MetaBraider
        from braidbandit.catalogue.catalogue import Catalogue

        catalogue = Catalogue.from_dict(manifest["catalogue"])
        pool = list(catalogue.cards.values())
        return MetaBraider(pool, catalogue=catalogue, folder=self.folder)


def place_of(folder: Path | None, file: Path | None) -> Place:
    """Return where an agent is.

    Parameters
    ----------
    folder : Path, optional
        Named by ``--folder``; else the one of the settings.
    file : Path, optional
        Named by ``--config``; else ``braid.toml`` here, where no folder is named.

    Raises
    ------
    FileNotFoundError
        When there are no settings, and no folder was named.
    """
    if folder is not None:
        folder = folder.expanduser().absolute()
        if file is None:
            return Place(folder)
    file = Path(SETTINGS) if file is None else file.expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {file}; `braidbandit init` writes one, or name the folder "
            "of an agent with --folder"
        )
    settings = read_settings(file)
    return Place(folder or settings.learning.folder, settings, file)


def read_settings(file: Path) -> ServiceSettings:
    """Read the file of the settings.

    Raises
    ------
    ImportError
        When pydantic-settings is missing.
    ValueError
        When the file has a mistake.
    """
    try:
        from braidbandit.service.settings import ServiceSettings
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{file} is read by {error.name}: pip install 'braidbandit[cli]'"
        ) from error
    return ServiceSettings.read(file)
