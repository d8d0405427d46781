"""Progress and the time that is left, on standard error, of what takes a while."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

AT_ONCE = 2.0
"""Seconds after which something is said of what is not done yet."""

_EVERY = 10.0  # seconds between two lines where nobody watches
_WATCHED = 0.2


class Progress:
    """Tells how far some work is, once it takes more than two seconds.

    A terminal gets one line that changes; a file or a pipe gets a line every ten
    seconds.

    Parameters
    ----------
    what : str
        Such as "scoring".
    total : int
        How many steps there are.
    clock, write : callable, optional
        For tests: seconds, and where text goes.
    watched : bool, optional
        Whether it is a terminal.

    Examples
    --------
    >>> said, now = [], iter([0.0, 5.0, 6.0])
    >>> work = Progress("scoring", 4, clock=lambda: next(now), write=said.append,
    ...                 watched=False)
    >>> work.advance(); work.advance()
    >>> said
    ['scoring: 1 of 4, 15 s left\\n']
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] | None = None,
        watched: bool | None = None,
    ) -> None:
        self.what, self.total, self.done = what, total, 0
        self._clock = clock
        self._write = write or sys.stderr.write
        self._watched = sys.stderr.isatty() if watched is None else watched
        self._began, self._next, self._width = clock(), AT_ONCE, 0

    def advance(self, steps: int = 1) -> None:
        """Note that steps are done."""
        self.done += steps
        spent = self._clock() - self._began
        if spent >= self._next:
            self._next = spent + (_WATCHED if self._watched else _EVERY)
            self._say(f"{self.what}: {self.done} of {self.total}, {self._left(spent)}")

    def close(self) -> None:
        """Take the line away."""
        if self._width:
            self._write("\r" + " " * self._width + "\r")
            sys.stderr.flush()

    def _left(self, spent: float) -> str:
        seconds = spent / self.done * (self.total - self.done)
        return f"{in_words(seconds)} left"

    def _say(self, line: str) -> None:
        if self._watched:
            self._write("\r" + line.ljust(self._width))
            self._width = max(self._width, len(line))
            sys.stderr.flush()
        else:
            self._write(line + "\n")


@contextmanager
def progress(what: str, total: int) -> Generator[Callable[[], None], None, None]:
    """Yield a function to call after each of some steps; see :class:`Progress`."""
    work = Progress(what, total)
    try:
        yield work.advance
    finally:
        work.close()


def in_words(seconds: float) -> str:
    """Return a time as people say it.

    Examples
    --------
    >>> in_words(42.0), in_words(200.0), in_words(7300.0)
    ('42 s', '3 min 20 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def waiting(what: str) -> Generator[None, None, None]:
    """Say what is being waited for, once it takes more than two seconds."""
    timer = threading.Timer(AT_ONCE, _say_waiting, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say_waiting(what: str) -> None:
    sys.stderr.write(f"{what} ...\n")
    sys.stderr.flush()
