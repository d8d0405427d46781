"""The commands of ``braidbandit``, under their names."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from braidbandit import __version__
from braidbandit.cli.decisions import choosing
from braidbandit.cli.machine import setting_up
from braidbandit.cli.measuring import comparing
from braidbandit.cli.shell.group import Commands
from braidbandit.cli.state import keeping

_HELP = """\
Learns which of your language models to use, alone or braided, for each task.

Begin with [bold]braidbandit init[/], then [bold]braidbandit recommend "..."[/]; tell
how it went by [bold]braidbandit feedback last 4/5[/], and see what was learnt by
[bold]braidbandit table[/]. [bold]braidbandit serve[/] answers OpenAI clients.
"""
_CODES = """\
Exit codes: 0 done; 1 failed, or doctor found an error; 2 an option makes no sense;
3 no such file, folder or decision; 4 refused, and nothing was changed; 5 a package is
missing; 6 a server gave no answer; 130 stopped from the keyboard.
"""

app = typer.Typer(
    name="braidbandit",
    cls=Commands,
    help=_HELP,
    epilog=_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
state = typer.Typer(no_args_is_help=True, help="Copy, restore or look at an agent.")


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"braidbandit {__version__}")
        raise typer.Exit


@app.callback()
def begin(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Say which."
        ),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Tell what is loaded and built.")
    ] = False,
) -> None:
    """Set up what all commands share."""
    if verbose:
        logging.basicConfig(format="%(message)s")
        for name in ("braidbandit", "fusion"):
            logging.getLogger(name).setLevel(logging.INFO)


for command in (
    setting_up.init,
    setting_up.serve,
    comparing.probe,
    choosing.recommend,
    choosing.explain,
    choosing.feedback,
    choosing.table,
    comparing.replay,
    comparing.compare,
    setting_up.doctor,
):
    app.command()(command)
for name, command in (
    ("export", keeping.export_state),
    ("import", keeping.import_state),
    ("inspect", keeping.inspect_state),
):
    state.command(name)(command)
app.add_typer(state, name="state")
