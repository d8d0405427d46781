"""Forks: what a process must not share with the one that it was forked from."""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from typing import Protocol


class Forked(Protocol):
    """An object that is told of a fork: before it, and after it in both processes."""

    def before_fork(self) -> None:
        """Wait until nothing is being changed, and keep it so."""
        ...

    def after_fork(self, in_child: bool) -> None:
        """Go on; in the child, with nothing that belongs to the parent."""
        ...


_told: weakref.WeakSet[Forked] = weakref.WeakSet()
_told_last: weakref.WeakSet[Forked] = weakref.WeakSet()
_adding = threading.Lock()
_here = threading.local()
_process = uuid.uuid4().hex


def process_id() -> str:
    """Return an id that no other process has, on this machine or another."""
    return _process


def tell_of_forks(listener: Forked, *, last: bool = False) -> None:
    """Tell an object of every fork as long as it lives.

    Parameters
    ----------
    listener : Forked
    last : bool
        Whether to tell it before a fork only after the others. This is for an object
        whose ``before_fork`` waits for a lock which threads take while they hold a lock
        of the others: locks that all take in the same order cannot block each other.
    """
    with _adding:
        (_told_last if last else _told).add(listener)


def _before() -> None:
    with _adding:
        _here.told = [*_told, *_told_last]
    for listener in _here.told:
        listener.before_fork()


def _after(in_child: bool) -> None:
    for listener in _here.__dict__.pop("told", ()):
        listener.after_fork(in_child)


def _in_child() -> None:
    global _process, _adding
    _process, _adding = uuid.uuid4().hex, threading.Lock()
    _after(True)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(
        before=_before, after_in_parent=lambda: _after(False), after_in_child=_in_child
    )
