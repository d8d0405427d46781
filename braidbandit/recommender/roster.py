"""The roster: which arms there are, and what was learnt of each as they change.

What is known moves along when arms come, go, or are trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.choice import Policy
from braidbandit.bandit.guard import ConservativePolicy
from braidbandit.bandit.linalg import Repeats
from braidbandit.bandit.linear_bandit import LinearBandit
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import parameter_groups
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.catalogue.features import extend_descriptors, with_gains
from braidbandit.recommender.drift import DriftMonitor
from braidbandit.recommender.feedback import FeedbackLog
from braidbandit.recommender.guarding import Guarding
from braidbandit.recommender.lookahead import InFlight
from braidbandit.recommender.objectives import CostModel
from braidbandit.recommender.reshape import new_groups, with_columns

Array = NDArray[np.float64]


class Roster:
    """The arms, and everything that is kept per arm.

    Parameters
    ----------
    bandit : LinearBandit
        Not started; its settings decide how quality is learnt.
    catalogue : Catalogue

    Attributes
    ----------
    bandit : LinearBandit
        The posterior of quality.
    start : Posterior or None
        Where learning began: the warm start.
    models : dict of CostModel
        "latency" and "compute", once they were measured.
    log : FeedbackLog
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
    policy : Policy or ConservativePolicy, optional
    guarding : Guarding
        What a ConservativePolicy may risk.
    drift : DriftMonitor, optional
    surprises : ndarray of shape (2, A)
        Its sums.
    """

    def __init__(self, bandit: LinearBandit, catalogue: Catalogue) -> None:
        self.bandit = bandit
        self.start: Posterior | None = None
        self.models: dict[str, CostModel] = {}
        self.log = FeedbackLog()
        self.versions: dict[str, list[float]] = {}
        self.alarms: dict[str, list[int]] = {}
        self.rewound = False
        self.removed: dict[str, Array] = {}
        self.signatures: Array | None = None
        self.policy: Policy | ConservativePolicy | None = None
        self.guarding = Guarding()
        self.drift: DriftMonitor | None = None
        self.surprises = np.zeros((2, len(catalogue)))
        self._in_flight = InFlight()
        self._later: dict[str, list[float]] = {}
        self._repeats_of: tuple[Array, Repeats] | None = None
        self.catalogue = catalogue
        bandit.open(np.array(catalogue.ids))

    @property
    def started(self) -> bool:
        """Whether the number of task features is known."""
        return hasattr(self.bandit, "posterior_")

    def describe(self, signatures: Array | None) -> None:
        """Describe every braid by what its strands could gain on the probe tasks."""
        Z, columns = self.catalogue.descriptors()
        if signatures is not None:
            braids, models = self.catalogue.braids, list(self.catalogue.cards)
            Z, columns = with_gains(Z, columns, braids, models, signatures)
        for arm_id, z in self.removed.items():
            self.removed[arm_id] = self._described_anew(z, Z, columns)
        self.bandit.descriptors, self.bandit.columns = Z[:, 1:], columns[1:]
        # Storage order decides the last bits of sums: as a saved state has it.
        self.bandit.Z_ = np.ascontiguousarray(Z)
        self.bandit.columns_ = tuple(columns)
        self.signatures = signatures
        self.reset()

    def reset(self) -> None:
        """Drop the posteriors: the number of task features may change."""
        self.bandit.__dict__.pop("posterior_", None)
        self.models = {}
        self.bandit.count_anew()

    # ---- arms that come, change and go ----

    def reorder(self, catalogue: Catalogue) -> None:
        """Take over the same arms in another order.

        Raises ValueError on models in another order: columns and signatures go by it.
        """
        models = list(self.catalogue.cards)
        if list(catalogue.cards) != models:
            raise ValueError(
                f"the catalogue has its models in the order {list(catalogue.cards)}; "
                f"what was learnt has {models}. Build it with the cards in that order"
            )
        if catalogue.ids != self.catalogue.ids:
            order = [self.catalogue.index(arm_id) for arm_id in catalogue.ids]
            self._move(catalogue, order, self.bandit.Z_[order])
        self.catalogue = catalogue

    def add(self, catalogue: Catalogue) -> None:
        """Take over a catalogue with more arms behind; these start from relatives."""
        n, columns = len(self.catalogue), self.bandit.columns_
        models = list(self.catalogue.cards)
        signatures = self.signatures
        Z, extended = extend_descriptors(
            self.bandit.Z_,
            columns,
            self.catalogue.braids,
            catalogue.descriptors(),
            catalogue.braids[n:],
            None if signatures is None else (models[: signatures.shape[1]], signatures),
        )
        fresh = extended[len(columns) :]
        if fresh:
            self._each_posterior(
                lambda old: with_columns(
                    old, new_groups(parameter_groups(fresh, old.groups.shape[1]), old)
                )
            )
        self.bandit.columns_ = extended
        self._move(catalogue, [*range(n), *[-1] * (len(catalogue) - n)], Z)
        for braid in catalogue.braids[n:]:
            if self.removed.pop(braid.id, None) is not None:
                # Another version: what it learnt before it left is not its own now.
                self.versions.setdefault(braid.id, []).append(0.0)
        wider = len(extended) - len(columns)
        self.removed = {a: np.pad(z, (0, wider)) for a, z in self.removed.items()}
        if not self.started:
            self.describe(self.signatures)  # nothing to be kept

    def remove(self, catalogue: Catalogue) -> None:
        """Take over a catalogue with fewer arms; what they taught stays."""
        gone = [arm_id for arm_id in self.catalogue.ids if arm_id not in catalogue]
        for arm_id in gone:
            row = self.catalogue.index(arm_id)
            self.removed[arm_id] = self.bandit.Z_[row].copy()
            if arm_id in self.versions:
                # Counted on, should it come back; nothing is left to widen.
                self.versions[arm_id] = [0.0] * len(self.versions[arm_id])
            self.alarms.pop(arm_id, None)
        self.log.drop_records(gone)
        self.guarding.forget(gone)
        rows = [self.catalogue.index(arm_id) for arm_id in catalogue.ids]
        self._move(catalogue, rows, self.bandit.Z_[rows])

    def retrain(self, arm_id: str, share: float) -> None:
        """Keep an arm's mean and widen its variance: it was trained anew."""
        row = self.catalogue.index(arm_id)
        if self.started:
            self.bandit.posterior_.widen(row, share)
        for model in self.models.values():
            model.posterior.widen(row, share)
        self.versions.setdefault(arm_id, []).append(share)
        self.rewound = False
        self.log.drop_records([arm_id])
        self._in_flight.reset()

    def _move(self, catalogue: Catalogue, rows: list[int], Z: Array) -> None:
        """Take over other arms: the rows they had, -1 for a new one."""
        self._each_posterior(lambda old: old.take_arms(rows))
        known = np.array(rows) >= 0
        sums = np.zeros((2, len(rows)))
        sums[:, known] = self.surprises[:, np.array(rows)[known]]
        self.surprises = sums
        self.bandit.Z_, self.bandit.classes_ = Z, np.array(catalogue.ids)
        self.catalogue = catalogue
        self._in_flight.reset()

    def _described_anew(self, z: Array, Z: Array, columns: Sequence[str]) -> Array:
        """Move a removed arm's descriptor along with those of the arms there."""
        new = Z.mean(axis=0)  # of a column that nothing is known of, the average
        for j, name in enumerate(columns):
            if name in self.bandit.columns_:
                old = self.bandit.columns_.index(name)
                new[j] += z[old] - self.bandit.Z_[:, old].mean()
        return new

    def _each_posterior(self, change: Callable[[Posterior], Posterior]) -> None:
        if self.started:
            self.bandit.posterior_ = change(self.bandit.posterior_)
        if self.start is not None:
            self.start = change(self.start)
        for model in self.models.values():
            model.posterior = change(model.posterior)
