"""Carry what was learnt over to more shared descriptors, and describe more arms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import GROUPS
from braidbandit.catalogue.braid import Braid

Array = NDArray[np.float64]


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


def extend_descriptors(
    Z: Array,
    columns: Sequence[str],
    braids: Sequence[Braid],
    described: tuple[Array, Sequence[str]],
    newcomers: Sequence[Braid],
    probed: tuple[Sequence[str], Array] | None = None,
) -> tuple[Array, tuple[str, ...]]:
    """Describe more arms without moving the arms that are there.

    Describing a larger catalogue afresh centres columns anew and brings columns
    that were constant before. Every column is shifted so that the arms that were
    there keep their numbers; a column that is new is zero for them.

    Parameters
    ----------
    Z : ndarray of shape (A, m)
    columns : sequence of str, length m
    braids : sequence of Braid, length A
    described : tuple of ndarray (A + B, n) and names
        Fresh descriptors of the larger catalogue, newcomers last.
    newcomers : sequence of Braid, length B
    probed : tuple of names (M,) and ndarray (n, M), optional
        The single models' scores on the probe tasks of the warm start.

    Returns
    -------
    Z : ndarray of shape (A + B, m')
    columns : tuple of str, length m'
        Those that are new come last.
    """
    fresh = dict(zip(described[1], described[0].T, strict=True))
    gains = {} if probed is None else _gains(Z, columns, braids, newcomers, *probed)
    n = len(braids)
    shared = [*columns, *(name for name in described[1] if name not in columns)]
    out = np.zeros((n + len(newcomers), len(shared)))
    for j, name in enumerate(shared):
        if name in columns:
            out[:n, j] = Z[:, columns.index(name)]
        if name == "bias":
            out[n:, j] = 1.0
        elif name in fresh:
            out[n:, j] = fresh[name][n:] - (fresh[name][:n] - out[:n, j]).mean()
        elif name in gains:
            out[n:, j] = gains[name]
        else:
            # Nothing tells this column: a newcomer takes the average.
            out[n:, j] = out[:n, j].mean()
    # Products of a gain with a knob follow from both.
    for j, name in enumerate(shared):
        gain, star, knob = name.partition("*")
        if star and gain in shared and knob in shared:
            out[n:, j] = out[n:, shared.index(gain)] * out[n:, shared.index(knob)]
        elif star and gain == "gain:strands" and {"strands", knob} <= set(shared):
            strands = out[n:, shared.index("strands")]
            out[n:, j] = strands * out[n:, shared.index(knob)]
    return out, tuple(shared)


def _gains(
    Z: Array,
    columns: Sequence[str],
    braids: Sequence[Braid],
    newcomers: Sequence[Braid],
    models: Sequence[str],
    signatures: Array,
) -> dict[str, Array]:
    """Gains of newcomers over the probe tasks, on the scale of the arms there.

    Every gain column is linear in an arm's gains over the probe tasks; least
    squares on the arms there finds the weights.
    """
    place = {model: j for j, model in enumerate(models)}
    if not all(place.keys() >= set(braid.strands) for braid in newcomers):
        return {}
    # Models may have come since the probe, and braids of them.
    rows = [row for row, b in enumerate(braids) if place.keys() >= set(b.strands)]

    def of(some: Sequence[Braid]) -> Array:
        gains = []
        for braid in some:
            scores = signatures[:, [place[strand] for strand in braid.strands]]
            gains.append(scores.max(axis=1) - scores @ np.array(braid.shares))
        return np.array(gains)

    there, new = of([braids[row] for row in rows]), of(newcomers)
    return {
        name: new @ np.linalg.lstsq(there, Z[rows, j], rcond=None)[0]
        for j, name in enumerate(columns)
        if name.startswith("gain:") and "*" not in name
    }


def new_groups(groups: NDArray[np.int64], like: Posterior) -> NDArray[np.int64]:
    """Return blocks of new columns as a posterior has them: with slopes, or without."""
    rest = like.groups[like.groups[:, 0] != GROUPS.index("intercept"), 1:]
    if len(rest) and (rest == -1).all():
        groups = groups.copy()
        groups[:, 1:] = -1
    return groups
