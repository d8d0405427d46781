"""OnlinePosterior: a posterior that learns reward by reward, forgets, and refines."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_whole
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales, parameter_groups

Array = NDArray[np.float64]

FORGET_EVERY = 50
"""Forgetting is done for so many rewards at once."""

# Prior scales are chosen again after so many rewards, and whenever these double.
_REFINE_FROM = 64

UNSOLVED = (
    "prior scales could not be chosen again, or nothing be forgotten: rewards or "
    "features differ in size beyond what can be computed with. Rewards are learnt "
    "under the scales of before; standardise the features, and keep weights near 1"
)
"""What to tell when :attr:`OnlinePosterior.unsolved` becomes true."""


class OnlinePosterior:
    """A posterior of rewards that come one by one.

    Parameters
    ----------
    posterior : Posterior
        Of no rewards, or of a warm start.
    forgetting : float in (0, 1]
        Share of what was learnt that is kept at each reward; 1 keeps all.

    Attributes
    ----------
    posterior : Posterior
    n_updates : int
        Rewards in the posterior, the warm start not counted.
    clock : int
        Rewards learnt so far, those taken back included: forgetting counts these.
    faded : float
        Log of the share that forgetting has left of the first reward.
    unsolved : bool
        Whether prior scales could not be chosen again, or nothing be forgotten.

    Examples
    --------
    >>> online = OnlinePosterior.start(["bias"], width=1, n_arms=1)
    >>> one = np.ones(1)
    >>> surprise = online.update(0, one, one, reward=1.0)
    >>> online.downdate(0, one, one, reward=1.0, faded=online.faded)
    >>> online.n_updates, online.clock, round(float(online.posterior.mean[0]), 12)
    (0, 1, 0.7)
    """

    def __init__(self, posterior: Posterior, forgetting: float = 1.0) -> None:
        self.posterior = posterior
        self.forgetting = forgetting
        self.n_updates = self.clock = 0
        self.faded = 0.0
        self.unsolved = self._noticed = False

    @classmethod
    def start(
        cls,
        columns: Sequence[str],
        width: int,
        n_arms: int,
        *,
        prior: PriorScales | None = None,
        forgetting: float = 1.0,
        max_parameters: int = 640,
    ) -> OnlinePosterior:
        """Return the prior over arms with these descriptor columns.

        Parameters
        ----------
        columns : sequence of str, length m
        width : int
            Number of task features k, the constant in front included.
        n_arms : int
        prior : PriorScales, optional
        forgetting : float in (0, 1]
        max_parameters : int
            Arms have task slopes of their own, not only an intercept, while these are
            no more parameters than this.
        """
        own_width = width if n_arms * width <= max_parameters else 1
        groups = parameter_groups(columns, width)
        return cls(Posterior(groups, prior, n_arms, own_width), forgetting)

    @property
    def width(self) -> int:
        """The number of task features k."""
        return self.posterior.groups.shape[1]

    @classmethod
    def resume(
        cls,
        posterior: Posterior,
        forgetting: float,
        *,
        n_updates: int,
        clock: int,
        faded: float,
    ) -> OnlinePosterior:
        """Return the one that had come so far; see the attributes."""
        other = cls(posterior, forgetting)
        other.n_updates, other.clock, other.faded = n_updates, clock, faded
        return other

    def copy(self) -> OnlinePosterior:
        """Return an independent copy."""
        other = copy.copy(self)
        other.posterior = self.posterior.copy()
        return other

    def update(
        self, arm: int, z: Array, x: Array, reward: float, weight: float = 1.0
    ) -> float:
        """Learn one reward; forget, and choose prior scales, when it is time.

        Parameters
        ----------
        arm : int
        z : ndarray of shape (m,)
        x : ndarray of shape (k,)
        reward : float
        weight : float
            Above 0; divides the noise variance.

        Returns
        -------
        float
            How surprising the reward was, in standard deviations.
        """
        clock = self.clock + 1
        # Both factor the whole covariance, so they are done for many rewards at once;
        # counted in rewards, so that a replay does them at the same places.
        forgets = self.forgetting < 1.0 and clock % FORGET_EVERY == 0
        refines = clock >= _REFINE_FROM and clock & (clock - 1) == 0
        # On a copy, as they may fail: then nothing was learnt.
        posterior = self.posterior.copy() if forgets or refines else self.posterior
        surprise = posterior.update(arm, z, x, reward, weight)
        faded, unsolved = self.faded, self.unsolved
        if forgets:
            if _solved(lambda: posterior.forget(self.forgetting**FORGET_EVERY)):
                faded += FORGET_EVERY * math.log(self.forgetting)
            else:
                unsolved = True
        if refines:
            unsolved |= not _solved(posterior.refine_scales)
        self.posterior, self.clock = posterior, clock
        self.faded, self.unsolved = faded, unsolved
        self.n_updates += 1
        return surprise

    def downdate(
        self,
        arm: int,
        z: Array,
        x: Array,
        reward: float,
        weight: float = 1.0,
        faded: float = 0.0,
    ) -> None:
        """Take back a reward that was learnt when :attr:`faded` was ``faded``."""
        self.posterior.downdate(arm, z, x, reward, weight, self.kept(faded))
        self.n_updates -= 1

    def replace(
        self,
        arm: int,
        z: Array,
        x: Array,
        rewards: tuple[float, float],
        weight: float,
        faded: float,
    ) -> None:
        """Put another reward, the second, in the place of the first one."""
        posterior, kept = self.posterior.copy(), self.kept(faded)
        posterior.downdate(arm, z, x, rewards[0], weight, kept)
        posterior.update(arm, z, x, rewards[1], weight, kept)
        self.posterior = posterior

    def carry_over(self, change: Callable[[Posterior], Posterior]) -> None:
        """Go on with the posterior that a change returns: other arms or columns."""
        self.posterior = change(self.posterior)

    def widen(self, arm: int, share: float) -> None:
        """Take an arm for changed; see :meth:`Posterior.widen`."""
        self.posterior.widen(arm, share)

    def forget_at(self, forgetting: float) -> None:
        """Keep another share of what was learnt at each reward from now on."""
        self.forgetting = forgetting

    def take_notice(self) -> bool:
        """Whether something could not be solved that was not noticed before."""
        new = self.unsolved and not self._noticed
        self._noticed = self.unsolved
        return new

    def kept(self, faded: float) -> float:
        """Return the share that is left of a reward learnt when so much had faded.

        Forgetting makes every reward count less by the same share, so taking it back
        with what is left of its weight is exact.
        """
        return math.exp(self.faded - faded)


def _solved(change: Callable[[], None]) -> bool:
    """Change a posterior from all its sums, or leave it where rounding is all.

    Then every later reward is still learnt, under the scales of before.
    """
    try:
        change()
    except np.linalg.LinAlgError:
        return False
    return True


def check_learning(forgetting: Any, prior: Any, max_parameters: Any) -> None:
    """Refuse settings that learning could not go by."""
    if not 0.0 < forgetting <= 1.0:
        raise ValueError(f"forgetting lies in (0, 1], received {forgetting!r}")
    if prior is not None and not isinstance(prior, PriorScales):
        raise TypeError(f"prior is PriorScales(...) or None, received {prior!r}")
    check_whole("max_parameters", max_parameters, 0)
