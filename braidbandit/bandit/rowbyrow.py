"""RowByRow: the numeric bandit one row at a time, without checks of the input."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braidbandit._checks import same
from braidbandit._forks import process_id
from braidbandit._named import Labels, feature_names, in_columns, in_rows, ordered
from braidbandit.bandit.belief import Belief
from braidbandit.bandit.choice import Choice, Policy
from braidbandit.bandit.policies import EpsilonGreedy
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales, parameter_groups
from braidbandit.bandit.settings import check_policy, seeded

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FORGET_EVERY = 50
# Prior scales are chosen again after so many updates, and whenever they double.
_REFINE_FROM = 64
# A column beyond the one drowns the others, one below the other does not count.
_LARGEST, _SMALLEST = 150.0, 0.05
# Of so many rows a column of any use has one that is not near 0.
_ENOUGH_ROWS = 10


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
    _seed: Any
    n_updates_: int
    clock_: int
    faded_: float
    notices_: list[tuple[str, type[Warning]]]
    _rng: np.random.Generator
    _seeded_in: str | None

    @property
    def rng_(self) -> np.random.Generator:
        """The random generator; nobody's seed is another one in each process."""
        if self._seeded_in not in (None, process_id()):
            self.seed()
        return self._rng

    @rng_.setter
    def rng_(self, rng: np.random.Generator) -> None:
        self._rng, self._seeded_in = rng, None

    def seed(self) -> None:
        """Draw from now on what nobody can foretell, nor another process draw too."""
        self._rng, self._seeded_in = np.random.default_rng(), process_id()

    def open(self, arms: NDArray[Any]) -> None:
        """Create the arms and the random generator."""
        shared, names = self._shared(arms)
        self.classes_ = arms
        self.Z_ = np.ascontiguousarray(np.column_stack([np.ones(len(arms)), shared]))
        self.columns_ = ("bias", *names)
        self._begin_sequence()
        self.notices_, self._failed = [], False
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
            self._begin_sequence()

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
        if forgets and self._solved(
            lambda: posterior.forget(self.forgetting**_FORGET_EVERY)
        ):
            faded += _FORGET_EVERY * math.log(self.forgetting)
        if refines:
            self._solved(posterior.refine_scales)
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

    def notice(self, message: str, category: type[Warning] = UserWarning) -> None:
        """Keep a warning until all is learnt; see :meth:`tell`."""
        self.notices_ = [*self.notices_, (message, category)]

    def tell(self, stacklevel: int = 3) -> None:
        """Give the warnings that learning left, once all is learnt.

        A filter may turn them into errors, and then nothing is to be done again.
        """
        told, self.notices_ = self.notices_, []
        for message, category in dict.fromkeys(told):
            warnings.warn(message, category, stacklevel=stacklevel)

    # ---- inside ----

    def _begin_sequence(self) -> None:
        if self.random_state is None:
            self.seed()
        else:
            self.rng_ = seeded(self.random_state)
        self._seed = self.random_state

    def _solved(self, change: Callable[[], None]) -> bool:
        """Change the posterior from all its sums, or leave it where rounding is all.

        Then every later reward is still learnt, under the scales of before.
        """
        try:
            change()
        except np.linalg.LinAlgError:
            if not self._failed:
                message = (
                    "prior scales could not be chosen again, or nothing be forgotten: "
                    "rewards or features differ in size beyond what can be computed "
                    "with. Rewards are learnt under the scales of before; standardise "
                    "the features, and keep weights near 1"
                )
                self.notice(message)
            self._failed = True
            return False
        return True

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
        check_scale(shared, names, "descriptors")
        return shared, names

    def _policy(self) -> Policy:
        check_policy(self.policy)
        return self.policy if self.policy is not None else EpsilonGreedy()


def check_scale(X: Array, names: Sequence[str] | None, what: str) -> None:
    """Refuse columns that drown all others, shape (n, d); names the first of them."""
    beyond = np.abs(X) > _LARGEST
    if beyond.any():
        column = int(beyond.any(axis=0).argmax())
        name = column if names is None else repr(names[column])
        raise ValueError(
            f"column {name} of the {what} holds {X[beyond[:, column], column][0]:g}, "
            f"expected values around 0 of about unit variance, at most {_LARGEST:g}. "
            "Standardise, make_pipeline(StandardScaler(), LinearBandit()), and clip "
            "what is far from all else"
        )


def too_small(X: Array) -> list[int]:
    """Return the columns that are not all 0, but too small to count, even together."""
    largest = np.abs(X).max(axis=0)
    small = (largest > 0) & (largest < _SMALLEST)
    together = np.linalg.norm(X[:, small], axis=1).max()
    if len(X) < _ENOUGH_ROWS or together >= _SMALLEST:
        return []
    return np.flatnonzero(small).tolist()
