"""Tables of results as data frames, where pandas is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


def frame_of(records: Sequence[Any]) -> DataFrame:
    """Return records as a data frame, one row each.

    Parameters
    ----------
    records : sequence of dataclass instances, all of one class

    Returns
    -------
    DataFrame
        One column per field, in the order of the class; None becomes NaN.

    Raises
    ------
    ImportError
        When pandas is not installed.

    Examples
    --------
    >>> from braidbandit import Braid
    >>> frame_of([Braid("a"), Braid("b")])["anchor"].tolist()
    ['a', 'b']
    """
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise ImportError(
            "a data frame needs pandas: pip install 'braidbandit[data]'; to_dict() "
            "gives the same numbers without it"
        ) from error
    frame = DataFrame([asdict(record) for record in records])
    return frame.where(frame.notna(), float("nan"))


def text_of(records: Sequence[Any], columns: Sequence[str]) -> str:
    """Return some columns of records as text to print, a line each below a header.

    Without pandas, one ``repr`` per line.

    Parameters
    ----------
    records : sequence of dataclass instances, all of one class
    columns : sequence of str

    Returns
    -------
    str

    Examples
    --------
    >>> from braidbandit import Braid
    >>> print(text_of([Braid("a"), Braid("b")], ["anchor"]))
    anchor
         a
         b
    """
    try:
        frame = frame_of(records)
    except ImportError:
        return "\n".join(map(repr, records))
    return frame[list(columns)].to_string(
        index=False, na_rep="", float_format="{:.3f}".format
    )
