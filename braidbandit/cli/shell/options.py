"""Options that several commands have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from braidbandit.cli.shell.output import want_json


def _noted(wanted: bool) -> bool:
    want_json(wanted)
    return wanted


Json = Annotated[
    bool,
    typer.Option(
        "--json", callback=_noted, help="Print one JSON document instead of text."
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        "-f",
        help="Folder of the agent. By default the one in the settings.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="BRAIDBANDIT_CONFIG",
        help="File of the settings. By default braid.toml in this folder.",
    ),
]


def weights(given: list[str]) -> dict[str, float] | None:
    """Read ``quality=1 latency=0.2`` as a preference.

    Examples
    --------
    >>> weights(["quality=1", "latency=0.2"])
    {'quality': 1.0, 'latency': 0.2}
    """
    from braidbandit.recommender.objectives import OBJECTIVES

    found: dict[str, Any] = {}
    for part in given:
        name, _, weight = part.partition("=")
        try:
            found[name.strip()] = float(weight)
        except ValueError:
            weight = "nan"
        if name.strip() not in OBJECTIVES or not 0 <= float(weight) < math.inf:
            raise typer.BadParameter(
                f"expected one of {', '.join(OBJECTIVES)} and its weight from 0, such "
                f"as quality=1 or latency=0.2, received {part!r}"
            )
    return found or None


def number(least: float, most: float = math.inf) -> Callable[[Any], Any]:
    """Return a callback for an option: its number is finite and in these bounds.

    Typer's own ``min`` and ``max`` let NaN pass or tell it as too large, and do not say
    what was received.

    Examples
    --------
    >>> number(0, 1)(0.5)
    0.5
    """
    expected = f"from {least:g}" + ("" if most == math.inf else f" to {most:g}")

    def checked(value: float | None) -> float | None:
        if value is None or (least <= value <= most and math.isfinite(value)):
            return value
        raise typer.BadParameter(f"expected a number {expected}, received {value!r}")

    return checked
