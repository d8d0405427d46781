"""Decisions as people name them: by id, by its beginning, or ``last``."""

from __future__ import annotations

from braidbandit.ledger.ledger import Ledger

LAST = "last"
_SHORTEST = 4


def decision_id_in(ledger: Ledger, name: str) -> str:
    """Return the id of the decision that is meant.

    Parameters
    ----------
    ledger : Ledger
    name : str
        An id, four characters or more of its beginning, or "last" for the newest.

    Raises
    ------
    KeyError
        When there is no such decision.
    ValueError
        When several ids begin so, or too little is given.
    """
    if name == LAST:
        newest = ledger.ids(most=1)
        if not newest:
            raise KeyError("the ledger has no decision yet; make one with recommend")
        return newest[0]
    if len(name) < _SHORTEST:
        raise ValueError(
            f"{name!r} is too short to name a decision; give {_SHORTEST} characters "
            f"of its id or more, or {LAST!r}"
        )
    found = ledger.ids(name, most=2)
    if not found:
        raise KeyError(f"the ledger has no decision {name!r}")
    if len(found) > 1 and name not in found:
        raise ValueError(f"several decisions begin with {name!r}; give more of the id")
    return name if name in found else found[0]
