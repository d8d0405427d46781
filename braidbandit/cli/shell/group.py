"""The group of commands: an error becomes a line and an exit code, not a traceback."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from braidbandit.cli.shell.exits import TOLD, Exit, exit_of, said
from braidbandit.cli.shell.output import as_json, is_json_wanted, note, want_json

TRACEBACK = "BRAIDBANDIT_TRACEBACK"
"""Set this variable to see where an error comes from."""

# UsageError, for which Typer has no public name: it is Click's, or Typer's own of late.
_USAGE: Any = typer.BadParameter.__base__


class Commands(TyperGroup):
    """Commands whose errors and warnings are told in plain lines.

    With ``--json`` standard output always holds one JSON document, on an error
    ``{"error": {"message": ..., "code": ...}}``.
    """

    def make_context(
        self, info_name: Any, args: list[str], *rest: Any, **more: Any
    ) -> Any:
        """Read what stands before the command."""
        # The command's own option is not read where another one makes no sense.
        options = args[: args.index("--")] if "--" in args else args
        want_json("--json" in options)
        try:
            return super().make_context(info_name, args, *rest, **more)
        except _USAGE as error:
            return _tell_usage(error)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with warnings.catch_warnings():
            warnings.showwarning = _told
            try:
                return super().invoke(ctx)
            except typer.Exit:  # a RuntimeError, but a planned one
                raise
            except _USAGE as error:
                _tell_usage(error)
            except (KeyboardInterrupt, typer.Abort):
                ended, message = Exit.STOPPED, "stopped"
            except TOLD as error:
                if os.environ.get(TRACEBACK):
                    raise
                ended, message = exit_of(error), said(error)
        if is_json_wanted():
            _end_in_json(message, ended)
        typer.secho(message, fg="red", err=True)
        raise typer.Exit(int(ended))


def _tell_usage(error: Any) -> NoReturn:
    """Tell of an option that makes no sense; for people, Typer does."""
    if is_json_wanted():
        _end_in_json(error.format_message(), Exit.USAGE)
    raise error


def _end_in_json(message: str, ended: Exit) -> NoReturn:
    typer.echo(as_json({"error": {"message": message, "code": ended.name}}))
    raise typer.Exit(int(ended))


def _told(message: Any, category: Any, *_: Any, **__: Any) -> None:
    """Show a warning of the library; those of others stay as they are filtered."""
    if issubclass(category, UserWarning):
        note(str(message))
    else:
        sys.stderr.write(f"{category.__name__}: {message}\n")
