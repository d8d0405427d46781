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
# Where values are larger than this, or all are smaller than its inverse, sums of
# squares lose digits.
_LARGEST = 1e6


class Projection(NamedTuple):
    """A fitted projection: what :func:`fit_projection` returns.

    Attributes
    ----------
    gates : ndarray of shape (c, d + 1)
        Logits of the memberships are ``gates @ [embedding, 1]``. Without rows (c = 0)
        the embedding itself is projected.
    mean : ndarray of shape (c,) or (d,)
        Subtracted first.
    components : ndarray of shape (k, c) or (k, d)
        Directions, scaled so that the projections have unit average variance.
    """

    gates: Array
    mean: Array
    components: Array

    def apply(self, embeddings: Array) -> Array:
        """Project embeddings of shape (n, d) to shape (n, k)."""
        check_size(embeddings)
        if len(self.gates):
            embeddings = memberships(self.gates, embeddings)
        return np.asarray((embeddings - self.mean) @ self.components.T)


def fit_projection(embeddings: Array, k: int, seed: int) -> Projection:
    """Find at most ``k`` numbers that tell unlabelled tasks apart.

    They are principal components of the soft memberships of ``k + 1`` clusters, or of
    fewer where there are not five distinct tasks for each. Where that leaves fewer than
    eight clusters, or the embeddings have no more than k columns, they are principal
    components of the embeddings; and where there are no more tasks than directions,
    the directions are random.

    Parameters
    ----------
    embeddings : ndarray of shape (n, d)
    k : int
        Most numbers per task.
    seed : int
        Of the clusters' first centres, and of random directions.

    Raises
    ------
    ValueError
        When values are so large or so small that sums of squares lose them.

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
    # Imported here, and KMeans below: they take as long as the rest of the package.
    from sklearn.decomposition import PCA

    # The sign of a component is arbitrary; here its largest entry is positive.
    with np.errstate(invalid="ignore"):  # of shares of a zero variance, not used here
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
    """Return the random orthogonal directions that serve until tasks were seen."""
    k = min(k, width)
    found = Projection(
        np.zeros((0, width + 1)), np.zeros(width), _orthogonal(width, k, seed)
    )
    for array in found:  # every caller gets these very arrays
        array.setflags(write=False)
    return found


def memberships(gates: Array, embeddings: Array) -> Array:
    """Return how far each embedding belongs to each cluster, shape (n, c).

    Rows sum to 1.

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
    # Logits of exp(-|e - c|^2 / width); what all clusters have in common cancels.
    offsets = -(centres**2).sum(axis=1)
    return np.column_stack([2.0 * centres, offsets]) / width


def _orthogonal(width: int, k: int, seed: int) -> Array:
    """Orthonormal rows, scaled so that a unit vector has unit average variance."""
    draw = np.random.default_rng(seed).standard_normal((width, k))
    return np.linalg.qr(draw)[0].T * np.sqrt(width)
