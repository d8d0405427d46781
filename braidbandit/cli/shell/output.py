"""What commands show: text for people, or one JSON document for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, is_dataclass
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_JSON = ContextVar("as_json", default=False)

# A table that goes to a file or a pipe is not cut to the width of a terminal.
_WIDE = 200


def want_json(wanted: bool) -> None:
    """Note whether this command was asked for JSON."""
    _JSON.set(wanted)


def is_json_wanted() -> bool:
    """Whether this command was asked for JSON."""
    return _JSON.get()


def show(data: Mapping[str, Any], *shown: Any) -> None:
    """Show what a command found.

    Parameters
    ----------
    data : mapping
        All of it, for ``--json``.
    *shown : str or rich renderable
        The same for people.
    """
    if is_json_wanted():
        typer.echo(as_json(data))
        return
    out = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
    for part in shown:
        if isinstance(part, str):
            out.print(Text(part), soft_wrap=True)
        else:
            out.print(part)


def note(text: str) -> None:
    """Say something beside what was asked for, on standard error."""
    typer.secho(f"note: {text}", err=True, dim=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return rows as a table; numbers stand at the right.

    Parameters
    ----------
    columns : sequence of str
    rows : sequence of sequence of str, float, int or None
    """
    made = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        numeric = any(_is_number(row[place]) for row in rows)
        # What names a row is never cut, so that it can be copied.
        made.add_column(
            name,
            justify="right" if numeric else "left",
            no_wrap=numeric or not place,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*[Text(_cell(value)) for value in row])
    return made


def as_json(data: Any) -> str:
    """Return data as JSON text; what is not finite is null.

    Examples
    --------
    >>> as_json({"low": float("-inf"), "n": 1})
    '{"low": null, "n": 1}'
    """
    return json.dumps(_plain(data), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if value is None or isinstance(value, bool | int | str):
        return value
    # Numbers of NumPy know which of Python's they are.
    item = getattr(value, "item", None)
    return str(value) if item is None else _plain(item())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if math.isfinite(value) else ""
    return str(value)
