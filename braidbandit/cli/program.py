"""The program: starts the commands, or says which extra they need."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from braidbandit.cli.shell.exits import Exit

NAME = "braidbandit"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.
    """
    try:
        from braidbandit.cli.commands import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write(
            f"the command line needs {error.name}: pip install 'braidbandit[cli]'\n"
        )
        return int(Exit.NO_PACKAGE)
    try:
        app(None if arguments is None else list(arguments), prog_name=NAME)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return int(Exit.DONE)


def command() -> None:
    """Be the program of this name."""
    sys.exit(main())
