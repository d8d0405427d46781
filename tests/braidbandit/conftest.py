"""Small things shared by the tests: a toy embedder, a catalogue, a recommender."""

import hashlib

import numpy as np
import pytest

from braidbandit import BraidRecommender, Catalogue, ModelCard, TaskEncoder


def embed(texts):
    """Unit vectors of 12 numbers that depend on the text only."""
    rows = []
    for text in texts:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        rows.append(np.random.default_rng(seed).standard_normal(12))
    array = np.array(rows)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


@pytest.fixture
def encoder():
    return TaskEncoder(embedder=embed, n_components=4)


@pytest.fixture
def cards():
    return [
        ModelCard("big", parameters=3000, layers=30, width=10, vocab_size=100),
        ModelCard("small", parameters=1000, layers=18, width=5, vocab_size=40),
    ]


@pytest.fixture
def catalogue(cards):
    return Catalogue.build(cards, layer_sets=("output", "final"))


@pytest.fixture
def agent(catalogue, encoder):
    return BraidRecommender(catalogue, encoder, random_state=0)
