"""Commands that copy, restore and look at what an agent knows: state."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from braidbandit.cli.shell.options import Config, Folder, Json
from braidbandit.cli.shell.output import show
from braidbandit.cli.shell.place import place_of
from braidbandit.cli.shell.progress import waiting

_LEDGERS = (".jsonl", ".parquet")


def export_state(
    file: Annotated[
        Path,
        typer.Argument(
            help="Ending in .zip for all that an agent knows; in .jsonl or .parquet "
            "for its ledger alone, to read with other tools."
        ),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    folder: Folder = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Write what an agent knows to one file.

    Texts of tasks are in it if they were kept; models and trained parts are not.
    """
    place, file = place_of(folder, config), file.expanduser()
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already; --overwrite replaces it")
    if file.suffix in _LEDGERS:
        from braidbandit.ledger.transfer import export_ledger

        with place.open_ledger() as ledger, waiting("writing the ledger"):
            records = export_ledger(ledger, file)
        show({"path": file, "records": records}, f"{records} records in {file}")
        return
    _check_zip(file)
    from braidbandit.cli.state.archive import export_agent

    with waiting("packing the agent"):
        header = export_agent(place.folder, file)
    size = file.stat().st_size
    show(
        {"path": file, "bytes": size, **header},
        f"{file}: {', '.join(header['files'])} ({size / 1e6:.1f} MB)",
    )


def import_state(
    file: Annotated[
        Path, typer.Argument(help="That `state export` wrote: .zip, .jsonl, .parquet.")
    ],
    folder: Folder = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make an agent from such a file, or add the records of a ledger to one.

    A .zip needs a folder that is new. From a file that is damaged nothing is written.
    """
    place, file = place_of(folder, config), file.expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}")
    if file.suffix in _LEDGERS:
        from braidbandit.cli.state.archive import import_records

        with waiting("reading the ledger"):
            records = import_records(file, place.ledger_file)
        show(
            {"folder": place.folder, "records": records},
            f"{records} records that were not in {place.ledger_file}",
        )
        return
    _check_zip(file)
    from braidbandit.cli.state.archive import import_agent

    with waiting("unpacking the agent"):
        header = import_agent(file, place.folder)
    show(
        {"folder": place.folder, **header},
        f"{place.folder}: {', '.join(header['files'])}",
    )


def inspect_state(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of an agent, saved policy, or exported .zip; by default the "
            "agent of the settings."
        ),
    ] = None,
    folder: Folder = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Tell what a saved agent is. Nothing is changed, and no model is loaded."""
    from braidbandit.cli.state.inspecting import inspect

    found = inspect(path.expanduser() if path else place_of(folder, config).folder)
    show(found, *_lines(found))


def _check_zip(file: Path) -> None:
    if file.suffix != ".zip":
        raise typer.BadParameter(
            f"{file} ends in {file.suffix or 'nothing'}; expected .zip, .jsonl or "
            ".parquet"
        )


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    """Return nested data as lines of text."""
    lines: list[str] = []
    for key, value in found.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {shown}")
    return lines
