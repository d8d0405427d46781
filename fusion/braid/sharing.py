"""Living braids that share strands: what moves one moves the others."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakSet

from ..strands.strand import Strand


class Moving(Protocol):
    """A braid, as far as it moves."""

    anchor: Strand
    donors: list[Strand]

    def move_fusers(self, fn: Any, recurse: bool = True) -> Any:
        """Move what was trained, as `nn.Module._apply`."""


_BRAIDS: WeakSet[Moving] = WeakSet()


def note(braid: Moving) -> None:
    """Know a braid as long as it lives; it is not kept alive."""
    _BRAIDS.add(braid)


def sharers(braid: Moving) -> list[Moving]:
    """Other living braids that move when this one does.

    Those with a strand in common, or strands that stand on one base, and those that
    share others with these.
    """
    moving, found = _models(braid), dict[int, Moving]()
    others = [other for other in list(_BRAIDS) if other is not braid]
    while more := [o for o in others if id(o) not in found and moving & _models(o)]:
        found |= {id(other): other for other in more}
        moving = moving.union(*map(_models, more))
    return list(found.values())


def living_sharers(braid: Moving) -> list[Moving]:
    """The same without those that nobody holds any more."""
    if sharers(braid):
        gc.collect()
    return sharers(braid)


def strands_of(braids: Sequence[Moving]) -> list[Strand]:
    """The strands of some braids, each once."""
    found = {id(s): s for braid in braids for s in (braid.anchor, *braid.donors)}
    return list(found.values())


def _models(braid: Moving) -> set[int]:
    """What moves with a braid's strands, by identity."""
    return set().union(*(strand.moves for strand in strands_of([braid])))
