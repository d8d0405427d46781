"""What a pool has in memory, with room for so many bytes and no more."""

from __future__ import annotations

import gc
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from .strand import Strand

Key = tuple[str, bool]  # the strand's name, and whether its layers can be read

_LOG = logging.getLogger(__name__)


def bytes_of(strands: Iterable[Strand]) -> int:
    """Bytes of the weights of strands; what they share counts once."""
    total, tensors = 0, dict[int, int]()
    for strand in {id(strand): strand for strand in strands}.values():
        mine = {p.data_ptr(): p.nbytes for _, p in strand.named_parameters()}
        tensors.update(mine)
        total += strand.memory - sum(mine.values())  # buffers, or all of a file
    return total + sum(tensors.values())


class Shelf:
    """Strands by key, of which the least recently used make room for others.

    Taking a strand off the shelf frees it only where nobody else holds it, such as a
    braid. One that is held stays, and counts until it is gone.

    Parameters
    ----------
    limit : int, optional
        Most bytes of weights; by default as many as there are.

    Raises
    ------
    ValueError
        On a limit that is not above 0.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and not limit > 0:
            raise ValueError(
                f"memory_limit is a number of bytes above 0 or None, received {limit!r}"
            )
        self.limit = limit
        self._strands: OrderedDict[Key, Strand] = OrderedDict()
        self._kept: set[Key] = set()

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._strands))

    def get(self, key: Key) -> Strand | None:
        """The strand of this key, which is now the last to make room."""
        found = self._strands.get(key)
        if found is not None:
            self._strands.move_to_end(key)
        return found

    def put(self, key: Key, strand: Strand, keep: bool = False) -> None:
        """Put a strand here; with ``keep`` it never makes room."""
        self._strands[key] = strand
        self._strands.move_to_end(key)
        (self._kept.add if keep else self._kept.discard)(key)

    def make_room(self, name: str, needed: Callable[[], int]) -> None:
        """Let go of strands until another one fits.

        Parameters
        ----------
        name : str
            Of the one that is to be loaded, for errors.
        needed : callable
            Its bytes beside what is here; asked again after each that made room.

        Raises
        ------
        MemoryError
            When it does not fit. Where it is larger than the limit, nothing was let go.
        """
        if self.limit is None:
            return
        if needed() > self.limit:
            raise self._too_large(name, needed())
        held: list[str] = []
        for key in self:
            if bytes_of(self._strands.values()) + needed() <= self.limit:
                return
            if key not in self._kept and self._is_gone(key):
                _LOG.info("let go of %s, to make room for %s", key, name)
            else:
                held.append(self._strands[key].name)
        used = bytes_of(self._strands.values())
        if used + needed() <= self.limit:
            return
        if not held:
            raise self._too_large(name, needed())
        raise MemoryError(
            f"{name} takes {needed():,} bytes, and {used:,} of the pool's memory_limit "
            f"of {self.limit:,} are taken by {held}, which somebody else holds, or "
            "which were given to the pool; drop the braids that use them, or raise the "
            "limit"
        )

    def _too_large(self, name: str, needed: int) -> MemoryError:
        return MemoryError(
            f"{name} takes {needed:,} bytes, more than the pool's memory_limit of "
            f"{self.limit:,}; raise the limit, or take a smaller model"
        )

    def _is_gone(self, key: Key) -> bool:
        """Let go of a strand; one that somebody else holds is taken back."""
        seen = weakref.ref(self._strands[key])
        order = list(self._strands)
        del self._strands[key]
        gc.collect()  # a strand and its layers refer to each other
        found = seen()
        if found is None:
            return True
        self._strands[key] = found
        for other in order:
            self._strands.move_to_end(other)
        return False
