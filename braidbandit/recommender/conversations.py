"""Conversations: an arm is kept from turn to turn unless moving is worth what it costs.

Whoever answers for the first time in a conversation has to read all of it. Equations
(50) to (52).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._json import known_fields, plain
from braidbandit.bandit.guard import ConservativePolicy
from braidbandit.bandit.policies import Choice, Policy
from braidbandit.ledger.records import Decision
from braidbandit.recommender.arm_model import ArmModel
from braidbandit.recommender.feedback_log import Learnt, time_of
from braidbandit.recommender.objectives import Preference
from braidbandit.recommender.scoring import Situation

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MOST_KNOWN = 1000
LONGEST_ID = 200

# Before any conversation is known: this turn, and one more. Counts as one of them.
_REST, _WEIGHT = 2.0, 1
# Before any answer was timed: to read the conversation takes as long as an answer does.
# Counts as so many answers.
_TIMES, _TIMED = math.log(2.0), 4


@dataclass(frozen=True)
class Talk:
    """What is known of one conversation.

    Attributes
    ----------
    arm_id : str
        The arm that served its last turn.
    turns : int
        How many it has had.
    mean : tuple of float
        Mean features of their tasks.
    last : str
        When the last one was decided.
    """

    arm_id: str
    turns: int
    mean: tuple[float, ...]
    last: str

    def mean_with(self, task: Array) -> Array:
        """Return the mean features with one more task."""
        return (self.turns * np.array(self.mean) + task) / (self.turns + 1)

    def mean_after(self, x: Array) -> Array:
        """Return the same from the features of its turn, which are half that mean."""
        return (self.turns * np.array(self.mean) + 2.0 * x) / (self.turns + 2)


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation: what was weighed, and whether the arm was kept.

    Attributes
    ----------
    id : str
        Of the conversation.
    number : int
        1 for its first turn.
    held : str or None
        The arm of the turn before.
    stayed : bool
        Whether it serves this turn too.
    other : str or None
        The arm that serves in its place; where it stayed, the one that came nearest to
        being worth it.
    expected_gain : float or None
        What the other arm is expected to earn beyond the held one in this turn and
        those that follow; None where there is nothing to compare.
    switching_cost : float
        What moving to the other arm costs.
    expected_rest : float
        Turns that are expected, this one included.
    why : str
        In words.
    """

    id: str
    number: int
    held: str | None = None
    stayed: bool = False
    other: str | None = None
    expected_gain: float | None = None
    switching_cost: float = 0.0
    expected_rest: float = _REST
    why: str = ""

    def reason(self, label_of: Callable[[str], str]) -> str:
        """Say why the arm was kept, or not; empty of a first turn.

        Parameters
        ----------
        label_of : callable
            ``arm id -> label``.
        """
        if self.held is None:
            return ""
        held = label_of(self.held)
        if self.other is None or self.expected_gain is None:
            return f"the conversation had {held} ({self.why})"
        weighed = (
            f"{self.expected_gain:+.3f} expected over {self.expected_rest:.1f} turns, "
            f"for a switch that costs {self.switching_cost:.3f}"
        )
        if self.stayed:
            return f"it is kept in this conversation ({self.why}: {weighed} from " + (
                f"it to {label_of(self.other)})"
            )
        return f"the conversation moves from {held} ({self.why}: {weighed})"

    def to_dict(self) -> dict[str, Any]:
        """Return the turn as JSON-able data."""
        return plain(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Turn:
        """Build a turn from :meth:`to_dict`."""
        return cls(**known_fields(cls, data))


@dataclass
class Conversations:
    """The newest 1,000 conversations.

    Parameters
    ----------
    known : dict of Talk
        By id, the one that was last spoken in last.

    Examples
    --------
    >>> Conversations().expected_rest("c1", 1)
    2.0
    """

    known: dict[str, Talk] = field(default_factory=dict)

    def note(self, decision: Decision) -> None:
        """Note the turn that a decision is; one that is noted already is ignored.

        A person's choice takes the place of the turn it was made in; in that of an
        earlier one, it says nothing of who holds the conversation now.
        """
        if decision.conversation is None:
            return
        turn = decision.conversation
        talk = self.known.get(turn["id"])
        if talk is not None and turn["number"] <= talk.turns:
            if decision.instead_of is not None and turn["number"] == talk.turns:
                self.known[turn["id"]] = replace(talk, arm_id=decision.braid.id)
            return
        mean = self.mean(turn["id"], np.array(decision.x))
        self.known.pop(turn["id"], None)  # to the end: it is the newest now
        self.known[turn["id"]] = Talk(
            decision.braid.id,
            turn["number"],
            tuple(mean.tolist()),
            decision.created_at,
        )
        for old in list(islice(self.known, max(len(self.known) - MOST_KNOWN, 0))):
            del self.known[old]

    def features(self, conversation: str, task: Array) -> Array:
        """Return the features of a turn: half its task, half the mean of all so far.

        What a conversation is about is told by all its turns, better than by one.

        Parameters
        ----------
        conversation : str
        task : ndarray of shape (k,)
        """
        talk = self._alike(conversation, task)
        return task if talk is None else (task + talk.mean_with(task)) / 2.0

    def mean(self, conversation: str, x: Array) -> Array:
        """Return the mean features of the tasks up to the turn with features x."""
        talk = self._alike(conversation, x)
        return x if talk is None else talk.mean_after(x)

    def _alike(self, conversation: str, x: Array) -> Talk | None:
        """Return a conversation; None if its features were those of another encoder."""
        talk = self.known.get(conversation)
        return talk if talk is not None and len(talk.mean) == len(x) else None

    def expected_rest(self, conversation: str, number: int) -> float:
        """Return how many turns are expected, the one with this number included.

        The mean over the other conversations that got so far, in which one of two
        turns counts beforehand. One that goes on counts as if it ended now.
        """
        rests = [
            talk.turns - number + 1
            for name, talk in self.known.items()
            if talk.turns >= number and name != conversation
        ]
        return (sum(rests) + _WEIGHT * _REST) / (len(rests) + _WEIGHT)

    def forget(self, before: datetime | None = None) -> None:
        """Drop those in which nothing was decided since a time, or all of them."""
        self.known = {
            name: talk
            for name, talk in self.known.items()
            if before is not None and time_of(talk.last) >= before
        }

    def to_list(self) -> list[dict[str, Any]]:
        """Return them as JSON-able data."""
        return [{"id": name, **plain(talk)} for name, talk in self.known.items()]

    @classmethod
    def from_list(cls, data: Iterable[Mapping[str, Any]]) -> Conversations:
        """Build them from :meth:`to_list`."""
        known: dict[str, Talk] = {}
        for entry in data:
            given = {key: value for key, value in entry.items() if key != "id"}
            values: dict[str, Any] = known_fields(Talk, given)
            values["mean"] = tuple(values["mean"])
            known[entry["id"]] = Talk(**values)
        return cls(known)


def check_conversation(conversation: Any) -> str:
    """Return the id of a conversation, or say what is wrong with it.

    Examples
    --------
    >>> check_conversation("c1")
    'c1'
    """
    if not isinstance(conversation, str):
        raise TypeError(
            "conversation is the id of one, which is text, received "
            f"{type(conversation).__name__}"
        )
    if not conversation.strip():
        raise ValueError(
            "conversation is blank; give its id, or None for a task on its own"
        )
    if len(conversation) > LONGEST_ID:
        raise ValueError(
            f"the id of a conversation has up to {LONGEST_ID} characters, received "
            f"{len(conversation)}; give an id, not the messages, or a hash of it"
        )
    return conversation


@dataclass(frozen=True)
class Weighing:
    """What is weighed at each turn.

    Parameters
    ----------
    conversations : Conversations
    model : ArmModel
    price : float
        Of compute, where the limits of the call say no preference.
    switching_cost : float, optional
        Of every switch; by default what was measured.
    """

    conversations: Conversations
    model: ArmModel
    price: float
    switching_cost: float | None = None

    def turn(
        self,
        conversation: str,
        now: Situation,
        choice: Choice,
        policy: Policy,
        rng: np.random.Generator,
    ) -> tuple[Choice, Turn]:
        """Return what is served in place of a policy's choice, and why.

        Parameters
        ----------
        conversation : str
        now : Situation
        choice : Choice
            Of the policy, as if the task stood alone.
        policy : Policy
        rng : Generator

        Returns
        -------
        (Choice, Turn)
            The probabilities of the choice are those with which each arm is served.
        """
        talk = self.conversations.known.get(conversation)
        number = 1 if talk is None else talk.turns + 1
        rest = self.conversations.expected_rest(conversation, number)
        turn = Turn(conversation, number, expected_rest=rest, why="the first turn")
        if talk is None:
            return choice, turn
        ids, labels = self.model.catalogue.ids, self.model.labels
        turn = replace(turn, held=talk.arm_id, other=ids[choice.arm])
        held = self.model.rows.get(talk.arm_id)
        if held is None:
            return choice, replace(turn, why="the arm before was removed")
        gains = self._gains(conversation, now, held, rest)
        costs = self._costs(now)
        worth = gains > costs
        served = choice
        if not now.eligible[held]:
            why = f"{labels[held]} is {now.reasons(self.model.catalogue)[held]}"
        else:
            away = ~worth & now.eligible & (np.arange(len(ids)) != held)
            away &= ~self._free(len(ids))
            served = stay(choice, held, away, now.eligible, policy, rng)
            why = _why(served.arm, held, worth, away)
        other = _nearest(gains - costs, now.eligible, held, served.arm)
        if other is None:
            return served, replace(turn, stayed=True, other=None, why="no other arm")
        return served, replace(
            turn,
            stayed=served.arm == held,
            other=ids[other],
            expected_gain=float(gains[other]),
            switching_cost=float(costs[other]),
            why=why,
        )

    def _gains(
        self, conversation: str, now: Situation, held: int, rest: float
    ) -> Array:
        """Return what each arm is expected to earn beyond the held one: eq. (50)."""
        here = now.belief.mean + now.cost_term
        mean = self.conversations.mean(conversation, now.x)
        later = self.model.means(mean[None, :])[0] + now.cost_term
        return np.asarray(here - here[held] + (rest - 1.0) * (later - later[held]))

    def _costs(self, now: Situation) -> Array:
        """Return what it costs to move to each arm, in units of quality: eq. (51)."""
        model = self.model
        if self.switching_cost is not None:
            return np.full(len(model.catalogue), float(self.switching_cost))
        weights = Preference.read(now.limits.preference, self.price)
        compute = model.expected("compute", now.x)
        if compute is None:
            compute = model.catalogue.costs()
        answer = weights.compute * _of_dearest(compute)
        if now.latency is not None:
            answer = answer + weights.latency * _of_dearest(now.latency)
        return np.asarray(reading_share(model.log.learnt.values()) * answer)

    def _free(self, n_arms: int) -> Mask:
        """Arms that may be moved to at any time: what a guard falls back on."""
        free = np.zeros(n_arms, dtype=bool)
        savings = self.model.account.savings
        guarded = isinstance(self.model.settings.policy, ConservativePolicy)
        if guarded and savings is not None:
            free[self.model.rows[savings.baseline]] = True
        return free


def stay(
    choice: Choice,
    held: int,
    away: Mask,
    eligible: Mask,
    policy: Policy,
    rng: np.random.Generator,
) -> Choice:
    """Serve the held arm in place of those that are not worth moving to: eq. (52).

    Only the policy's floor still serves these, so that each eligible arm keeps a
    probability above zero.

    Parameters
    ----------
    choice : Choice
        Of the policy.
    held : int
    away : ndarray of bool, shape (A,)
        Arms that are not worth it.
    eligible : ndarray of bool, shape (A,)
    policy : Policy
        Whose floor counts.
    rng : Generator

    Returns
    -------
    Choice

    Examples
    --------
    >>> from braidbandit.bandit.policies import Greedy
    >>> choice = Choice(1, 0.8, 0.0, np.zeros(2), np.array([0.2, 0.8]))
    >>> served = stay(choice, 0, np.array([False, True]), np.ones(2, bool), Greedy(),
    ...               np.random.default_rng(0))
    >>> served.arm, served.propensity
    (0, 1.0)
    """
    by_floor = policy.floor / np.count_nonzero(eligible)
    left = np.where(
        away, np.minimum(choice.probabilities, by_floor), choice.probabilities
    )
    moved = float((choice.probabilities - left).sum())
    arm, error = choice.arm, choice.propensity_se
    if away[arm]:
        # It was drawn by the floor with this share of its probability.
        kept = rng.random() * choice.propensity < left[arm]
        arm, error = (arm if kept else held), 0.0
    left[held] = min(left[held] + moved, 1.0)
    if arm == held:
        error = _error_of(float(left[held]), by_floor, choice, policy)
    return choice._replace(
        arm=arm, propensity=float(left[arm]), propensity_se=error, probabilities=left
    )


def reading_share(records: Iterable[Learnt]) -> float:
    """Return what reading a conversation anew takes, as a share of an answer.

    From the times of answers by an arm that had just been moved to, and of answers by
    one that was kept, each beside what was expected of the arm. Until some were
    measured it is 1.
    """
    logs: dict[bool, list[float]] = {True: [], False: []}
    for record in records:
        turn, expected = record.decision.conversation, record.decision
        if turn is None or turn["held"] is None or not record.latency_ms:
            continue
        if expected.expected_latency_ms:
            log = math.log(record.latency_ms / expected.expected_latency_ms)
            logs[turn["stayed"]].append(log)
    n = min(map(len, logs.values()))
    measured = float(np.mean(logs[False]) - np.mean(logs[True])) if n else 0.0
    times = (n * measured + _TIMED * _TIMES) / (n + _TIMED)
    return max(math.expm1(times), 0.0)


def _of_dearest(values: Array) -> Array:
    most = float(values.max())
    return values / most if most > 0 else np.zeros(len(values))


def _error_of(
    probability: float, by_floor: float, choice: Choice, policy: Policy
) -> float:
    """Return the standard error of a probability that several arms add up to."""
    # A guard that lets another policy choose draws as that one does.
    n = getattr(getattr(policy, "otherwise", policy), "n_draws", None)
    if not choice.propensity_se or n is None:
        return choice.propensity_se
    won = (probability - by_floor) / (1.0 - policy.floor)
    share = (min(max(won, 0.0), 1.0) * n + 1) / (n + 2)
    return (1.0 - policy.floor) * math.sqrt(share * (1.0 - share) / n)


def _nearest(worth: Array, eligible: Mask, held: int, arm: int) -> int | None:
    """Return the arm that was moved to, or else the best one beside the held one."""
    if arm != held:
        return arm
    others = np.where(eligible, worth, -np.inf)
    others[held] = -np.inf
    best = int(others.argmax())
    return best if others[best] > -np.inf else None


def _why(arm: int, held: int, worth: Mask, away: Mask) -> str:
    if arm == held:
        return "the policy keeps it" if worth.any() else "moving is not worth its cost"
    if worth[arm]:
        return "moving is worth its cost"
    return "picked at random" if away[arm] else "the guard falls back on it"
