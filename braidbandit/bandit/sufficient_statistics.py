"""What rewards say about the parameters: sums over them, of a size that stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.layout import Layout

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SufficientStatistics:
    """Weighted sums over rewards, each counted from the prior mean.

    Under Gaussian noise they hold everything that the rewards say about the shared
    parameters ``theta`` (p of them) and about the d parameters that each of the A arms
    has of its own: section 2 of ``docs/math.md``.

    Attributes
    ----------
    gram : ndarray of shape (p, p)
        ``Phi' Phi`` of the shared features.
    cross : ndarray of shape (A, d, p)
        ``X_a' Phi_a`` of each arm's own features with the shared ones.
    own : ndarray of shape (A, d, d)
        ``X_a' X_a``.
    moment : ndarray of shape (p,)
        ``Phi' r``.
    own_moment : ndarray of shape (A, d)
        ``X_a' r_a``.
    square : float
        ``r' r``.
    count : float
        Number of rewards.

    Examples
    --------
    >>> SufficientStatistics.of_nothing(p=2, arms=3, d=1).cross.shape
    (3, 1, 2)
    """

    gram: Array
    cross: Array
    own: Array
    moment: Array
    own_moment: Array
    square: float
    count: float

    @classmethod
    def of_nothing(cls, p: int, arms: int, d: int) -> SufficientStatistics:
        """Return the sums before any reward, all 0.

        Parameters
        ----------
        p : int
            Number of shared parameters.
        arms : int
        d : int
            Number of parameters that each arm has of its own.
        """
        return cls(
            np.zeros((p, p)),
            np.zeros((arms, d, p)),
            np.zeros((arms, d, d)),
            np.zeros(p),
            np.zeros((arms, d)),
            0.0,
            0.0,
        )

    @property
    def seen(self) -> NDArray[np.intp]:
        """Arms that have any reward, in ascending order."""
        return np.flatnonzero(np.einsum("add->a", self.own) > 0)

    def scaled(self, share: float) -> SufficientStatistics:
        """Return the sums when every reward counts ``share`` as much: equation (10)."""
        return SufficientStatistics(
            share * self.gram,
            share * self.cross,
            share * self.own,
            share * self.moment,
            share * self.own_moment,
            share * self.square,
            share * self.count,
        )

    def of_seen(self) -> SufficientStatistics:
        """Return the same sums without the arms that have no reward."""
        seen = self.seen
        return replace(
            self,
            cross=self.cross[seen],
            own=self.own[seen],
            own_moment=self.own_moment[seen],
        )

    def with_table(
        self,
        layout: Layout,
        arms: Sequence[int],
        Z: Array,
        X: Array,
        R: Array,
        V: Array,
    ) -> SufficientStatistics:
        """Return the sums over these rewards and a table of more: equation (4).

        The features of a single reward of the table are never formed.

        Parameters
        ----------
        layout : Layout
            Of the shared parameters.
        arms : sequence of int, length B
            Distinct arms, the columns of the table.
        Z : ndarray of shape (B, m)
            Their descriptors.
        X : ndarray of shape (n, k)
            Features of the tasks.
        R : ndarray of shape (n, B)
            Rewards, counted from the prior mean.
        V : ndarray of shape (B, B)
            Precision of the rewards of one task, in units of the precision of one.
        """
        own = X[:, : self.own.shape[-1]]
        VZ, VR, index = V @ Z, R @ V, np.asarray(arms, dtype=np.intp)
        cross, square = self.cross.copy(), self.own.copy()
        own_moment = self.own_moment.copy()
        cross[index] += layout.outer(VZ, own.T @ X)
        # Arms stay independent given the shared parameters: of V, their own part
        # keeps what it says about differences. Larger than V, so nothing turns
        # negative, and exact where the shared parameters carry the common level.
        square[index] += np.linalg.norm(V, 2) * (own.T @ own)
        own_moment[index] += VR.T @ own
        return SufficientStatistics(
            self.gram + layout.of_pairs(Z.T @ VZ, X.T @ X),
            cross,
            square,
            self.moment + layout.entries(Z.T @ VR.T @ X),
            own_moment,
            self.square + float((R * VR).sum()),
            self.count + R.size,
        )
