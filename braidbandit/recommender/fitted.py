"""Fitted: the state of a recommender, how it begins, and checks of what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from braidbandit._checks import same
from braidbandit.bandit.choice import Policy
from braidbandit.bandit.guard import ConservativePolicy, Savings
from braidbandit.bandit.linear_bandit import LinearBandit
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales
from braidbandit.bandit.settings import check_learning, check_policy
from braidbandit.catalogue.catalogue import Catalogue
from braidbandit.ledger.records import Decision
from braidbandit.recommender.arm_model import ArmLearner
from braidbandit.recommender.drift import DriftMonitor
from braidbandit.recommender.objectives import Pacer
from braidbandit.recommender.utility import check_price
from braidbandit.tasks.encoder import TaskEncoder

Array = NDArray[np.float64]
Rows = tuple[list[int], Array, Array]

# Settings of the posterior: another one has another shape, or other scales.
_SHAPE = ("prior", "max_parameters")


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
        random_state: int | np.random.Generator | np.random.RandomState | None

    encoder_: TaskEncoder
    _encoder_given: TaskEncoder | None
    _encoder_settings: dict[str, Any]
    _encoder_hash: str
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
        """What a ConservativePolicy may risk; None without one, or a baseline."""
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

    def _start(self, anew: bool = False) -> None:
        """Create the fitted attributes on first use; check the settings always.

        ``anew`` says that learning is about to begin again, with other settings.
        """
        check_price(self.price)
        check_learning(self.forgetting, self.prior, self.max_parameters)
        if not isinstance(self.policy, ConservativePolicy):
            check_policy(self.policy)
        if self.drift is not None and not isinstance(self.drift, DriftMonitor):
            raise TypeError(f"drift is a DriftMonitor or None, received {self.drift!r}")
        if self.encoder is not None and not isinstance(self.encoder, TaskEncoder):
            raise TypeError(f"encoder is a TaskEncoder, received {self.encoder!r}")
        if self.mean_cost is not None and not 0.0 <= self.mean_cost <= 1.0:
            raise ValueError(
                f"mean_cost is a relative cost in [0, 1], received {self.mean_cost!r}"
            )
        catalogue = self._catalogue()
        if not hasattr(self, "learner_"):
            encoder = self.encoder if self.encoder is not None else TaskEncoder()
            fitted = encoder.__sklearn_is_fitted__()
            self._encoder_given = self.encoder
            self._encoder_settings = encoder.get_params()
            self.encoder_ = encoder if fitted else clone(encoder)
            self.learner_ = ArmLearner(self._bandit(catalogue), catalogue)
            self.catalogue_hash_ = catalogue.hash
            self.ledger_position_, self.pacer_ = 0, Pacer()
        elif self.catalogue_hash_ != catalogue.hash:
            raise ValueError(
                "the catalogue changed after learning began; use add_arms and "
                "remove_arms, or make a new recommender for it and fit it"
            )
        self._check_encoder_kept()
        bandit = self.learner_.bandit
        if not self.learner_.started:
            self._adopt()
        elif not anew and self._other_shape():
            raise ValueError(
                f"{self._other_shape()} changed after learning began; that takes "
                "effect with fit or warm_start only. Set them back, or learn anew"
            )
        if self.policy is not self.learner_.policy:
            self.learner_.guarding.check_kept(self.learner_.policy, self.policy)
        if catalogue is not self.learner_.catalogue:
            self.learner_.reorder(catalogue)
        # These may be changed at any time by set_params.
        self.learner_.policy, self.learner_.drift = self.policy, self.drift
        bandit.forgetting, bandit.random_state = self.forgetting, self.random_state
        bandit.reseed()
        self.learner_.guard()

    def _other_shape(self) -> list[str]:
        """Return settings of the posterior that are not those it was made with."""
        bandit = self.learner_.bandit
        return [n for n in _SHAPE if not same(getattr(self, n), getattr(bandit, n))]

    def _adopt(self) -> None:
        """Take over settings of the posterior: it is about to be made."""
        for name in _SHAPE:
            setattr(self.learner_.bandit, name, getattr(self, name))

    def _check_encoder_kept(self) -> None:
        """Refuse features that would mean something else than those learnt from."""
        if self.encoder is not self._encoder_given:
            raise ValueError(
                "the encoder changed after learning began: what was learnt is about "
                "the features of the first one. Make a new recommender"
            )
        if self.encoder is not None:
            before = self._encoder_settings
            now = {name: getattr(self.encoder, name) for name in before}
            changed = [name for name in now if not same(now[name], before[name])]
            if changed and changed != ["cache_dir"]:
                raise ValueError(
                    f"settings of the encoder, {changed}, changed after learning "
                    "began: what was learnt is about the features of before. Set them "
                    "back, or make a new recommender"
                )
            if changed:
                self._encoder_settings = now
                self.encoder_.cache_dir = self.encoder.cache_dir
        found = self.encoder_.projection_hash()
        if self.learner_.started and found != self._encoder_hash:
            raise ValueError(
                "the encoder was fitted anew after learning began: what was learnt is "
                "about the features of before. Make a new recommender"
            )
        self._encoder_hash = found

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

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Go back to where learning began when it cannot be finished."""
        saved, position = self.learner_.checkpoint(), self.ledger_position_
        try:
            yield
        except BaseException:
            self.learner_.restore(saved)
            self.ledger_position_ = position
            raise

    def _forget_rewards(self) -> None:
        self.learner_.forget_rewards()
        self.ledger_position_ = 0

    def _begin_anew(self) -> None:
        """Forget the rewards of a ledger that is learnt again; wait for the same."""
        waiting, savings = list(self.pending_.values()), self.savings_
        self._forget_rewards()
        self.learner_.guarding.owe(savings)
        for decision in waiting:
            self.learner_.await_reward(decision)

    def _fit_encoder(self, X: Any) -> None:
        """Fit the encoder once; the random projection served until now."""
        if not self.encoder_.__sklearn_is_fitted__():
            self.encoder_.fit(X)
            self._encoder_hash = self.encoder_.projection_hash()
            self.learner_.reset()
            self.learner_.log.pending = {}
