"""ArmModel: everything that is learnt about the braids of a catalogue.

Quality, latency and compute of every arm, the decisions that wait for a reward, and
what stays true when arms come, change and go. Works on numbers: a task is its
feature row ``x``.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import LEAST_WEIGHT
from braidbandit.bandit.belief import Belief
from braidbandit.bandit.choice import seen_difference
from braidbandit.bandit.completion import completed
from braidbandit.bandit.guard import ConservativePolicy
from braidbandit.bandit.linalg import Repeats
from braidbandit.bandit.online_posterior import UNSOLVED, OnlinePosterior
from braidbandit.bandit.policies import Policy, ThompsonSampling
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales, parameter_groups
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.catalogue.features import block_of, extend_descriptors, with_gains
from braidbandit.ledger.records import Comparison, Decision
from braidbandit.recommender.drift import DriftWarning
from braidbandit.recommender.feedback_log import (
    Compared,
    FeedbackLog,
    Learnt,
    NotReversible,
)
from braidbandit.recommender.guard_account import GuardAccount
from braidbandit.recommender.lookahead import MOST_IN_FLIGHT, LookAhead, Pull
from braidbandit.recommender.objectives import CostModel
from braidbandit.recommender.settings import LearningSettings
from braidbandit.recommender.source_noise import variance_ratio

Array = NDArray[np.float64]

# From so many arms on, parts that their descriptors share are computed once.
_MANY_ARMS = 512
DEFAULT_POLICY = ThompsonSampling()
"""The policy of a recommender that was given none."""
# If forgetting has left less than this of a reward, it cannot be told from rounding.
_FORGOTTEN = 1e-100
# Attributes that learning changes, beside log and quality: in place, or by replacing.
_CHANGED = ("costs", "account", "versions", "alarms")
_REPLACED = (
    "rewound",
    "surprises",
    "position",
    "settings",
    "_notices",
    # Those that learning from scratch replaces.
    "task_blocks",
    "descriptors",
    "columns",
    "signatures",
    "removed",
    "start",
)


class ArmModel:
    """What is known about every arm, and how it came to be known.

    Parameters
    ----------
    catalogue : Catalogue
    settings : LearningSettings, optional
    task_blocks : ndarray of int, optional
        The attribute.

    Attributes
    ----------
    catalogue : Catalogue
    settings : LearningSettings
    descriptors : ndarray of shape (A, m)
        What is known of each arm beforehand, a constant in front.
    columns : tuple of str, length m
    quality : OnlinePosterior or None
        None until the number of task features is known.
    start : Posterior or None
        Where learning began: the warm start.
    costs : dict of CostModel
        "latency" and "compute", once they were measured.
    log : FeedbackLog
    position : int
        Sequence number of the last event of a ledger that was learnt.
    versions : dict of list of float
        Shares by which each retrained arm was widened; 0 for one that came back.
    alarms : dict of list of int
        Which of these the drift monitor noted: learning again, it does so by itself.
    rewound : bool
        Whether rewards were forgotten, and no arm was widened since.
    removed : dict of ndarray
        Descriptors of the arms that were removed.
    signatures : ndarray of shape (n, M) or None
        Score of every single model on the probe tasks of the warm start.
    account : GuardAccount
        What a ConservativePolicy may risk.
    surprises : ndarray of shape (2, A)
        Sums of the drift monitor.
    width : int or None
        Number of task features k, once it is known.
    task_blocks : ndarray of int
        In which block of the prior each of the last task features is; those before
        them are the constant, and the embedding.
    fit : ndarray of bool, shape (A,), or None
        Arms that calibration has not found unfit; None when it found all of them so.
    relative_costs : ndarray of shape (A,)
    rows : dict of int
        Row of each arm id.
    labels : tuple of str, length A
    blocks : tuple of str, length m
        To which block of descriptors each column belongs.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        settings: LearningSettings | None = None,
        task_blocks: NDArray[np.int64] | None = None,
    ) -> None:
        self.catalogue = catalogue
        self.settings = settings or LearningSettings()
        Z, columns = catalogue.descriptors()
        # Storage order decides the last bits of sums: as a saved state has it.
        self.descriptors: Array = np.ascontiguousarray(Z)
        self.columns = tuple(columns)
        self._note_arms()
        self.quality: OnlinePosterior | None = None
        self.width: int | None = None
        none = np.zeros(0, dtype=np.int64)
        self.task_blocks = none if task_blocks is None else task_blocks
        self.start: Posterior | None = None
        self.costs: dict[str, CostModel] = {}
        self.log = FeedbackLog()
        self.position = 0
        self.versions: dict[str, list[float]] = {}
        self.alarms: dict[str, list[int]] = {}
        self.rewound = False
        self.removed: dict[str, Array] = {}
        self.signatures: Array | None = None
        self.account = GuardAccount()
        self.surprises = np.zeros((2, len(catalogue)))
        self._notices: tuple[tuple[str, type[Warning]], ...] = ()
        self._lookahead = LookAhead()
        self._later: dict[str, list[float]] = {}
        self._repeats_of: tuple[Array, Repeats] | None = None

    def _note_arms(self) -> None:
        """Keep what every decision asks of catalogue and descriptors."""
        catalogue = self.catalogue
        self.fit = catalogue.mask() if len(catalogue.unfit) < len(catalogue) else None
        self.relative_costs = catalogue.relative_costs()
        self.rows = {arm_id: row for row, arm_id in enumerate(catalogue.ids)}
        self.labels = tuple(braid.label() for braid in catalogue.braids)
        self.blocks = tuple(block_of(column) for column in self.columns)

    # ---- what it goes by ----

    @property
    def posterior(self) -> Posterior:
        """Posterior of quality; an error before the first task."""
        return self._online.posterior

    @property
    def _online(self) -> OnlinePosterior:
        if self.quality is None:
            raise ValueError("nothing is believed before the first task")
        return self.quality

    def follow(self, settings: LearningSettings) -> None:
        """Take over settings; those of the posterior apply when it is next made.

        Raises
        ------
        ValueError
            On another baseline or share than a guard has booked rewards for.
        """
        self.account.check_kept(self.settings.policy, settings.policy)
        if self.quality is not None:
            settings = replace(
                settings,
                prior=self.settings.prior,
                max_parameters=self.settings.max_parameters,
            )
            self.quality.forget_at(settings.forgetting)
        self.settings = settings
        self.open_account()

    def adopt(self, prior: PriorScales | None, max_parameters: int) -> None:
        """Take over settings of a posterior that is about to be made."""
        self.settings = replace(
            self.settings, prior=prior, max_parameters=max_parameters
        )

    def require(self, width: int) -> None:
        """Create the posterior when the number of task features is known."""
        if self.quality is None:
            settings = self.settings
            self.quality = OnlinePosterior.start(
                self.columns,
                width,
                len(self.catalogue),
                prior=settings.prior,
                forgetting=settings.forgetting,
                max_parameters=settings.max_parameters,
                blocks=self._blocks_of(width),
            )
            self.width = width
        elif self.quality.width != width:
            raise ValueError(
                f"received {width} task features, expected {self.quality.width}; use "
                "the encoder of the first call"
            )

    def _blocks_of(self, width: int) -> NDArray[np.int64]:
        last = self.task_blocks
        return np.append(np.zeros(width - len(last), dtype=np.int64), last)

    def describe(self, signatures: Array | None) -> None:
        """Describe every braid by what its strands could gain on the probe tasks.

        Drops what was learnt: the descriptors are others now.
        """
        described = self.catalogue.descriptors()
        if signatures is not None:
            braids, models = self.catalogue.braids, list(self.catalogue.cards)
            described = with_gains(*described, braids, models, signatures)
        Z, columns = described
        self.removed = {
            arm_id: self._described_anew(z, Z, columns)
            for arm_id, z in self.removed.items()
        }
        self.descriptors, self.columns = np.ascontiguousarray(Z), tuple(columns)
        self.signatures = signatures
        self._note_arms()
        self.reset()

    def read_blocks(self, task_blocks: NDArray[np.int64]) -> None:
        """Take over in which blocks other task features are; drops the posteriors."""
        self.task_blocks = task_blocks
        self.reset()

    def reset(self) -> None:
        """Drop the posteriors: the number of task features may change."""
        self.quality, self.width, self.costs = None, None, {}

    def forget_pending(self) -> None:
        """Stop waiting for the reward of any decision."""
        self.log.forget_pending()

    # ---- believing ----

    def believe(self, x: Array) -> Belief:
        """Return the belief about every arm, less what is in flight."""
        if len(x) != self.width:
            self.require(len(x))
        posterior = self.posterior
        if self.log.pending and (pulls := self._pulls()):
            posterior = self._lookahead.ahead(posterior, pulls)
        return posterior.belief(self.descriptors, x, self._repeats())

    def means(self, X: Array) -> Array:
        """Return the mean quality of every arm on every task, shape (n, A)."""
        self.require(X.shape[1])
        return self._online.posterior.means(self.descriptors, X)

    def policy_now(self) -> Policy:
        """Return the policy for the next decision; a guard depends on the past."""
        policy = self.settings.policy
        if not isinstance(policy, ConservativePolicy):
            return DEFAULT_POLICY if policy is None else policy
        return self.account.policy(policy, self.catalogue, self.log.pending.values())

    def expected(self, objective: str, x: Array) -> Array | None:
        """Return what each arm will typically measure; None before any measurement."""
        model = self.costs.get(objective)
        if model is None or model.n == 0:
            return None
        return model.expected(self.descriptors, x, self.catalogue.costs())

    def kept(self, record: Learnt) -> float:
        """Return the share that forgetting has left of a reward."""
        return self._online.kept(record.faded)

    def evidence(
        self, decision: Decision, weight: float
    ) -> tuple[int, Array, Array, float]:
        """Return row, descriptor, features, and the weight of this decision's reward.

        A reward of an earlier version of an arm says less about the arm of today,
        by the variance its retraining may have added. An arm that is gone has row -1.
        """
        x = np.array(decision.x, dtype=np.float64)
        if len(x) != self.width:
            self.require(len(x))
        arm_id = decision.braid.id
        if arm_id in self.removed:
            return -1, self.removed[arm_id], x, weight
        row = self.rows[arm_id] if arm_id in self.rows else self.catalogue.index(arm_id)
        if self.versions and (more := self._changed(arm_id, decision.version, x)):
            noise = self.posterior.scales.noise**2
            weight *= noise / (noise + more)
        return row, self.descriptors[row], x, weight

    def _changed(self, arm_id: str, version: int, x: Array) -> float:
        """Return the variance that retraining added to an arm since a version."""
        widened = sum(self.versions.get(arm_id, [])[version:])
        if not widened:
            return 0.0
        more = widened * self.posterior.variance_of_change()
        return float(more @ x[: len(more)] ** 2)

    def _repeats(self) -> Repeats | None:
        """What the descriptors have in common; found again when they are others."""
        if len(self.descriptors) < _MANY_ARMS:
            return None
        if self._repeats_of is None or self._repeats_of[0] is not self.descriptors:
            self._repeats_of = (self.descriptors, Repeats(self.descriptors))
        return self._repeats_of[1]

    def _pulls(self) -> dict[str, Pull]:
        waiting = reversed(self.log.pending.values())
        if self.log.compared:
            # What a comparison has taught is no longer to come.
            taught = self.log.compared_decisions()
            waiting = (decision for decision in waiting if decision.id not in taught)
        newest = list(islice(waiting, MOST_IN_FLIGHT))
        pulls: dict[str, Pull] = {}
        for decision in reversed(newest):
            arm_id = decision.braid.id
            if arm_id in self.rows:
                row = self.rows[arm_id]
                pulls[decision.id] = (row, self.descriptors[row], np.array(decision.x))
        return pulls

    # ---- learning from rows and tables ----

    def learn_rows(
        self, arms: Sequence[int], X: Array, rewards: Array, weights: Array
    ) -> None:
        """Learn rows in their order; a weight of 0 leaves one out."""
        self.require(X.shape[1])
        online = self._online
        for arm, x, reward, weight in zip(arms, X, rewards, weights, strict=True):
            if weight > 0:
                online.update(
                    arm, self.descriptors[arm], x, float(reward), float(weight)
                )

    def learn_table(self, arms: Sequence[int], X: Array, scores: Array) -> None:
        """Learn a table of tasks scored on several arms, with prior scales found on it.

        Where it has every single model, braids are described by what their strands
        could gain from one another; the best of them becomes the baseline of guards.

        Parameters
        ----------
        arms : sequence of B rows of the catalogue
        X : ndarray of shape (n, k)
        scores : ndarray of shape (n, B)
            NaN where an arm was not scored: for what strands could gain, and for the
            best model, what is expected there takes its place.
        """
        braids = [self.catalogue.braids[row] for row in arms]
        strands = [strand for braid in braids for strand in braid.strands]
        shared = len(set(strands)) < len(strands)
        whole = completed(X, scores, shared, self._blocks_of(X.shape[1]))
        self.describe(self._signatures(arms, whole))
        self.require(X.shape[1])
        self.posterior.start_from_table(arms, self.descriptors[arms], X, scores, shared)
        self.start = self.posterior.copy()
        singles = [i for i, braid in enumerate(braids) if braid.is_single]
        if singles:
            best = max(singles, key=lambda i: float(whole[:, i].mean()))
            self.account.guard_against(self.catalogue.ids[arms[best]])
        self.open_account()

    def _signatures(self, arms: Sequence[int], scores: Array) -> Array | None:
        """Return the columns of the single models, if the table has all of them."""
        place = {
            braid.anchor: column
            for column, braid in enumerate(self.catalogue.braids[i] for i in arms)
            if braid.is_single
        }
        models = self.catalogue.cards
        if any(name not in place for name in models):
            return None
        return scores[:, [place[name] for name in models]]

    # ---- learning from decisions ----

    def learn(self, record: Learnt, said: bool = False) -> None:
        """Learn a reward and the measurements that came with it.

        ``said``: by a ledger, which will not say it again.
        """
        self._retrain_up_to(record.decision.braid.id, record.decision.version)
        arm, z, x, applied = self.evidence(record.decision, record.weight)
        if arm < 0:
            self._learn_of_removed(record, z, x, said)
            return
        online = self._online
        before, faded = online.posterior.mean, online.faded
        surprise = online.update(arm, z, x, record.reward, applied)
        if self._lookahead.is_ahead:
            self._lookahead.rewarded(
                before, online.posterior, record.decision.id, (arm, z, x), applied
            )
        for name, value in record.measured.items():
            self._cost_model(name).learn(arm, z, x, value, self._cost(arm), applied)
        self._settle(replace(record, applied=applied, faded=faded), said)
        self._watch(arm, surprise)

    def unlearn(self, record: Learnt, said: bool = False) -> None:
        """Take a reward back exactly, as if it had never come."""
        arm, z, x, _ = self.evidence(record.decision, record.weight)
        costs, applied = dict(self.costs), record.applied
        with _exactly(f"the reward of decision {record.decision.id!r}"):
            for name, value in record.measured.items():
                costs[name] = copy.deepcopy(costs[name])
                costs[name].unlearn(arm, z, x, value, self._cost(arm), applied)
            self._online.downdate(arm, z, x, record.reward, applied, record.faded)
        self.costs = costs
        self.account.book(
            self.settings.policy, record.decision, record.reward, back=True
        )
        self.log.unsettle(record.decision, said)
        self.await_reward(record.decision)

    def revise(self, record: Learnt, reward: float, said: bool = False) -> None:
        """Replace a reward exactly, as if this one had come in its place."""
        arm, z, x, _ = self.evidence(record.decision, record.weight)
        with _exactly(f"the reward of decision {record.decision.id!r}"):
            self._online.replace(
                arm, z, x, (record.reward, reward), record.applied, record.faded
            )
        policy = self.settings.policy
        self.account.book(policy, record.decision, record.reward, back=True)
        self.account.book(policy, record.decision, reward)
        decision = record.decision.only(self.log.keep)
        self.log.replace(replace(record, decision=decision, reward=reward), said)

    # ---- learning from comparisons ----

    def compare(self, decision: Decision, comparison: Comparison) -> None:
        """Learn which of two answers to the task of a decision is better.

        An arm that was removed joins as one that nothing else is known of and leaves
        again, as in learning a reward of it.
        """
        arms = comparison.better, comparison.worse
        versions = comparison.better_version, comparison.worse_version
        for arm_id, version in zip(arms, versions, strict=True):
            self._retrain_up_to(arm_id, version)
        x = np.array(decision.x, dtype=np.float64)
        if len(x) != self.width:
            self.require(len(x))
        online, n = copy.copy(self._online), len(self.catalogue)
        gone = [arm_id for arm_id in arms if arm_id not in self.rows]
        if gone:
            rows = [*range(n), *[-1] * len(gone)]
            online.carry_over(lambda posterior: posterior.take_arms(rows))
        pair, Z = self._pair(arms, gone)
        noise = online.posterior.scales.noise**2
        total = 2.0 * noise * variance_ratio(self.log.repeats, comparison.source)
        for arm_id, version in zip(arms, versions, strict=True):
            if arm_id in self.rows:
                total += self._changed(arm_id, version, x)
        believed = online.posterior.difference(pair, Z, x)
        seen = seen_difference(*believed, total, comparison.strength)
        applied, faded = max(seen.weight * noise / total, LEAST_WEIGHT), online.faded
        online.compare(pair, Z, x, seen.value, applied, seen.counted)
        record = None
        if gone:
            online.carry_over(lambda posterior: posterior.take_arms(range(n)))
        else:
            learnt = seen.value, applied, seen.counted, faded
            record = Compared(comparison, decision.x, decision.created_at, *learnt)
        self.quality = online
        self.log.judge(comparison, record)

    def uncompare(self, key: str) -> None:
        """Take a comparison back: its part in the posterior is removed exactly."""
        record = self._compared(key)
        comparison = record.comparison
        pair, Z = self._pair((comparison.better, comparison.worse), ())
        with _exactly(f"the comparison of {' and '.join(comparison.answers)}"):
            self._online.uncompare(
                *(pair, Z, np.array(record.x), record.value, record.applied),
                record.faded,
                record.counted,
            )
        self.log.unjudge(comparison)

    def _compared(self, key: str) -> Compared:
        """Return what was learnt from a comparison, or say why it cannot be known."""
        record = self.log.compared.get(key)
        if record is None or self._online.kept(record.faded) < _FORGOTTEN:
            raise NotReversible(
                "the comparison cannot be taken back exactly: it is not among the "
                "newest 500, or an arm was retrained or removed since, or it is "
                "forgotten. Learn again from the ledger: sync(ledger, anew=True)"
            )
        return record

    def _pair(
        self, arms: tuple[str, str], gone: Sequence[str]
    ) -> tuple[tuple[int, int], tuple[Array, Array]]:
        """Return rows and descriptors of two arms; removed ones are behind the rest."""
        n = len(self.catalogue)
        one, other = (
            n + gone.index(a) if a in gone else self.catalogue.index(a) for a in arms
        )
        y, z = (
            self.removed[a] if a in gone else self.descriptors[self.rows[a]]
            for a in arms
        )
        return (one, other), (y, z)

    # ---- waiting ----

    def await_reward(self, decision: Decision) -> None:
        """Wait for a reward; beyond 1,000, no longer for the oldest."""
        for dropped in self.log.await_reward(decision):
            self.account.expire(self.settings.policy, dropped)

    def expire(self, before: datetime | Decision | str) -> list[str]:
        """Stop waiting for decisions made before a time, or for one; returns ids."""
        waiting = dict(self.log.pending)
        late = self.log.expire(before)
        for decision_id in late:
            self.account.expire(self.settings.policy, waiting[decision_id])
        return late

    def forget_decisions(self, before: datetime) -> None:
        """Drop the decisions made before a time; what they taught stays."""
        for waited in self.log.forget(before):
            self.account.expire(self.settings.policy, waited)

    def open_account(self) -> None:
        """Begin to keep account of what a guard may risk, if there is one."""
        self.account.open(self.settings.policy, self.catalogue)
        if self.account.savings is not None:
            self.log.keep_of(self.account.savings.baseline)

    def _watch(self, arm: int, surprise: float) -> None:
        """Widen what is believed of an arm that has changed, and tell of it."""
        drift = self.settings.drift
        if drift is None:
            return
        self.surprises, alarm = drift.watch(self.surprises, arm, surprise)
        if alarm:
            arm_id = self.catalogue.ids[arm]
            version = len(self.versions.get(arm_id, []))
            self.alarms.setdefault(arm_id, []).append(version)
            self.retrain(arm_id, drift.widen)
            message = (
                f"the rewards of arm {arm_id} have moved away from what was learnt; "
                "its variance was widened. If everything changes slowly, use "
                "forgetting below 1"
            )
            self.notice(message, DriftWarning)

    def _settle(self, record: Learnt, said: bool) -> None:
        guarded = self.account.savings is not None
        waited = not guarded or record.decision.id in self.log.pending
        if not waited and self.account.may_be_booked(record.decision):
            self.notice(
                "the reward of a departure came after so many others had expired that "
                "it is not known whether it is booked as 0 already: the guard counts "
                "it twice, and risks less than it might"
            )
        if guarded:
            self.account.book(self.settings.policy, record.decision, record.reward)
        decision = record.decision.only(self.log.keep)
        self.log.settle(replace(record, decision=decision), said)

    def _learn_of_removed(self, record: Learnt, z: Array, x: Array, said: bool) -> None:
        """Learn what a removed arm says about its relatives.

        It joins as an arm nothing else is known of, and leaves again: its own
        effect is integrated out.
        """
        online, rows = copy.copy(self._online), list(range(len(self.catalogue)))
        online.carry_over(lambda posterior: posterior.take_arms([*rows, -1]))
        online.update(len(rows), z, x, record.reward, record.weight)
        online.carry_over(lambda posterior: posterior.take_arms(rows))
        self.quality = online
        self._settle(record, said)
        self.log.drop_records([record.decision.braid.id])

    def record_of(
        self, decision: Decision | str, reward: float | None = None
    ) -> Learnt:
        """Return what was learnt from a decision, or say why it cannot be known.

        ``reward`` is the one that was learnt, where it is known from elsewhere.
        """
        decision_id = decision if isinstance(decision, str) else decision.id
        reward = self.log.settled.get(decision_id, reward)
        if reward is None:
            if isinstance(decision, Decision):
                self.refuse_if_gone(decision)
            known = self.log.gone_until is None
            raise KeyError(
                f"decision {decision_id!r} has no reward to take back"
                f"{'' if known else ', or one that is too old to be known'}"
            )
        record = self.log.learnt.get(decision_id)
        if record is not None:
            if self.kept(record) < _FORGOTTEN:
                raise NotReversible(
                    f"the reward of decision {decision_id!r} is forgotten: nothing of "
                    "it is left to take back. Learn again from the ledger: "
                    "sync(ledger, anew=True)"
                )
            return record
        if isinstance(decision, str):
            raise KeyError(
                f"the record of decision {decision_id!r} is gone: only the newest are "
                "kept. Give the Decision itself, for example from the ledger"
            )
        return self._record_anew(decision, reward)

    def _record_anew(self, decision: Decision, reward: float) -> Learnt:
        """Return the record that a decision must have had, where that is certain."""
        arm_id = decision.braid.id
        changed = arm_id in self.versions or arm_id not in self.catalogue
        if changed or self._online.faded != 0.0 or not self.log.plain:
            raise NotReversible(
                f"the reward of decision {decision.id!r} cannot be taken back exactly: "
                "its record is gone, and since then the arm was retrained or removed, "
                "or forgetting went on; or rewards of its time had weights or "
                "measurements. Learn again from the ledger: sync(ledger, anew=True)"
            )
        return Learnt(decision, reward)

    def refuse_if_gone(self, decision: Decision) -> None:
        """Refuse a decision whose reward may have been learnt and then dropped."""
        if self.log.may_be_gone(decision):
            raise NotReversible(
                f"decision {decision.id!r} is so old that it is not known whether a "
                "reward of it was learnt: the newest 100,000 are known. Learn again "
                "from the ledger, which knows all: sync(ledger, anew=True)"
            )

    def forget_rewards(self) -> None:
        """Go back to the warm start, or to the prior."""
        posterior = None
        if self.start is not None:
            posterior = self.start.copy()
        elif self.quality is not None:
            # Arms that came since do not make it another model.
            posterior = self.quality.posterior.anew(self.settings.prior)
        if posterior is not None:
            self.quality = OnlinePosterior(posterior, self.settings.forgetting)
        self.costs, self.log, self.position = {}, FeedbackLog(), 0
        self.account.close()
        self.open_account()
        self.surprises = np.zeros((2, len(self.catalogue)))
        self.rewind(self.retrained())

    def retrained(self) -> dict[str, list[float]]:
        """How far each arm moved when it was trained anew, version by version."""
        found = copy.deepcopy(self.versions)
        for arm_id, versions in self.alarms.items():
            for version in versions:  # an alarm comes of rewards
                found[arm_id][version] = 0.0
        return found

    def rewind(self, retrained: dict[str, list[float]]) -> None:
        """Without any reward, note which arms were trained anew; see `replaying`."""
        self.versions, self.alarms, self.rewound = retrained, {}, True

    def begin_anew(self) -> None:
        """Forget the rewards of a ledger that is learnt again; keep what waits."""
        waiting, savings = list(self.log.pending.values()), self.account.savings
        overridden = self.log.overridden
        self.forget_rewards()
        self.account.owe(savings)
        for decision_id, by in overridden.items():
            self.log.override(decision_id, by)
        for decision in waiting:
            self.await_reward(decision)

    @contextmanager
    def replaying(self) -> Generator[None, None, None]:
        """Learn from a ledger; once rewards were forgotten, widen arms again.

        An arm that was trained anew is widened at the first decision of its new
        version, as it was live, or else at the end.
        """
        if self.rewound:
            self._later, self.versions = self.versions, {}
        try:
            yield
        finally:
            for arm_id, shares in self._later.items():
                self._retrain_up_to(arm_id, len(shares))
                self._fill_versions(arm_id, len(shares))
            self._later, self.rewound = {}, False

    def _retrain_up_to(self, arm_id: str, version: int) -> None:
        shares = self._later.get(arm_id, [])
        for earlier, share in enumerate(shares[:version]):
            if share > 0.0:
                self._fill_versions(arm_id, earlier)
                self.retrain(arm_id, share)
                shares[earlier] = 0.0

    def _fill_versions(self, arm_id: str, n: int) -> None:
        """Count at least n versions, as decisions were made with so many."""
        shares = self.versions.setdefault(arm_id, [])
        shares += [0.0] * (n - len(shares))

    def _cost_model(self, name: str) -> CostModel:
        if name not in self.costs:
            self.costs[name] = CostModel(
                self.columns, self._online.width, len(self.catalogue)
            )
        return self.costs[name]

    def _cost(self, arm: int) -> float:
        return float(self.catalogue.costs()[arm])

    # ---- all or nothing ----

    @contextmanager
    def all_or_nothing(self) -> Generator[None, None, None]:
        """Undo all that was learnt inside when an error ends it."""
        saved = {name: getattr(self, name) for name in _REPLACED}
        saved |= {name: copy.deepcopy(getattr(self, name)) for name in _CHANGED}
        saved["log"] = self.log.copy()
        saved["quality"] = None if self.quality is None else self.quality.copy()
        try:
            yield
        except BaseException:
            self.restore(saved)
            raise

    def restore(self, learnt: Mapping[str, Any]) -> None:
        """Take over values of attributes, such as those of a saved state."""
        for name, value in learnt.items():
            setattr(self, name, value)
        self.width = None if self.quality is None else self.quality.width
        self._note_arms()
        self.open_account()

    def move_to(self, position: int) -> None:
        """Note up to where a ledger was learnt."""
        self.position = int(position)

    # ---- warnings ----

    def notice(self, message: str, category: type[Warning] = UserWarning) -> None:
        """Keep a warning until all is learnt; see :meth:`tell`."""
        self._notices = (*self._notices, (message, category))

    def tell(self, stacklevel: int = 3) -> None:
        """Give the warnings that learning left, once all is learnt.

        A filter may turn them into errors, and then nothing is to be done again.
        """
        told, self._notices = self._notices, ()
        unsolved = self.quality is not None and self.quality.unsolved
        if unsolved and self._online.take_notice():
            told = (*told, (UNSOLVED, UserWarning))
        for message, category in dict.fromkeys(told):
            warnings.warn(message, category, stacklevel=stacklevel)

    # ---- arms that come, change and go ----

    def reorder(self, catalogue: Catalogue) -> None:
        """Take over the same arms in another order.

        Raises
        ------
        ValueError
            On models in another order: columns and signatures go by it.
        """
        models = list(self.catalogue.cards)
        if list(catalogue.cards) != models:
            raise ValueError(
                f"the catalogue has its models in the order {list(catalogue.cards)}; "
                f"what was learnt has {models}. Build it with the cards in that order"
            )
        if catalogue.ids != self.catalogue.ids:
            order = [self.catalogue.index(arm_id) for arm_id in catalogue.ids]
            self._move(catalogue, order, self.descriptors[order])
        self.catalogue = catalogue
        self._note_arms()

    def add(self, catalogue: Catalogue) -> None:
        """Take over a catalogue with more arms behind; these start from relatives."""
        n, columns = len(self.catalogue), self.columns
        models, signatures = list(self.catalogue.cards), self.signatures
        Z, extended = extend_descriptors(
            self.descriptors,
            columns,
            self.catalogue.braids,
            catalogue.descriptors(),
            catalogue.braids[n:],
            None if signatures is None else (models[: signatures.shape[1]], signatures),
        )
        fresh = extended[len(columns) :]
        if fresh:
            self._each_posterior(
                lambda old: old.with_columns(
                    parameter_groups(fresh, old.groups.shape[1])
                )
            )
        self.columns = extended
        self._move(catalogue, [*range(n), *[-1] * (len(catalogue) - n)], Z)
        for braid in catalogue.braids[n:]:
            if self.removed.pop(braid.id, None) is not None:
                # Another version: what it learnt before it left is not its own now.
                self.versions.setdefault(braid.id, []).append(0.0)
        wider = len(extended) - len(columns)
        self.removed = {a: np.pad(z, (0, wider)) for a, z in self.removed.items()}
        if self.quality is None:
            self.describe(self.signatures)  # nothing to be kept

    def remove(self, catalogue: Catalogue) -> None:
        """Take over a catalogue with fewer arms; what they taught stays."""
        gone = [arm_id for arm_id in self.catalogue.ids if arm_id not in catalogue]
        for arm_id in gone:
            row = self.catalogue.index(arm_id)
            self.removed[arm_id] = self.descriptors[row].copy()
            if arm_id in self.versions:
                # Counted on, should it come back; nothing is left to widen.
                self.versions[arm_id] = [0.0] * len(self.versions[arm_id])
            self.alarms.pop(arm_id, None)
        self.log.drop_records(gone)
        self.account.forget(gone)
        rows = [self.catalogue.index(arm_id) for arm_id in catalogue.ids]
        self._move(catalogue, rows, self.descriptors[rows])

    def retrain(self, arm_id: str, share: float) -> None:
        """Keep an arm's mean and widen its variance: it was trained anew."""
        row = self.catalogue.index(arm_id)
        if self.quality is not None:
            self.quality.widen(row, share)
        for model in self.costs.values():
            model.widen(row, share)
        self.versions.setdefault(arm_id, []).append(share)
        self.rewound = False
        self.log.drop_records([arm_id])
        self._lookahead.reset()

    def _move(self, catalogue: Catalogue, rows: list[int], Z: Array) -> None:
        """Take over other arms: the rows they had, -1 for a new one."""
        self._each_posterior(lambda old: old.take_arms(rows))
        known = np.array(rows) >= 0
        sums = np.zeros((2, len(rows)))
        sums[:, known] = self.surprises[:, np.array(rows)[known]]
        self.surprises, self.descriptors, self.catalogue = sums, Z, catalogue
        self._note_arms()
        self._lookahead.reset()

    def _described_anew(self, z: Array, Z: Array, columns: Sequence[str]) -> Array:
        """Move a removed arm's descriptor along with those of the arms there."""
        new = Z.mean(axis=0)  # of a column that nothing is known of, the average
        for j, name in enumerate(columns):
            if name in self.columns:
                old = self.columns.index(name)
                new[j] += z[old] - self.descriptors[:, old].mean()
        return new

    def _each_posterior(self, change: Callable[[Posterior], Posterior]) -> None:
        if self.quality is not None:
            self.quality.carry_over(change)
        if self.start is not None:
            self.start = change(self.start)
        for model in self.costs.values():
            model.carry_over(change)


@contextmanager
def _exactly(what: str) -> Generator[None, None, None]:
    """Tell of something that cannot be taken back, and what to do instead."""
    try:
        yield
    except ValueError as error:
        raise NotReversible(
            f"{what} cannot be taken back: {error}. Learn again from the ledger: "
            "sync(ledger, anew=True)"
        ) from error
