"""What is believed of every cell of a table, and what one more cell may change.

A cell is a task and an arm. The model is that of the posterior; here all parameters are
kept with one covariance, so that the rewards of one task can be correlated whichever of
its cells are there.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.layout import Layout
from braidbandit.bandit.linalg import root
from braidbandit.bandit.posterior import Posterior

Array = NDArray[np.float64]
Rows = NDArray[np.intp]


class CellBelief:
    """Joint Gaussian belief about the quality of every arm on every task.

    Parameters
    ----------
    prior : Posterior
        Says which parameters there are, and their scales; what it learnt is not used.
    Z : ndarray of shape (A, m)
        Descriptors of the arms.
    X : ndarray of shape (n, k)
        Features of the tasks.
    common : float in [0, 1)
        Share of the noise that the rewards of a task have in common.

    Attributes
    ----------
    mean : ndarray of shape (D,)
        Of all parameters: the shared ones, then those of each arm.
    covariance : ndarray of shape (D, D)

    Examples
    --------
    Two arms; a reward of one of them moves both, as the level is common.

    >>> prior = Posterior(np.zeros((1, 1), dtype=int), n_arms=2, own_width=1)
    >>> belief = CellBelief(prior, np.ones((2, 1)), np.ones((3, 1)), common=0.0)
    >>> belief.learn(0, 1, 0.0)
    >>> bool(belief.quality(np.arange(1))[0, 0] < 0.7)
    True
    """

    def __init__(self, prior: Posterior, Z: Array, X: Array, common: float) -> None:
        self._layout, self._Z, self._X = Layout(prior.groups), Z, X
        self._own_width, self._common = prior.own_width, common
        fresh = prior.anew(prior.scales)
        own = np.einsum("add->ad", fresh.own_covariance).ravel()
        self.mean = np.append(fresh.mean, np.zeros(own.size))
        self.covariance = np.diag(np.append(np.diag(fresh.factor) ** 2, own))
        self._variance = prior.scales.noise**2
        # Of each task: how many of its cells are known, and sums over these.
        self._count = np.zeros(len(X))
        self._sum = np.zeros(len(X))
        self._features = np.zeros((len(X), len(self.mean)))

    def copy(self) -> CellBelief:
        """Return an independent copy."""
        other = copy.copy(self)
        changed = ("mean", "covariance", "_count", "_sum", "_features")
        vars(other).update({name: getattr(self, name).copy() for name in changed})
        return other

    def quality(self, tasks: Rows) -> Array:
        """Return the mean quality of every arm on some tasks, shape (A, n)."""
        return self._of_every_arm(self.mean, tasks)

    def learn(self, task: int, arm: int, reward: float) -> None:
        """Learn the score of a cell: equation (47)."""
        phi, contrast, noise, kept = self._contrasts(np.array([task]), np.array([arm]))
        gain, total = self._gains(contrast, noise)
        above = reward - kept[0] * self._sum[task] - float(contrast[0] @ self.mean)
        self._move(task, phi[0], reward, gain[:, 0], float(total[0]), above)

    def foresee(self, task: int, arm: int, at: Rows) -> Array:
        """Learn that a cell will be scored, and return how its score will move means.

        The means stay: the score is taken to be the one that is expected.

        Parameters
        ----------
        task, arm : int
        at : ndarray of int, shape (e,)
            Tasks that are asked about.

        Returns
        -------
        ndarray of shape (A, e)
            The mean quality of each arm moves by this times a standard normal number.
        """
        phi, contrast, noise, kept = self._contrasts(np.array([task]), np.array([arm]))
        gain, total = self._gains(contrast, noise)
        expected = float(contrast[0] @ self.mean) + kept[0] * self._sum[task]
        self._move(task, phi[0], expected, gain[:, 0], float(total[0]), 0.0)
        return self._of_every_arm(gain[:, 0] / np.sqrt(total[0]), at)

    def chances(self, at: Rows, n_draws: int, rng: np.random.Generator) -> Array:
        """Return how probable it is that each arm is the best, by draws.

        Parameters
        ----------
        at : ndarray of int, shape (e,)
            Tasks that are asked about.
        n_draws : int
        rng : Generator

        Returns
        -------
        ndarray of shape (A, e)
            Columns sum to 1.
        """
        noise = rng.standard_normal((n_draws, len(self.mean)))
        draws = self.mean + noise @ root(self.covariance).T
        best = self._of_every_arm(draws, at).argmax(axis=1)
        arms = np.arange(len(self._Z))
        return np.asarray((best[:, None] == arms[:, None]).mean(axis=0))

    def worth(self, tasks: Rows, arms: Rows, at: Rows, chances: Array) -> Array:
        """Return how much each of some cells tells about which arm is best: (48).

        The variance that its score takes from the difference of two arms, each drawn
        by its chance of being the best; averaged over the tasks ``at``.

        Parameters
        ----------
        tasks, arms : ndarrays of int, shape (c,)
            The cells.
        at : ndarray of int, shape (e,)
            Tasks for which an arm will be chosen.
        chances : ndarray of shape (A, e)
            From :meth:`chances`.

        Returns
        -------
        ndarray of shape (c,)
        """
        _, contrast, noise, _ = self._contrasts(tasks, arms)
        gain, total = self._gains(contrast, noise)
        moves = self._of_every_arm((gain / np.sqrt(total)).T, at)
        mean = (moves * chances).sum(axis=1, keepdims=True)
        return np.asarray((chances * (moves - mean) ** 2).sum(axis=1).mean(axis=1))

    # ---- inside ----

    def _contrasts(self, tasks: Rows, arms: Rows) -> tuple[Array, Array, Array, Array]:
        """Return features of cells, alone and less what their tasks' cells say.

        Also the variance of the noise of these contrasts, and the share of the task's
        other scores that is taken off.
        """
        shared = self._layout.features(self._Z[arms].T, self._X[tasks].T).T
        d, p = self._own_width, shared.shape[1]
        phi = np.zeros((len(tasks), self._features.shape[1]))
        phi[:, :p] = shared
        if d:
            place = p + d * arms[:, None] + np.arange(d)
            np.put_along_axis(phi, place, self._X[tasks, :d], axis=1)
        count, rho = self._count[tasks], self._common
        kept = rho / (1.0 - rho + rho * count)
        noise = self._variance * (1.0 - rho * kept * count)
        return phi, phi - kept[:, None] * self._features[tasks], noise, kept

    def _gains(self, contrast: Array, noise: Array) -> tuple[Array, Array]:
        """Return covariances of all parameters with contrasts, and their variances."""
        gain = self.covariance @ contrast.T
        return gain, (contrast * gain.T).sum(axis=1) + noise

    def _move(
        self,
        task: int,
        phi: Array,
        reward: float,
        gain: Array,
        total: float,
        above: float,
    ) -> None:
        self.mean += gain * (above / total)
        self.covariance -= np.multiply.outer(gain / total, gain)
        self._count[task] += 1.0
        self._sum[task] += reward
        self._features[task] += phi

    def _of_every_arm(self, parameters: Array, tasks: Rows) -> Array:
        """Return what parameters (..., D) give for arms and tasks, (..., A, n)."""
        p, d = len(self._layout), self._own_width
        X = self._X[tasks]
        found = self._Z @ self._layout.matrix(parameters[..., :p]) @ X.T
        if d:
            own = parameters[..., p:].reshape(*parameters.shape[:-1], len(self._Z), d)
            found += own @ X[:, :d].T
        return np.asarray(found)
