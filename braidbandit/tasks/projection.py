"""Projection: from an embedding to a few numbers that say what kind of task it is.

What a model is good at changes from one kind of task to the next, and kinds of task are
clusters of embeddings rather than directions: soft memberships of clusters are few
numbers, smooth, and say more than as many principal components. Beside them stand a few
numbers of the text's own letters, which say what an embedding overlooks: its form, and
languages that the model does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Array = NDArray[np.float64]

# Fewer clusters than this say less than principal components do.
_FEWEST_KINDS = 8
_TASKS_PER_KIND = 5
# Width of a cluster, in units of the mean squared distance to the nearest centre.
_SOFTNESS = 0.2
# Groups of two to four letters, hashed to so many columns; a long text by its ends.
_LETTERS, _MOST_TEXT = 2048, 4000
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
    letters : ndarray of shape (w, 2048)
        Directions of the letters of a text; no rows where none are used.
    letters_mean : ndarray of shape (w,)
        Subtracted from what these give.
    """

    gates: Array
    mean: Array
    components: Array
    letters: Array = np.zeros((0, _LETTERS))
    letters_mean: Array = np.zeros(0)

    def apply(self, embeddings: Array, texts: Sequence[str] | None = None) -> Array:
        """Project embeddings of shape (n, d) to shape (n, k + w).

        Without ``texts``, the w columns of letters are 0.
        """
        check_size(embeddings)
        if len(self.gates):
            embeddings = memberships(self.gates, embeddings)
        points = np.asarray((embeddings - self.mean) @ self.components.T)
        if not len(self.letters):
            return points
        beside = np.zeros((len(points), len(self.letters)))
        if texts is not None:
            beside = _letters_of(texts) @ self.letters.T - self.letters_mean
        return np.concatenate([points, beside], axis=1)


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
    directions, sizes = np.asarray(pca.components_), np.asarray(pca.singular_values_)
    scale = np.sqrt(float((sizes**2).mean()) / n or 1.0)
    return Projection(gates, pca.mean_, directions / scale)


def fit_letters(texts: Sequence[str], k: int) -> tuple[Array, Array]:
    """Find at most ``k`` directions of the letters of texts, and their means.

    Parameters
    ----------
    texts : sequence of str
    k : int

    Returns
    -------
    letters : ndarray of shape (w, 2048)
        Of singular vectors of the hashed groups of letters, weighted by how rare they
        are in these texts; none where there are not five distinct texts for each.
    mean : ndarray of shape (w,)

    Examples
    --------
    >>> letters, mean = fit_letters([f"task {i}" for i in range(10)], k=2)
    >>> letters.shape, mean.shape
    ((2, 2048), (2,))
    """
    k = min(k, len(set(texts)) // _TASKS_PER_KIND)
    if k < 1:
        return np.zeros((0, _LETTERS)), np.zeros(0)
    from sklearn.utils.extmath import randomized_svd

    counts = _letters_of(texts)
    rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1.0
    points = counts * rarity
    found: Any = randomized_svd(points - points.mean(axis=0), k, random_state=0)
    sizes, rows = np.asarray(found[1]), np.asarray(found[2])
    # Those that differ most between texts say most: each is weighted by its deviation.
    variances = sizes**2 / len(texts)
    scale = np.sqrt(variances / (float((variances**2).mean()) or 1.0))
    # Storage order decides the last bits of products: as a saved state has it.
    letters = np.ascontiguousarray(rows * scale[:, None] * rarity)
    return letters, counts.mean(axis=0) @ letters.T


def _letters_of(texts: Sequence[str]) -> Array:
    """Return how often groups of letters are in texts, in rows of length 1."""
    half = _MOST_TEXT // 2
    ends = [t if len(t) <= _MOST_TEXT else t[:half] + " " + t[-half:] for t in texts]
    return np.asarray(_hashing().transform(ends).toarray())


@lru_cache(maxsize=1)
def _hashing() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        analyzer="char_wb",
        ngram_range=(2, 4),
        n_features=_LETTERS,
        alternate_sign=False,
    )


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
