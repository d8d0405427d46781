import json

import pytest

pytest.importorskip("pydantic_settings", reason="the extra serve is not installed")

from braidbandit.service.opening import open_agent  # noqa: E402
from braidbandit.service.settings import ServiceSettings  # noqa: E402

SIZE = {"parameters": 10**7, "layers": 12, "width": 64, "vocab_size": 1000}
POOL = [{"model_name": name, **SIZE} for name in ("a", "b")]


def test_every_setting_arrives(tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text(json.dumps("one text") + "\n")
    settings = ServiceSettings(
        pool=POOL,
        catalogue={"layer_sets": ["output"], "strategies": ["router"]},
        learning={
            "folder": tmp_path / "braid",
            "encoder": "words",
            "price": 0.25,
            "keep_text": True,
            "random_state": 3,
            "dtype": "bfloat16",
            "calibration_texts": texts,
        },
    )
    with open_agent(settings) as agent:
        decision = agent.forward("Sort a list")
        assert agent.folder == tmp_path / "braid"
        assert agent.recommender.encoder_.model == "words"
        assert agent.recommender.price == 0.25
        assert agent.recommender.random_state == 3
        assert agent.ledger.text(decision.id) == "Sort a list"
        assert {b.strategy for b in agent.catalogue if b.donors} == {"router"}
    kept = json.loads((tmp_path / "braid" / "calibration.json").read_text())
    assert kept == {"dtype": "bfloat16", "texts": ["one text"]}


def test_another_encoder_than_the_folder_has_is_refused(tmp_path):
    learning = {"folder": tmp_path, "encoder": "words"}
    for _ in range(2):
        open_agent(ServiceSettings(pool=POOL, learning=learning)).close()
    other = ServiceSettings(pool=POOL, learning={**learning, "encoder": "some/other"})
    with pytest.raises(ValueError, match="was saved with encoder"):
        open_agent(other)


def test_another_folder_and_the_encoder_that_it_has(tmp_path):
    learning = {"folder": tmp_path / "one", "encoder": "words"}
    settings = ServiceSettings(pool=POOL, learning=learning)
    open_agent(settings, tmp_path / "two").close()
    assert not (tmp_path / "one").exists()
    unsaid = ServiceSettings(pool=POOL, learning={"folder": tmp_path / "two"})
    with open_agent(unsaid) as agent:
        assert agent.recommender.encoder_.model == "words"
