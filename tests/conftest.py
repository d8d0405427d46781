"""Settings for all tests: nothing is fetched, and runs are comparable."""

import os

import pytest
from hypothesis import settings
from postgres import Server

# Before transformers is imported anywhere: a test must never reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples every time, however busy the machine is.
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")


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
