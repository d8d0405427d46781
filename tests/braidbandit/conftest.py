"""Small things shared by the tests: an encoder, a catalogue, a recommender."""

import pytest
from toy_embedder import embed

from braidbandit import BraidRecommender, Catalogue, ModelCard, TaskEncoder


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


@pytest.fixture
def twin(catalogue, encoder):
    """Another recommender like ``agent``."""
    return BraidRecommender(catalogue, encoder, random_state=0)
