"""The Bayesian linear model of quality: ``r = z' W x + b_a' x + noise``.

``z`` describes the braid, ``x`` the task; ``b_a`` is what the descriptor does not
explain about arm a. All parameters are Gaussian, with one prior scale per block.
Equations are numbered in ``docs/math.md``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from braidbandit import linalg
from braidbandit.belief import Belief
from braidbandit.information import (
    Information,
    find_scales,
    solve,
    symmetric,
    task_precision,
)
from braidbandit.prior import GROUPS, USUAL_SPREAD, PriorScales

Array = NDArray[np.float64]


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
    square, count : float
        Weighted sum of squared rewards from the prior mean, and number of rewards.
    scales : PriorScales

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

    mean: Array
    factor: Array
    own_mean: Array
    own_covariance: Array
    seen: NDArray[np.int64]
    own_load: Array
    square: float
    count: float
    scales: PriorScales

    ARRAYS = ("mean", "factor", "own_mean", "own_covariance", "seen", "own_load")

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
        self._runs = _runs(self.groups >= 0)
        # Where no descriptor says what an arm is made of, the arm is all there is.
        alone = GROUPS.index("braid") not in self._labels
        level, slope = (
            ("braid", "interaction") if alone else ("arm_intercept", "arm_slope")
        )
        own = [GROUPS.index(level)] + [GROUPS.index(slope)] * own_width
        self._own_labels = np.array(own[:own_width], dtype=np.int64)
        self._n_arms = n_arms
        self.prior = prior
        self.reset(prior or PriorScales())

    def reset(self, scales: PriorScales) -> None:
        """Go back to the prior with the given scales."""
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
        return len(self._own_labels)

    def copy(self) -> Posterior:
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
        x = self._features(x)
        mu, half = (
            np.empty(len(self.groups)),
            np.empty((len(self.groups), len(self.mean))),
        )
        for rows, entries, width in self._runs:
            # Rows of W with as many parameters each, which are consecutive.
            mu[rows] = self.mean[entries].reshape(-1, width) @ x[:width]
            blocks = self.factor[entries].reshape(-1, width, len(self.mean))
            half[rows] = blocks[:, 0] if width == 1 else x[:width] @ blocks
        x = x[: self.own_width]
        return Belief(
            Z,
            mu,
            half,
            self.own_mean @ x,
            self.own_covariance.reshape(self.n_arms, -1) @ np.outer(x, x).ravel(),
            self.seen,
            # One pass instead of a product per arm.
            self.own_load[:, 0] if len(x) == 1 else x @ self.own_load,
            repeats,
        )

    def means(self, Z: Array, X: Array) -> Array:
        """Return the mean quality of every arm on every task, shape (n, A)."""
        X = self._features(X)
        W = np.zeros(self.groups.shape)
        W[self._rows, self._columns] = self.mean
        return X @ W.T @ Z.T + X[:, : self.own_width] @ self.own_mean.T

    # ---- learning ----

    def update(
        self, arm: int, z: Array, x: Array, r: float, weight: float = 1.0
    ) -> float:
        """Learn one reward of one arm; ``weight`` divides the noise variance.

        Returns
        -------
        surprise : float
            The reward minus what was expected, in standard deviations of it.
        """
        phi, x, variance = self._observation(arm, z, x, r, weight)
        slot = self._slot(arm)
        load = phi @ self.factor
        if slot is not None:
            load -= x @ self.own_load[slot]
        # The arm's own parameters make the noise larger, and what is left of them
        # is a reward of the shared parameters alone: equations (5) to (8).
        spread = self.own_covariance[arm] @ x
        noise = variance + float(x @ spread)
        total, beta = linalg.potter(load, noise)
        residual = r - float(phi @ self.mean) - float(x @ self.own_mean[arm])
        gain = self.factor @ load
        self._move(load, residual / total, -beta, gain)
        self.own_mean[arm] += spread * (residual / total)
        self.own_covariance[arm] -= np.outer(spread, spread) / noise
        step = (1.0 - beta * (total - noise)) / noise * np.outer(spread, load)
        if slot is None:
            self.seen = np.append(self.seen, arm)
            self.own_load = np.concatenate([self.own_load, step[None]])
        else:
            self.own_load[slot] += step
        self.square += weight * (r - self.scales.mean) ** 2
        self.count += 1.0
        return residual / float(np.sqrt(total))

    def downdate(
        self, arm: int, z: Array, x: Array, r: float, weight: float = 1.0
    ) -> None:
        """Take one reward back exactly; refused when it was never learnt."""
        phi, x, variance = self._observation(arm, z, x, r, weight)
        slot = self._slot(arm)
        spread = self.own_covariance[arm] @ x
        left = variance - float(x @ spread)
        if slot is None or not left > 1e-12 * variance:
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
        # Not in place: a belief may still look at what is there.
        own_load = self.own_load.copy()
        own_load[slot] -= np.outer(spread / variance, load)
        self.own_load = own_load
        self._move(load, -residual / total, beta, self.factor @ load)
        self.own_mean[arm] -= spread / variance * residual
        self.own_covariance[arm] += np.outer(spread, spread) / left
        self.square -= weight * (r - self.scales.mean) ** 2
        self.count -= 1.0

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
        self, arms: Sequence[int], Z: Array, X: Array, R: Array
    ) -> None:
        """Learn a table from the prior, with prior scales chosen on it.

        The prior mean becomes the mean of the table; the scales are chosen as in
        :meth:`refine_scales`. Parameters as in :meth:`learn_table`.

        A task that is hard for one arm is hard for all: what the task features do
        not say about that is taken to be common to the rewards of the task, so
        that arms are compared on the same tasks, as they were measured.
        """
        X = self._features(X)
        self.reset(replace(self.scales, mean=float(R.mean())))
        mean = self.scales.mean
        info = self._with_table(arms, Z, X, R, mean, task_precision(R))
        self._adopt(info, mean)

    def take_arms(self, rows: Sequence[int]) -> Posterior:
        """Return the posterior over other arms: row by row, -1 for a new one.

        What was learnt on an arm that is left out stays in the shared parameters.
        """
        other = Posterior(self.groups, self.prior, len(rows), self.own_width)
        other.reset(self.scales)
        other.mean, other.factor = self.mean.copy(), self.factor.copy()
        other.square, other.count = self.square, self.count
        slots = {int(arm): slot for slot, arm in enumerate(self.seen)}
        seen = [row for row, old in enumerate(rows) if old in slots]
        other.seen = np.array(seen, dtype=np.int64)
        other.own_load = self.own_load[[slots[rows[row]] for row in seen]]
        for row in seen:
            other.own_mean[row] = self.own_mean[rows[row]]
            other.own_covariance[row] = self.own_covariance[rows[row]]
        return other

    def widen(self, arm: int, share: float) -> None:
        """Forget the given share of what was learnt about one arm's own parameters.

        For an arm that has changed, such as a braid trained again: its mean stays,
        it is less certain, and its rewards from now on count for more.
        """
        if not 0.0 <= share < 1.0:
            raise ValueError(f"share must lie in [0, 1), received {share!r}")
        slot = self._slot(arm)
        if slot is None or not self.own_width:
            return
        before, prior = (
            np.linalg.inv(c) for c in (self.own_covariance[arm], self._own_prior)
        )
        after = np.linalg.inv(prior + (1.0 - share) * (before - prior))
        self.own_covariance[arm] = symmetric(after)
        own_load = self.own_load.copy()
        own_load[slot] = (1.0 - share) * after @ before @ own_load[slot]
        self.own_load = own_load

    def information(self) -> Information:
        """Return the sums over rewards that this posterior follows from."""
        values, variance = self._scale_values(), self.scales.noise**2
        sd, own_sd = values[self._labels], values[self._own_labels]
        shift, sums = self.mean - self._prior_mean(), self._nothing()
        white = np.linalg.inv(self.factor / sd[:, None])
        excess = (white.T @ white - np.eye(len(sd))) / sd[:, None] / sd
        gain = self.own_load @ white / sd
        given = self.own_mean[self.seen] + gain @ shift
        own_precision = symmetric(np.linalg.inv(self.own_covariance[self.seen]))
        cross = variance * own_precision @ gain
        sums.cross[self.seen] = cross
        sums.own[self.seen] = variance * (own_precision - np.diag(own_sd**-2.0))
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
        used = np.unique(np.append(self._labels, self._own_labels))
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
            place[self._own_labels],
            centre if self.count == 0 else start,
            centre,
        )
        best = {n: float(v) for n, v in zip(names, np.exp(found), strict=True)}
        self._set(info, replace(self.scales, mean=mean, **best))

    def _set(self, info: Information, scales: PriorScales) -> None:
        values = np.array([getattr(scales, name) for name in GROUPS])
        found = solve(
            info, values[self._labels], values[self._own_labels], scales.noise**2
        )
        self.scales = scales
        self._own_prior = np.diag(values[self._own_labels] ** 2)
        prior_mean = self._prior_mean()
        self.mean, self.factor = prior_mean + found.mean, found.factor
        self.own_mean = found.own_mean - found.own_gain @ found.mean
        self.own_covariance, self.seen = found.own_covariance, info.seen
        self.own_load = found.own_gain[self.seen] @ self.factor
        self.square, self.count = info.square, info.count

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
        if not (np.isfinite(z).all() and np.isfinite(x).all() and np.isfinite(r)):
            raise ValueError("features and reward must be finite, received NaN or inf")
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"weight must be finite and above 0, received {weight!r}")
        phi = z[self._rows] * x[self._columns]
        return phi, x[: self.own_width], self.scales.noise**2 / weight

    def _features(self, X: Array) -> Array:
        """Check the features of one task (k,) or of several (n, k)."""
        X, k = np.asarray(X, dtype=np.float64), self.groups.shape[1]
        if X.ndim not in (1, 2) or X.shape[-1] != k:
            raise ValueError(
                f"received features of shape {X.shape}, expected width {k}"
            )
        if not (X[..., 0] == 1.0).all():
            raise ValueError(
                "the first feature of every task is the constant 1, which carries the "
                f"intercepts; received {X[..., 0]}. Put a column of ones in front"
            )
        return X

    def _slot(self, arm: int) -> int | None:
        """Where the arm is in ``seen``."""
        found = np.flatnonzero(self.seen == arm)
        return int(found[0]) if len(found) else None

    def _move(self, load: Array, step: float, beta: float, gain: Array) -> None:
        """Move means and roots of everything that depends on ``theta``."""
        d = self.own_width
        own = self.own_load.reshape(-1, len(load))
        own_gain = own @ load
        self.mean = self.mean + step * gain
        self.factor = linalg.plus_outer(self.factor, beta, gain, load)
        self.own_mean[self.seen] -= step * own_gain.reshape(len(self.seen), d)
        own = linalg.plus_outer(own, beta, own_gain, load)
        self.own_load = own.reshape(self.own_load.shape)

    def _scale_values(self) -> Array:
        return np.array([getattr(self.scales, name) for name in GROUPS])

    def _prior_mean(self) -> Array:
        # The intercept is the first parameter of the bias row, if there is one.
        return np.where(self._labels == 0, self.scales.mean, 0.0)


def _runs(used: NDArray[np.bool_]) -> list[tuple[slice, slice, int]]:
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
