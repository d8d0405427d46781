"""Measures how long `MetaBraider.forward` waits while another thread works hard.

``python tests/contention.py`` times 200 decisions of an agent on two tiny models
while nothing else runs, while a second thread multiplies matrices, and while it
calibrates one braid after the other, or a judge that sleeps is at work in it. Torch has
one thread. Run it on a machine that does nothing else.

Waiting is measured at the locks themselves: every lock that the agent, or what it
holds, keeps in an attribute is wrapped. Beside it the wall time of a call is measured,
in which the two threads' sharing of the processor and of the interpreter shows too.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tiny import tiny_folder

from braidbandit import MetaBraider, TaskEncoder

CALLS = 200
ROUNDS = 4  # of quiet and busy calls in turns
NUMBERS = itertools.count()
PATIENCE = 20  # seconds after which fewer calls must do, where each waits for long
MOST_WAIT = 0.005  # seconds, 99th percentile of a call's waiting for locks
MOST_TIMES = 1.5  # median wall time of a call over that without such company
JUDGE = 0.5  # seconds that the judge sleeps
KINDS = (type(threading.Lock()), type(threading.RLock()))
TEXTS = [
    f"The {colour} dog sleeps, then the {colour} fox jumps over {number} strands."
    for colour in ("brown", "quick", "lazy", "grey")
    for number in ("two", "three", "nine")
]


class Timed:
    """A lock that adds up how long each thread has waited for it."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.waited = threading.local()

    def acquire(self, *arguments: Any, **named: Any) -> bool:
        """As the lock has it."""
        start = time.perf_counter()
        got = self.lock.acquire(*arguments, **named)
        self.waited.seconds = self.so_far() + time.perf_counter() - start
        return got

    def release(self) -> None:
        """As the lock has it."""
        self.lock.release()

    def so_far(self) -> float:
        """Seconds that the calling thread has waited."""
        return getattr(self.waited, "seconds", 0.0)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Measured(NamedTuple):
    """Seconds of every call: in all, and waiting for locks."""

    walls: list[float]
    waits: list[float]

    @property
    def median(self) -> float:
        """Of the wall time."""
        return statistics.median(self.walls)

    @property
    def wait(self) -> float:
        """The 99th percentile of the waiting."""
        return sorted(self.waits)[int(0.99 * (len(self.waits) - 1))]


def wrapped_locks(agent: MetaBraider) -> list[Timed]:
    """Put a `Timed` around every lock of the agent and of what it holds."""
    found = []
    for owner in (agent, *vars(agent).values()):
        for name, value in list(getattr(owner, "__dict__", {}).items()):
            if isinstance(value, KINDS):
                found.append(Timed(value))
                setattr(owner, name, found[-1])
    return found


def _embed(texts: list[str]) -> list[list[float]]:
    return [[len(t), len(t) % 5, len(t) % 7, 1.0] for t in texts]


@contextmanager
def an_agent() -> Iterator[MetaBraider]:
    """An agent with a choice of braids of two tiny models, in a folder of its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        pool = [
            {
                "model_name": family,
                "domain": domain,
                "source": str(tiny_folder(family, Path(made) / family)),
            }
            for family, domain in (("llama", "code"), ("gemma", "general"))
        ]
        encoder = TaskEncoder(embedder=_embed, n_components=3)
        agent = MetaBraider(
            pool,
            folder=Path(made) / "agent",
            encoder=encoder,
            calibration_texts=TEXTS,
            random_state=0,
        )
        try:
            yield agent
        finally:
            agent.close()


def measure(agent: MetaBraider, locks: list[Timed], measured: Measured) -> None:
    """Time a part of the decisions, each of a task that was not seen before."""
    end = time.perf_counter() + PATIENCE / ROUNDS
    for _ in range(CALLS // ROUNDS):
        if time.perf_counter() > end:
            break
        task = f"task {next(NUMBERS)}"
        before = sum(lock.so_far() for lock in locks)
        start = time.perf_counter()
        agent.forward(task)
        measured.walls.append(time.perf_counter() - start)
        measured.waits.append(sum(lock.so_far() for lock in locks) - before)


@contextmanager
def at_work(work: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Repeat something in another thread, from before to after what is measured."""
    started, stopped = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def repeat() -> None:
        started.set()
        try:
            while not stopped.is_set():
                work()
        except BaseException as failure:  # told by whoever measured
            failures.append(failure)

    thread = threading.Thread(target=repeat)
    thread.start()
    started.wait()
    time.sleep(0.05)
    try:
        yield failures
    finally:
        stopped.set()
        thread.join()
    if failures:
        raise failures[0]


def calibrating(agent: MetaBraider) -> Callable[[], object]:
    """Calibrate one braid with donors after the other, always anew."""
    braids = itertools.cycle([braid for braid in agent.catalogue if braid.donors])

    def work() -> object:
        shutil.rmtree(agent.folder / "store", ignore_errors=True)
        return agent.calibrate(next(braids))

    return work


def judging(agent: MetaBraider) -> Callable[[], object]:
    """Give feedback by a judge that takes its time."""

    def judge(task: Any, output: Any) -> float:
        time.sleep(JUDGE)
        return 0.5

    decision = agent.forward("judged")
    return lambda: agent.learn_from_feedback("judged", decision, judge, output="text")


class Found(NamedTuple):
    """The same calls beside three kinds of company."""

    quiet: Measured  # none
    beside: Measured  # a thread that shares the processor only
    busy: Measured  # the thread that is asked about


def multiplying() -> Callable[[], object]:
    """Multiply matrices, which needs neither locks nor, meanwhile, the interpreter."""
    matrix = torch.ones(800, 800)
    return lambda: torch.mm(matrix, matrix)


def in_turns(work: Callable[[MetaBraider], Callable[[], object]]) -> Found:
    """Measure alone, beside a thread that only computes, and beside one that works.

    In turns, so that whatever else the machine does weighs on all. Where processors are
    taken, any second thread makes the first one slower: ``beside`` says by how much.
    """
    found = Found(Measured([], []), Measured([], []), Measured([], []))
    with warnings.catch_warnings(), an_agent() as agent:
        warnings.simplefilter("ignore")
        locks = wrapped_locks(agent)
        measure(agent, locks, Measured([], []))
        computed, repeated = multiplying(), work(agent)
        for _ in range(ROUNDS):
            measure(agent, locks, found.quiet)
            with at_work(computed):
                measure(agent, locks, found.beside)
            with at_work(repeated):
                measure(agent, locks, found.busy)
    return found


def main() -> None:
    """Print the table."""
    logging.disable()
    print(f"{'another thread':16} {'median':>10} {'times':>6} {'99 % of waits':>14}")
    for name, work in (("calibrates", calibrating), ("judges", judging)):
        found = in_turns(work)
        for word, one in zip(("is quiet", "multiplies", name), found, strict=True):
            print(
                f"{word:16} {one.median * 1e3:7.2f} ms "
                f"{one.median / found.quiet.median:6.2f} {one.wait * 1e3:11.3f} ms"
            )


if __name__ == "__main__":
    main()
