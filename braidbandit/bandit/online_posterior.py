"""OnlinePosterior: a posterior that learns reward by reward, forgets, and refines."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import check_number, check_whole
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales, parameter_groups

Array = NDArray[np.float64]

FORGET_EVERY = 50
"""Number of rewards for which forgetting is done at once."""

# Prior scales are refined after so many rewards, and whenever their number doubles.
_REFINE_FROM = 64
# A smaller share of a reward cannot be told from nothing, and would become 0.
_LEAST_KEPT = 1e-100

UNSOLVED = (
    "refining the prior scales, or forgetting, has failed: rewards or features differ "
    "too much in size for floating-point numbers. Rewards are still learnt, under the "
    "scales of before; standardise the features, and keep weights near 1"
)
"""Warning to give when :meth:`OnlinePosterior.take_notice` says so."""


class OnlinePosterior:
    """A posterior that learns rewards one by one, forgets, and refines its scales.

    Every 50 rewards it forgets, and at the 64th, 128th, 256th ... reward it chooses its
    prior scales again. Both are counted in rewards learnt, so a replay does them at the
    same places.

    Parameters
    ----------
    posterior : Posterior
        Of no rewards, or of a warm start; it belongs to this object from now on.
    forgetting : float in (0, 1]
        Share of what was learnt that is kept at each reward; 1 keeps all.

    Attributes
    ----------
    posterior : Posterior
    n_updates : int
        Number of rewards in the posterior, without those of a warm start.
    clock : int
        Number of rewards and comparisons learnt so far, those taken back included.
    faded : float
        Log of the share that forgetting has left of the first reward.
    unsolved : bool
        Whether refining or forgetting has ever failed. Rewards were learnt all the
        same.

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
        blocks: NDArray[np.int64] | None = None,
    ) -> OnlinePosterior:
        """Return one that has learnt nothing, over arms with these descriptors.

        Parameters
        ----------
        columns : sequence of str, length m
            Names of the descriptor columns, as :func:`parameter_groups` takes them.
        width : int
            Number of task features k, the constant in front included.
        n_arms : int
        prior : PriorScales, optional
        forgetting : float in (0, 1]
        max_parameters : int
            Arms have task slopes of their own, not only an intercept, as long as these
            are no more than so many parameters for all arms together.
        blocks : ndarray of int, shape (k,), optional
            As :class:`Posterior` takes them.
        """
        own_width = width if n_arms * width <= max_parameters else 1
        groups = parameter_groups(columns, width)
        return cls(Posterior(groups, prior, n_arms, own_width, blocks), forgetting)

    @property
    def width(self) -> int:
        """Number of task features k."""
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
        """Return one that goes on from where another was saved.

        Parameters
        ----------
        posterior : Posterior
        forgetting : float in (0, 1]
        n_updates, clock, faded
            The attributes that it had.
        """
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
        """Learn one reward; forget and refine the prior scales when it is time.

        Parameters
        ----------
        arm : int
        z : ndarray of shape (m,)
            Descriptor of the arm.
        x : ndarray of shape (k,)
            Features of the task.
        reward : float
        weight : float
            Above 0, at most 1e6; divides the noise variance.

        Returns
        -------
        float
            How surprising the reward was, in standard deviations.

        Raises
        ------
        ValueError
            As :meth:`Posterior.update`. Nothing has changed then.
        """
        surprise = self._learn(lambda p: p.update(arm, z, x, reward, weight))
        self.n_updates += 1
        return surprise

    def compare(
        self,
        arms: tuple[int, int],
        Z: tuple[Array, Array],
        x: Array,
        value: float,
        weight: float,
        counted: float = 1.0,
    ) -> float:
        """Learn how much better one arm was than another; otherwise as :meth:`update`.

        Parameters
        ----------
        arms, Z, x, value, weight, counted
            As :meth:`Posterior.compare` takes them.

        Returns
        -------
        float
            How surprising it was, in standard deviations.
        """
        return self._learn(
            lambda p: p.compare(arms, Z, x, value, weight, counted=counted)
        )

    def uncompare(
        self,
        arms: tuple[int, int],
        Z: tuple[Array, Array],
        x: Array,
        value: float,
        weight: float,
        faded: float,
        counted: float = 1.0,
    ) -> None:
        """Take a comparison back.

        Parameters
        ----------
        arms, Z, x, value, weight, counted
            Those with which :meth:`compare` learnt it.
        faded : float
            The attribute as it was then.

        Raises
        ------
        ValueError
            As :meth:`Posterior.uncompare`. Nothing has changed then.
        """
        kept = self.kept(faded)
        self.posterior.uncompare(arms, Z, x, value, weight, kept, counted)

    def _learn(self, change: Callable[[Posterior], float]) -> float:
        """Learn one thing; forget and refine the prior scales when it is time."""
        clock = self.clock + 1
        # Both solve for the whole posterior, so they are done for many rewards at once.
        forgets = self.forgetting < 1.0 and clock % FORGET_EVERY == 0
        refines = clock >= _REFINE_FROM and clock & (clock - 1) == 0
        # On a copy, so that an error leaves this one as it was.
        posterior = self.posterior.copy() if forgets or refines else self.posterior
        surprise = change(posterior)
        faded, unsolved = self.faded, self.unsolved
        if forgets:
            share = max(self.forgetting**FORGET_EVERY, _LEAST_KEPT)
            if _solved(lambda: posterior.forget(share)):
                faded += FORGET_EVERY * math.log(self.forgetting)
            else:
                unsolved = True
        if refines:
            unsolved |= not _solved(posterior.refine_scales)
        self.posterior, self.clock = posterior, clock
        self.faded, self.unsolved = faded, unsolved
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
        """Take one reward back.

        Parameters
        ----------
        arm, z, x, reward, weight
            Those with which :meth:`update` learnt it.
        faded : float
            The attribute as it was then.

        Raises
        ------
        ValueError
            As :meth:`Posterior.downdate`. Nothing has changed then.
        """
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
        """Put another reward in the place of one that was learnt.

        Parameters
        ----------
        arm, z, x, weight, faded
            As in :meth:`downdate`.
        rewards : tuple of two floats
            The one that was learnt, and the one to learn instead.

        Raises
        ------
        ValueError
            When either cannot be done. Nothing has changed then.
        """
        posterior, kept = self.posterior.copy(), self.kept(faded)
        posterior.downdate(arm, z, x, rewards[0], weight, kept)
        posterior.update(arm, z, x, rewards[1], weight, kept)
        self.posterior = posterior

    def carry_over(self, change: Callable[[Posterior], Posterior]) -> None:
        """Go on with another posterior, of other arms or columns.

        Parameters
        ----------
        change : callable
            Takes the present posterior and returns the one to go on with, as
            :meth:`Posterior.take_arms` and :meth:`Posterior.with_columns` do.
        """
        self.posterior = change(self.posterior)

    def widen(self, arm: int, share: float) -> None:
        """Allow for a change of an arm: see :meth:`Posterior.widen`."""
        self.posterior.widen(arm, share)

    def forget_at(self, forgetting: float) -> None:
        """Keep another share of what was learnt at each reward from now on."""
        self.forgetting = forgetting

    def take_notice(self) -> bool:
        """Return whether :attr:`unsolved` has become true since the last call."""
        new = self.unsolved and not self._noticed
        self._noticed = self.unsolved
        return new

    def kept(self, faded: float) -> float:
        """Return the share that forgetting has left of a reward.

        Forgetting takes the same share of every reward, so taking a reward back with
        what is left of its weight is exact.

        Parameters
        ----------
        faded : float
            The attribute as it was when the reward was learnt.
        """
        return math.exp(self.faded - faded)


def _solved(change: Callable[[], None]) -> bool:
    """Make a change that solves for the posterior; return whether it was possible.

    Where it was not, because only rounding is left to compute with, the posterior is as
    it was, and later rewards are still learnt.
    """
    try:
        change()
    except np.linalg.LinAlgError:
        return False
    return True


def check_learning(forgetting: Any, prior: Any, max_parameters: Any) -> None:
    """Refuse settings with which nothing could be learnt.

    Raises
    ------
    ValueError, TypeError
        When ``forgetting`` is not in (0, 1], ``prior`` is no PriorScales, or
        ``max_parameters`` is no whole number from 0 up.
    """
    if not 0.0 < check_number("forgetting", forgetting) <= 1.0:
        raise ValueError(f"forgetting lies in (0, 1], received {forgetting!r}")
    if prior is not None and not isinstance(prior, PriorScales):
        raise TypeError(f"prior is PriorScales(...) or None, received {prior!r}")
    check_whole("max_parameters", max_parameters, 0)
