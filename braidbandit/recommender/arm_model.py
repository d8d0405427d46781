"""The learner: everything that is learnt about the braids of a catalogue.

Quality, latency and compute of every arm, the decisions that wait for a reward, and
what stays true when arms come, change and go. Works on numbers: a task is its
feature row ``x``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_labels
from braidbandit.bandit.belief import Belief
from braidbandit.bandit.choice import Policy
from braidbandit.bandit.linalg import Repeats
from braidbandit.bandit.prior import PriorScales
from braidbandit.catalogue.braid import Braid
from braidbandit.ledger.records import Decision
from braidbandit.recommender.drift import DriftWarning
from braidbandit.recommender.feedback import FeedbackLog, Learnt, NotReversible
from braidbandit.recommender.lookahead import MOST_IN_FLIGHT, Pull
from braidbandit.recommender.objectives import CostModel
from braidbandit.recommender.roster import Roster

Array = NDArray[np.float64]

# From so many arms on, what their descriptors have in common is made use of.
_MANY_ARMS = 512
# A reward of which a smaller share is left cannot be told from rounding.
_FORGOTTEN = 1e-100
# What learning changes of a bandit.
_LEARNT = (
    "posterior_",
    "n_updates_",
    "clock_",
    "faded_",
    "prior",
    "max_parameters",
    "notices_",
    "_failed",
)


class ArmLearner(Roster):
    """What is known about every arm, and how it came to be known.

    See :class:`Roster` for the attributes.
    """

    # ---- believing ----

    def require(self, width: int) -> None:
        """Create the posterior when the number of task features is known."""
        if not self.started:
            self.bandit.start(width)
        elif self.bandit.posterior_.groups.shape[1] != width:
            raise ValueError(
                f"received {width} task features, expected "
                f"{self.bandit.posterior_.groups.shape[1]}; use the encoder of the "
                "first call"
            )

    def believe(self, x: Array) -> Belief:
        """Return the belief about every arm, less what is in flight."""
        self.require(len(x))
        posterior = self._in_flight.ahead(self.bandit.posterior_, self._pulls())
        return posterior.belief(self.bandit.Z_, x, self._repeats())

    def policy_now(self) -> Policy:
        """Return the policy for the next decision; a guard depends on the past."""
        pending = self.log.pending.values()
        return self.guarding.policy(self.policy, self.catalogue, pending)

    def guard(self) -> None:
        """Begin to keep account of what a guard may risk, if there is one."""
        self.guarding.open(self.policy, self.catalogue)
        if self.guarding.savings is not None:
            self.log.keep = self.guarding.savings.baseline

    def expected(self, objective: str, x: Array) -> Array | None:
        """Return what each arm will typically measure; None before any measurement."""
        model = self.models.get(objective)
        if model is None or model.n == 0:
            return None
        return model.expected(self.bandit.Z_, x, self.catalogue.costs())

    def evidence(
        self, decision: Decision, weight: float
    ) -> tuple[int, Array, Array, float]:
        """Return row, descriptor, features, and the weight of this decision's reward.

        A reward of an earlier version of an arm says less about the arm of today,
        by the variance its retraining may have added. An arm that is gone has row -1.
        """
        x = np.array(decision.x, dtype=np.float64)
        self.require(len(x))
        arm_id, posterior = decision.braid.id, self.bandit.posterior_
        if arm_id in self.removed:
            return -1, self.removed[arm_id], x, weight
        row = self.catalogue.index(arm_id)
        widened = sum(self.versions.get(arm_id, [])[decision.version :])
        if widened:
            noise = posterior.scales.noise**2
            more = widened * posterior.variance_of_change()
            weight *= noise / (noise + float(more @ x[: len(more)] ** 2))
        return row, self.bandit.Z_[row], x, weight

    def _repeats(self) -> Repeats | None:
        """What the descriptors have in common; found again when they are others."""
        Z = self.bandit.Z_
        if len(Z) < _MANY_ARMS:
            return None
        if self._repeats_of is None or self._repeats_of[0] is not Z:
            self._repeats_of = (Z, Repeats(Z))
        return self._repeats_of[1]

    def _pulls(self) -> dict[str, Pull]:
        newest = list(islice(reversed(self.log.pending.values()), MOST_IN_FLIGHT))
        pulls = {}
        for decision in reversed(newest):
            arm_id = decision.braid.id
            if arm_id in self.catalogue:
                row = self.catalogue.index(arm_id)
                pulls[decision.id] = (row, self.bandit.Z_[row], np.array(decision.x))
        return pulls

    # ---- learning ----

    def learn(self, record: Learnt, said: bool = False) -> None:
        """Learn a reward and the measurements that came with it.

        ``said``: by a ledger, which will not say it again.
        """
        self._retrain_up_to(record.decision.braid.id, record.decision.version)
        arm, z, x, applied = self.evidence(record.decision, record.weight)
        if arm < 0:
            self._learn_of_removed(record, z, x, said)
            return
        before, faded = self.bandit.posterior_.mean, self.bandit.faded_
        surprise = self.bandit.learn(arm, z, x, record.reward, applied)
        self._in_flight.rewarded(
            before, self.bandit.posterior_, record.decision.id, (arm, z, x), applied
        )
        for name, value in record.measured.items():
            cost = self._operations(arm)
            self._model(name).learn(arm, z, x, value, cost, applied)
        self._settle(replace(record, applied=applied, faded=faded), said)
        self._watch(arm, surprise)

    def unlearn(self, record: Learnt, said: bool = False) -> None:
        """Take a reward back exactly, as if it had never come."""
        arm, z, x, _ = self.evidence(record.decision, record.weight)
        models = dict(self.models)
        with _exactly(record):
            for name, value in record.measured.items():
                cost = self._operations(arm)
                models[name] = copy.deepcopy(models[name])
                models[name].unlearn(arm, z, x, value, cost, record.applied)
            self.bandit.unlearn(arm, z, x, record.reward, record.applied, record.faded)
        self.models = models
        self.guarding.book(self.policy, record.decision, record.reward, back=True)
        self.log.unsettle(record.decision, said)
        self.await_reward(record.decision)

    def revise(self, record: Learnt, reward: float, said: bool = False) -> None:
        """Replace a reward exactly, as if this one had come in its place."""
        arm, z, x, _ = self.evidence(record.decision, record.weight)
        posterior, kept = self.bandit.posterior_.copy(), self.bandit.kept(record.faded)
        with _exactly(record):
            posterior.downdate(arm, z, x, record.reward, record.applied, kept)
        posterior.update(arm, z, x, reward, record.applied, kept)
        self.bandit.posterior_ = posterior
        self.guarding.book(self.policy, record.decision, record.reward, back=True)
        self.guarding.book(self.policy, record.decision, reward)
        decision = record.decision.only(self.log.keep)
        self.log.replace(replace(record, decision=decision, reward=reward), said)

    def await_reward(self, decision: Decision) -> None:
        """Wait for a reward, and no longer for those of too many before it."""
        for dropped in self.log.await_reward(decision):
            self.guarding.expire(self.policy, dropped)

    def expire(self, before: datetime) -> list[str]:
        """Stop waiting for decisions made before a time; returns their ids."""
        waiting = dict(self.log.pending)
        late = self.log.expire(before)
        for decision_id in late:
            self.guarding.expire(self.policy, waiting[decision_id])
        return late

    def forget_decisions(self, before: datetime) -> None:
        """Drop the decisions made before a time; what they taught stays."""
        for waited in self.log.forget(before):
            self.guarding.expire(self.policy, waited)

    def _watch(self, arm: int, surprise: float) -> None:
        """Widen what is believed of an arm that has changed; said by the bandit."""
        if self.drift is None:
            return
        self.surprises, alarm = self.drift.watch(self.surprises, arm, surprise)
        if alarm:
            arm_id = self.catalogue.ids[arm]
            version = len(self.versions.get(arm_id, []))
            self.alarms.setdefault(arm_id, []).append(version)
            self.retrain(arm_id, self.drift.widen)
            message = (
                f"the rewards of arm {arm_id} have moved away from what was learnt; "
                "its variance was widened. If everything changes slowly, use "
                "forgetting below 1"
            )
            self.bandit.notice(message, DriftWarning)

    def _settle(self, record: Learnt, said: bool) -> None:
        waited = record.decision.id in self.log.pending
        if not waited and self.guarding.may_be_booked(record.decision):
            self.bandit.notice(
                "the reward of a departure came after so many others had expired that "
                "it is not known whether it is booked as 0 already: the guard counts "
                "it twice, and risks less than it might"
            )
        self.guarding.book(self.policy, record.decision, record.reward)
        decision = record.decision.only(self.log.keep)
        self.log.settle(replace(record, decision=decision), said)

    def _learn_of_removed(self, record: Learnt, z: Array, x: Array, said: bool) -> None:
        """Learn what a removed arm says about its relatives.

        It joins as an arm nothing else is known of, and leaves again: its own
        effect is integrated out.
        """
        bandit = self.bandit
        posterior, rows = bandit.posterior_, list(range(len(self.catalogue)))
        bandit.posterior_ = posterior.take_arms([*rows, -1])
        try:
            bandit.learn(len(rows), z, x, record.reward, record.weight)
        except BaseException:
            bandit.posterior_ = posterior
            raise
        bandit.posterior_ = bandit.posterior_.take_arms(rows)
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
            if self.bandit.kept(record.faded) < _FORGOTTEN:
                raise NotReversible(
                    f"the reward of decision {decision_id!r} is forgotten: nothing of "
                    "it is left to take back. Learn again from the ledger: fit(ledger)"
                )
            return record
        if isinstance(decision, str):
            raise KeyError(
                f"the record of decision {decision_id!r} is gone: only the newest are "
                "kept. Give the Decision itself, for example from the ledger"
            )
        arm_id = decision.braid.id
        changed = arm_id in self.versions or arm_id not in self.catalogue
        if changed or self.bandit.faded_ != 0.0 or not self.log.plain:
            raise NotReversible(
                f"the reward of decision {decision_id!r} cannot be taken back exactly: "
                "its record is gone, and since then the arm was retrained or removed, "
                "or forgetting went on; or rewards of its time had weights or "
                "measurements. Learn again from the ledger: fit(ledger)"
            )
        return Learnt(decision, reward)

    def refuse_if_gone(self, decision: Decision) -> None:
        """Refuse a decision of which a reward may have been learnt without a trace."""
        if self.log.may_be_gone(decision):
            raise NotReversible(
                f"decision {decision.id!r} is so old that it is not known whether a "
                "reward of it was learnt: the newest 100,000 are known. Learn again "
                "from the ledger, which knows all: fit(ledger)"
            )

    def forget_rewards(self) -> None:
        """Go back to the warm start, or to the prior."""
        if self.start is not None:
            self.bandit.posterior_ = self.start.copy()
        elif self.started:
            # Arms that came since do not make it another model.
            self.bandit.posterior_.prior = prior = self.bandit.prior
            self.bandit.posterior_.reset(prior or PriorScales())
        self.bandit.count_anew()
        self.models, self.log = {}, FeedbackLog()
        self.guarding.savings = None
        self.guard()
        self.surprises = np.zeros((2, len(self.catalogue)))
        # An alarm came of the rewards; that an arm was trained anew stays true.
        for arm_id, versions in self.alarms.items():
            for version in versions:
                self.versions[arm_id][version] = 0.0
        self.alarms, self.rewound = {}, True

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Learn from a ledger; once rewards were forgotten, widen arms again.

        An arm that was trained anew is widened where the version of its decisions
        rises, as it was live; at the end at the latest.
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
        """Keep counting from n: decisions of so many versions were made."""
        shares = self.versions.setdefault(arm_id, [])
        shares += [0.0] * (n - len(shares))

    def checkpoint(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs to undo every call in between."""
        state = {k: v for k, v in vars(self.bandit).items() if k in _LEARNT}
        if self.started:
            state["posterior_"] = self.bandit.posterior_.copy()
        return {
            "bandit": state,
            "models": copy.deepcopy(self.models),
            "log": self.log.copy(),
            "guarding": copy.copy(self.guarding),
            "versions": copy.deepcopy(self.versions),
            "alarms": copy.deepcopy(self.alarms),
            "rewound": self.rewound,
            "surprises": self.surprises,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go back to a checkpoint."""
        for name in _LEARNT:
            self.bandit.__dict__.pop(name, None)
        self.bandit.__dict__.update(saved["bandit"])
        self.models, self.log = saved["models"], saved["log"]
        self.guarding = saved["guarding"]
        self.versions, self.alarms = saved["versions"], saved["alarms"]
        self.rewound, self.surprises = saved["rewound"], saved["surprises"]

    def _model(self, name: str) -> CostModel:
        if name not in self.models:
            width = self.bandit.posterior_.groups.shape[1]
            self.models[name] = CostModel(
                self.bandit.columns_, width, len(self.catalogue)
            )
        return self.models[name]

    def _operations(self, arm: int) -> float:
        return float(self.catalogue.costs()[arm])


@contextmanager
def _exactly(record: Learnt) -> Iterator[None]:
    """Say of what cannot be taken back that everything can be learnt again."""
    try:
        yield
    except ValueError as error:
        raise NotReversible(
            f"the reward of decision {record.decision.id!r} cannot be taken back: "
            f"{error}. Learn again from the ledger: fit(ledger)"
        ) from error


def arm_ids_of(arms: Iterable[Braid | str]) -> list[str]:
    """Return arm ids from braids or ids."""
    if isinstance(arms, str | Braid):
        raise TypeError(f"expected a collection of arms, received {arms!r}")
    ids = check_labels(arm.id if isinstance(arm, Braid) else arm for arm in arms)
    return [str(arm_id) for arm_id in ids]
