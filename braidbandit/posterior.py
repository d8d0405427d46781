"""The shared Bayesian linear model of quality: ``r = z' W x + noise``.

``z`` describes the braid, ``x`` the task. ``vec(W)`` is Gaussian with one prior
scale per block. Equations are numbered in ``docs/math.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array

from braidbandit import linalg

Array = NDArray[np.float64]

GROUPS = (
    "intercept",
    "task",
    "braid",
    "interaction",
    "arm_intercept",
    "arm_slope",
)
# Blocks whose effect is taken to be the same for every task.
_TASK_FREE = ("anchor", "pair", "cost")
# Prior scales are only weakly identified by a few dozen tasks: log-scales get a
# normal hyperprior around the defaults with this standard deviation.
_HYPER_SD = 1.5


@dataclass(frozen=True)
class PriorScales:
    """Prior standard deviations of the blocks of ``W``, and of the noise.

    Parameters
    ----------
    mean : float
        Prior mean of the quality of every arm. A little above what is expected:
        an arm nobody tried then looks worth a try.
    intercept, task : float
        Overall level, and how task features move every arm alike.
    braid, interaction : float
        How descriptors move quality for every task, and per task feature.
    arm_intercept, arm_slope : float
        The same for one arm only: what the descriptors do not explain.
    noise : float
        Standard deviation of one reward around its mean.

    Examples
    --------
    >>> PriorScales(noise=0.1).noise
    0.1
    """

    mean: float = 0.7
    intercept: float = 0.3
    task: float = 0.06
    braid: float = 0.15
    interaction: float = 0.06
    arm_intercept: float = 0.08
    arm_slope: float = 0.03
    noise: float = 0.25

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not np.isfinite(value) or (name != "mean" and value <= 0):
                raise ValueError(
                    f"prior scale {name} must be finite and above 0, received {value!r}"
                )

    def to_dict(self) -> dict[str, float]:
        """Return the scales as JSON-able data."""
        return asdict(self)


def parameter_groups(
    names: Sequence[str], n_columns: int, max_parameters: int
) -> NDArray[np.int64]:
    """Say which block of the prior each entry of ``W`` belongs to.

    Anchor, pair and cost columns have no task slopes. Arms keep task slopes of
    their own while that fits ``max_parameters``, else an intercept only.

    Parameters
    ----------
    names : sequence of str, length m
        Descriptor columns, as given by ``Catalogue.descriptors``.
    n_columns : int
        Number of task features k; feature 0 is the bias.
    max_parameters : int

    Returns
    -------
    groups : ndarray of shape (m, k)
        Index into ``GROUPS``; -1 where there is no parameter.

    Examples
    --------
    >>> parameter_groups(["bias", "share:a", "cost", "arm:x"], 2, 100).tolist()
    [[0, 1], [2, 3], [2, -1], [4, 5]]
    """
    groups = np.full((len(names), n_columns), GROUPS.index("interaction"))
    groups[:, 0] = GROUPS.index("braid")
    for row, name in enumerate(names):
        block = name.split(":", 1)[0]
        if block == "bias":
            groups[row] = GROUPS.index("task")
            groups[row, 0] = GROUPS.index("intercept")
        elif block == "arm":
            groups[row] = GROUPS.index("arm_slope")
            groups[row, 0] = GROUPS.index("arm_intercept")
        elif block in _TASK_FREE:
            groups[row, 1:] = -1
    if int((groups >= 0).sum()) > max_parameters:
        groups[groups == GROUPS.index("arm_slope")] = -1
    return groups


class Posterior:
    """Gaussian posterior over the entries of ``W``.

    Parameters
    ----------
    groups : ndarray of shape (m, k)
        From :func:`parameter_groups`; p is its number of entries that are not -1.
    scales : PriorScales, optional

    Attributes
    ----------
    mean : ndarray of shape (p,)
    factor : ndarray of shape (p, p)
        Square root of the covariance: ``P = factor @ factor.T``, the one truth.
    scales : PriorScales

    Examples
    --------
    One arm, one parameter, prior N(0.5, 1), noise 1, one reward of 1:

    >>> scales = PriorScales(mean=0.5, intercept=1.0, noise=1.0)
    >>> posterior = Posterior(np.zeros((1, 1), dtype=int), scales)
    >>> posterior.update(np.ones(1), np.ones(1), 1.0)
    >>> mean, variance = posterior.arm_moments(np.ones((1, 1)), np.ones(1))
    >>> float(mean[0]), round(float(variance[0]), 12)
    (0.75, 0.5)
    """

    def __init__(
        self, groups: NDArray[np.int64], scales: PriorScales | None = None
    ) -> None:
        self.groups = np.asarray(groups)
        self._rows, self._columns = np.nonzero(self.groups >= 0)
        self._labels = self.groups[self._rows, self._columns]
        self._starts = np.searchsorted(self._rows, np.arange(len(self.groups) + 1))
        if self.groups.ndim != 2 or np.any(np.diff(self._starts) == 0):
            raise ValueError("every descriptor column needs at least one parameter")
        self.reset(scales or PriorScales())

    def reset(self, scales: PriorScales) -> None:
        """Go back to the prior with the given scales."""
        self.scales = scales
        self.mean = self._prior_mean()
        self.factor = np.diag(self._prior_sd())

    @property
    def n_parameters(self) -> int:
        """The number of parameters p."""
        return len(self._rows)

    def copy(self) -> Posterior:
        """Return an independent copy."""
        other = Posterior(self.groups, self.scales)
        other.mean, other.factor = self.mean.copy(), self.factor.copy()
        return other

    def contract(self, x: Array) -> tuple[Array, Array]:
        """Return mean (m,) and covariance (m, m) of ``W x``: equation (2)."""
        weights = np.asarray(x, dtype=np.float64)[self._columns]
        # Each row of W meets its own parameters only: a sparse (m, p) matrix.
        spread = csr_array(
            (weights, np.arange(self.n_parameters), self._starts),
            shape=(len(self.groups), self.n_parameters),
        )
        half = spread @ self.factor
        return spread @ self.mean, half @ half.T

    def arm_moments(self, Z: Array, x: Array) -> tuple[Array, Array]:
        """Return mean and variance of each arm's quality, (A,) each: equation (3)."""
        mu, covariance = self.contract(x)
        return Z @ mu, np.maximum(np.einsum("am,am->a", Z @ covariance, Z), 0.0)

    def means(self, Z: Array, X: Array) -> Array:
        """Return the mean quality of every arm on every task, shape (n, A)."""
        W = np.zeros(self.groups.shape)
        W[self._rows, self._columns] = self.mean
        return X @ W.T @ Z.T

    def update(self, z: Array, x: Array, r: float, weight: float = 1.0) -> None:
        """Learn one reward; ``weight`` divides the noise variance."""
        phi, variance = self._observation(z, x, r, weight)
        # Tuple assignment last: an error above leaves both arrays as they were.
        self.mean, self.factor = linalg.condition(
            self.mean, self.factor, phi, r - float(phi @ self.mean), variance
        )

    def downdate(self, z: Array, x: Array, r: float, weight: float = 1.0) -> None:
        """Take one reward back exactly; refused when it was never learnt."""
        phi, variance = self._observation(z, x, r, weight)
        self.mean, self.factor = linalg.uncondition(
            self.mean, self.factor, phi, r - float(phi @ self.mean), variance
        )

    def forget(self, gamma: float) -> None:
        """Blend toward the prior: keep the share ``gamma`` of what was learnt."""
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"gamma must lie in (0, 1], received {gamma!r}")
        if gamma < 1.0:
            self.mean, self.factor = linalg.forget(
                self.mean, self.factor, self._prior_mean(), self._prior_sd(), gamma
            )

    def set_prior_by_marginal_likelihood(self, Z: Array, X: Array, R: Array) -> None:
        """Choose the prior scales and the noise on a full table, then reset to them.

        The scales maximise the marginal likelihood of the table times a weak
        hyperprior (equation (11)); the search starts at the current scales and
        draws nothing. The prior mean becomes the mean of the table.

        Parameters
        ----------
        Z : ndarray of shape (A, m)
        X : ndarray of shape (n, k)
        R : ndarray of shape (n, A)
            Quality of every arm on every task.
        """
        scales = replace(self.scales, mean=float(R.mean()))
        gram, moment, square = self._table_statistics(Z, X, R - scales.mean)
        names = [*(GROUPS[g] for g in np.unique(self._labels)), "noise"]
        positions = np.searchsorted(np.unique(self._labels), self._labels)
        start = np.log([getattr(self.scales, name) for name in names])
        found = minimize(
            _negative_log_evidence,
            start,
            args=(start, positions, gram, moment, square, R.size),
            jac=True,
            method="L-BFGS-B",
            bounds=[(np.log(1e-3), np.log(3.0))] * len(names),
            options={"maxiter": 60},
        )
        best = {n: float(v) for n, v in zip(names, np.exp(found.x), strict=True)}
        self.reset(replace(scales, **best))

    def condition_on_table(self, Z: Array, X: Array, R: Array) -> None:
        """Learn a full table at once, from the prior: equation (4)."""
        prior_mean = self._prior_mean()
        gram, moment, _ = self._table_statistics(Z, X, R - self.scales.mean)
        shift, factor = linalg.batch_condition(
            gram, moment, self._prior_sd(), self.scales.noise**2
        )
        self.mean, self.factor = prior_mean + shift, factor

    def _observation(
        self, z: Array, x: Array, r: float, weight: float
    ) -> tuple[Array, float]:
        z, x = np.asarray(z, dtype=np.float64), np.asarray(x, dtype=np.float64)
        if z.shape != (self.groups.shape[0],) or x.shape != (self.groups.shape[1],):
            raise ValueError(
                f"received z {z.shape} and x {x.shape}, expected "
                f"({self.groups.shape[0]},) and ({self.groups.shape[1]},)"
            )
        if not (np.isfinite(z).all() and np.isfinite(x).all() and np.isfinite(r)):
            raise ValueError("features and reward must be finite, received NaN or inf")
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"weight must be finite and above 0, received {weight!r}")
        return z[self._rows] * x[self._columns], self.scales.noise**2 / weight

    def _table_statistics(
        self, Z: Array, X: Array, R: Array
    ) -> tuple[Array, Array, float]:
        """``Phi' Phi``, ``Phi' r`` and ``r' r``; Phi itself is never formed."""
        rows, columns = self._rows, self._columns
        gram = (Z.T @ Z)[np.ix_(rows, rows)] * (X.T @ X)[np.ix_(columns, columns)]
        moment = (Z.T @ R.T @ X)[rows, columns]
        return gram, moment, float((R**2).sum())

    def _prior_sd(self) -> Array:
        by_group = np.array([getattr(self.scales, name) for name in GROUPS])
        return by_group[self._labels]

    def _prior_mean(self) -> Array:
        # The intercept is the first parameter of the bias row, if there is one.
        return np.where(self._labels == 0, self.scales.mean, 0.0)


def _negative_log_evidence(
    log_scales: Array,
    centre: Array,
    positions: NDArray[np.int64],
    gram: Array,
    moment: Array,
    square: float,
    n_rewards: int,
) -> tuple[float, Array]:
    """Minus the log marginal likelihood and hyperprior, with its gradient."""
    sd, noise = np.exp(log_scales[:-1])[positions], float(np.exp(2 * log_scales[-1]))
    inner = sd[:, None] * gram * sd / noise
    inner[np.diag_indices_from(inner)] += 1.0
    lower = scipy.linalg.cholesky(inner, lower=True, check_finite=False)
    half = scipy.linalg.solve_triangular(lower, np.eye(len(sd)), lower=True)
    # Whitened posterior: mean u, variances d; both of equation (12).
    u = half.T @ (half @ (sd * moment)) / noise
    d = np.einsum("ij,ij->j", half, half)
    shift = sd * u
    error = square - 2 * float(shift @ moment) + float(shift @ gram @ shift)
    away = (log_scales - centre) / _HYPER_SD
    value = 0.5 * (
        n_rewards * np.log(noise)
        + 2 * np.log(np.diag(lower)).sum()
        + error / noise
        + float(u @ u)
        + float(away @ away)
    )
    slopes = np.bincount(
        positions, weights=1.0 - d - u**2, minlength=len(log_scales) - 1
    )
    noise_slope = n_rewards - float((1.0 - d).sum()) - error / noise
    gradient = np.append(slopes, noise_slope) + away / _HYPER_SD
    return float(value), gradient
