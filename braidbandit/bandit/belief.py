"""Joint Gaussian belief about the quality of every arm for one task."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.linalg import Repeats, gaussian_draws, root

Array = NDArray[np.float64]

# An arm that could win a draw only by more than so many standard deviations of its own
# noise gets none: in one of three million draws that would have changed the winner.
_REACH = 5.0
# Up to so many arms, the covariance is computed arm by arm.
_FEW = 64
MANY_ARMS = 128
"""Of more arms, only those that may win a draw get random numbers of their own."""


class Belief:
    """Joint Gaussian belief ``Z (W x) + own`` about A arms: equation (3).

    Parameters
    ----------
    Z : ndarray of shape (A, m)
        Descriptors of the arms.
    mu : ndarray of shape (m,)
        Mean of ``W x``, with ``W`` the shared parameters and ``x`` the task.
    half : ndarray of shape (m, q)
        Square root of the covariance of ``W x``.
    own : ndarray of shape (A,), optional
        What each arm's own parameters add to its mean.
    own_variance : ndarray of shape (A,), optional
        The part of its variance that is independent of everything else.
    seen : ndarray of int, shape (P,), optional
        Arms whose own parameters depend on the shared ones.
    coupling : ndarray of shape (P, q), optional
        How they do: minus their loading on the columns of ``half``.
    repeats : Repeats, optional
        Of Z; makes products cheaper where there are many arms.

    Attributes
    ----------
    mean : ndarray of shape (A,)
        Expected quality of each arm.
    mu : ndarray of shape (m,)
    own : ndarray of shape (A,)

    Examples
    --------
    >>> belief = Belief(np.eye(2), np.array([0.4, 0.6]), np.eye(2) / 2)
    >>> belief.mean.tolist(), belief.sd.tolist()
    ([0.4, 0.6], [0.5, 0.5])
    """

    def __init__(
        self,
        Z: Array,
        mu: Array,
        half: Array,
        own: Array | None = None,
        own_variance: Array | None = None,
        seen: NDArray[np.intp] | None = None,
        coupling: Array | None = None,
        repeats: Repeats | None = None,
    ) -> None:
        self.mu = mu
        self.own = np.zeros(len(Z)) if own is None else own
        self._Z, self._half, self._repeats = Z, half, repeats
        self.mean: Array = self._of_every_arm(mu) + self.own
        if own_variance is None:
            own_variance = np.zeros(len(Z))
        # Rounding may have left a variance just below 0.
        self._own_variance = np.maximum(own_variance, 0.0)
        self._seen = np.zeros(0, dtype=np.intp) if seen is None else seen
        self._coupling = np.zeros((0, half.shape[1])) if coupling is None else coupling

    @cached_property
    def sd(self) -> Array:
        """Posterior standard deviation of each arm, shape (A,)."""
        m, q = self._half.shape
        Z = self._Z
        if len(Z) <= _FEW or m >= q:
            load = self._loads()
            shared = np.einsum("aq,aq->a", load, load)
        else:
            S = self._half @ self._half.T
            if self._repeats is None:
                shared = np.einsum("am,am->a", Z @ S, Z)
            else:
                shared = self._repeats.quadratic(S)
            load = Z[self._seen] @ self._half - self._coupling
            shared[self._seen] = np.einsum("aq,aq->a", load, load)
        return np.asarray(np.sqrt(np.maximum(shared, 0.0) + self._own_variance))

    def sd_of(self, arm: int) -> float:
        """Return the posterior standard deviation of one arm, cheaper than of all."""
        if "sd" in vars(self):
            return float(self.sd[arm])
        load = self._Z[arm] @ self._half
        for slot in (self._seen == arm).nonzero()[0]:
            load = load - self._coupling[slot]
        return math.sqrt(load @ load + self._own_variance[arm])

    def covariance_with(self, arm: int) -> Array:
        """Return the covariance of every arm's quality with one arm's, shape (A,).

        Examples
        --------
        >>> belief = Belief(np.eye(2), np.zeros(2), np.array([[1.0, 0.0], [2.0, 1.0]]))
        >>> belief.covariance_with(1).tolist()
        [2.0, 5.0]
        """
        load = self._loads()
        found = load @ load[arm]
        found[arm] += self._own_variance[arm]
        return np.asarray(found)

    def among(self, arms: NDArray[np.intp]) -> Belief:
        """Return the belief about some of the arms, in the order given.

        Parameters
        ----------
        arms : ndarray of int, shape (B,)
            Distinct arms.

        Examples
        --------
        >>> belief = Belief(np.eye(3), np.array([0.4, 0.6, 0.5]), np.eye(3))
        >>> belief.among(np.array([2, 0])).mean.tolist()
        [0.5, 0.4]
        """
        place = np.full(len(self._Z), -1)
        place[arms] = np.arange(len(arms))
        slots = np.flatnonzero(place[self._seen] >= 0)
        return Belief(
            self._Z[arms],
            self.mu,
            self._half,
            self.own[arms],
            self._own_variance[arms],
            place[self._seen[slots]],
            self._coupling[slots],
        )

    def draw(
        self,
        n_draws: int,
        rng: np.random.Generator,
        scale: float = 1.0,
        offset: Array | None = None,
    ) -> Array:
        """Draw the quality of all arms jointly.

        Parameters
        ----------
        n_draws : int
        rng : Generator
        scale : float
            Multiplies every posterior standard deviation.
        offset : ndarray of shape (A,), optional
            What will be added to the draws before the best arm is looked for, minus
            infinity for arms that do not count. Of more than 128 arms, only those that
            could then win a draw get noise of their own in it.

        Returns
        -------
        ndarray of shape (n_draws, A)

        Examples
        --------
        >>> belief = Belief(np.eye(2), np.array([0.4, 0.6]), np.zeros((2, 2)))
        >>> belief.draw(1, np.random.default_rng(0)).tolist()
        [[0.4, 0.6]]
        """
        q = self._half.shape[1]
        if len(self._Z) <= min(q, _FEW):
            load = self._loads()
            covariance = load @ load.T
            covariance.flat[:: len(covariance) + 1] += self._own_variance
            return gaussian_draws(self.mean, scale * root(covariance), n_draws, rng)
        noise = scale * rng.standard_normal((n_draws, q))
        draws = self.mean + self._of_every_arm(noise @ self._half.T)
        if len(self._seen):
            draws[:, self._seen] -= noise @ self._coupling.T
        own = scale * np.sqrt(self._own_variance)
        if len(own) <= MANY_ARMS:
            # Without regard to the offset: an explanation can then tell what the same
            # draws would have led to at another price.
            return np.asarray(draws + own * rng.standard_normal(draws.shape))
        scores = draws if offset is None else draws + offset
        reach = _REACH * own
        bar = (scores - reach).max(axis=1, keepdims=True)
        # Flat: numpy finds and reaches these several times faster than row by row.
        at = np.flatnonzero(scores + reach >= bar)
        draws.ravel()[at] += own[at % len(own)] * rng.standard_normal(len(at))
        return draws

    def _loads(self) -> Array:
        """Return what every arm loads on the columns of ``half``, shape (A, q)."""
        load = self._Z @ self._half
        load[self._seen] -= self._coupling
        return np.asarray(load)

    def _of_every_arm(self, v: Array) -> Array:
        """Return ``z' v`` of every arm, shape (..., A)."""
        return v @ self._Z.T if self._repeats is None else self._repeats.times(v)
