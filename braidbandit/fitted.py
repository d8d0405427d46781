"""Fitted: the state of a recommender, how it begins, and checks of what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from braidbandit.bandit import LinearBandit
from braidbandit.catalogue import Catalogue
from braidbandit.choice import Policy
from braidbandit.decision import Decision
from braidbandit.drift import DriftMonitor
from braidbandit.encoding import TaskEncoder
from braidbandit.guard import ConservativePolicy, Savings
from braidbandit.learner import ArmLearner, arm_ids_of
from braidbandit.logged import check_propensities, check_rewards
from braidbandit.objectives import Pacer
from braidbandit.posterior import Posterior
from braidbandit.prior import PriorScales
from braidbandit.utility import check_price

Array = NDArray[np.float64]
Rows = tuple[list[int], Array, Array]


class Fitted:
    """What a recommender has learnt, created on first use."""

    if TYPE_CHECKING:
        catalogue: Catalogue | None
        encoder: TaskEncoder | None
        policy: Policy | ConservativePolicy | None
        price: float
        mean_cost: float | None
        prior: PriorScales | None
        forgetting: float
        max_parameters: int
        drift: DriftMonitor | None
        random_state: int | np.random.Generator | None

    encoder_: TaskEncoder
    learner_: ArmLearner
    catalogue_hash_: str
    ledger_position_: int
    pacer_: Pacer

    # ---- views of the learner ----

    @property
    def posterior_(self) -> Posterior | None:
        """Posterior of quality; None until a task was seen."""
        return self.learner_.bandit.posterior_ if self.learner_.started else None

    @property
    def classes_(self) -> NDArray[Any]:
        """The arm ids, in the order of the catalogue."""
        return self.learner_.bandit.classes_

    @property
    def arm_ids_(self) -> tuple[str, ...]:
        """The arm ids as text."""
        return self.learner_.catalogue.ids

    @property
    def signatures_(self) -> Array | None:
        """Score of every single model on the probe tasks, (n, M), if there were any."""
        return self.learner_.signatures

    @property
    def baseline_(self) -> str | None:
        """Id of the best single model of the warm start."""
        return self.learner_.guarding.baseline

    @property
    def savings_(self) -> Savings | None:
        """What a ConservativePolicy may risk; None until it first decides."""
        return self.learner_.guarding.savings

    @property
    def surprises_(self) -> Array:
        """Sums of the drift monitor, shape (2, A)."""
        return self.learner_.surprises

    @property
    def Z_(self) -> Array:
        """Descriptors of the arms, shape (A, m)."""
        return self.learner_.bandit.Z_

    @property
    def rng_(self) -> np.random.Generator:
        """The generator ``recommend`` draws from."""
        return self.learner_.bandit.rng_

    @property
    def n_updates_(self) -> int:
        """Rewards in the posterior, the warm start not counted."""
        return self.learner_.bandit.n_updates_

    @property
    def pending_(self) -> dict[str, Decision]:
        """Decisions without a reward."""
        return self.learner_.log.pending

    @property
    def settled_(self) -> dict[str, float]:
        """Rewards that were learnt, by decision id."""
        return self.learner_.log.settled

    @property
    def feedback_counts_(self) -> dict[str, int]:
        """How often feedback was learnt, repeated, revised, retracted, expired."""
        return self.learner_.log.counts

    # ---- beginning ----

    def _start(self) -> None:
        """Create the fitted attributes on first use; check the settings always."""
        check_price(self.price)
        if not 0.0 < self.forgetting <= 1.0:
            raise ValueError(f"forgetting lies in (0, 1], received {self.forgetting!r}")
        if self.mean_cost is not None and not 0.0 <= self.mean_cost <= 1.0:
            raise ValueError(
                f"mean_cost is a relative cost in [0, 1], received {self.mean_cost!r}"
            )
        catalogue = self._catalogue()
        if not hasattr(self, "learner_"):
            encoder = self.encoder if self.encoder is not None else TaskEncoder()
            fitted = encoder.__sklearn_is_fitted__()
            self.encoder_ = encoder if fitted else clone(encoder)
            self.learner_ = ArmLearner(self._bandit(catalogue), catalogue)
            self.catalogue_hash_ = catalogue.hash
            self.ledger_position_, self.pacer_ = 0, Pacer()
        elif catalogue is not self.learner_.catalogue:
            if self.catalogue_hash_ != catalogue.hash:
                raise ValueError(
                    "the catalogue changed after learning began; use add_arms and "
                    "remove_arms, or make a new recommender for it and fit it"
                )
            self.learner_.reorder(catalogue)
        # These may be changed at any time by set_params.
        self.learner_.policy, self.learner_.drift = self.policy, self.drift
        self.learner_.bandit.forgetting = self.forgetting

    def _bandit(self, catalogue: Catalogue) -> LinearBandit:
        Z, names = catalogue.descriptors()
        return LinearBandit(
            # The bandit adds the constant in front by itself.
            descriptors=Z[:, 1:],
            columns=names[1:],
            prior=self.prior,
            forgetting=self.forgetting,
            max_parameters=self.max_parameters,
            random_state=self.random_state,
        )

    def _take_over(self, catalogue: Catalogue, how: str) -> None:
        """Move what was learnt to a catalogue with more or fewer arms."""
        getattr(self.learner_, how)(catalogue)
        self.catalogue, self.catalogue_hash_ = catalogue, catalogue.hash

    def _catalogue(self) -> Catalogue:
        if not isinstance(self.catalogue, Catalogue):
            raise ValueError(
                "BraidRecommender needs a catalogue, received "
                f"{type(self.catalogue).__name__}; give Catalogue.build(pool)"
            )
        return self.catalogue

    def _forget_rewards(self) -> None:
        self.learner_.forget_rewards()
        self.ledger_position_ = 0

    def _fit_encoder(self, X: Any) -> None:
        """Fit the encoder once; the random projection served until now."""
        if not self.encoder_.__sklearn_is_fitted__():
            self.encoder_.fit(X)
            self.learner_.reset()
            self.learner_.log.pending = {}

    # ---- tables ----

    def _check_rows(
        self, X: Any, y: Any, reward: Any, propensity: Any, sample_weight: Any
    ) -> Rows:
        """Check labels, rewards and weights before anything is touched."""
        if y is None:
            raise ValueError("fit needs the arm of each task (y), or a ledger")
        rows = [self._catalogue().index(arm_id) for arm_id in arm_ids_of(y)]
        if len(rows) != len(X):
            raise ValueError(
                f"received {len(X)} tasks and {len(rows)} arms; expected equal lengths"
            )
        rewards = check_rewards(reward, len(rows))
        check_propensities(propensity, len(rows))
        if sample_weight is None:
            weights = np.ones(len(rows))
        else:
            weights = np.asarray(sample_weight, dtype=np.float64)
        finite = np.isfinite(weights) & (weights >= 0)
        if weights.shape != rewards.shape or not finite.all():
            raise ValueError(
                f"sample_weight must be finite, at least 0 and of shape "
                f"{rewards.shape}, received shape {weights.shape}"
            )
        return rows, rewards, weights

    def _learn_rows(self, X: Any, rows: Rows) -> None:
        features = self.encoder_.transform(X)
        self.learner_.require(features.shape[1])
        bandit = self.learner_.bandit
        for arm, x, reward, weight in zip(rows[0], features, *rows[1:], strict=True):
            if weight > 0:
                bandit.learn(arm, bandit.Z_[arm], x, float(reward), float(weight))

    def _check_table(
        self, X: Any, arm_ids: Sequence[str], table: ArrayLike
    ) -> tuple[list[int], Array]:
        ids = list(arm_ids)
        scores = np.asarray(table, dtype=np.float64)
        if scores.shape != (len(X), len(ids)) or scores.size == 0:
            raise ValueError(
                f"table has shape {scores.shape}, expected ({len(X)}, {len(ids)}): one "
                "row per task, one column per arm"
            )
        if not ((scores >= 0) & (scores <= 1)).all():  # also refuses NaN
            raise ValueError("every score of the table lies in [0, 1]; received others")
        rows = [self._catalogue().index(arm_id) for arm_id in ids]
        if len(set(rows)) != len(rows):
            raise ValueError("the arm ids of the table must differ")
        if self.n_updates_:
            raise ValueError(
                f"warm_start comes before any update; {self.n_updates_} rewards were "
                "learnt already. Use a new recommender, then fit(ledger)"
            )
        return rows, scores

    def _learn_table(
        self, ids: Sequence[str], rows: list[int], features: Array, scores: Array
    ) -> None:
        learner, bandit = self.learner_, self.learner_.bandit
        learner.describe(self._signatures(ids, scores))
        learner.require(features.shape[1])
        posterior = bandit.posterior_
        posterior.start_from_table(rows, bandit.Z_[rows], features, scores)
        learner.start = posterior.copy()
        braids = self._catalogue().braids
        singles = [i for i, row in enumerate(rows) if braids[row].is_single]
        if singles:
            best = max(singles, key=lambda i: float(scores[:, i].mean()))
            learner.guarding.baseline = ids[best]

    def _signatures(self, ids: Sequence[str], scores: Array) -> Array | None:
        """Return the columns of the single models, if the table has all of them."""
        place = {
            braid.anchor: column
            for column, braid in enumerate(self._catalogue()[i] for i in ids)
            if braid.is_single
        }
        models = self._catalogue().cards
        if any(name not in place for name in models):
            return None
        return scores[:, [place[name] for name in models]]
