"""The Bayesian linear model of quality: ``r = z' W x + b_a' x + noise``.

``z`` describes the arm, ``x`` the task; ``b_a`` is what the descriptor leaves
unexplained about arm a. All parameters are Gaussian, with one prior scale per group of
them. Equations are numbered in ``docs/math.md``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braidbandit._checks import MOST_WEIGHT
from braidbandit.bandit import linalg
from braidbandit.bandit.belief import Belief
from braidbandit.bandit.evidence import find_scales, products
from braidbandit.bandit.layout import Layout
from braidbandit.bandit.prior import BLOCKS, GROUPS, USUAL_SPREAD, PriorScales
from braidbandit.bandit.solution import solve, symmetric
from braidbandit.bandit.sufficient_statistics import SufficientStatistics
from braidbandit.bandit.task_noise import precision_of, task_covariance

Array = NDArray[np.float64]

_SCALES = (*GROUPS, *BLOCKS)
# Of what is added to a larger feature, too few digits are left.
_LARGEST = 1e4
# Squares of larger descriptors or rewards overflow in the sums.
_MOST = 1e100
# Of fewer rewards there is rounding only.
_LEAST_COUNT = 1e-9
# A reward of less weight moves no number, but its variance would overflow.
_LEAST_WEIGHT = 1e-100
# How often an incomplete table is solved again, at most, and when it moves no more.
_ROUNDS, _STILL = 12, 1e-4


class Posterior:
    """Gaussian posterior over ``W`` and over the arms' own parameters.

    Parameters
    ----------
    groups : ndarray of shape (m, k)
        Prior group of each entry of ``W``, from :func:`parameter_groups`. The p
        entries that are not -1 are the shared parameters ``theta``.
    prior : PriorScales, optional
        Scales before any data, and what they are drawn back to when they are found
        from data. The defaults are then relative to the spread of the rewards.
    n_arms : int
        A.
    own_width : int
        d, for how many of the k task features an arm has a parameter of its own: 0 for
        none, 1 for an intercept, k for slopes as well.
    blocks : ndarray of int, shape (k,), optional
        In which of ``BLOCKS`` each task feature is, counted from 1; 0, the default, for
        the constant and for features of the embedding.

    Attributes
    ----------
    groups : ndarray of shape (m, k)
    mean : ndarray of shape (p,)
        Mean of ``theta``.
    factor : ndarray of shape (p, p)
        Square root of its covariance, ``P = factor @ factor.T``.
    own_mean : ndarray of shape (A, d)
        Mean of the arms' own parameters.
    own_covariance : ndarray of shape (A, d, d)
        Their covariance when ``theta`` is given: the arms are then independent.
    seen : ndarray of int, shape (P,)
        Arms with a reward, in the order of their first one.
    own_load : ndarray of shape (P, d, p)
        How their own parameters depend on ``theta``: the covariance of the two is
        ``-own_load @ factor.T``.
    own_groups : ndarray of int, shape (d,)
        Prior group of each of an arm's own parameters.
    blocks : ndarray of int, shape (k,)
    own_change : ndarray of shape (A, d)
        Prior variance of arms' own parameters beside their scale: see :meth:`widen`.
    joined : ndarray of int, shape (J,)
        Arms that were compared with another, in the order of their first comparison.
        Two of these depend on each other even when ``theta`` is given, so their own
        parameters lie in the factor, which then has J d more columns, and their
        ``own_covariance`` is 0: equation (56).
    contrasts : tuple of two floats
        What of ``square`` and ``count`` is of comparisons.
    square, count : float
        Weighted sum of squared rewards, counted from the prior mean, and number of
        rewards.
    scales : PriorScales
    solved : int
        How often the posterior was solved from all sums instead of moved by one reward.

    Raises
    ------
    ValueError
        When a descriptor column has no parameter, or ``own_width`` is above k.

    References
    ----------
    Agrawal and Goyal (2013), *Thompson sampling for contextual bandits with linear
    payoffs*, for the model; Bierman (1977), *Factorization methods for discrete
    sequential estimation*, for the square root.

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

    own_groups: NDArray[np.int64]
    blocks: NDArray[np.int64]
    mean: Array
    factor: Array
    own_mean: Array
    own_covariance: Array
    seen: NDArray[np.int64]
    own_load: Array
    own_change: Array
    joined: NDArray[np.int64]
    contrasts: tuple[float, float]
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
        blocks: NDArray[np.int64] | None = None,
    ) -> None:
        self._layout = Layout(groups)
        k = self._layout.shape[1]
        self.blocks = np.zeros(k, dtype=np.int64) if blocks is None else blocks
        if self.blocks.shape != (k,):
            raise ValueError(
                f"received blocks of shape {self.blocks.shape}, expected ({k},)"
            )
        if not 0 <= own_width <= self.groups.shape[1]:
            raise ValueError(
                f"own_width lies between 0 and the {self.groups.shape[1]} task "
                f"features, received {own_width}"
            )
        # Where no descriptor says what an arm is made of, the arm is all there is.
        alone = GROUPS.index("braid") not in self._layout.labels
        level, slope = (
            ("braid", "interaction") if alone else ("arm_intercept", "arm_slope")
        )
        own = [GROUPS.index(level)] + [GROUPS.index(slope)] * own_width
        self.own_groups = np.array(own[:own_width], dtype=np.int64)
        self._n_arms, self.solved = n_arms, 0
        self.prior = prior
        self.reset(prior or PriorScales())

    def reset(self, scales: PriorScales) -> None:
        """Go back to the prior with the given scales; every reward is forgotten."""
        self.own_change = np.zeros((self._n_arms, self.own_width))
        self.joined, self.contrasts = np.zeros(0, dtype=np.int64), (0.0, 0.0)
        self._set(self._no_sums(), scales)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Prior group of each entry of ``W``, shape (m, k)."""
        return self._layout.groups

    @property
    def n_parameters(self) -> int:
        """Number of shared parameters p."""
        return len(self._layout)

    @property
    def n_arms(self) -> int:
        """Number of arms A."""
        return len(self.own_mean)

    @property
    def own_width(self) -> int:
        """Number of parameters d that each arm has of its own."""
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
        """Return the joint belief about every arm on one task: equations (2), (3).

        Parameters
        ----------
        Z : ndarray of shape (A, m)
            Descriptors of the arms.
        x : ndarray of shape (k,)
            Features of the task.
        repeats : Repeats, optional
            Of Z; makes this cheaper where there are many arms.

        Returns
        -------
        Belief
            Independent of this posterior: later rewards do not change it.
        """
        x = check_features(x, self._layout.shape[1])
        mu, half = contract(self._layout, self.mean, self.factor, x)
        own = self._own_of_one(x[: self.own_width])
        return Belief(Z, mu, half, *own, repeats)

    def means(self, Z: Array, X: Array) -> Array:
        """Return the mean quality of every arm on every task.

        Parameters
        ----------
        Z : ndarray of shape (A, m)
        X : ndarray of shape (n, k)

        Returns
        -------
        ndarray of shape (n, A)
        """
        tasks = check_features(X, self._layout.shape[1])
        W = self._layout.matrix(self.mean)
        return tasks @ W.T @ Z.T + tasks[:, : self.own_width] @ self.own_mean.T

    def expected(self, arm: int, z: Array, x: Array) -> float:
        """Return the mean quality of one arm on one task.

        Parameters
        ----------
        arm : int
        z : ndarray of shape (m,)
        x : ndarray of shape (k,)
        """
        W = self._layout.matrix(self.mean)
        return float(z @ W @ x + self.own_mean[arm] @ x[: self.own_width])

    def covariance_terms(self, arm: int, z: Array, x: Array) -> Array:
        """Return what an arm's quality on a task loads on the factor, shape (p,).

        The inner product of two of these is the covariance of the two qualities,
        without the part that is the arm's alone.

        Parameters
        ----------
        arm : int
        z : ndarray of shape (m,)
        x : ndarray of shape (k,)
        """
        load = self._layout.features(z, x) @ self.factor
        slot = self._slot(arm)
        if slot is not None:
            load = load - x[: self.own_width] @ self.own_load[slot]
        return np.asarray(load)

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
        """Learn one reward of one arm: equations (5) to (7).

        Parameters
        ----------
        arm : int
        z : ndarray of shape (m,)
            Descriptor of the arm.
        x : ndarray of shape (k,)
            Features of the task, the constant 1 first.
        r : float
            The reward.
        weight : float
            Above 0, at most 1e6; divides the noise variance.
        kept : float
            Share of the reward that forgetting has left, in (0, 1].

        Returns
        -------
        surprise : float
            The reward minus what was expected, in standard deviations of it.

        Raises
        ------
        ValueError
            When arm, shapes, numbers or weight cannot be right. Nothing has changed
            then.
        """
        phi, x, variance = self._observation(arm, z, x, r, weight * kept)
        slot = self._slot(arm)
        load = phi @ self.factor
        if slot is not None:
            load -= x @ self.own_load[slot]
        # To the shared parameters, what is uncertain about the arm alone is noise.
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
        """Take one reward back exactly: equation (8).

        Parameters
        ----------
        arm, z, x, r, weight, kept
            Those with which :meth:`update` learnt it.

        Raises
        ------
        ValueError
            When this reward cannot have been learnt. Nothing has changed then.
        """
        phi, x, variance = self._observation(arm, z, x, r, weight * kept)
        slot = self._slot(arm)
        spread = self.own_covariance[arm] @ x
        left = variance - float(x @ spread)
        least = linalg.least_left(x, self.own_covariance[arm], variance)
        if slot is None or not left > least:
            raise ValueError(
                f"this reward cannot be taken back: arm {arm} never had one like it. "
                "Take back only rewards that were learnt, once"
            )
        # What the update started from, by what is there after it.
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

    def difference(
        self, arms: tuple[int, int], Z: tuple[Array, Array], x: Array
    ) -> tuple[float, float]:
        """Return mean and variance of the quality of one arm minus that of another.

        Parameters
        ----------
        arms : tuple of two int
        Z : tuple of two ndarrays of shape (m,)
            Their descriptors.
        x : ndarray of shape (k,)
            Features of the task.
        """
        (one, other), (y, z) = arms, Z
        load = self.covariance_terms(one, y, x) - self.covariance_terms(other, z, x)
        own = x[: self.own_width]
        alone = own @ (self.own_covariance[one] + self.own_covariance[other]) @ own
        mean = self.expected(one, y, x) - self.expected(other, z, x)
        return mean, float(load @ load) + max(float(alone), 0.0)

    def compare(
        self,
        arms: tuple[int, int],
        Z: tuple[Array, Array],
        x: Array,
        value: float,
        weight: float = 1.0,
        kept: float = 1.0,
        counted: float = 1.0,
    ) -> float:
        """Learn how much better one arm was than another on one task: equation (56).

        Parameters
        ----------
        arms : tuple of two different int
        Z : tuple of two ndarrays of shape (m,)
            Their descriptors.
        x : ndarray of shape (k,)
            Features of the task.
        value : float
            The quality of the first minus that of the second, as it was observed; see
            :func:`~braidbandit.bandit.choice.seen_difference`.
        weight : float
            Above 0, at most 1e6; divides the noise variance.
        kept : float
            Share of it that forgetting has left, in (0, 1].
        counted : float
            As how many rewards it counts where the noise is found.

        Returns
        -------
        surprise : float
            The value minus what was expected, in standard deviations of it.

        Raises
        ------
        ValueError
            As :meth:`update`, and when both arms are the same. Nothing has changed
            then.

        Examples
        --------
        Two arms of their own, prior N(0, 1) each, noise 1: the difference has variance
        2 before and 2/3 after.

        >>> scales = PriorScales(braid=1.0, noise=1.0)
        >>> posterior = Posterior(np.zeros((1, 1), dtype=int), scales, 2, 1)
        >>> one = np.ones(1)
        >>> _ = posterior.compare((0, 1), (one, one), one, 1.5)
        >>> mean, variance = posterior.difference((0, 1), (one, one), one)
        >>> round(mean, 12), round(variance, 12)
        (1.0, 0.666666666667)
        """
        phi, x, variance = self._contrast(arms, Z, x, value, weight * kept)
        self._join(arms)
        load, residual = self._of_contrast(arms, phi, x, value)
        total, beta = linalg.potter(load, variance)
        self._move(load, residual / total, -beta)
        self._tally(weight * kept * value**2, kept * counted)
        return residual / math.sqrt(total)

    def uncompare(
        self,
        arms: tuple[int, int],
        Z: tuple[Array, Array],
        x: Array,
        value: float,
        weight: float = 1.0,
        kept: float = 1.0,
        counted: float = 1.0,
    ) -> None:
        """Take a comparison back exactly.

        Parameters
        ----------
        arms, Z, x, value, weight, kept, counted
            Those with which :meth:`compare` learnt it.

        Raises
        ------
        ValueError
            When this comparison cannot have been learnt. Nothing has changed then.
        """
        phi, x, variance = self._contrast(arms, Z, x, value, weight * kept)
        if not np.isin(arms, self.joined).all():
            raise ValueError(
                f"this comparison cannot be taken back: arms {arms} were never "
                "compared. Take back only comparisons that were learnt, once"
            )
        load, residual = self._of_contrast(arms, phi, x, value)
        total, beta = linalg.potter_back(load, variance)
        self._move(load, -residual / total, beta)
        self._tally(-weight * kept * value**2, -kept * counted)

    def learn_table(self, arms: Sequence[int], Z: Array, X: Array, R: Array) -> None:
        """Learn a table of n tasks, each scored on several arms: equation (4).

        Parameters
        ----------
        arms : sequence of int, length B
            Distinct arms, the columns of the table.
        Z : ndarray of shape (B, m)
            Their descriptors.
        X : ndarray of shape (n, k)
            Features of the tasks.
        R : ndarray of shape (n, B)
            Rewards; NaN where an arm was not scored on a task.

        Raises
        ------
        ValueError
            When arms repeat, shapes do not fit, a number is infinite, a task or an arm
            has no reward at all, or arms were compared before. Nothing has changed
            then.
        """
        self._check_table(arms, Z, X, R)
        if len(self.joined):
            raise ValueError(
                "a table is learnt before any comparison of two arms; "
                f"{len(self.joined)} arms were compared already. Start anew"
            )
        self._set(self._with_table(arms, Z, X, R, np.eye(R.shape[1])), self.scales)

    def forget(self, gamma: float) -> None:
        """Blend toward the prior: every reward so far counts ``gamma`` as much.

        Equation (10). Unlike a discount of the precision alone, this leaves no variance
        above the prior's, however long no task points in a direction.

        Parameters
        ----------
        gamma : float in (0, 1]

        Raises
        ------
        ValueError
            When gamma is outside its range.
        numpy.linalg.LinAlgError
            When rounding leaves nothing to solve with. Nothing has changed then.
        """
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"gamma must lie in (0, 1], received {gamma!r}")
        if gamma < 1.0:
            self._set(self.sufficient_statistics().scaled(gamma), self.scales)
            self.contrasts = gamma * self.contrasts[0], gamma * self.contrasts[1]

    def rescale(self, scales: PriorScales) -> None:
        """Become the posterior that the same rewards give under other prior scales."""
        self._set(self.sufficient_statistics(), scales)

    def refine_scales(self) -> None:
        """Choose prior scales and noise again by the evidence of all rewards.

        Empirical Bayes: the scales maximise the marginal likelihood of what was learnt
        times a weak hyperprior (equation (11)), then as :meth:`rescale`. Uses no
        random numbers.

        Raises
        ------
        numpy.linalg.LinAlgError
            When rounding leaves nothing to solve with. Nothing has changed then.
        """
        sums = self.sufficient_statistics()
        self._set(sums, self._found_scales(sums))

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
        :meth:`refine_scales`. A task that is hard for one arm is hard for all: what the
        task features do not say about that is taken to be common to the rewards of the
        task (:func:`task_covariance`), so arms are compared on the same tasks, as they
        were measured. Of cells that are missing nothing is assumed: the evidence is
        that of the cells that are there.

        Parameters
        ----------
        arms, Z, X, R
            As in :meth:`learn_table`.
        shared : bool
            Whether arms have strands in common.

        Raises
        ------
        ValueError
            As :meth:`learn_table`.
        numpy.linalg.LinAlgError
            When rounding leaves nothing to solve with. Nothing has changed then.
        """
        self._check_table(arms, Z, X, R)
        # On a copy, so that an error leaves this one as it was.
        work, complete = self.copy(), not np.isnan(R).any()
        mean = float(R.mean() if complete else np.nanmean(R))
        work.reset(replace(self.scales, mean=mean))
        covariance = task_covariance(R, shared)
        sums = work._with_table(arms, Z, X, R, covariance)
        work._set(sums, work._found_scales(sums))
        if not complete:
            work._compare_like_with_like(sums, arms, X, R, covariance)
        vars(self).update(vars(work))

    # ---- other arms, other columns, other scales ----

    def take_arms(self, rows: Sequence[int]) -> Posterior:
        """Return the posterior over other arms.

        What was learnt on an arm that is left out stays in the shared parameters.

        Parameters
        ----------
        rows : sequence of int
            For each new arm the arm that it was, or -1 for one that is new.

        Examples
        --------
        >>> old = Posterior(np.zeros((1, 1), dtype=int), n_arms=2, own_width=1)
        >>> _ = old.update(0, np.ones(1), np.ones(1), 1.0)
        >>> old.take_arms([-1, 0, 1]).seen.tolist()
        [1]
        """
        other = self._prior_over(self.groups, len(rows), self.prior, self.scales)
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
        now = {old: row for row, old in enumerate(rows)}
        kept = [now[arm] for arm in self.joined.tolist() if arm in now]
        other.joined = np.array(kept, dtype=np.int64)
        other.contrasts = self.contrasts
        if len(kept) < len(self.joined):
            other._square_up()
        return other

    def with_columns(self, groups: NDArray[np.int64]) -> Posterior:
        """Return the posterior with more descriptor columns, behind those it has.

        The new parameters start at the prior; what was learnt stays as it is.

        Parameters
        ----------
        groups : ndarray of shape (more, k)
            Prior groups of the new columns, from :func:`parameter_groups`. Where no
            column here but the bias has task slopes, the new ones get none either.

        Examples
        --------
        >>> old = Posterior(np.zeros((1, 1), dtype=int))
        >>> _ = old.update(0, np.ones(1), np.ones(1), 1.0)
        >>> new = old.with_columns(np.array([[2]]))
        >>> bool(new.mean[0] == old.mean[0]), float(new.mean[1])
        (True, 0.0)
        """
        wider = self._layout.more_rows(groups).groups
        other = self._prior_over(wider, self.n_arms, self.prior, self.scales)
        p, more = self.n_parameters, other.n_parameters - self.n_parameters
        other.mean[:p] = self.mean
        if len(self.joined):
            sd, other.joined = np.diagonal(other.factor)[p:], self.joined.copy()
            other.factor = np.zeros((p + more, self.factor.shape[1] + more))
            other.factor[p:, -more:] = np.diag(sd)
        other.factor[:p, : self.factor.shape[1]] = self.factor
        other.own_mean = self.own_mean.copy()
        other.own_covariance = self.own_covariance.copy()
        other.own_change = self.own_change.copy()
        other.seen = self.seen.copy()
        other.own_load = np.pad(self.own_load, ((0, 0), (0, 0), (0, more)))
        other.square, other.count = self.square, self.count
        other.contrasts = self.contrasts
        return other

    def anew(self, prior: PriorScales | None = None) -> Posterior:
        """Return the prior, with other scales, over the same parameters.

        Unlike a new ``Posterior``, it keeps the groups of the arms' own parameters as
        they were before :meth:`with_columns` told what arms are made of.

        Parameters
        ----------
        prior : PriorScales, optional
            By default the default scales.
        """
        scales = prior or PriorScales()
        return self._prior_over(self.groups, self.n_arms, prior, scales)

    def take_means(self, other: Posterior) -> None:
        """Take over the means of another posterior over the same parameters."""
        self.mean, self.own_mean = other.mean, other.own_mean.copy()

    # ---- as arrays ----

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything but the scales as arrays, for :meth:`from_arrays`.

        Later rewards change them: write them down, or copy them, at once.
        """
        return {
            "groups": self.groups,
            "own_groups": self.own_groups,
            "blocks": self.blocks,
            **{name: getattr(self, name) for name in self.ARRAYS},
            # Only where there are some: a state without is as it was before.
            **(self._of_comparisons() if len(self.joined) else {}),
            "sums": np.array([self.square, self.count]),
        }

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        scales: PriorScales,
        prior: PriorScales | None = None,
    ) -> Posterior:
        """Return the posterior that :meth:`to_arrays` described; it owns its arrays.

        Parameters
        ----------
        arrays : mapping of str to ndarray
        scales : PriorScales
            The scales it had.
        prior : PriorScales, optional
            As the constructor takes it.

        Raises
        ------
        KeyError
            When an array is missing.
        ValueError
            When the shapes of two arrays do not fit together.

        Examples
        --------
        >>> old = Posterior(np.zeros((1, 1), dtype=int))
        >>> _ = old.update(0, np.ones(1), np.ones(1), 1.0)
        >>> new = Posterior.from_arrays(old.to_arrays(), old.scales)
        >>> bool(new.mean[0] == old.mean[0]), new.count
        (True, 1.0)
        """
        posterior = cls(
            arrays["groups"].copy(),
            prior,
            *arrays["own_mean"].shape,
            blocks=arrays["blocks"].copy(),
        )
        posterior.own_groups = arrays["own_groups"].copy()
        posterior.reset(scales)
        joined = arrays.get("joined", posterior.joined).copy()
        seen, width = len(arrays["seen"]), posterior.own_width
        p = posterior.n_parameters
        q = p + len(joined) * width
        expected = {name: getattr(posterior, name).shape for name in cls.ARRAYS}
        expected |= {
            "seen": (seen,),
            "factor": (p, q),
            "own_load": (seen, width, q),
        }
        for name in cls.ARRAYS:
            if arrays[name].shape != expected[name]:
                raise ValueError(
                    f"received {name} of shape {arrays[name].shape}, expected "
                    f"{expected[name]}"
                )
        if not np.isin(joined, arrays["seen"]).all():
            raise ValueError(
                f"received joined {joined}, expected arms of seen {arrays['seen']}"
            )
        # Copies, as learning changes arrays in place.
        owned = {name: np.array(arrays[name], order="K") for name in cls.ARRAYS}
        vars(posterior).update(owned, joined=joined)
        of_pairs = arrays.get("contrasts", np.zeros(2))
        posterior.contrasts = float(of_pairs[0]), float(of_pairs[1])
        posterior.square, posterior.count = map(float, arrays["sums"])
        return posterior

    def widen(self, arm: int, share: float) -> None:
        """Allow for a change of an arm, such as a braid that was trained again.

        Its mean stays, and it becomes less certain: equation (33).

        Parameters
        ----------
        arm : int
        share : float in [0, 1)
            How much the arm may have moved, as a share of the variance with which
            models differ, whatever its descriptor says.

        Raises
        ------
        ValueError
            When there is no such arm, or share is outside its range.
        """
        self._check_arms([arm])
        if not 0.0 <= share < 1.0:
            raise ValueError(f"share must lie in [0, 1), received {share!r}")
        more = share * self.variance_of_change()
        self.own_change[arm] += more
        self.own_covariance[arm] += np.diag(more)
        if arm in self.joined:
            self._absorb(arm)
            self._square_up()

    def variance_of_change(self) -> Array:
        """Return the variance with which an arm may change altogether, shape (d,)."""
        sd = np.full(self.own_width, self.scales.interaction)
        sd[:1] = self.scales.braid
        return sd**2

    # ---- the sums ----

    def sufficient_statistics(self) -> SufficientStatistics:
        """Return the sums over rewards that gave this posterior: equation (9)."""
        (sd, own_sd), variance = self._prior_sds(self.scales), self.scales.noise**2
        seen, own_load, sums = self.seen, self.own_load, self._no_sums()
        if len(self.joined):
            alone = ~np.isin(seen, self.joined)
            seen, own_load = seen[alone], own_load[alone]
        mean = np.append(self.mean, self.own_mean[self.joined])
        shift = mean - self._prior_mean()
        white = np.linalg.inv(self._root() / sd[:, None])
        excess = (white.T @ white - np.eye(len(sd))) / sd[:, None] / sd
        gain = own_load @ white / sd
        given = self.own_mean[seen] + gain @ shift
        own_precision = symmetric(np.linalg.inv(self.own_covariance[seen]))
        cross = variance * own_precision @ gain
        sums.cross[seen] = cross
        prior_precision = 1.0 / (own_sd**2 + self.own_change[seen])
        excess_own = own_precision - prior_precision[:, :, None] * np.eye(len(own_sd))
        sums.own[seen] = variance * excess_own
        sums.own_moment[seen] = variance * np.einsum("ade,ae->ad", own_precision, given)
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
        """Return the features of a checked reward, shared and own, and its variance."""
        self._check_arms([arm])
        m, k = self._layout.shape
        z, x = np.asarray(z, dtype=np.float64), check_features(x, k)
        if z.shape != (m,) or x.ndim != 1:
            raise ValueError(
                f"received z {z.shape} and x {x.shape}, expected ({m},) and ({k},)"
            )
        # One number that is small only if all of them are: two passes less.
        if not z.dot(z) + r * r <= _MOST**2:
            raise ValueError(
                f"descriptor and reward must be finite and at most {_MOST:g}, "
                "received NaN, inf or more"
            )
        if not 0 < weight <= MOST_WEIGHT:
            raise ValueError(
                f"weight is above 0 and at most {MOST_WEIGHT:g}, received {weight!r}"
            )
        return (
            self._layout.features(z, x),
            x[: self.own_width],
            self.scales.noise**2 / max(weight, _LEAST_WEIGHT),
        )

    def _check_arms(self, arms: Sequence[int]) -> None:
        for arm in arms:
            if not 0 <= arm < self.n_arms:
                raise ValueError(f"received arm {arm}, expected 0 to {self.n_arms - 1}")

    def _slot(self, arm: int) -> int | None:
        """Return where the arm is in ``seen``, or None before its first reward."""
        found = (self.seen == arm).nonzero()[0]
        return int(found[0]) if len(found) else None

    def _own_of_one(self, x: Array) -> tuple[Array, Array, NDArray[np.int64], Array]:
        """Return what the arms' own parameters add to the belief about one task.

        Means and variances, the arms that have a coupling to ``theta``, and that. All
        are copies, as learning changes the arrays here in place.
        """
        if len(x) == 1:
            # The only feature is the constant 1: there is nothing to multiply.
            mean, variance = self.own_mean[:, 0], self.own_covariance[:, 0, 0]
            return mean.copy(), variance.copy(), self.seen, self.own_load[:, 0].copy()
        squares = self.own_covariance.reshape(self.n_arms, -1)
        variance = squares @ (x[:, None] * x).ravel()
        return self.own_mean @ x, variance, self.seen, x @ self.own_load

    def _move(self, load: Array, step: float, beta: float) -> None:
        """Move means and roots of all that depends on ``theta``: equations (5), (6)."""
        own = self.own_load.reshape(-1, len(load))
        gain, own_gain = self.factor @ load, own @ load
        self.mean = self.mean + step * gain
        self.factor = linalg.add_outer(self.factor, beta, gain, load)
        moved = own_gain.reshape(len(self.seen), self.own_width)
        self.own_mean[self.seen] -= step * moved
        own = linalg.add_outer(own, beta, own_gain, load)
        self.own_load = own.reshape(self.own_load.shape)

    def _no_sums(self) -> SufficientStatistics:
        return SufficientStatistics.of_nothing(
            self._n_rows(), self._n_arms, self.own_width
        )

    # ---- arms that were compared ----

    def _contrast(
        self,
        arms: tuple[int, int],
        Z: tuple[Array, Array],
        x: Array,
        value: float,
        weight: float,
    ) -> tuple[Array, Array, float]:
        """Return the features of a checked comparison, and its noise variance."""
        one, other = arms
        if one == other:
            raise ValueError(
                f"received arm {one} twice: how an arm compares with itself says "
                "nothing. Give two arms"
            )
        ahead, own, variance = self._observation(one, Z[0], x, value, weight)
        behind, _, _ = self._observation(other, Z[1], x, value, weight)
        return ahead - behind, own, variance

    def _of_contrast(
        self, arms: tuple[int, int], phi: Array, x: Array, value: float
    ) -> tuple[Array, float]:
        """Return what a difference loads on the factor, and its residual."""
        ahead, behind = ((self.seen == arm).nonzero()[0][0] for arm in arms)
        load = phi @ self.factor - x @ (self.own_load[ahead] - self.own_load[behind])
        own = x @ (self.own_mean[arms[0]] - self.own_mean[arms[1]])
        return load, value - float(phi @ self.mean) - float(own)

    def _of_comparisons(self) -> dict[str, NDArray[Any]]:
        return {"joined": self.joined, "contrasts": np.array(self.contrasts)}

    def _tally(self, square: float, count: float) -> None:
        """Count a comparison, or uncount it."""
        of_all, of_pairs = (self.square, self.count), self.contrasts
        # Rounding must not leave less than nothing.
        self.square, self.count = (
            max(a + b, 0.0) for a, b in zip(of_all, (square, count), strict=True)
        )
        self.contrasts = (
            max(of_pairs[0] + square, 0.0),
            max(of_pairs[1] + count, 0.0),
        )

    def _join(self, arms: Sequence[int]) -> None:
        """Move the own parameters of arms into the factor, if they are not there."""
        for arm in arms:
            if arm not in self.joined:
                self._absorb(arm)
                self.joined = np.append(self.joined, arm)

    def _absorb(self, arm: int) -> None:
        """Make what is uncertain about an arm alone columns of the factor."""
        lower, slot = linalg.root(self.own_covariance[arm]), self._slot(arm)
        p, q = self.factor.shape
        if slot is None:
            slot, self.seen = len(self.seen), np.append(self.seen, arm)
            fresh = np.zeros((1, self.own_width, q))
            self.own_load = np.concatenate([self.own_load, fresh])
        more = self.own_width
        self.factor = np.hstack([self.factor, np.zeros((p, more))])
        self.own_load = np.pad(self.own_load, ((0, 0), (0, 0), (0, more)))
        self.own_load[slot, :, q:] = -lower
        self.own_covariance[arm] = 0.0

    def _n_rows(self) -> int:
        """Return how many parameters are in the root."""
        return len(self._layout) + len(self.joined) * self.own_width

    def _root(self) -> Array:
        """Return the square root of the covariance of ``theta`` and all joined arms."""
        if not len(self.joined):
            return self.factor
        load = self.own_load[self._joined_slots()]
        return np.vstack([self.factor, -load.reshape(-1, load.shape[-1])])

    def _joined_slots(self) -> NDArray[np.intp]:
        """Return where the joined arms are in ``seen``."""
        return (self.joined[:, None] == self.seen).nonzero()[1]

    def _square_up(self) -> None:
        """Give the root as many columns as rows again; the covariances stay."""
        turn, upper = np.linalg.qr(self._root().T)
        joined = self._joined_slots()
        self.own_load = np.ascontiguousarray(self.own_load @ turn)
        p, width = self.n_parameters, self.own_width
        self.factor = np.ascontiguousarray(upper.T[:p])
        load = -upper.T[p:].reshape(len(joined), width, upper.shape[1])
        self.own_load[joined] = load

    def _joined_change(self) -> Array | None:
        """Return the prior variance beside the scales; None where there is none."""
        change = self.own_change[self.joined]
        if not change.any():
            return None
        return np.append(np.zeros(self.n_parameters), change)

    def _check_table(self, arms: Sequence[int], Z: Array, X: Array, R: Array) -> None:
        self._check_arms(arms)
        m, k = self._layout.shape
        n, B = len(check_features(X, k)), len(arms)
        if X.ndim != 2 or Z.shape != (B, m) or R.shape != (n, B):
            raise ValueError(
                f"received Z {Z.shape}, X {X.shape} and R {R.shape} of {B} arms, "
                f"expected ({B}, {m}), (n, {k}) and (n, {B})"
            )
        if len(set(arms)) != B:
            raise ValueError(f"received arms {list(arms)}, expected distinct ones")
        if not np.isfinite(Z).all() or np.isinf(R).any():
            raise ValueError(
                "descriptors and rewards must be finite, received NaN or inf; only a "
                "reward that is missing is NaN"
            )
        check_no_gap(R)

    def _with_table(
        self, arms: Sequence[int], Z: Array, X: Array, R: Array, covariance: Array
    ) -> SufficientStatistics:
        """Return the sums with a table; tasks that the same arms have scored at once.

        Rewards of one task have the covariance of the arms that were scored on it.
        """
        sums, above = self.sufficient_statistics(), R - self.scales.mean
        tasks = check_features(X, self._layout.shape[1])
        if not np.isnan(R).any():
            V = precision_of(covariance)
            return sums.with_table(self._layout, arms, Z, tasks, above, V)
        for rows, there in _designs(R):
            sums = sums.with_table(
                self._layout,
                [arms[column] for column in there],
                Z[there],
                tasks[rows],
                above[np.ix_(rows, there)],
                precision_of(covariance[np.ix_(there, there)]),
            )
        return sums

    def _compare_like_with_like(
        self,
        sums: SufficientStatistics,
        arms: Sequence[int],
        X: Array,
        R: Array,
        covariance: Array,
    ) -> None:
        """Allow for the arms that a task was scored on: equation (45).

        What a task's rewards have in common is its own difficulty and the level of
        these arms. The sums keep arms independent, which takes all of it for the
        former; so the level, as it is believed, is put back, and all is solved again.
        """
        index, d = np.asarray(arms), self.own_width
        kept = [
            (rows, there, _kept_apart(precision_of(covariance[np.ix_(there, there)])))
            for rows, there in _designs(R)
        ]
        for turn in range(_ROUNDS if d else 0):
            own = X[:, :d] @ self.own_mean[index].T
            moment, square = sums.own_moment.copy(), sums.square
            for rows, there, share in kept:
                here = own[rows]
                level = here[:, there].mean(axis=1) - here.mean(axis=1)
                moment[index[there]] += np.outer(share, level @ X[rows, :d])
                square += float(share.sum() * (level @ level))
            corrected = replace(sums, own_moment=moment, square=square)
            before = self.own_mean
            # Scales hardly move after the first correction, and cost most.
            scales = self._found_scales(corrected) if turn < 2 else self.scales
            self._set(corrected, scales)
            if np.abs(self.own_mean - before).max() < _STILL:
                break

    def _prior_over(
        self,
        groups: NDArray[np.int64],
        n_arms: int,
        prior: PriorScales | None,
        scales: PriorScales,
    ) -> Posterior:
        """Return a posterior of no rewards over these columns and arms.

        Arms' own parameters stay in the groups that they are in, even where more
        columns now say what an arm is made of.
        """
        other = Posterior(groups, prior, n_arms, self.own_width, self.blocks)
        other.own_groups = self.own_groups
        other.reset(scales)
        return other

    def _found_scales(self, sums: SufficientStatistics) -> PriorScales:
        """Return the scales that fit these sums best: equation (11)."""
        labels, own_labels = self._labels()
        used = np.unique(np.concatenate([labels.ravel(), own_labels.ravel()]))
        used = used[used >= 0]
        # A -1, for no scale, stays one.
        place = np.append(np.searchsorted(used, np.arange(len(_SCALES))), -1)
        names = [*(_SCALES[g] for g in used), "noise"]
        centre = np.log([getattr(self.prior or PriorScales(), name) for name in names])
        # Rewards that were all taken back may leave a square of rounding only.
        # The unit of a comparison is the noise: it does not say how far rewards spread.
        square, count = sums.square - self.contrasts[0], sums.count - self.contrasts[1]
        if self.prior is None and square > 0 and count > _LEAST_COUNT:
            in_rewards = [name not in BLOCKS for name in names]
            centre += np.log(np.sqrt(square / count) / USUAL_SPREAD) * (
                np.array(in_rewards)
            )
        # The first search starts where the hyperprior is, a later one from the last.
        start = np.log([getattr(self.scales, name) for name in names])
        found = find_scales(
            sums,
            place[labels],
            place[own_labels],
            centre if self.count == 0 else start,
            centre,
            self.own_change,
            self._joined_change(),
        )
        best = {n: float(v) for n, v in zip(names, np.exp(found), strict=True)}
        return replace(self.scales, **best)

    def _set(self, sums: SufficientStatistics, scales: PriorScales) -> None:
        """Become the posterior of these sums under these scales: equation (4)."""
        sd, own = self._prior_sds(scales)
        own_sd = np.sqrt(own**2 + self.own_change)
        found = solve(sums, sd, own_sd, scales.noise**2)
        self.scales, self.solved = scales, self.solved + 1
        prior_mean = self._prior_mean()
        self.mean, self.factor = prior_mean + found.mean, found.factor
        self.own_mean = found.own_mean - found.own_gain @ found.mean
        self.own_covariance, self.seen = found.own_covariance, sums.seen
        self.own_load = found.own_gain[self.seen] @ self.factor
        if len(self.joined):
            self._split()
        self.square, self.count = sums.square, sums.count

    def _split(self) -> None:
        """Part what was solved for ``theta`` and the joined arms together."""
        p, J, width = self.n_parameters, len(self.joined), self.own_width
        self.own_mean[self.joined] = self.mean[p:].reshape(J, width)
        self.own_covariance[self.joined] = 0.0
        self.seen = np.append(self.seen, self.joined)
        load = -self.factor[p:].reshape(J, width, self.factor.shape[1])
        self.own_load = np.concatenate([self.own_load, load])
        self.mean, self.factor = self.mean[:p], np.ascontiguousarray(self.factor[:p])

    def _labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which scales make the prior of each parameter, (P, 2) and (d, 2).

        The first is its group's, the second that of its block, or -1.
        """
        block = np.where(self.blocks > 0, len(GROUPS) + self.blocks - 1, -1)
        shared = np.column_stack([self._layout.labels, block[self._layout.columns]])
        own = np.column_stack([self.own_groups, block[: self.own_width]])
        # Those of the arms that were compared are in the root too.
        return np.concatenate([shared, np.tile(own, (len(self.joined), 1))]), own

    def _prior_sds(self, scales: PriorScales) -> tuple[Array, Array]:
        """Return the prior standard deviations of the same parameters."""
        values = np.array([getattr(scales, name) for name in _SCALES])
        labels, own_labels = self._labels()
        sd, change = products(values, labels), self._joined_change()
        if change is not None:
            sd = np.sqrt(sd**2 + change)
        return sd, products(values, own_labels)

    def _prior_mean(self) -> Array:
        # The intercept is the first parameter of the bias row, if there is one.
        mean = np.zeros(self._n_rows())
        mean[: len(self._layout)][self._layout.labels == 0] = self.scales.mean
        return mean


def check_no_gap(R: Array) -> None:
    """Refuse a table with a row or a column of NaN only.

    Raises
    ------
    ValueError

    Examples
    --------
    >>> check_no_gap(np.array([[0.5, np.nan], [np.nan, np.nan]]))
    Traceback (most recent call last):
    ValueError: row 1 of the table is empty: it has no score at all, ...
    """
    missing = np.isnan(R)
    if not missing.any():
        return
    for axis, name, what in ((1, "row", "task"), (0, "column", "arm")):
        empty = np.flatnonzero(missing.all(axis=axis))
        if len(empty):
            raise ValueError(
                f"{name} {empty[0]} of the table is empty: it has no score at all, and "
                f"says nothing of that {what}. Leave the {what} out, or score one cell"
            )


def _designs(R: Array) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Iterate over the sets of arms that tasks were scored on: (tasks, arms)."""
    there, first, which = np.unique(
        ~np.isnan(R), axis=0, return_index=True, return_inverse=True
    )
    for design in np.argsort(first):
        yield np.flatnonzero(which.ravel() == design), np.flatnonzero(there[design])


def _kept_apart(V: Array) -> Array:
    """Return what the precision of one arm's part has beyond what all say together."""
    return np.asarray(np.linalg.norm(V, 2) - V.sum(axis=1))


def contract(
    layout: Layout, mean: Array, factor: Array, x: Array
) -> tuple[Array, Array]:
    """Return mean and root of the covariance of ``W x``: equation (2).

    Parameters
    ----------
    layout : Layout
    mean : ndarray of shape (p,)
        Mean of ``theta``.
    factor : ndarray of shape (p, q)
        Root of its covariance.
    x : ndarray of shape (k,)
        The constant 1 first: rows of one parameter are not multiplied with it.

    Returns
    -------
    mu : ndarray of shape (m,)
    half : ndarray of shape (m, q)
    """
    q = factor.shape[1]
    mu, half = np.empty(layout.shape[0]), np.empty((layout.shape[0], q))
    for rows, entries, width in layout.runs:
        if width == 1:
            mu[rows], half[rows] = mean[entries], factor[entries]
        else:
            mu[rows] = mean[entries].reshape(-1, width) @ x[:width]
            half[rows] = x[:width] @ factor[entries].reshape(-1, width, q)
    return mu, half


def check_features(X: Array, k: int) -> Array:
    """Return the features of one task (k,) or of several (n, k), if they are right.

    Parameters
    ----------
    X : ndarray of shape (k,) or (n, k)
    k : int

    Returns
    -------
    ndarray of float64

    Raises
    ------
    ValueError
        When the width is not k, the first feature is not 1, or a value is not finite
        or above 1e4 in size.

    Examples
    --------
    >>> check_features(np.array([1, 2]), 2).tolist()
    [1.0, 2.0]
    """
    rows = np.asarray(X, dtype=np.float64)
    if rows.ndim not in (1, 2) or rows.shape[-1] != k:
        raise ValueError(f"received features of shape {rows.shape}, expected width {k}")
    if not (rows[0] == 1.0 if rows.ndim == 1 else (rows[:, 0] == 1.0).all()):
        raise ValueError(
            "the first feature of every task is the constant 1, which carries the "
            f"intercepts; received {rows[..., 0]}. Put a column of ones in front"
        )
    if not np.abs(rows).max(initial=0.0) <= _LARGEST:  # also refuses NaN
        sizes = np.nan_to_num(np.abs(rows).reshape(-1, k), nan=np.inf).max(axis=0)
        largest = int(sizes.argmax())
        raise ValueError(
            f"task features must be finite and at most {_LARGEST:g}, received "
            f"{sizes[largest]:g} in feature {largest}. Scale what they are made "
            "of (embeddings, columns) to about unit variance"
        )
    return rows
