"""A deterministic embedder that needs no model."""

import hashlib

import numpy as np


def embed(texts):
    """Unit vectors of 12 numbers that depend on the text only."""
    rows = []
    for text in texts:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        rows.append(np.random.default_rng(seed).standard_normal(12))
    array = np.array(rows)
    return array / np.linalg.norm(array, axis=1, keepdims=True)
