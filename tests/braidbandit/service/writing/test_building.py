"""Models answer before braids are calibrated."""

import threading

import httpx2
import pytest
from serving import wait_until

from braidbandit import Braid

HELLO = [{"role": "user", "content": "Hello there"}]


@pytest.fixture
def held(serve, make_agent, monkeypatch):
    """A service whose calibrations wait until they are let go on."""
    agent, go_on = make_agent(), threading.Event()
    calibrate = agent.calibrate

    def slowly(braid, **options):
        assert braid.is_single or go_on.wait(60)
        return calibrate(braid, **options)

    monkeypatch.setattr(agent, "calibrate", slowly)
    server = serve(agent, ready=False)
    wait_until(lambda: server.service.arms.counts()["ready"] == 2)
    yield server, go_on
    go_on.set()


def test_single_models_answer_while_braids_are_calibrated(held):
    server, go_on = held
    service = server.service
    braid = next(b for b in service.agent.catalogue if b.donors)
    body = {"messages": HELLO, "max_tokens": 1}
    with httpx2.Client(base_url=server.root, timeout=60) as http:
        for n in range(6):
            said = http.post("/v1/chat/completions", json={**body, "user": str(n)})
            assert said.json()["model"] in ("llama", "gemma")
        asked = http.post("/v1/chat/completions", json={**body, "model": braid.id})
        assert asked.status_code == 503
        assert asked.json()["error"]["code"] == "model_not_ready"
        assert int(asked.headers["retry-after"]) >= 1
        told = http.get("/ready").json()
        assert told["ready"]
        assert told["building"]["label"]
        assert told["building"]["done"] == 2
        listed = {e["arm"]: e for e in http.get("/v1/models").json()["data"][1:]}
        assert listed[braid.id]["status"]["value"] in ("loading", "unloaded")
        go_on.set()
        wait_until(lambda: service.progress.done == service.progress.total)
        left = service.arms.counts()
        assert (left["waiting"], left["loading"], left["failed"]) == (0, 0, 0)


def test_nothing_is_ready_before_a_model_is_loaded(serve, make_agent, monkeypatch):
    agent, go_on = make_agent(), threading.Event()
    calibrate = agent.calibrate

    def slowly(braid):
        assert go_on.wait(60)
        return calibrate(braid)

    monkeypatch.setattr(agent, "calibrate", slowly)
    server = serve(agent, ready=False)
    before = agent.ledger.counts()
    with httpx2.Client(base_url=server.root, timeout=60) as http:
        assert http.get("/health").status_code == 200
        told = http.get("/ready")
        assert told.status_code == 503
        assert told.json()["error"]["code"] == "not_ready"
        said = http.post("/v1/chat/completions", json={"messages": HELLO})
        assert said.status_code == 503
        assert int(said.headers["retry-after"]) >= 1
        assert agent.ledger.counts() == before
        go_on.set()
        wait_until(lambda: http.get("/ready").status_code == 200)


def test_a_model_that_cannot_be_loaded_leaves_the_others(serve, make_agent, models):
    import shutil

    agent = make_agent()
    source = models[1]["source"]
    shutil.move(source, source + "-away")
    try:
        server = serve(agent)
        counts = server.service.arms.counts()
        assert counts["ready"] >= 1
        assert counts["failed"] >= 1
        with httpx2.Client(base_url=server.root, timeout=60) as http:
            body = {"messages": HELLO, "max_tokens": 1}
            said = http.post("/v1/chat/completions", json=body)
            assert said.json()["model"] in ("llama", *agent.catalogue.ids)
            listed = http.get("/v1/models").json()["data"]
            [gemma] = [e for e in listed if e["id"] == "gemma"]
            assert gemma["status"]["failed"]
    finally:
        shutil.move(source + "-away", source)


def test_braids_may_be_left_out(serve, make_agent):
    server = serve(make_agent(), server={"calibrate": False}, ready=False)
    service = server.service
    wait_until(lambda: service.progress.done == service.progress.total == 2)
    assert service.arms.counts()["ready"] == 2
    assert service.arms.state(Braid("llama")) == "ready"
