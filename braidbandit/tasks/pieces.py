"""Pieces of a text that is longer than an embedding model reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_PIECES = 8
_SHORTEST = 40


def pieces_of(text: str, window: int) -> list[str]:
    """Cut a text into pieces of at most ``window`` characters.

    It is cut from its end: each paragraph is a piece, and one that does not fit is cut
    at the end of a line, a sentence, a word. White space around pieces is dropped. Of
    more than eight pieces, eight are kept that are evenly apart, the first and the last
    among them.

    Parameters
    ----------
    text : str
    window : int

    Returns
    -------
    list of str
        At least one; the whole text where it fits.

    Examples
    --------
    >>> pieces_of("You are helpful.\\n\\nSort this list.", window=20)
    ['You are helpful.', 'Sort this list.']
    """
    if len(text) <= window:
        return [text]
    ends = [len(text)]
    while ends[-1] > window:
        ends.append(_cut(text, ends[-1], window))
    starts = [*ends[1:], 0]
    cut = [text[a:b].strip() for a, b in zip(starts, ends, strict=True)]
    # Blank ones take no place among the eight.
    found = [piece for piece in reversed(cut) if piece] or [text[:window]]
    if len(found) <= MOST_PIECES:
        return found
    kept = np.linspace(0, len(found) - 1, MOST_PIECES).round().astype(int)
    return [found[i] for i in kept]


def _cut(text: str, end: int, window: int) -> int:
    """Return where the piece that ends here begins."""
    # Paragraphs stay apart: the last is often the request, behind text of a system.
    found = text.rfind("\n\n", end - window, end - _SHORTEST)
    if found >= 0:
        return found + 2
    for mark in ("\n", ". ", " "):
        # The earliest break within the window: the piece is as long as it may be.
        found = text.find(mark, end - window, end - window // 4)
        if found >= 0:
            return found + len(mark)
    return end - window


def joined(rows: Array) -> Array:
    """Return one embedding of the embeddings of a text's pieces.

    The last piece, in which people mostly ask, weighs half, the first a quarter, and
    all between them the rest. The length is that of the pieces' embeddings.

    Parameters
    ----------
    rows : ndarray of shape (n, d)

    Returns
    -------
    ndarray of shape (d,)
    """
    n = len(rows)
    if n == 1:
        return rows[0]
    weights = np.full(n, 0.25 / max(n - 2, 1))
    weights[0], weights[-1] = 0.25, 0.5
    weights /= weights.sum()
    mean = weights @ rows
    length = float(np.linalg.norm(mean))
    usual = float(weights @ np.linalg.norm(rows, axis=1))
    return np.asarray(mean * (usual / length if length > 0.0 else 1.0))


def cut_all(texts: Sequence[str], window: int) -> tuple[list[str], list[int]]:
    """Return the pieces of all texts, and how many each has."""
    cut = [pieces_of(text, window) for text in texts]
    return [piece for pieces in cut for piece in pieces], [len(c) for c in cut]
