"""Embeddings by words: which words a text has, without any model."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 512
"""Numbers of an embedding; several words share one."""


def embed_words(texts: list[str]) -> NDArray[np.float64]:
    """Return rows of length 1 that tell texts apart by their words.

    Every word, and every two words that follow each other, adds to the number that its
    hash names. It knows no synonyms and no grammar; it needs nothing to be installed
    or loaded, and takes microseconds.

    Parameters
    ----------
    texts : list of str

    Returns
    -------
    ndarray of shape (n, WIDTH)

    Examples
    --------
    >>> one, same, other = embed_words(["Sort a list", "sort a list!", "a poem"])
    >>> float(one @ same) > float(one @ other)
    True
    """
    return np.asarray(_vectorizer().transform(texts).toarray(), dtype=np.float64)


@lru_cache(maxsize=1)
def _vectorizer() -> Any:
    # Imported here: it takes as long as the rest of the package.
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        n_features=WIDTH, ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]"
    )
