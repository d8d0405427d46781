"""Answers of models behind URLs, handed on as they come."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from braidbandit.agent.served_model import ServedModel
from braidbandit.service.writing.batch import Job
from braidbandit.service.writing.flow import Delta, Done, Failed

# Seconds that a server may be silent.
_SILENCE = 120.0
_MOST_AT_ONCE = 64


class Relay:
    """Asks servers in threads, one for each answer."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_MOST_AT_ONCE, "braidbandit-relay")

    def submit(self, job: Job, model: ServedModel) -> None:
        """Ask a model; the job's flow gets what comes of it."""
        self._threads.submit(_hand_on, job, model)

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _hand_on(job: Job, model: ServedModel) -> None:
    try:
        _answer(job, model)
    except Exception as error:
        job.flow.put(Failed(error))


def _answer(job: Job, model: ServedModel) -> None:
    begun = time.monotonic()
    left = max(job.deadline - begun, 0.1)
    request = {**job.ask.request, **model.limited(job.most_tokens)}
    first, finish, cut = 0.0, "stop", ""
    with closing(model.chat(request, min(left, _SILENCE))) as chunks:
        for chunk in chunks:
            first = first or time.monotonic() - begun
            for choice in chunk.choices or ():
                finish = choice.finish_reason or finish
                delta = _delta_of(choice)
                if delta is not None:
                    job.flow.put(delta)
            if job.flow.cancelled:
                cut = "the client has gone"
            elif time.monotonic() > job.deadline:
                finish, cut = "length", "the deadline has passed"
            if cut:
                break
    used, seconds = model.usage, time.monotonic() - begun
    done = Done(
        finish,
        used.tokens_read,
        used.tokens_written,
        first or seconds,
        seconds,
        used.money,
        cut,
    )
    job.flow.put(done)


def _delta_of(choice: Any) -> Delta | None:
    """Return what a choice of a chunk adds; None where that is nothing."""
    delta: dict[str, Any] = choice.delta.model_dump(exclude_none=True)
    delta.pop("role", None)
    logprobs = getattr(choice, "logprobs", None)
    if logprobs is not None:
        logprobs = logprobs.model_dump(exclude_none=True)
    if not delta and logprobs is None:
        return None
    return Delta(delta, logprobs)
