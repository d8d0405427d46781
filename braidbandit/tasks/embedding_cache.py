"""Embeddings that were computed before: the latest in memory, more of them on disk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from braidbandit._forks import tell_of_forks
from braidbandit.tasks.embedding_file import EmbeddingFile

Array = NDArray[np.float64]

MEMORY_BYTES = 32 * 2**20
"""Most bytes of embeddings in memory: ten thousand of 384 numbers."""


class EmbeddingCache:
    """Embeddings by key; those that were not used for longest go first.

    Several threads may share one, and a process that is forked.

    Parameters
    ----------
    folder : Path, optional
        Where an :class:`EmbeddingFile` keeps more of them; None for memory only.
    most_bytes : int
        Largest size of that file.
    memory_bytes : int
        Most bytes of embeddings in memory.

    Examples
    --------
    >>> cache = EmbeddingCache(None, memory_bytes=2 * 8)
    >>> for key in ("0a", "0b", "0c"):
    ...     cache.keep({key: np.ones(1)})
    >>> sorted(cache.find(["0a", "0b", "0c"]))
    ['0b', '0c']
    """

    def __init__(
        self,
        folder: Path | None = None,
        most_bytes: int = 0,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._file = None if folder is None else EmbeddingFile(folder, most_bytes)
        self._memory_bytes = memory_bytes
        self._recent: OrderedDict[str, Array] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        tell_of_forks(self, last=True)  # a thread that holds an agent waits for it

    def __len__(self) -> int:
        """How many embeddings are in memory."""
        return len(self._recent)

    def find(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return those embeddings that are kept, by key.

        Parameters
        ----------
        keys : sequence of str
            Hashes in hexadecimal.

        Returns
        -------
        dict of ndarray of shape (d,)
            Not to be written to.
        """
        with self._lock:
            found = {key: self._recent[key] for key in keys if key in self._recent}
            for key in found:
                self._recent.move_to_end(key)
            missing = [key for key in keys if key not in found]
            if missing and self._file is not None:
                read = self._file.read(missing)
                self._remember(read)
                found |= read
        return found

    def keep(self, embeddings: Mapping[str, Array]) -> None:
        """Keep embeddings, each of shape (d,), by key."""
        with self._lock:
            self._remember(embeddings)
            if self._file is not None:
                self._file.write(embeddings)

    def forget(self) -> None:
        """Drop what is in memory; the file is left to :func:`forget_folder`."""
        with self._lock:
            self._recent.clear()
            self._bytes = 0

    def before_fork(self) -> None:
        """Let no thread be in SQLite, and no connection be shared by two processes."""
        self._lock.acquire()
        if self._file is not None:
            self._file.close()

    def after_fork(self, in_child: bool) -> None:
        """Go on, the child with a lock of its own; the file is opened when needed."""
        if in_child:
            self._lock = threading.Lock()
        else:
            self._lock.release()

    def _remember(self, embeddings: Mapping[str, Array]) -> None:
        for key, vector in embeddings.items():
            former = self._recent.pop(key, None)
            self._bytes += vector.nbytes - (0 if former is None else former.nbytes)
            # A copy: the row of a batch would keep the whole batch in memory.
            self._recent[key] = vector.copy()
        while self._bytes > self._memory_bytes:
            self._bytes -= self._recent.popitem(last=False)[1].nbytes
