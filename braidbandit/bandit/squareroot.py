"""A Gaussian posterior as a square root: believing, and learning reward by reward.

Equations are numbered in ``docs/math.md``.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import MOST_WEIGHT
from braidbandit.bandit import linalg
from braidbandit.bandit.belief import Belief
from braidbandit.bandit.prior import PriorScales

if TYPE_CHECKING:
    from typing_extensions import Self

Array = NDArray[np.float64]

# Larger features leave too few digits to what they are added to.
_LARGEST = 1e4


class SquareRoot:
    """What a :class:`Posterior` believes, and how one reward moves it.

    See there for the attributes.
    """

    mean: Array
    factor: Array
    own_mean: Array
    own_covariance: Array
    seen: NDArray[np.int64]
    own_load: Array
    own_change: Array
    square: float
    count: float
    scales: PriorScales
    solved: int

    groups: NDArray[np.int64]
    _rows: NDArray[np.intp]
    _columns: NDArray[np.intp]
    own_groups: NDArray[np.int64]
    _runs: list[tuple[slice, slice, int]]

    ARRAYS = (
        "mean",
        "factor",
        "own_mean",
        "own_covariance",
        "seen",
        "own_load",
        "own_change",
    )

    @property
    def n_parameters(self) -> int:
        """The number of shared parameters p."""
        return len(self._rows)

    @property
    def n_arms(self) -> int:
        """The number of arms A."""
        return len(self.own_mean)

    @property
    def own_width(self) -> int:
        """The number of parameters d that each arm has of its own."""
        return len(self.own_groups)

    def copy(self) -> Self:
        """Return an independent copy."""
        other = copy.copy(self)
        for name in self.ARRAYS:
            setattr(other, name, getattr(self, name).copy())
        return other

    # ---- believing ----

    def belief(
        self, Z: Array, x: Array, repeats: linalg.Repeats | None = None
    ) -> Belief:
        """Return the joint belief about every arm on the task x: equations (2), (3).

        ``repeats`` of Z makes this cheaper where there are many arms.
        """
        x, p = self._features(x), len(self.mean)
        mu, half = np.empty(len(self.groups)), np.empty((len(self.groups), p))
        for rows, entries, width in self._runs:
            # Rows of W with as many parameters each, which are consecutive.
            if width == 1:
                mu[rows], half[rows] = self.mean[entries], self.factor[entries]
            else:
                mu[rows] = self.mean[entries].reshape(-1, width) @ x[:width]
                half[rows] = x[:width] @ self.factor[entries].reshape(-1, width, p)
        own = self._own_of_one(x[: self.own_width])
        return Belief(Z, mu, half, *own, repeats)

    def means(self, Z: Array, X: Array) -> Array:
        """Return the mean quality of every arm on every task, shape (n, A)."""
        X = self._features(X)
        W = np.zeros(self.groups.shape)
        W[self._rows, self._columns] = self.mean
        return X @ W.T @ Z.T + X[:, : self.own_width] @ self.own_mean.T

    # ---- learning ----

    def update(
        self,
        arm: int,
        z: Array,
        x: Array,
        r: float,
        weight: float = 1.0,
        kept: float = 1.0,
    ) -> float:
        """Learn one reward of one arm.

        Parameters
        ----------
        arm : int
        z : ndarray of shape (m,)
        x : ndarray of shape (k,)
        r : float
        weight : float
            Above 0, at most 1e6; divides the noise variance.
        kept : float
            The share of the reward that forgetting has left, in (0, 1].

        Returns
        -------
        surprise : float
            The reward minus what was expected, in standard deviations of it.
        """
        phi, x, variance = self._observation(arm, z, x, r, weight * kept)
        slot = self._slot(arm)
        load = phi @ self.factor
        if slot is not None:
            load -= x @ self.own_load[slot]
        # The arm's own parameters make the noise larger, and what is left of them
        # is a reward of the shared parameters alone: equations (5) to (8).
        spread = self.own_covariance[arm] @ x
        # Rounding must not leave a variance below 0.
        noise = variance + max(float(x @ spread), 0.0)
        total, beta = linalg.potter(load, noise)
        residual = r - float(phi @ self.mean) - float(x @ self.own_mean[arm])
        self._move(load, residual / total, -beta)
        self.own_mean[arm] += spread * (residual / total)
        self.own_covariance[arm] -= spread[:, None] * spread / noise
        step = ((1.0 - beta * (total - noise)) / noise * spread)[:, None] * load
        if slot is None:
            self.seen = np.append(self.seen, arm)
            self.own_load = np.concatenate([self.own_load, step[None]])
        else:
            self.own_load[slot] += step
        self.square += weight * kept * (r - self.scales.mean) ** 2
        self.count += kept
        return residual / math.sqrt(total)

    def downdate(
        self,
        arm: int,
        z: Array,
        x: Array,
        r: float,
        weight: float = 1.0,
        kept: float = 1.0,
    ) -> None:
        """Take one reward back exactly; refused when it was never learnt.

        Parameters as in :meth:`update`.
        """
        phi, x, variance = self._observation(arm, z, x, r, weight * kept)
        slot = self._slot(arm)
        spread = self.own_covariance[arm] @ x
        left = variance - float(x @ spread)
        if slot is None or not left > linalg.LEAST_LEFT * variance:
            raise ValueError(
                f"this observation cannot be taken back: arm {arm} was never observed "
                "like this. Take back only observations that were added, once"
            )
        # What the update saw, from what is there after it.
        noise, factor = variance**2 / left, variance / left
        load = (phi @ self.factor - x @ self.own_load[slot]) * factor
        total, beta = linalg.potter_back(load, noise)
        residual = r - float(phi @ self.mean) - float(x @ self.own_mean[arm])
        residual *= factor
        self.own_load[slot] -= np.outer(spread / variance, load)
        self._move(load, -residual / total, beta)
        self.own_mean[arm] -= spread / variance * residual
        self.own_covariance[arm] += np.outer(spread, spread) / left
        # Rounding must not leave less than nothing.
        square = self.square - weight * kept * (r - self.scales.mean) ** 2
        self.square, self.count = max(square, 0.0), max(self.count - kept, 0.0)

    # ---- inside ----

    def _observation(
        self, arm: int, z: Array, x: Array, r: float, weight: float
    ) -> tuple[Array, Array, float]:
        if not 0 <= arm < self.n_arms:
            raise ValueError(f"received arm {arm}, expected 0 to {self.n_arms - 1}")
        z, x = np.asarray(z, dtype=np.float64), self._features(x)
        if z.shape != (self.groups.shape[0],) or x.ndim != 1:
            raise ValueError(
                f"received z {z.shape} and x {x.shape}, expected "
                f"({self.groups.shape[0]},) and ({self.groups.shape[1]},)"
            )
        # One number that is finite only if all of them are: two passes less.
        if not math.isfinite(z.dot(z) + r):
            raise ValueError(
                "descriptor and reward must be finite, received NaN or inf"
            )
        if not 0 < weight <= MOST_WEIGHT:
            raise ValueError(
                f"weight is above 0 and at most {MOST_WEIGHT:g}, received {weight!r}"
            )
        phi = z[self._rows] * x[self._columns]
        return phi, x[: self.own_width], self.scales.noise**2 / weight

    def _features(self, X: Array) -> Array:
        """Check the features of one task (k,) or of several (n, k)."""
        X, k = np.asarray(X, dtype=np.float64), self.groups.shape[1]
        if X.ndim not in (1, 2) or X.shape[-1] != k:
            raise ValueError(
                f"received features of shape {X.shape}, expected width {k}"
            )
        if not (X[0] == 1.0 if X.ndim == 1 else (X[:, 0] == 1.0).all()):
            raise ValueError(
                "the first feature of every task is the constant 1, which carries the "
                f"intercepts; received {X[..., 0]}. Put a column of ones in front"
            )
        if not np.abs(X).max(initial=0.0) <= _LARGEST:  # also refuses NaN
            sizes = np.nan_to_num(np.abs(X).reshape(-1, k), nan=np.inf).max(axis=0)
            largest = int(sizes.argmax())
            raise ValueError(
                f"task features must be finite and at most {_LARGEST:g}, received "
                f"{sizes[largest]:g} in feature {largest}. Scale what they are made "
                "of (embeddings, columns) to about unit variance"
            )
        return X

    def _slot(self, arm: int) -> int | None:
        """Where the arm is in ``seen``."""
        found = (self.seen == arm).nonzero()[0]
        return int(found[0]) if len(found) else None

    def _own_of_one(self, x: Array) -> tuple[Array, Array, NDArray[np.int64], Array]:
        """Means and variances of the arms' own part on one task, and its coupling.

        Copies: learning changes in place what is here.
        """
        if len(x) == 1:
            # The constant 1, so that there is nothing to multiply.
            mean, variance = self.own_mean[:, 0], self.own_covariance[:, 0, 0]
            return mean.copy(), variance.copy(), self.seen, self.own_load[:, 0].copy()
        squares = self.own_covariance.reshape(self.n_arms, -1)
        variance = squares @ (x[:, None] * x).ravel()
        return self.own_mean @ x, variance, self.seen, x @ self.own_load

    def _move(self, load: Array, step: float, beta: float) -> None:
        """Move means and roots of everything that depends on ``theta``."""
        own = self.own_load.reshape(-1, len(load))
        gain, own_gain = self.factor @ load, own @ load
        self.mean = self.mean + step * gain
        self.factor = linalg.add_outer(self.factor, beta, gain, load)
        moved = own_gain.reshape(len(self.seen), self.own_width)
        self.own_mean[self.seen] -= step * moved
        own = linalg.add_outer(own, beta, own_gain, load)
        self.own_load = own.reshape(self.own_load.shape)


def consecutive(used: NDArray[np.bool_]) -> list[tuple[slice, slice, int]]:
    """Consecutive rows with as many parameters each: rows, parameters, width."""
    widths = used.sum(axis=1)
    if any(not row[:width].all() for row, width in zip(used, widths, strict=True)):
        raise ValueError("the parameters of a descriptor column must come first")
    edges = [0, *(np.flatnonzero(np.diff(widths)) + 1), len(widths)]
    ends = np.append(0, np.cumsum(widths))
    return [
        (slice(a, b), slice(int(ends[a]), int(ends[b])), int(widths[a]))
        for a, b in zip(edges, edges[1:], strict=False)
    ]
