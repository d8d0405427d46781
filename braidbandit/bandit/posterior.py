"""The Bayesian linear model of quality: ``r = z' W x + b_a' x + noise``.

``z`` describes the braid, ``x`` the task; ``b_a`` is what the descriptor does not
explain about arm a. All parameters are Gaussian, with one prior scale per block.
Equations are numbered in ``docs/math.md``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import MOST_WEIGHT
from braidbandit.bandit import linalg
from braidbandit.bandit.belief import Belief
from braidbandit.bandit.evidence import (
    Information,
    find_scales,
    solve,
    symmetric,
    task_precision,
)
from braidbandit.bandit.prior import GROUPS, USUAL_SPREAD, PriorScales

Array = NDArray[np.float64]

# Larger features leave too few digits to what they are added to.
_LARGEST = 1e4


class Posterior:
    """Gaussian posterior over ``W`` and over the arms' own parameters.

    Parameters
    ----------
    groups : ndarray of shape (m, k)
        From :func:`parameter_groups`; p is its number of entries that are not -1.
    prior : PriorScales, optional
        Scales before any data, and what they are drawn back to when they are found
        from data. The defaults are then relative to the spread of the rewards.
    n_arms : int
        A.
    own_width : int
        d, how many of the k task features an arm has own parameters for: 0 none, 1
        an intercept, k slopes as well.

    Attributes
    ----------
    mean : ndarray of shape (p,)
        Of the entries of ``W``.
    factor : ndarray of shape (p, p)
        Square root of their covariance, ``P = factor @ factor.T``.
    own_mean : ndarray of shape (A, d)
        Of the arms' own parameters.
    own_covariance : ndarray of shape (A, d, d)
        Theirs when ``theta``, the entries of ``W``, is given: independent of the
        other arms.
    seen : ndarray of int, shape (P,)
        Arms with a reward, in the order of their first one.
    own_load : ndarray of shape (P, d, p)
        How their own parameters depend on ``theta``: the covariance of the two is
        ``-own_load @ factor.T``.
    own_groups : ndarray of int, shape (d,)
        Blocks of the prior to which these belong, as in ``groups``.
    own_change : ndarray of shape (A, d)
        Prior variance of arms' own parameters beside their scale: see :meth:`widen`.
    square, count : float
        Weighted sum of squared rewards from the prior mean, and number of rewards.
    scales : PriorScales
    solved : int
        How often it was solved for from all sums, instead of reward by reward.

    Examples
    --------
    One arm, one parameter, prior N(0.5, 1), noise 1, one reward of 1:

    >>> scales = PriorScales(mean=0.5, intercept=1.0, noise=1.0)
    >>> posterior = Posterior(np.zeros((1, 1), dtype=int), scales)
    >>> round(posterior.update(0, np.ones(1), np.ones(1), 1.0), 3)
    0.354
    >>> belief = posterior.belief(np.ones((1, 1)), np.ones(1))
    >>> float(belief.mean[0]), round(float(belief.sd[0] ** 2), 12)
    (0.75, 0.5)
    """

    ARRAYS = (
        "mean",
        "factor",
        "own_mean",
        "own_covariance",
        "seen",
        "own_load",
        "own_change",
    )

    groups: NDArray[np.int64]
    own_groups: NDArray[np.int64]
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

    def __init__(
        self,
        groups: NDArray[np.int64],
        prior: PriorScales | None = None,
        n_arms: int = 1,
        own_width: int = 0,
    ) -> None:
        self.groups = np.asarray(groups)
        self._rows, self._columns = np.nonzero(self.groups >= 0)
        self._labels = self.groups[self._rows, self._columns]
        if self.groups.ndim != 2 or len(np.unique(self._rows)) != len(self.groups):
            raise ValueError("every descriptor column needs at least one parameter")
        if not 0 <= own_width <= self.groups.shape[1]:
            raise ValueError(
                f"own_width lies between 0 and the {self.groups.shape[1]} task "
                f"features, received {own_width}"
            )
        self._runs = consecutive(self.groups >= 0)
        # Where no descriptor says what an arm is made of, the arm is all there is.
        alone = GROUPS.index("braid") not in self._labels
        level, slope = (
            ("braid", "interaction") if alone else ("arm_intercept", "arm_slope")
        )
        own = [GROUPS.index(level)] + [GROUPS.index(slope)] * own_width
        self.own_groups = np.array(own[:own_width], dtype=np.int64)
        self._n_arms, self.solved = n_arms, 0
        self.prior = prior
        self.reset(prior or PriorScales())

    def reset(self, scales: PriorScales) -> None:
        """Go back to the prior with the given scales."""
        self.own_change = np.zeros((self._n_arms, self.own_width))
        self._set(self._nothing(), scales)

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

    def copy(self) -> Posterior:
        """Return an independent copy."""
        other = copy.copy(self)
        vars(other).update({name: getattr(self, name).copy() for name in self.ARRAYS})
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

    def learn_table(self, arms: Sequence[int], Z: Array, X: Array, R: Array) -> None:
        """Learn a table of n tasks scored on several arms at once: equation (4).

        Parameters
        ----------
        arms : sequence of int, length B
            Distinct arms, the columns of the table.
        Z : ndarray of shape (B, m)
        X : ndarray of shape (n, k)
        R : ndarray of shape (n, B)
        """
        info = self._with_table(arms, Z, X, R, self.scales.mean, np.eye(R.shape[1]))
        self._set(info, self.scales)

    def forget(self, gamma: float) -> None:
        """Blend toward the prior: every reward so far counts ``gamma`` as much.

        Unlike a discount of the precision alone, this leaves no variance above
        the prior's, however long no task excites a direction.
        """
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"gamma must lie in (0, 1], received {gamma!r}")
        if gamma < 1.0:
            self._set(self.information().scaled(gamma), self.scales)

    def refine_scales(self) -> None:
        """Choose prior scales and noise again by the evidence of all rewards.

        Empirical Bayes: the scales maximise the marginal likelihood of what was
        learnt times a weak hyperprior (equation (11)), and the posterior becomes
        the one that the same rewards give under the new scales. Draws nothing.
        """
        self._adopt(self.information(), self.scales.mean)

    def start_from_table(
        self,
        arms: Sequence[int],
        Z: Array,
        X: Array,
        R: Array,
        shared: bool = False,
    ) -> None:
        """Learn a table from the prior, with prior scales chosen on it.

        The prior mean becomes the mean of the table; the scales are chosen as in
        :meth:`refine_scales`. Parameters as in :meth:`learn_table`, and whether arms
        have strands in common.

        A task that is hard for one arm is hard for all: what the task features do
        not say about that is taken to be common to the rewards of the task, so
        that arms are compared on the same tasks, as they were measured.
        """
        X = self._features(X)
        self.reset(replace(self.scales, mean=float(R.mean())))
        mean = self.scales.mean
        info = self._with_table(arms, Z, X, R, mean, task_precision(R, shared))
        self._adopt(info, mean)

    def take_arms(self, rows: Sequence[int]) -> Posterior:
        """Return the posterior over other arms: row by row, -1 for a new one.

        What was learnt on an arm that is left out stays in the shared parameters.
        """
        other = self.unlearnt(self.groups, len(rows))
        other.mean, other.factor = self.mean.copy(), self.factor.copy()
        other.square, other.count = self.square, self.count
        slots = {int(arm): slot for slot, arm in enumerate(self.seen)}
        seen = [row for row, old in enumerate(rows) if old in slots]
        other.seen = np.array(seen, dtype=np.int64)
        other.own_load = self.own_load[[slots[rows[row]] for row in seen]]
        for row, old in enumerate(rows):
            if old >= 0:
                other.own_change[row] = self.own_change[old]
                other.own_covariance[row] = self.own_covariance[old]
        for row in seen:
            other.own_mean[row] = self.own_mean[rows[row]]
        return other

    def unlearnt(self, groups: NDArray[np.int64], n_arms: int) -> Posterior:
        """Return the prior by these scales over other columns or arms.

        Arms' own parameters stay what they are, even where more columns now say what
        an arm is made of.
        """
        other = Posterior(groups, self.prior, n_arms, self.own_width)
        other.own_groups = self.own_groups
        other.reset(self.scales)
        return other

    def with_columns(self, groups: NDArray[np.int64]) -> Posterior:
        """Return the posterior with more descriptor columns, behind those it has.

        The new parameters start at the prior; what was learnt stays as it is.

        Parameters
        ----------
        groups : ndarray of shape (more, k)
            Blocks of the new columns, from :func:`parameter_groups`. They have no task
            slopes where none of the columns there has.

        Examples
        --------
        >>> old = Posterior(np.zeros((1, 1), dtype=int))
        >>> _ = old.update(0, np.ones(1), np.ones(1), 1.0)
        >>> new = old.with_columns(np.array([[2]]))
        >>> bool(new.mean[0] == old.mean[0]), float(new.mean[1])
        (True, 0.0)
        """
        slopes = self.groups[self.groups[:, 0] != GROUPS.index("intercept"), 1:]
        if len(slopes) and (slopes == -1).all():
            groups = groups.copy()
            groups[:, 1:] = -1
        other = self.unlearnt(np.vstack([self.groups, groups]), self.n_arms)
        p, more = self.n_parameters, other.n_parameters - self.n_parameters
        other.mean[:p], other.factor[:p, :p] = self.mean, self.factor
        other.own_mean = self.own_mean.copy()
        other.own_covariance = self.own_covariance.copy()
        other.own_change = self.own_change.copy()
        other.seen = self.seen.copy()
        other.own_load = np.pad(self.own_load, ((0, 0), (0, 0), (0, more)))
        other.square, other.count = self.square, self.count
        return other

    def expected(self, arm: int, z: Array, x: Array) -> float:
        """Return the mean quality of one arm on one task.

        Parameters as in :meth:`update`.
        """
        W = np.zeros(self.groups.shape)
        W[self._rows, self._columns] = self.mean
        return float(z @ W @ x + self.own_mean[arm] @ x[: self.own_width])

    def take_means(self, other: Posterior) -> None:
        """Expect what another posterior over the same parameters expects."""
        self.mean, self.own_mean = other.mean, other.own_mean.copy()

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all that tells this posterior from another, but for its scales."""
        arrays: dict[str, NDArray[Any]] = {n: getattr(self, n) for n in self.ARRAYS}
        sums = np.array([self.square, self.count])
        return {
            "groups": self.groups,
            "own_groups": self.own_groups,
            **arrays,
            "sums": sums,
        }

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        scales: PriorScales,
        prior: PriorScales | None = None,
    ) -> Posterior:
        """Build a posterior from :meth:`to_arrays`.

        Raises
        ------
        KeyError
            When an array is missing.
        ValueError
            When one has another shape than the rest says.
        """
        posterior = cls(arrays["groups"], prior, *arrays["own_mean"].shape)
        posterior.own_groups = arrays["own_groups"]
        posterior.reset(scales)
        seen = len(arrays["seen"])
        expected = {name: getattr(posterior, name).shape for name in cls.ARRAYS}
        expected |= {"seen": (seen,), "own_load": (seen, *posterior.own_load.shape[1:])}
        for name in cls.ARRAYS:
            if arrays[name].shape != expected[name]:
                raise ValueError(
                    f"received {name} of shape {arrays[name].shape}, expected "
                    f"{expected[name]}"
                )
        vars(posterior).update({name: arrays[name] for name in cls.ARRAYS})
        posterior.square, posterior.count = map(float, arrays["sums"])
        return posterior

    def covariance_terms(self, arm: int, z: Array, x: Array) -> Array:
        """Return what an arm's quality on a task loads on the factor, shape (p,).

        The inner product of two of these is the covariance of the two qualities, but
        for what is the arm's alone.
        """
        load = (z[self._rows] * x[self._columns]) @ self.factor
        slot = self._slot(arm)
        if slot is not None:
            load = load - x[: self.own_width] @ self.own_load[slot]
        return np.asarray(load)

    def anew(self, prior: PriorScales | None = None) -> Posterior:
        """Return the prior, by other scales, over the same parameters.

        Columns that came later stay what they are: see :meth:`with_columns`.
        """
        other = Posterior(self.groups, prior, self.n_arms, self.own_width)
        other.own_groups = self.own_groups
        other.reset(prior or PriorScales())
        return other

    def widen(self, arm: int, share: float) -> None:
        """Take an arm for changed, such as a braid that was trained again.

        Its mean stays. It may have moved by the given share of the variance with
        which models differ, whatever its descriptor says: equation (33).
        """
        if not 0.0 <= share < 1.0:
            raise ValueError(f"share must lie in [0, 1), received {share!r}")
        more = share * self.variance_of_change()
        self.own_change[arm] += more
        self.own_covariance[arm] += np.diag(more)

    def variance_of_change(self) -> Array:
        """Return the variance with which an arm may change altogether, shape (d,)."""
        sd = np.full(self.own_width, self.scales.interaction)
        sd[:1] = self.scales.braid
        return sd**2

    def information(self) -> Information:
        """Return the sums over rewards that this posterior follows from."""
        values, variance = self._scale_values(), self.scales.noise**2
        sd, own_sd = values[self._labels], values[self.own_groups]
        shift, sums = self.mean - self._prior_mean(), self._nothing()
        white = np.linalg.inv(self.factor / sd[:, None])
        excess = (white.T @ white - np.eye(len(sd))) / sd[:, None] / sd
        gain = self.own_load @ white / sd
        given = self.own_mean[self.seen] + gain @ shift
        own_precision = symmetric(np.linalg.inv(self.own_covariance[self.seen]))
        cross = variance * own_precision @ gain
        sums.cross[self.seen] = cross
        prior_precision = 1.0 / (own_sd**2 + self.own_change[self.seen])
        excess_own = own_precision - prior_precision[:, :, None] * np.eye(len(own_sd))
        sums.own[self.seen] = variance * excess_own
        sums.own_moment[self.seen] = variance * np.einsum(
            "ade,ae->ad", own_precision, given
        )
        flat = cross.reshape(-1, len(sd))
        return replace(
            sums,
            gram=variance * excess + flat.T @ gain.reshape(-1, len(sd)),
            moment=variance * (excess @ shift + shift / sd**2) + flat.T @ given.ravel(),
            square=self.square,
            count=self.count,
        )

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

    def _nothing(self) -> Information:
        p, d = self.n_parameters, self.own_width
        arms = self._n_arms
        return Information(
            np.zeros((p, p)),
            np.zeros((arms, d, p)),
            np.zeros((arms, d, d)),
            np.zeros(p),
            np.zeros((arms, d)),
            0.0,
            0.0,
        )

    def _with_table(
        self,
        arms: Sequence[int],
        Z: Array,
        X: Array,
        R: Array,
        mean: float,
        V: Array,
    ) -> Information:
        """Sums over what is known and a table; its features are never formed.

        ``V`` (B, B) is the precision of one task's rewards, in units of one's noise.
        """
        known, R, X = self.information(), R - mean, self._features(X)
        rows, columns, own = self._rows, self._columns, X[:, : self.own_width]
        VZ, VR, index = V @ Z, R @ V, np.asarray(arms, dtype=np.intp)
        gram = (Z.T @ VZ)[np.ix_(rows, rows)] * (X.T @ X)[np.ix_(columns, columns)]
        known.cross[index] += VZ[:, None, rows] * (own.T @ X)[None][:, :, columns]
        # Arms stay independent given the shared parameters: of V, their own part
        # keeps what it says about differences. Larger than V, so nothing turns
        # negative, and exact where the shared parameters carry the common level.
        known.own[index] += np.linalg.norm(V, 2) * (own.T @ own)
        known.own_moment[index] += VR.T @ own
        return replace(
            known,
            gram=known.gram + gram,
            moment=known.moment + (Z.T @ VR.T @ X)[rows, columns],
            square=known.square + float((R * VR).sum()),
            count=known.count + R.size,
        )

    def _adopt(self, info: Information, mean: float) -> None:
        """Choose scales for these sums and become their posterior."""
        used = np.unique(np.append(self._labels, self.own_groups))
        place = np.searchsorted(used, np.arange(len(GROUPS)))
        names = [*(GROUPS[g] for g in used), "noise"]
        centre = np.log([getattr(self.prior or PriorScales(), name) for name in names])
        if self.prior is None and info.square > 0:
            centre += np.log(np.sqrt(info.square / info.count) / USUAL_SPREAD)
        # The first search starts where the hyperprior is, a later one from the last.
        start = np.log([getattr(self.scales, name) for name in names])
        found = find_scales(
            info,
            place[self._labels],
            place[self.own_groups],
            centre if self.count == 0 else start,
            centre,
            self.own_change,
        )
        best = {n: float(v) for n, v in zip(names, np.exp(found), strict=True)}
        self._set(info, replace(self.scales, mean=mean, **best))

    def _set(self, info: Information, scales: PriorScales) -> None:
        values = np.array([getattr(scales, name) for name in GROUPS])
        own_sd = np.sqrt(values[self.own_groups] ** 2 + self.own_change)
        found = solve(info, values[self._labels], own_sd, scales.noise**2)
        self.scales, self.solved = scales, self.solved + 1
        prior_mean = self._prior_mean()
        self.mean, self.factor = prior_mean + found.mean, found.factor
        self.own_mean = found.own_mean - found.own_gain @ found.mean
        self.own_covariance, self.seen = found.own_covariance, info.seen
        self.own_load = found.own_gain[self.seen] @ self.factor
        self.square, self.count = info.square, info.count

    def _scale_values(self) -> Array:
        return np.array([getattr(self.scales, name) for name in GROUPS])

    def _prior_mean(self) -> Array:
        # The intercept is the first parameter of the bias row, if there is one.
        return np.where(self._labels == 0, self.scales.mean, 0.0)


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
