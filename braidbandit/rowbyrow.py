"""RowByRow: the numeric bandit one row at a time, without checks of the input."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braidbandit.belief import Belief
from braidbandit.choice import Choice, Policy
from braidbandit.naming import Labels, feature_names, in_columns, in_rows, ordered
from braidbandit.policies import EpsilonGreedy
from braidbandit.posterior import Posterior
from braidbandit.prior import PriorScales, parameter_groups
from braidbandit.settings import check_policy, same, seeded

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FORGET_EVERY = 50
# Prior scales are chosen again after so many updates, and whenever they double.
_REFINE_FROM = 64


class RowByRow:
    """What estimators on top of :class:`LinearBandit` use; see there."""

    if TYPE_CHECKING:
        policy: Policy | None
        descriptors: ArrayLike | None
        columns: Sequence[str] | None
        prior: PriorScales | None
        forgetting: float
        max_parameters: int
        random_state: int | np.random.Generator | np.random.RandomState | None

    classes_: NDArray[Any]
    columns_: tuple[str, ...]
    Z_: Array
    posterior_: Posterior
    rng_: np.random.Generator
    _seed: Any
    n_updates_: int
    clock_: int
    faded_: float

    def open(self, arms: NDArray[Any]) -> None:
        """Create the arms and the random generator."""
        shared, names = self._shared(arms)
        self.classes_ = arms
        self.Z_ = np.ascontiguousarray(np.column_stack([np.ones(len(arms)), shared]))
        self.columns_ = ("bias", *names)
        self.rng_, self._seed = seeded(self.random_state), self.random_state
        self.count_anew()

    def start(self, width: int) -> None:
        """Create the posterior for features of ``width`` columns, the first all 1."""
        n_arms = len(self.classes_)
        self.posterior_ = Posterior(
            parameter_groups(self.columns_, width),
            self.prior,
            n_arms=n_arms,
            own_width=width if n_arms * width <= self.max_parameters else 1,
        )
        self.count_anew()

    def reseed(self) -> None:
        """Begin a new random sequence, if ``random_state`` is another by now."""
        if not same(self.random_state, self._seed):
            self.rng_, self._seed = seeded(self.random_state), self.random_state

    def count_anew(self) -> None:
        """No reward was learnt, and none forgotten."""
        self.n_updates_ = self.clock_ = 0
        self.faded_ = 0.0

    def select(
        self,
        belief: Belief,
        cost_term: Array,
        eligible: Mask,
    ) -> Choice:
        """Choose one arm with the bandit's generator."""
        self.reseed()
        return self._policy().select(belief, cost_term, eligible, self.rng_)

    def probabilities(self, belief: Belief, cost_term: Array, eligible: Mask) -> Array:
        """Return the probability of each arm of being chosen.

        Every call starts from the same state of the generator, so that a row's
        probabilities do not depend on the rows before it.
        """
        changed = not same(self.random_state, self._seed)
        rng = seeded(self.random_state) if changed else copy.deepcopy(self.rng_)
        return self._policy().probabilities(belief, cost_term, eligible, rng)

    def learn(
        self, arm: int, z: Array, x: Array, reward: float, weight: float = 1.0
    ) -> float:
        """Learn one reward; forget, and choose prior scales, when it is time.

        Returns how surprising the reward was, in standard deviations.
        """
        clock = self.clock_ + 1
        # Both factor the whole covariance, so they are done for many updates at
        # once; counted in updates, so that a replay does them at the same places.
        forgets = self.forgetting < 1.0 and clock % _FORGET_EVERY == 0
        refines = clock >= _REFINE_FROM and clock & (clock - 1) == 0
        # On a copy, as they may fail: then nothing was learnt.
        posterior = self.posterior_.copy() if forgets or refines else self.posterior_
        surprise = posterior.update(arm, z, x, reward, weight)
        faded = self.faded_
        if forgets:
            posterior.forget(self.forgetting**_FORGET_EVERY)
            faded += _FORGET_EVERY * math.log(self.forgetting)
        if refines:
            posterior.refine_scales()
        self.posterior_, self.clock_, self.faded_ = posterior, clock, faded
        self.n_updates_ += 1
        return surprise

    def unlearn(
        self, arm: int, z: Array, x: Array, reward: float, weight: float, faded: float
    ) -> None:
        """Take back a reward that was learnt when ``faded_`` was ``faded``."""
        self.posterior_.downdate(arm, z, x, reward, weight, self.kept(faded))
        self.n_updates_ -= 1

    def kept(self, faded: float) -> float:
        """Return the share that is left of a reward learnt when so much had faded.

        Forgetting makes every reward count less by the same share, so taking it back
        with what is left of its weight is exact.
        """
        return math.exp(self.faded_ - faded)

    # ---- inside ----

    def _shared(self, arms: NDArray[Any]) -> tuple[Array, list[str]]:
        n_arms, given, names = len(arms), self.descriptors, self.columns
        if given is None:
            if names is not None:
                raise ValueError(f"columns {names!r} name no descriptors; give some")
            return np.zeros((n_arms, 0)), []
        if isinstance(given, Mapping):
            given = in_columns(given, arms.tolist(), "descriptors").T
        (given,) = in_rows(Labels(labels=arms.tolist()), {"descriptors": given})
        if names is None:
            names = feature_names(given)
        else:
            names = ordered(names, "columns")
            given = in_columns(given, names, "descriptors")
        shared = np.asarray(given, dtype=np.float64)
        if shared.ndim != 2 or len(shared) != n_arms or not np.isfinite(shared).all():
            raise ValueError(
                f"descriptors must be finite of shape ({n_arms}, q), one row per arm, "
                f"received shape {shared.shape}"
            )
        names = list(names or (f"feature:{j}" for j in range(shared.shape[1])))
        if len(set(names)) != shared.shape[1]:
            raise ValueError(f"expected {shared.shape[1]} column names, got {names}")
        return shared, names

    def _policy(self) -> Policy:
        check_policy(self.policy)
        return self.policy if self.policy is not None else EpsilonGreedy()
