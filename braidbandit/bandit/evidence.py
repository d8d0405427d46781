"""What rewards say about the model, and the posterior that follows from it.

The model has p shared parameters ``theta`` and, for each of A arms, d parameters
``b_a`` of its own. Given ``theta`` the arms are independent, so the posterior is kept
as the Gaussian of ``theta`` and, per arm, of ``b_a`` given ``theta``: exact, and never
larger than p x p and A x d x p. Equations are numbered in ``docs/math.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]

# Prior scales are only weakly identified by a few dozen tasks: log-scales get a
# normal hyperprior around the defaults with this standard deviation.
HYPER_SD = 1.5
_BOUNDS = (np.log(1e-3), np.log(3.0))
_NOWHERE = 1e12


@dataclass(frozen=True)
class Information:
    """Weighted sums over rewards; rewards are counted from the prior mean.

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
    """

    gram: Array
    cross: Array
    own: Array
    moment: Array
    own_moment: Array
    square: float
    count: float

    def scaled(self, share: float) -> Information:
        """Return what is left when every reward counts ``share`` as much."""
        return Information(
            share * self.gram,
            share * self.cross,
            share * self.own,
            share * self.moment,
            share * self.own_moment,
            share * self.square,
            share * self.count,
        )

    def of_seen(self) -> Information:
        """Return the same sums without the arms that have no reward."""
        seen = self.seen
        return replace(
            self,
            cross=self.cross[seen],
            own=self.own[seen],
            own_moment=self.own_moment[seen],
        )

    @property
    def seen(self) -> NDArray[np.intp]:
        """Rows of the arms that have any reward."""
        return np.flatnonzero(np.einsum("add->a", self.own) > 0)


@dataclass(frozen=True)
class Solution:
    """Posterior in the form that is kept; means are counted from the prior mean.

    Attributes
    ----------
    mean : ndarray of shape (p,)
    factor : ndarray of shape (p, p)
        Square root of the covariance of ``theta``.
    own_mean : ndarray of shape (A, d)
    own_covariance : ndarray of shape (A, d, d)
    own_gain : ndarray of shape (A, d, p)
        ``b_a`` given ``theta`` is N(own_mean - own_gain theta, own_covariance).
    log_determinant : float
        Of the prior covariance over the posterior covariance.
    """

    mean: Array
    factor: Array
    own_mean: Array
    own_covariance: Array
    own_gain: Array
    log_determinant: float


def solve(info: Information, sd: Array, own_sd: Array, variance: float) -> Solution:
    """Return the posterior under independent normal priors: equation (4).

    Parameters
    ----------
    info : Information
    sd : ndarray of shape (p,)
        Prior standard deviations of the shared parameters.
    own_sd : ndarray of shape (d,) or (A, d)
        The same for the own parameters of any arm, or of each.
    variance : float
        Variance of the noise.

    Examples
    --------
    One shared parameter, no own ones, prior N(0, 1), one reward of 1, noise 1:

    >>> info = Information(np.eye(1), np.zeros((1, 0, 1)), np.zeros((1, 0, 0)),
    ...                    np.ones(1), np.zeros((1, 0)), 1.0, 1.0)
    >>> found = solve(info, np.ones(1), np.ones(0), 1.0)
    >>> round(float(found.mean[0]), 12), round(float(found.factor[0, 0] ** 2), 12)
    (0.5, 0.5)
    """
    arms, d, p = info.cross.shape
    seen = info.seen
    own_mean, own_gain = np.zeros((arms, d)), np.zeros((arms, d, p))
    own_sd = np.broadcast_to(own_sd, (arms, d))
    own_covariance = own_sd[:, :, None] ** 2 * np.eye(d)
    # Arms first: whitened by the prior, so that every spectrum starts at 1.
    rows, columns = own_sd[seen][:, :, None], own_sd[seen][:, None]
    inner = rows * info.own[seen] * columns / variance + np.eye(d)
    cov = symmetric(rows * np.linalg.inv(inner) * columns)
    gain = cov @ info.cross[seen] / variance
    arm_mean = np.einsum("ade,ae->ad", cov, info.own_moment[seen]) / variance
    own_covariance[seen], own_gain[seen], own_mean[seen] = cov, gain, arm_mean
    # What the arms leave to say about the shared parameters.
    cross = info.cross[seen].reshape(-1, p)
    precision = (info.gram - cross.T @ gain.reshape(-1, p)) / variance
    moment = (info.moment - cross.T @ arm_mean.ravel()) / variance
    shared = sd[:, None] * symmetric(precision) * sd
    shared[np.diag_indices_from(shared)] += 1.0
    try:
        lower = scipy.linalg.cholesky(shared, lower=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise np.linalg.LinAlgError(
            "features or weights differ in size beyond what can be computed with; "
            "standardise the features, and keep weights near 1"
        ) from error
    half = scipy.linalg.solve_triangular(lower, np.diag(sd), lower=True)
    factor = np.ascontiguousarray(half.T)
    log_determinant = 2 * np.log(np.diag(lower)).sum()
    log_determinant += np.linalg.slogdet(inner)[1].sum()
    return Solution(
        factor @ (half @ moment),
        factor,
        own_mean,
        own_covariance,
        own_gain,
        float(log_determinant),
    )


def symmetric(matrices: NDArray[Any]) -> Array:
    """Return the symmetric part of square matrices, shape (..., n, n).

    An inverse is symmetric up to rounding only. What is not symmetric in a covariance
    is never corrected by a reward: it grows from one forgetting to the next.

    Examples
    --------
    >>> symmetric(np.array([[1.0, 2.0], [4.0, 1.0]])).tolist()
    [[1.0, 3.0], [3.0, 1.0]]
    """
    return np.asarray(0.5 * (matrices + np.swapaxes(matrices, -1, -2)))


def find_scales(
    info: Information,
    labels: NDArray[np.int64],
    own_labels: NDArray[np.int64],
    start: Array,
    centre: Array,
    own_change: Array | float = 0.0,
) -> Array:
    """Return the log scales that maximise evidence times hyperprior: equation (11).

    Parameters
    ----------
    info : Information
    labels, own_labels : ndarrays of shape (p,) and (d,)
        Which scale each parameter has.
    start, centre : ndarrays of shape (g + 1,)
        Log scales, the noise last: where to start, and where the hyperprior is.
    own_change : ndarray of shape (A, d), optional
        Prior variance that arms' own parameters have beside their scale.
    """
    change = np.broadcast_to(own_change, info.own_moment.shape)
    found = minimize(
        negative_log_evidence,
        np.clip(start, *_BOUNDS),
        # Arms without a reward say nothing about the scales, and may be thousands.
        args=(info.of_seen(), labels, own_labels, centre, change[info.seen]),
        jac=True,
        method="L-BFGS-B",
        bounds=[_BOUNDS] * len(start),
        options={"maxiter": 40, "ftol": 1e-7},
    )
    if not np.isfinite(found.x).all():
        raise np.linalg.LinAlgError("no prior scales were found: the sums overflow")
    return np.asarray(found.x, dtype=np.float64)


def negative_log_evidence(
    log_scales: Array,
    info: Information,
    labels: NDArray[np.int64],
    own_labels: NDArray[np.int64],
    centre: Array,
    own_change: Array | float = 0.0,
) -> tuple[float, Array]:
    """Minus the log evidence and hyperprior, without constants, with its gradient.

    Equation (12). Scales that no parameter has keep the hyperprior's centre.
    """
    scales, variance = np.exp(log_scales[:-1]), float(np.exp(2 * log_scales[-1]))
    sd, of_scale = scales[labels], scales[own_labels] ** 2
    change = np.broadcast_to(own_change, info.own_moment.shape)
    try:
        found = solve(info, sd, np.sqrt(of_scale + change), variance)
    except np.linalg.LinAlgError:
        # Rounding is all that is left where features repeat each other and the scales
        # are far off: the search must turn back.
        return _NOWHERE, np.zeros_like(log_scales)
    seen = info.seen
    own_prior = of_scale + change[seen]
    b = found.own_mean[seen] - found.own_gain[seen] @ found.mean
    explained = float(info.moment @ found.mean + (info.own_moment[seen] * b).sum())
    away = (log_scales - centre) / HYPER_SD
    value = 0.5 * (
        info.count * np.log(variance)
        + found.log_determinant
        + (info.square - explained) / variance
        + float(away @ away)
    )
    # Per parameter 1 - (posterior variance + squared mean) / prior variance.
    kept = np.einsum("ij,ij->i", found.factor, found.factor) / sd**2
    coupling = found.own_gain[seen] @ found.factor
    own_variance = np.einsum("add->ad", found.own_covariance[seen])
    own_kept = (own_variance + np.einsum("adp,adp->ad", coupling, coupling)) / own_prior
    slopes = np.bincount(
        labels, weights=1.0 - kept - (found.mean / sd) ** 2, minlength=len(scales)
    ) + np.bincount(
        np.broadcast_to(own_labels, b.shape).ravel(),
        weights=((1.0 - own_kept - b**2 / own_prior) * of_scale / own_prior).ravel(),
        minlength=len(scales),
    )
    fitted = float((1.0 - kept).sum() + (1.0 - own_kept).sum())
    quadratic = (
        found.mean @ info.gram @ found.mean
        + 2 * np.einsum("ad,adp,p->", b, info.cross[seen], found.mean)
        + np.einsum("ad,ade,ae->", b, info.own[seen], b)
    )
    error = info.square - 2 * explained + float(quadratic)
    gradient = np.append(slopes, info.count - fitted - error / variance)
    return float(value), gradient + away / HYPER_SD


def task_precision(R: Array, shared: bool = False) -> Array:
    """Return the precision (B, B) of one task's rewards, in units of one noise.

    What moves the rewards of a task together is noise until the task features explain
    it: equation (13). A part common to all arms has the share rho of the variance, from
    the two-way analysis of variance.

    Parameters
    ----------
    R : ndarray of shape (n, B)
    shared : bool
        Whether arms have strands in common: what a strand does on a task then shows in
        several rewards, and the rest of them is correlated too.

    Examples
    --------
    No task is harder than the other:

    >>> task_precision(np.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    n, arms = R.shape
    if n < 2 or arms < 2:
        return np.eye(arms)
    by_task = R.mean(axis=1, keepdims=True)
    rest = R - by_task - R.mean(axis=0) + R.mean()
    alone = float((rest**2).sum()) / ((n - 1) * (arms - 1))
    common = max(float(by_task.var(ddof=1)) - alone / arms, 0.0)
    # A table without any noise of its own would make the precision infinite.
    rho = min(common / (common + alone), 0.9) if common > 0.0 else 0.0
    # Rewards lie in [0, 1]: below this there is rounding only.
    covariance = _shrunk(rest) if shared and alone > 1e-16 else np.eye(arms)
    return symmetric(np.linalg.inv((1.0 - rho) * covariance + rho))


def _shrunk(rest: Array) -> Array:
    """Return the covariance of columns, 1 on average, shrunk toward the unit matrix.

    By the intensity of Ledoit and Wolf (2004), and a tenth at least, as arms may be
    copies of each other. Of two tasks that intensity would be 0.
    """
    unit = rest / np.sqrt((rest**2).mean())
    seen = unit.T @ unit / len(rest)
    alone = np.eye(len(seen))
    scatter = float((unit**2).sum(axis=1) @ (unit**2).sum(axis=1)) / len(rest)
    scatter = (scatter - float((seen**2).sum())) / len(rest)
    away = float(((seen - alone) ** 2).sum())
    least = max(0.1, 1.0 / len(rest))
    intensity = float(np.clip(scatter / away, least, 1.0)) if away > 0.0 else 1.0
    return (1.0 - intensity) * seen + intensity * alone
