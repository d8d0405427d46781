"""Services over tiny strands, served for real."""

from __future__ import annotations

import importlib.util

import pytest
from toy_embedder import embed

from braidbandit import MetaBraider, TaskEncoder

MISSING = [
    name
    for name in ("fastapi", "uvicorn", "pydantic_settings", "prometheus_client")
    if importlib.util.find_spec(name) is None
]
collect_ignore_glob = ["test_*.py", "*/test_*.py"] if MISSING else []

TEXTS = [f"The dog number {i} sleeps beside {i + 1} strands." for i in range(12)]


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Cards of two tiny models in folders."""
    tiny = pytest.importorskip("tiny")
    folder = tmp_path_factory.mktemp("models")
    return [
        {"model_name": name, "source": str(tiny.tiny_folder(name, folder / name))}
        for name in ("llama", "gemma")
    ]


@pytest.fixture(scope="module")
def make_agent(models, tmp_path_factory):
    """Open agents on the tiny models and others; all are closed in the end."""
    opened = []

    def make(*served, folder=None, local=models, **options):
        options.setdefault("strategies", ("learned_weighted",))
        options.setdefault("layer_sets", ("output",))
        options.setdefault("shares", ((0.75, 0.25),))
        agent = MetaBraider(
            [*local, *served],
            folder=folder or tmp_path_factory.mktemp("agent"),
            calibration_texts=TEXTS,
            encoder=TaskEncoder(embedder=embed, n_components=4),
            random_state=0,
            **options,
        )
        opened.append(agent)
        return agent

    yield make
    for agent in opened:
        agent.close()


@pytest.fixture(scope="module")
def serve(make_agent):
    """Serve an agent; all servers are stopped in the end."""
    from serving import Running

    from braidbandit.service import create_app
    from braidbandit.service.settings import ServiceSettings

    running = []

    def start(agent=None, *, ready=True, **settings):
        agent = agent or make_agent()
        settings.setdefault("server", {})
        pool = [card.to_dict() for card in agent.catalogue.cards.values()]
        app = create_app(ServiceSettings(pool=pool, **settings), agent)
        server = Running(app)
        running.append(server)
        if ready:
            left = {"waiting", "loading"}

            def done():
                counts = server.service.arms.counts()
                return not any(counts[state] for state in left)

            from serving import wait_until

            wait_until(done)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def server(serve):
    """A service of two tiny models and their braids."""
    return serve()


@pytest.fixture
def http(server):
    import httpx2

    with httpx2.Client(base_url=server.root, timeout=60) as client:
        yield client
