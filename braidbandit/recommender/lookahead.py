"""Decisions in flight: what their rewards will teach is counted in advance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.posterior import Posterior

Array = NDArray[np.float64]
Pull = tuple[int, Array, Array]

MOST_IN_FLIGHT = 32
"""Only the newest pulls count: traffic never rated must not end exploration."""

# Pulls that left without a reward are taken back one by one; rounding adds up, so the
# posterior is made anew after so many.
_MOST_LEFT = 1000


class LookAhead:
    """Keeps a posterior that is ahead by pulls whose rewards have not come yet.

    The covariance of a linear model does not depend on the rewards, so it is known
    today what it will be once the pending rewards have arrived: every pull is learnt
    with the reward that is expected, which leaves the mean where it is. Choosing
    with that covariance keeps concurrent decisions from all exploring the same arm.

    References
    ----------
    Desautels, Krause and Burdick (2014), *Parallelizing exploration-exploitation
    trade-offs in Gaussian process bandit optimization*.

    Examples
    --------
    One parameter, prior N(0.7, 0.09), noise 0.09: one pull halves the variance.

    >>> from braidbandit.bandit.prior import PriorScales
    >>> posterior = Posterior(np.zeros((1, 1), dtype=int), PriorScales(noise=0.3))
    >>> one = np.ones(1)
    >>> ahead = LookAhead().ahead(posterior, {"d1": (0, one, one)})
    >>> round(float(ahead.factor[0, 0] ** 2), 12), round(float(ahead.mean[0]), 12)
    (0.045, 0.7)
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the posterior: it was changed in place."""
        self._mean: Array | None = None
        self._ahead: Posterior | None = None
        self.is_ahead = False
        self._pulls: dict[str, Pull] = {}
        self._n_left = 0

    def ahead(self, posterior: Posterior, pulls: Mapping[str, Pull]) -> Posterior:
        """Return the posterior as it will be once the pulls have been rewarded.

        Parameters
        ----------
        posterior : Posterior
        pulls : mapping from decision id to (arm, z, x)
            Row, descriptor and features of each pull, oldest first.
        """
        if not pulls:
            return posterior
        # Every way of learning makes a new mean.
        ahead, same = self._ahead, self._mean is posterior.mean
        if ahead is None or not same or self._n_left >= _MOST_LEFT:
            ahead = posterior.copy()
            self._mean, self._ahead, self.is_ahead = posterior.mean, ahead, True
            self._pulls, self._n_left = {}, 0
        for name in [name for name in self._pulls if name not in pulls]:
            arm, z, x = self._pulls.pop(name)
            ahead.downdate(arm, z, x, ahead.expected(arm, z, x))
            self._n_left += 1
        for name, (arm, z, x) in pulls.items():
            if name not in self._pulls:
                ahead.update(arm, z, x, ahead.expected(arm, z, x))
                self._pulls[name] = (arm, z, x)
        return ahead

    def rewarded(
        self, before: Array, posterior: Posterior, name: str, pull: Pull, weight: float
    ) -> None:
        """Follow one update of the posterior: the reward of this pull has come.

        What it says about the covariance is in the posterior ahead already, so only
        the mean moves there.

        Parameters
        ----------
        before : ndarray
            The mean from which the posterior was updated.
        posterior : Posterior
        name : str
            Id of the decision.
        pull : tuple of (arm, z, x)
        weight : float
            With which the reward was learnt.
        """
        ahead = self._ahead
        if ahead is None or self._mean is not before or weight != 1.0:
            return  # made anew when it is next asked for
        if ahead.solved != posterior.solved:
            return
        if self._pulls.pop(name, None) is None:
            arm, z, x = pull
            ahead.update(arm, z, x, ahead.expected(arm, z, x))
        ahead.take_means(posterior)
        self._mean = posterior.mean
