"""The one thread that writes with local models, and the queue before it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from braidbandit.catalogue.braid import Braid
from braidbandit.service.errors import ApiError
from braidbandit.service.writing.batch import Job, Writing
from braidbandit.service.writing.flow import Done, Failed

_LOG = logging.getLogger(__name__)
# Seconds that a decision may hold up the next token: it takes a few milliseconds alone,
# and many times that where it has to take turns with what writes.
_COURTESY = 0.05
# Texts of different models, or that came later, take turns, a token each.
_MOST_AT_ONCE = 4


class LocalWorker:
    """Writes the jobs that it is given, those of one model together.

    Parameters
    ----------
    model_of : callable
        Gives the model of a braid.
    batch : int
        Most texts that are written together.
    """

    def __init__(self, model_of: Callable[[Braid], Any], batch: int) -> None:
        self._model_of, self._batch = model_of, batch
        self._turn = threading.Lock()  # held while a token is written
        self._nobody_decides = threading.Event()
        self._nobody_decides.set()
        self._waiting: deque[Job] = deque()
        self._at_work: list[Writing] = []
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name="braidbandit-writer", daemon=True
        )
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that are not begun."""
        return len(self._waiting)

    @property
    def writing(self) -> int:
        """Texts that are being written."""
        return sum(map(len, list(self._at_work)))

    @contextmanager
    def paused(self) -> Generator[bool]:
        """Write no token meanwhile; the one that is being written is waited for.

        Not for long, as a large model's token takes longer than a decision: False is
        yielded where it goes on.
        """
        self._nobody_decides.clear()
        waited = self._turn.acquire(timeout=_COURTESY)
        try:
            yield waited
        finally:
            self._nobody_decides.set()
            if waited:
                self._turn.release()

    def submit(self, job: Job) -> None:
        """Queue a job; its flow gets what comes of it."""
        with self._changed:
            if self._closing:
                raise ApiError(503, "the service is stopping", code="stopping")
            self._waiting.append(job)
            self._changed.notify()

    def close(self, timeout: float) -> None:
        """Write what is begun or waits, for so many seconds, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            left, self._waiting = list(self._waiting), deque()
        for job in left:
            job.flow.put(Failed(ApiError(503, "the service stopped", code="stopping")))
        for writing in list(self._at_work):
            writing.fail(ApiError(503, "the service stopped", code="stopping"))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._at_work or self._closing):
                    self._changed.wait()
                if self._closing and not (self._waiting or self._at_work):
                    return
                jobs = self._next_jobs()
            if jobs:
                with self._my_turn():
                    self._begin(jobs)
            for writing in list(self._at_work):
                with self._my_turn():
                    goes_on = self._advance(writing)
                if not goes_on:
                    self._at_work.remove(writing)

    def _my_turn(self) -> threading.Lock:
        """Wait while a decision is made; return what is held while writing."""
        self._nobody_decides.wait(_COURTESY)
        return self._turn

    def _next_jobs(self) -> list[Job]:
        """Take the jobs that are begun next: those of one model, if there is room."""
        if len(self._at_work) >= _MOST_AT_ONCE:
            return []
        now = time.monotonic()
        jobs: list[Job] = []
        left: deque[Job] = deque()
        for job in self._waiting:
            if job.flow.cancelled or now > job.deadline:
                self._drop(job)
            elif len(jobs) < self._batch and (not jobs or jobs[0].goes_with(job)):
                jobs.append(job)
            else:
                left.append(job)
        self._waiting = left
        return jobs

    def _drop(self, job: Job) -> None:
        if job.flow.cancelled:
            job.flow.put(Done("stop", 0, 0, 0.0, 0.0, None, "the client has gone"))
            return
        error = ApiError(
            503, "the deadline passed before the answer was begun", code="deadline"
        )
        job.flow.put(Failed(error))

    def _begin(self, jobs: list[Job]) -> None:
        try:
            self._at_work.append(Writing(self._model_of(jobs[0].braid), jobs))
        except Exception as error:
            _LOG.exception("%s could not be used", jobs[0].braid.label())
            for job in jobs:
                job.flow.put(Failed(error))

    def _advance(self, writing: Writing) -> bool:
        try:
            return writing.step()
        except Exception as error:
            _LOG.exception("an answer broke off")
            writing.fail(error)
            return False
