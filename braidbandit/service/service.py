"""The service as one object: an agent, and what answers with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

from braidbandit.agent.meta_braider import MetaBraider
from braidbandit.catalogue.braid import Braid
from braidbandit.ledger.ledger import Ledger
from braidbandit.ledger.records import Decision
from braidbandit.service.choosing.arms import AUTO, Arms
from braidbandit.service.choosing.chooser import Chooser, Chosen
from braidbandit.service.choosing.timing import Timing
from braidbandit.service.errors import ApiError
from braidbandit.service.keys import Keys
from braidbandit.service.live import Live
from braidbandit.service.ratings.feedback import Feedback, Result
from braidbandit.service.ratings.memory import Memory
from braidbandit.service.ratings.signing import Signer
from braidbandit.service.ratings.tasks_at_hand import TasksAtHand
from braidbandit.service.settings import ServiceSettings
from braidbandit.service.wire.asking import Ask
from braidbandit.service.wire.bodies import FeedbackBody
from braidbandit.service.writing.batch import Job
from braidbandit.service.writing.building import Building, Progress
from braidbandit.service.writing.contexts import Contexts
from braidbandit.service.writing.relay import Relay
from braidbandit.service.writing.worker import LocalWorker

_LOG = logging.getLogger(__name__)
_MEMORY = "service.sqlite"
# Calls of the agent that may wait, beside those of answers.
_MOST_CALLS = 256
_COURTESY = 0.05  # seconds that the event loop lets a decision have alone
T = TypeVar("T")


class Service:
    """Everything that answers requests.

    Parameters
    ----------
    settings : ServiceSettings
    agent : MetaBraider
        Closed by whoever made it.

    Attributes
    ----------
    settings : ServiceSettings
    agent : MetaBraider
    live : Live
        Counters and the newest answers.
    arms : Arms
        Names and states of the arms.
    timing : Timing
    signer : Signer
    memory : Memory
    keys : Keys
    contexts : Contexts
        How much the local models read.
    tasks : TasksAtHand
        Texts of the newest tasks, in memory only.
    """

    def __init__(self, settings: ServiceSettings, agent: MetaBraider) -> None:
        server = settings.server
        self.settings, self.agent = settings, agent
        self.live, self.arms, self.timing = Live(), Arms(agent), Timing()
        self.signer = Signer.of_folder(agent.folder)
        self.keys, self.tasks = Keys(settings.keys), TasksAtHand()
        self.contexts = Contexts()
        self.memory = Memory(agent.folder / _MEMORY)
        self._worker = LocalWorker(agent.create_braided_model, server.batch)
        self._relay = Relay()
        # One thread calls the agent: its calls would wait for each other anyway.
        self._caller = ThreadPoolExecutor(1, "braidbandit-agent")
        self._calls = 0
        self._chooser = Chooser(
            agent,
            self.arms,
            self.timing,
            self.live,
            self.signer,
            self.backlog,
            settings.learning.compute_budget,
        )
        self._feedback = Feedback(
            agent, self.memory, self.live, server.changes_per_decision
        )
        self._building = Building(
            agent,
            self.arms,
            self.contexts,
            calibrate=server.calibrate,
            is_busy=lambda: self.live.in_flight > 0,
        )
        self.stopping = False

    @property
    def ledger(self) -> Ledger:
        """The agent's ledger."""
        return self.agent.ledger

    @property
    def progress(self) -> Progress:
        """How far loading and calibrating is."""
        return self._building.progress

    @property
    def is_ready(self) -> bool:
        """Whether some arm can answer."""
        return self.arms.can_answer and not self.stopping

    def start(self) -> None:
        """Load models, and calibrate braids, in the background."""
        self._building.start()

    def stop(self) -> None:
        """Write what is begun, and end all threads. What was learnt is saved."""
        self.stopping = True
        patience = self.settings.server.shutdown_seconds
        self._building.close()
        self._worker.close(patience)
        self._relay.close()
        self._caller.shutdown(wait=True)
        self.agent.save()
        self.memory.close()
        _LOG.info("stopped")

    def backlog(self) -> float:
        """Seconds until a local model begins with a request that comes now."""
        server, waiting = self.settings.server, self._worker.waiting
        return self.timing.mean() * waiting / server.batch

    def gauges(self) -> dict[str, float]:
        """Return numbers that go up and down, for metrics."""
        progress, counts = self.progress, self.arms.counts()
        return {
            "waiting": self._worker.waiting,
            "writing": self._worker.writing,
            "in_flight": self.live.in_flight,
            "unmatched_signals": self.memory.unmatched(),
            "built_arms": progress.done,
            "arms_to_build": progress.total,
            **{f"arms_{state}": count for state, count in counts.items()},
            **{f"ledger_{kind}": n for kind, n in self.ledger.counts().items()},
        }

    # ---- answering ----

    def take_place(self) -> None:
        """Take a place in the queue; raises as :meth:`check_place`."""
        self.check_place()
        self.live.note_place(taken=True)

    def check_place(self) -> None:
        """Check whether there is a place in the queue.

        Raises
        ------
        ApiError
            When it is full, or nobody can answer yet.
        """
        if self.stopping:
            raise ApiError(503, "the service is stopping", code="stopping", wait=5)
        if not self.arms.can_answer:
            raise ApiError(503, "models are being loaded", code="not_ready", wait=5)
        server = self.settings.server
        if self.live.in_flight >= server.queue + server.batch:
            self.live.note_full()
            raise ApiError(
                429,
                "too many requests wait already",
                code="queue_full",
                wait=self.timing.mean(),
            )

    def leave_place(self) -> None:
        """Give a place back."""
        self.live.note_place(taken=False)

    async def too_long(self, ask: Ask) -> dict[str, str]:
        """Return which arms "auto" leaves out as they cannot read a prompt, and why.

        Raises
        ------
        ApiError
            When no arm can read it.
        """
        is_fixed = ask.model != AUTO or ask.wishes.decision is not None
        if is_fixed or ask.endpoints_only or not self.contexts.is_long(ask):
            return {}
        never = ("unfit", "failed")
        arms = [b for b in self.agent.catalogue if self.arms.state(b) not in never]
        found = await asyncio.to_thread(self.contexts.too_long, arms, ask)
        if found and len(found) == len(arms):
            longest = max(found.values(), key=lambda room: room.positions)
            raise longest.error(ask, "no model here reads more: shorten it")
        return {arm_id: str(room) for arm_id, room in found.items()}

    async def choose(
        self, ask: Ask, seconds_left: float, avoid: Mapping[str, str]
    ) -> Chosen:
        """Decide which arm answers; see :meth:`Chooser.choose`."""
        chosen = await self._on_agent(
            self._choose, ask, seconds_left, avoid, stays=True
        )
        self.tasks.keep(chosen.decision.id, ask.task)
        return chosen

    def _choose(
        self, ask: Ask, seconds_left: float, avoid: Mapping[str, str]
    ) -> Chosen:
        with self._worker.paused():
            return self._chooser.choose(ask, seconds_left, avoid)

    def begin(self, decision: Decision, job: Job) -> None:
        """Let the arm of a decision write."""
        if self.arms.is_served(job.braid):
            self._relay.submit(job, self.agent.create_braided_model(decision))  # type: ignore[arg-type]
        else:
            self._worker.submit(job)

    async def forget(self, decision: Decision) -> None:
        """Stop waiting for feedback on a decision that was given no answer."""

        def expire() -> None:
            try:
                self.agent.expire(decision.id)
            except KeyError:
                _LOG.debug("%s has expired already", decision.id)

        await self._on_agent(expire)

    # ---- learning ----

    async def take_feedback(self, body: FeedbackBody, caller: str) -> Result:
        """Learn what somebody says; see :meth:`Feedback.take`.

        Raises
        ------
        ApiError
            When a token is not of its decision; else as for :meth:`Feedback.take`.
        """
        other = body.preferred_over
        pairs = [(body.decision, body.token, "token")]
        if other is not None:
            pairs.append((other.decision, other.token, "preferred_over.token"))
        for decision, token, param in pairs:
            if not self.signer.signed(decision, token):
                raise ApiError(
                    403,
                    "this token is not of this decision; both come with the answer",
                    code="bad_token",
                    param=param,
                )
        return await self._on_agent(self._feedback.take, body, caller)

    async def reward(self, decision_id: str, value: float, source: str) -> Result:
        """Learn a reward that comes from a place that may say another one later."""
        return await self._on_agent(
            partial(
                self._feedback.reward, decision_id, value, source=source, revise=True
            )
        )

    async def retract(self, decision_id: str) -> Result:
        """Take back a reward that came from such a place."""
        return await self._on_agent(self._feedback.retract, decision_id)

    # ---- looking ----

    async def look(self, what: Callable[[], T]) -> T:
        """Call the agent in its thread."""
        return await self._on_agent(what)

    async def _on_agent(
        self, call: Callable[..., T], *arguments: Any, stays: bool = False
    ) -> T:
        """Call in the agent's thread; if it ``stays``, the event loop waits a moment.

        Two threads of Python take turns, and each turn is longer than a decision.
        """
        most = _MOST_CALLS + self.settings.server.queue
        if self._calls >= most:
            raise ApiError(429, "too many requests", code="queue_full", wait=1)
        self._calls += 1
        try:
            found = self._caller.submit(call, *arguments)
            if stays:
                wait([found], _COURTESY)
            return await asyncio.wrap_future(found)
        except RuntimeError as error:
            if not self.stopping:
                raise
            raise ApiError(503, "the service is stopping", code="stopping") from error
        finally:
            self._calls -= 1

    def braid_of(self, arm_id: str) -> Braid | None:
        """Return an arm of the catalogue; None if it is no longer there."""
        catalogue = self.agent.catalogue
        return catalogue[arm_id] if arm_id in catalogue else None
