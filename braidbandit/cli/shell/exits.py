"""Exit codes: how a command ended, as a number that scripts can tell apart."""

from __future__ import annotations

from enum import IntEnum

TOLD = (ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""Errors that the library raises on purpose: their text says what to do."""


class Exit(IntEnum):
    """How a command ended.

    Attributes
    ----------
    DONE : 0
    FAILED : 1
        Something went wrong that has no number of its own, or ``doctor`` found
        an error.
    USAGE : 2
        An option or argument that makes no sense.
    NOT_FOUND : 3
        No such file, folder, settings or decision.
    REFUSED : 4
        What was asked for does not go with what is there; nothing was changed.
    NO_PACKAGE : 5
        A package is missing; the message names the extra that brings it.
    NO_ANSWER : 6
        A server gave no answer.
    STOPPED : 130
        Stopped from the keyboard.
    """

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    NO_PACKAGE = 5
    NO_ANSWER = 6
    STOPPED = 130


def exit_of(error: BaseException) -> Exit:
    """Return the exit code for an error.

    Examples
    --------
    >>> exit_of(KeyError("unknown decision")).name, exit_of(ValueError("no")).name
    ('NOT_FOUND', 'REFUSED')
    """
    if isinstance(error, ConnectionError | TimeoutError):
        return Exit.NO_ANSWER
    if isinstance(error, ImportError):
        return Exit.NO_PACKAGE
    if isinstance(error, FileNotFoundError | NotADirectoryError | LookupError):
        return Exit.NOT_FOUND
    if isinstance(error, ValueError | TypeError):
        return Exit.REFUSED
    return Exit.FAILED


def said(error: BaseException) -> str:
    """Return what an error says, without the quotes that a KeyError puts around it."""
    told = error.args[0] if isinstance(error, KeyError) and error.args else error
    return str(told) or type(error).__name__
