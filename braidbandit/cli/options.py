"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from braidbandit.cli.output import want_json


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
    found: dict[str, Any] = {}
    for part in given:
        name, equals, weight = part.partition("=")
        try:
            found[name.strip()] = float(weight)
        except ValueError:
            equals = ""
        if not equals:
            raise typer.BadParameter(
                f"expected such as quality=1 or latency=0.2, received {part!r}"
            )
    return found or None
