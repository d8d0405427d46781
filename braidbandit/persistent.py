"""Persistent: save a recommender to a directory, and load it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from braidbandit import snapshot
from braidbandit.catalogue import Catalogue
from braidbandit.encoding import TaskEncoder
from braidbandit.fitted import Fitted
from braidbandit.state import read_state, write_state

if TYPE_CHECKING:
    from typing_extensions import Self


class Persistent(Fitted):
    """What a recommender does between two processes."""

    def save(self, path: str | Path) -> None:
        """Save to a directory: ``manifest.json`` and one safetensors file.

        A saved and reloaded recommender gives the same scores bit for bit.
        """
        self._start()
        write_state(path, *snapshot.take(self))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        catalogue: Catalogue | None = None,
        encoder: TaskEncoder | None = None,
        resume_rng: bool = False,
    ) -> Self:
        """Load what :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path
        catalogue : Catalogue, optional
            The one in use; refused when its hash differs from the saved one.
        encoder : TaskEncoder, optional
            Needed when the saved encoder had an ``embedder`` of its own. Its
            settings must be the saved ones; a copy takes over the fitted arrays.
        resume_rng : bool
            Continue the random sequence. By default it is seeded afresh, so that
            several processes loading one state do not explore in lockstep.

        Raises
        ------
        FileNotFoundError
            When nothing was saved there.
        ValueError
            When the state is damaged, of a newer format, or of another catalogue
            or encoder.
        """
        manifest, arrays = read_state(path)
        try:
            agent = cls(**snapshot.parameters(manifest, arrays, catalogue, encoder))
            agent._start()
            snapshot.fill(agent, manifest, arrays, resume_rng)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the manifest in {path} is damaged: {error!r}; restore a backup"
            ) from error
        return agent
