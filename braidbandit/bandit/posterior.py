"""The Bayesian linear model of quality: ``r = z' W x + b_a' x + noise``.

``z`` describes the braid, ``x`` the task; ``b_a`` is what the descriptor does not
explain about arm a. All parameters are Gaussian, with one prior scale per block.
Equations are numbered in ``docs/math.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.evidence import (
    Information,
    find_scales,
    solve,
    symmetric,
    task_precision,
)
from braidbandit.bandit.prior import GROUPS, USUAL_SPREAD, PriorScales
from braidbandit.bandit.squareroot import SquareRoot, consecutive

Array = NDArray[np.float64]


class Posterior(SquareRoot):
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

    # ---- learning ----

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
