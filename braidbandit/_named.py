"""Values that name their arms, features or rows, brought into the expected order.

Series and data frames of pandas, data frames of polars, and mappings. They are known by
their attributes: neither library is imported. Labels 0, 1, 2, ... in this order, which
pandas gives by itself, are no names.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Names = Sequence[Hashable]
_SHOWN = 5


def row_labels(values: Any) -> list[Any] | None:
    """Return the labels of a pandas object's rows; None for anything else.

    Examples
    --------
    >>> row_labels([0.1, 0.2]) is None
    True
    """
    # Lists have an attribute named index too.
    return list(values.index) if hasattr(values, "iloc") else None


def column_names(values: Any) -> list[Any] | None:
    """Return the column names of a data frame; None for anything else."""
    names = getattr(values, "columns", None)
    if names is None or np.ndim(names) != 1:
        return None
    found = list(names)
    unnamed = found == [f"column_{at}" for at in range(len(found))]  # by polars
    return list(range(len(found))) if unnamed else found


def feature_names(X: Any) -> tuple[str, ...] | None:
    """Return column names that are all text, as scikit-learn has it, or None."""
    names = column_names(X)
    if not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def ordered(names: Any, what: str) -> list[Any]:
    """Return names as a list; a set has no order that values could follow.

    Examples
    --------
    >>> ordered(("b", "a"), "arms")
    ['b', 'a']
    """
    of_a_dict = hasattr(names, "mapping")  # its keys come in order
    if isinstance(names, str | Set) and not of_a_dict:
        raise TypeError(
            f"{what} is a list of names; received {names!r}, a {type(names).__name__}"
        )
    return names.tolist() if isinstance(names, np.ndarray) else list(names)


def places(given: Names, names: Names, what: str) -> list[int] | None:
    """Return where each of ``names`` is in ``given``; None where all are in place.

    Raises
    ------
    ValueError
        When they are not the same names, each once.

    Examples
    --------
    >>> places(["b", "a"], ["a", "b"], "costs")
    [1, 0]
    >>> places([0, 1], ["a", "b"], "costs") is None
    True
    """
    given, names = list(given), list(names)
    if given == names:
        return None
    place, known = {name: at for at, name in enumerate(given)}, set(names)
    if len(given) == len(names) == len(place) and place.keys() == known:
        return [place[name] for name in names]
    if given == list(range(len(given))):
        return None
    missing = few(name for name in names if name not in place)
    extra = few(name for name in place if name not in known)
    twice = few(name for at, name in enumerate(given) if place[name] != at)
    raise ValueError(
        f"{what} is named by other labels than expected: missing {missing}, unknown "
        f"{extra}, named twice {twice}. Give each of {few(names)} once, or an array "
        "without names in this order"
    )


def in_columns(values: Any, names: Names, what: str, rows: Any = None) -> NDArray[Any]:
    """Return values as an array whose last axis follows ``names``.

    Parameters
    ----------
    values : array-like of shape (A,) or (n, A), or mapping from name to value or column
    names : sequence, length A
    what : str
        What messages call the values.
    rows : optional
        What the rows are of, see :func:`in_rows`.

    Examples
    --------
    >>> in_columns({"b": 0.2, "a": 0.1}, ["a", "b"], "costs").tolist()
    [0.1, 0.2]
    >>> in_columns({"b": [2, 4], "a": [1, 3]}, ["a", "b"], "table").tolist()
    [[1, 2], [3, 4]]
    """
    if isinstance(values, Mapping):
        keys = list(values)
        order = places(keys, names, what)
        keys = keys if order is None else [keys[at] for at in order]
        columns = {f"{what}[{key!r}]": values[key] for key in keys}
        found = np.stack([as_array(c) for c in in_rows(rows, columns)], axis=-1)
        return np.asarray(found, order="C")
    if getattr(values, "ndim", None) == 1 and row_labels(values) is not None:
        return as_array(_taken(values, places(row_labels(values) or [], names, what)))
    if isinstance(values, list) and any(row_labels(row) is not None for row in values):
        values = np.stack([in_columns(row, names, what) for row in values])
    given = column_names(values)
    order = None if given is None else places(given, names, f"{what} by column")
    (values,) = in_rows(rows, {what: values})
    if isinstance(values, np.ndarray):
        return values  # masked values stay masked
    array = as_array(values)
    # Frames keep columns together, and storage order decides the last bits of sums.
    return np.asarray(array if order is None else array[:, order], order="C")


def in_rows(X: Any, values: Mapping[str, Any]) -> list[Any]:
    """Return values, of which each has one entry per row of ``X``, in that order.

    Rows are named by the labels of ``X``, or by its texts where it is a list of tasks.
    Where it has neither, the first of the values that is labelled names them.

    Parameters
    ----------
    X : tasks or contexts; a list of labels as :class:`Labels`; or None
    values : mapping from name to sequence, Series, data frame or mapping by row
        What has no labels stays as it is.

    Examples
    --------
    >>> in_rows(["b", "a"], {"reward": [0.2, 0.1]})
    [[0.2, 0.1]]
    """
    labels = X.labels if isinstance(X, Labels) else row_labels(X)
    texts: list[str] | None = None
    found = []
    for what, column in values.items():
        named = isinstance(column, Mapping)
        given = list(column) if named else row_labels(column)
        order = None
        if given is not None and given != labels:
            texts = _texts(X) if texts is None else texts
            if labels is None and not set(texts) & set(given):
                if named:
                    raise ValueError(
                        f"{what} names its rows {few(given)}, and the rows they are "
                        "for have no names; give a list in their order"
                    )
                labels = given
            names = texts if labels is None or set(texts) == set(given) else labels
            order = places(given, names, f"{what} by row")
        found.append(_taken(list(column.values()) if named else column, order))
    return found


@dataclass(frozen=True)
class Labels:
    """Labels of rows whose table is not at hand, for :func:`in_rows`."""

    labels: list[Any] | None

    @classmethod
    def of(cls, *tables: Any) -> Labels:
        """Return the labels of the first table that has some."""
        found = (row_labels(table) for table in tables)
        return cls(next((labels for labels in found if labels is not None), None))


def _texts(X: Any) -> list[str]:
    """Return the texts of a list of tasks; no texts for anything else."""
    if X is None or isinstance(X, str | Mapping | Labels) or hasattr(X, "columns"):
        return []
    texts = []
    for task in X:
        if isinstance(task, Mapping):
            task = task.get("text", task.get("prompt"))
        if not isinstance(task, str):
            return []
        texts.append(task)
    return texts


def _taken(values: Any, order: list[int] | None) -> Any:
    if order is None:
        return values
    return (
        [values[at] for at in order] if isinstance(values, list) else values.iloc[order]
    )


def as_array(values: Any) -> NDArray[Any]:
    """Return an array; objects that are all numbers or booleans become such."""
    array = np.asarray(values)
    # Columns of several types, or that may lack values, come as objects.
    return np.array(array.tolist()) if array.dtype == object else array


def few(names: Iterable[Any]) -> list[Any]:
    """Return the first of many names, for a message."""
    found = list(names)
    return found if len(found) <= _SHOWN else [*found[:_SHOWN], "..."]
