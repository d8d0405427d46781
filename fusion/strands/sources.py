"""Where a strand comes from: one text, or a base with an adapter on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple


class Source(NamedTuple):
    """Where a strand comes from.

    Attributes
    ----------
    base : str
        Hub id, folder, GGUF file, or name of a packaged model.
    adapter : str or None
        Folder of an adapter of that base.
    """

    base: str
    adapter: str | None = None

    def told(self) -> str | dict[str, str]:
        """As recipes have it: text, or a dict where there is an adapter."""
        if self.adapter is None:
            return self.base
        return {"source": self.base, "adapter": self.adapter}


def read_source(name: str, given: Any) -> Source:
    """What a person gave as the source of a strand.

    Parameters
    ----------
    name : str
        Of the strand; it is its own source where a mapping names none.
    given : str, path, or mapping with "source" and "adapter"

    Raises
    ------
    TypeError
        When a source or an adapter is no text.
    ValueError
        When a mapping has other keys.

    Examples
    --------
    >>> read_source("legal", {"source": "base-1b", "adapter": "tuned/legal"})
    Source(base='base-1b', adapter='tuned/legal')
    """
    found = given if isinstance(given, Mapping) else {"source": given}
    unknown = sorted(map(str, set(found) - {"source", "adapter"}))
    if unknown:
        raise ValueError(
            f"the source of {name!r} has {unknown}; expected 'source' and 'adapter' "
            "only: weights are read from safetensors, and no code of a model is run"
        )
    adapter = found.get("adapter")
    return Source(
        _text(name, "source", found.get("source", name)),
        None if adapter is None else _text(name, "adapter", adapter),
    )


def _text(name: str, what: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise TypeError(
            f"the {what} of {name!r} is text or a path, such as 'models/base'; "
            f"received {value!r}"
        )
    return str(os.fspath(value))
