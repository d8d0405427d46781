"""The group of commands: an error becomes a line and an exit code, not a traceback."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from braidbandit.cli.exits import TOLD, Exit, exit_of, said
from braidbandit.cli.output import as_json, is_json_wanted, note, want_json

TRACEBACK = "BRAIDBANDIT_TRACEBACK"
"""Set this variable to see where an error comes from."""


class Commands(TyperGroup):
    """Commands whose errors and warnings are told in plain lines.

    With ``--json`` standard output always holds one JSON document, on an error
    ``{"error": {"message": ..., "code": ...}}``.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        want_json(False)
        with warnings.catch_warnings():
            warnings.showwarning = _told
            try:
                return super().invoke(ctx)
            except typer.Exit:  # a RuntimeError, but a planned one
                raise
            except (KeyboardInterrupt, typer.Abort):
                ended, message = Exit.STOPPED, "stopped"
            except TOLD as error:
                if os.environ.get(TRACEBACK):
                    raise
                ended, message = exit_of(error), said(error)
        if is_json_wanted():
            typer.echo(as_json({"error": {"message": message, "code": ended.name}}))
        else:
            typer.secho(message, fg="red", err=True)
        raise typer.Exit(int(ended))


def _told(message: Any, category: Any, *_: Any, **__: Any) -> None:
    """Show a warning of the library; those of others stay as they are filtered."""
    if issubclass(category, UserWarning):
        note(str(message))
    else:
        sys.stderr.write(f"{category.__name__}: {message}\n")
