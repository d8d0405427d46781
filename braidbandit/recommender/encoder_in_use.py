"""The encoder whose features a posterior knows, and what must stay the same of it."""

from __future__ import annotations

from copy import copy
from typing import Any

from sklearn.base import clone

from braidbandit._checks import same
from braidbandit.tasks.encoder import TaskEncoder

# Where embeddings are cached does not change them.
_FREE = ("cache_dir", "cache_bytes")


class EncoderInUse:
    """The encoder that makes the features which are learnt from.

    Parameters
    ----------
    given : TaskEncoder, optional
        Used as it is when it is fitted, else copied; None is an encoder by default.

    Attributes
    ----------
    encoder : TaskEncoder
        The one in use.
    hash : str
        Of everything that decides its features.

    Examples
    --------
    >>> given = TaskEncoder(embedder=lambda texts: [[len(t), 1.0] for t in texts])
    >>> used = EncoderInUse(given)
    >>> used.encoder is given, used.fitted(["one", "three"]).hash == used.hash
    (False, False)
    """

    def __init__(self, given: TaskEncoder | None) -> None:
        encoder = TaskEncoder() if given is None else given
        self._given, self._settings = given, settings_of(given)
        if not encoder.__sklearn_is_fitted__():
            copied: Any = clone(encoder)
            encoder = copied
        self.encoder = encoder
        self.hash = encoder.projection_hash()

    def fitted(self, X: Any) -> EncoderInUse:
        """Return one that is fitted on some tasks, or itself if it is fitted already.

        Until then the encoder uses a random projection.
        """
        if self.encoder.__sklearn_is_fitted__():
            return self
        found = copy(self)
        found.encoder = copy(self.encoder).fit(X)
        found.hash = found.encoder.projection_hash()
        return found

    def check_kept(self, given: TaskEncoder | None, learnt: bool) -> None:
        """Refuse an encoder whose features no longer mean what they meant.

        Changed settings that do not affect the features are taken over.

        Parameters
        ----------
        given : TaskEncoder, optional
            The one that the recommender has now.
        learnt : bool
            Whether there is a posterior.
        """
        if given is not self._given:
            raise ValueError(
                "the encoder changed after learning began: what was learnt is about "
                "the features of the first one. Make a new recommender"
            )
        now = settings_of(given)
        changed = [n for n in now if not same(now[n], self._settings[n])]
        refused = [name for name in changed if name not in _FREE]
        if refused:
            raise ValueError(
                f"settings of the encoder, {refused}, changed after learning began: "
                "what was learnt is about its features with the old ones. Set them "
                "back, or make a new recommender"
            )
        found = self.encoder.projection_hash()
        if learnt and found != self.hash:
            raise ValueError(
                "the encoder was fitted anew or set otherwise after learning began: "
                "what was learnt is about the features it made until then. Make a "
                "new recommender"
            )
        if changed:
            self.encoder.set_params(**{name: now[name] for name in changed})
        self._settings, self.hash = now, found


def settings_of(encoder: TaskEncoder | None) -> dict[str, Any]:
    """Return the settings of an encoder; a list that changes later does not matter.

    Examples
    --------
    >>> types = ["code", "law"]
    >>> noted = settings_of(TaskEncoder(types=types))
    >>> types.append("tax")
    >>> noted["types"]
    ('code', 'law')
    """
    if encoder is None:
        return {}
    settings: dict[str, Any] = encoder.get_params()
    types = settings["types"]
    if not isinstance(types, str) and hasattr(types, "__iter__"):
        settings["types"] = tuple(types)
    return settings
