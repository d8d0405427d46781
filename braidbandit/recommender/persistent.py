"""Persistent: save a recommender to a directory, and load it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.recommender import saving as snapshot
from braidbandit.recommender.fitted import Fitted
from braidbandit.recommender.state import pack, read_state, unpack, write_state
from braidbandit.tasks.encoder import TaskEncoder

if TYPE_CHECKING:
    from typing_extensions import Self


class Persistent(Fitted):
    """What a recommender does between two processes."""

    def save(self, path: str | Path | Any) -> None:
        """Save to a directory: ``manifest.json`` and one safetensors file.

        Or to a :class:`Ledger`, which keeps the newest three. A saved and reloaded
        recommender gives the same scores bit for bit.
        """
        self._start()
        if hasattr(path, "write_snapshot"):
            path.write_snapshot(self.ledger_position_, *pack(*snapshot.take(self)))
        else:
            write_state(path, *snapshot.take(self))

    @classmethod
    def load(
        cls,
        path: str | Path | Any,
        *,
        catalogue: Catalogue | None = None,
        encoder: TaskEncoder | None = None,
        resume_rng: bool = False,
    ) -> Self:
        """Load what :meth:`save` wrote.

        Parameters
        ----------
        path : str, Path or Ledger
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
        if hasattr(path, "read_snapshot"):
            text, blob = path.read_snapshot()
            manifest, arrays = unpack(text, blob, "the snapshot in the ledger")
        else:
            manifest, arrays = read_state(path)
        try:
            agent = cls(**snapshot.parameters(manifest, arrays, catalogue, encoder))
            agent._start()
            snapshot.fill(agent, manifest, arrays, resume_rng)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"the manifest in {path} is damaged: {error!r}; restore a backup"
            ) from error
        return agent
