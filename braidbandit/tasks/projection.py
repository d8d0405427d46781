"""Projection: from an embedding to a few numbers that say what kind of task it is.

What a model is good at changes from one kind of task to the next, and kinds of task are
clusters of embeddings rather than directions: soft memberships of clusters are few
numbers, smooth, and say more than as many principal components.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Array = NDArray[np.float64]

# Fewer clusters than this say less than principal components do.
_FEWEST_KINDS = 8
_TASKS_PER_KIND = 5
# Width of a cluster, in units of the mean squared distance to the nearest centre.
_SOFTNESS = 0.2
# Of values beyond this, or below one part in it, squares are lost in others.
_LARGEST = 1e6


class Projection(NamedTuple):
    """A fitted projection.

    Attributes
    ----------
    gates : ndarray of shape (c, d + 1)
        Logits of the memberships are ``gates @ [embedding, 1]``; without rows, the
        embedding itself is projected.
    mean : ndarray of shape (c,) or (d,)
    components : ndarray of shape (k, c) or (k, d)
        With the scale in them.
    """

    gates: Array
    mean: Array
    components: Array

    def apply(self, embeddings: Array) -> Array:
        """Return the projected embeddings, shape (n, k)."""
        check_size(embeddings)
        if len(self.gates):
            embeddings = memberships(self.gates, embeddings)
        return np.asarray((embeddings - self.mean) @ self.components.T)


def fit_projection(embeddings: Array, k: int, seed: int) -> Projection:
    """Find at most ``k`` directions in what the embeddings of unlabelled tasks say.

    Principal components of the soft memberships of ``k + 1`` clusters, or of fewer
    where there are not five tasks for each; where that leaves fewer than eight
    clusters, or the embedding has no more than k columns, principal components of
    the embedding itself; and random directions where there are no more tasks than
    those. Scaled to unit average variance.

    Parameters
    ----------
    embeddings : ndarray of shape (n, d)
    k : int
    seed : int

    Examples
    --------
    >>> fit_projection(np.eye(4), 2, seed=0).apply(np.eye(4)).shape
    (4, 2)
    """
    n, width = embeddings.shape
    check_size(embeddings)
    largest = float(np.abs(embeddings).max(initial=0.0))
    if 0.0 < largest < 1.0 / _LARGEST:
        raise ValueError(
            f"the embeddings hold nothing beyond {largest:g}, expected values of about "
            "1: their squares are lost. Scale them, for example to length 1"
        )
    gates = np.zeros((0, width + 1))
    distinct = len(np.unique(embeddings, axis=0))
    kinds = min(k + 1, distinct // _TASKS_PER_KIND)
    if width > k and kinds >= _FEWEST_KINDS:
        gates = _find_kinds(embeddings, kinds, seed)
        embeddings, k = memberships(gates, embeddings), kinds - 1
    k = min(k, embeddings.shape[1])
    if n <= k:
        return random_projection(width, k, seed)
    # Here and below: these imports take as long as the rest of the package.
    from sklearn.decomposition import PCA

    # Of components, whose sign is arbitrary, the largest entry comes out positive.
    with np.errstate(invalid="ignore"):  # a share of no variance, which is not used
        pca = PCA(k, svd_solver="full").fit(embeddings)
    variance = float((pca.singular_values_**2).mean()) / n
    return Projection(gates, pca.mean_, pca.components_ / np.sqrt(variance or 1.0))


def check_size(embeddings: Array) -> None:
    """Refuse embeddings (n, d) of which one column drowns all others."""
    sizes = np.abs(embeddings).max(axis=0, initial=0.0)
    if sizes.max(initial=0.0) > _LARGEST:
        column = int(sizes.argmax())
        raise ValueError(
            f"column {column} of the embeddings holds {sizes[column]:g}, expected "
            f"values of about 1, at most {_LARGEST:g}. Scale them: standardise the "
            "columns, or bring each embedding to length 1"
        )


@lru_cache(maxsize=8)
def random_projection(width: int, k: int, seed: int) -> Projection:
    """Return random orthogonal directions: what there is before any task was seen."""
    k = min(k, width)
    return Projection(
        np.zeros((0, width + 1)), np.zeros(width), _orthogonal(width, k, seed)
    )


def memberships(gates: Array, embeddings: Array) -> Array:
    """Return how much of each cluster every embedding is, shape (n, c), rows sum to 1.

    Examples
    --------
    >>> memberships(np.zeros((2, 2)), np.ones((1, 1))).tolist()
    [[0.5, 0.5]]
    """
    logits = embeddings @ gates[:, :-1].T + gates[:, -1]
    return np.asarray(softmax(logits, axis=1))


def _find_kinds(embeddings: Array, kinds: int, seed: int) -> Array:
    from sklearn.cluster import KMeans

    found = KMeans(
        kinds,
        n_init=3,  # pyright: ignore[reportArgumentType] (taken for text by its default)
        max_iter=50,
        random_state=seed,
    ).fit(embeddings)
    centres = found.cluster_centers_
    width = _SOFTNESS * max(float(found.inertia_ or 0.0) / len(embeddings), 1e-12)
    # exp(-|e - c|^2 / width), without what all clusters have in common.
    offsets = -(centres**2).sum(axis=1)
    return np.column_stack([2.0 * centres, offsets]) / width


def _orthogonal(width: int, k: int, seed: int) -> Array:
    """Orthonormal rows, scaled so that a unit vector has unit average variance."""
    draw = np.random.default_rng(seed).standard_normal((width, k))
    rows = np.linalg.qr(draw)[0].T * np.sqrt(width)
    rows.setflags(write=False)
    return rows
