"""The text of ``braid.toml``: a pool, and where the agent keeps what it knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_HEAD = """\
# Settings of braidbandit. docs/service.md lists what else may stand here.
# `braidbandit doctor` checks it.
"""
_ORDER = ("model_name", "domain", "source", "adapter", "endpoint", "price")


def settings_text(
    pool: Iterable[Mapping[str, Any]], learning: Mapping[str, Any], beside: Path
) -> str:
    """Return settings as TOML.

    Parameters
    ----------
    pool : iterable of dict
        Cards.
    learning : mapping
        Of the table of this name.
    beside : Path
        The folder of the file: paths below it are written from there.

    Examples
    --------
    >>> pool = [{"model_name": "a", "price": {"input": 0.0}}]
    >>> text = settings_text(pool, {"folder": "braid"}, Path("/x"))
    >>> print(text.partition("\\n\\n")[2])
    [learning]
    folder = "braid"
    <BLANKLINE>
    [[pool]]
    model_name = "a"
    price = { input = 0.0 }
    <BLANKLINE>
    """
    tables = [_table("[learning]", learning)]
    for card in pool:
        ordered = {key: card[key] for key in _ORDER if key in card}
        told = {**ordered, **card}
        for key in ("source", "adapter"):
            if isinstance(told.get(key), str) and "endpoint" not in told:
                told[key] = _from(told[key], beside)
        tables.append(_table("[[pool]]", told))
    return "\n".join([_HEAD, *tables])


def _table(head: str, values: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_value(value)}" for key, value in values.items()]
    return "\n".join([head, *lines, ""])


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key} = {_value(v)}" for key, v in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """Return a text as a basic string of TOML."""
    plain = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(plain.get(c) or _escaped(c) for c in text) + '"'


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 32 or number == 127 else character


def _from(path: str, folder: Path) -> str:
    """Return a path below a folder as seen from it; any other text as it is."""
    try:
        return str(Path(path).relative_to(folder)) if Path(path).is_absolute() else path
    except ValueError:
        return path
