"""Models are loaded, and braids calibrated, while others answer already."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from braidbandit.agent.meta_braider import MetaBraider
from braidbandit.catalogue.braid import Braid
from braidbandit.service.choosing.arms import Arms
from braidbandit.service.writing.contexts import Contexts

_LOG = logging.getLogger(__name__)
# Seconds that the next calibration waits for answers to be written.
_COURTESY = 20.0


class Progress(NamedTuple):
    """How far building is.

    Attributes
    ----------
    done, total : int
        Arms that are built, unfit and failed ones too.
    label : str
        What is being built; empty if nothing is.
    seconds_left : float, optional
        As long as the last braids took, times what is left.
    """

    done: int
    total: int
    label: str
    seconds_left: float | None


class Building:
    """Builds every arm in a thread: models alone first, then braids.

    Parameters
    ----------
    agent : MetaBraider
    arms : Arms
        Gets to know how far each is.
    contexts : Contexts
        Gets to know the models.
    calibrate : bool
        Braids too.
    is_busy : callable
        Whether answers are being written, which go first.
    """

    def __init__(
        self,
        agent: MetaBraider,
        arms: Arms,
        contexts: Contexts,
        *,
        calibrate: bool,
        is_busy: Callable[[], bool],
    ) -> None:
        self._agent, self._arms, self._is_busy = agent, arms, is_busy
        self._contexts = contexts
        local = [b for b in agent.catalogue if not arms.is_served(b)]
        singles = [b for b in local if b.is_single]
        braids = [b for b in local if not b.is_single and calibrate]
        self._todo = [*singles, *(b for b in braids if arms.state(b) != "unfit")]
        self._done, self._label = 0, ""
        self._took: list[float] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="braidbandit-builder", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, timeout: float = 0.0) -> None:
        """Begin nothing more, and wait so long for what was begun."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        left = len(self._todo) - self._done
        recent = self._took[-5:]
        mean = sum(recent) / len(recent) if recent else None
        seconds = None if mean is None or not left else mean * left
        return Progress(self._done, len(self._todo), self._label, seconds)

    def _run(self) -> None:
        for braid in self._todo:
            if not braid.is_single:
                self._wait_for_answers()
            if self._closing.is_set():
                return
            self._label = braid.label()
            self._arms.set_state(braid, "loading")
            self._build(braid)
            if not self._done:
                # torch and all that came with it stays. The collector would look
                # through it again and again, a quarter of a second each time.
                gc.collect()
                gc.freeze()
            self._done += 1
        self._label = ""
        _LOG.info("all arms are built: %s", self._arms.counts())

    def _build(self, braid: Braid) -> None:
        begun = time.monotonic()
        try:
            self._agent.calibrate(braid)
            if braid.is_single:
                model: Any = self._agent.create_braided_model(braid)
                self._contexts.note(model.anchor)
        except Exception:
            if self._closing.is_set():
                return
            _LOG.exception("%s could not be built", braid.label())
            self._arms.set_state(braid, "failed")
            return
        if not braid.is_single:
            self._took.append(time.monotonic() - begun)
        self._arms.set_state(braid, "ready")

    def _wait_for_answers(self) -> None:
        until = time.monotonic() + _COURTESY
        while self._is_busy() and time.monotonic() < until:
            if self._closing.wait(0.2):
                return
