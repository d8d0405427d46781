"""Carry what was learnt over to more shared descriptors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import GROUPS


def with_columns(posterior: Posterior, groups: NDArray[np.int64]) -> Posterior:
    """Return the posterior with more descriptor columns, behind those it has.

    The new parameters start at the prior; what was learnt stays as it is.

    Parameters
    ----------
    posterior : Posterior
    groups : ndarray of shape (more, k)
        Blocks of the new columns, from :func:`parameter_groups`.

    Examples
    --------
    >>> old = Posterior(np.zeros((1, 1), dtype=int))
    >>> _ = old.update(0, np.ones(1), np.ones(1), 1.0)
    >>> new = with_columns(old, np.array([[2]]))
    >>> bool(new.mean[0] == old.mean[0]), float(new.mean[1]), float(new.factor[1, 1])
    (True, 0.0, 0.15)
    """
    groups = np.vstack([posterior.groups, groups])
    other = posterior.unlearnt(groups, posterior.n_arms)
    p, more = posterior.n_parameters, other.n_parameters - posterior.n_parameters
    other.mean[:p], other.factor[:p, :p] = posterior.mean, posterior.factor
    other.own_mean = posterior.own_mean.copy()
    other.own_covariance = posterior.own_covariance.copy()
    other.own_change = posterior.own_change.copy()
    other.seen = posterior.seen.copy()
    other.own_load = np.pad(posterior.own_load, ((0, 0), (0, 0), (0, more)))
    other.square, other.count = posterior.square, posterior.count
    return other


def new_groups(groups: NDArray[np.int64], like: Posterior) -> NDArray[np.int64]:
    """Return blocks of new columns as a posterior has them: with slopes, or without."""
    rest = like.groups[like.groups[:, 0] != GROUPS.index("intercept"), 1:]
    if len(rest) and (rest == -1).all():
        groups = groups.copy()
        groups[:, 1:] = -1
    return groups
