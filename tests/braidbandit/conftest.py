"""Small things shared by the tests: an encoder, a catalogue, a recommender."""

import pytest
from postgres import Server
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


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server, started when its first database is asked for."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request, tmp_path):
    """The URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    server = request.getfixturevalue("postgres")
    if server.missing():
        pytest.skip(server.missing())
    return server.url()
