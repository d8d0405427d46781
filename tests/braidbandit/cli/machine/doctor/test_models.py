import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from servers_here import free_port, serving

from braidbandit import ModelCard
from braidbandit.cli.machine.doctor.models import PACKAGED, check_endpoint, check_model

FREE = {"input": 0.0, "output": 0.0}


def served(url, **settings):
    return ModelCard("qwen", source="qwen3:8b", endpoint=url, price=FREE, **settings)


def test_a_closed_port():
    found = check_model(served(f"http://127.0.0.1:{free_port()}/v1"))
    assert (found.name, found.level) == ("model qwen", "error")
    assert "cannot be reached" in found.found
    assert "start the server" in found.fix


def test_the_port_says_which_server_to_start():
    found = check_endpoint(served("http://127.0.0.1:11434/v1"), 0.5)
    if "cannot be reached" not in found.found:
        pytest.skip("something listens at the port of Ollama")
    assert found.fix == "start it: ollama serve"


def test_a_server_that_has_the_model_or_another():
    with serving({"data": [{"id": "qwen3:8b"}]}) as url:
        assert check_model(served(url)).level == "ok"
    with serving({"data": [{"id": "llama3"}]}) as url:
        found = check_model(served(url))
        assert found.level == "warning"
        assert "does not list 'qwen3:8b'" in found.found
        assert "ollama pull qwen3:8b" in found.fix


def test_a_key_that_is_missing_or_refused(monkeypatch):
    with serving({"error": "no"}, status=401) as url:
        card = served(url, api_key_env="SOME_KEY")
        monkeypatch.delenv("SOME_KEY", raising=False)
        found = check_model(card)
        assert (found.level, found.fix) == ("error", "export SOME_KEY=...")
        monkeypatch.setenv("SOME_KEY", "s3cret-s3cret")
        found = check_model(card)
        assert "refuses the key" in found.found
        assert "s3cret" not in repr(found)


@pytest.mark.parametrize("body", ["<html>hello</html>", "[]", '{"data": 3}'])
def test_another_kind_of_server(body):
    with serving(body) as url:
        found = check_model(served(url))
        assert found.level == "error"
        assert "OpenAI's protocol" in found.found


def test_a_missing_model(tmp_path):
    missing = check_model(ModelCard("big", source=str(tmp_path / "big.gguf")))
    assert missing.level == "error"
    assert "there is no" in missing.found
    relative = check_model(ModelCard("big", source="models/big.gguf"))
    assert relative.level == "error"
    unknown = check_model(ModelCard("nobody/has-this-model"))
    assert unknown.level == "warning"
    assert "hf download nobody/has-this-model" in unknown.fix


def test_a_folder_of_a_model(tmp_path):
    card = ModelCard("m", source=str(tmp_path))
    assert "no config.json" in check_model(card).found
    (tmp_path / "config.json").write_text("{}")
    assert "no .safetensors" in check_model(card).found
    file = tmp_path / "model.safetensors"
    save_file({"a": np.ones(10)}, file)
    assert check_model(card).level == "ok"
    file.write_bytes(file.read_bytes()[:-1])
    found = check_model(card)
    assert found.level == "error"
    assert "damaged" in found.found


def test_an_adapter(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": np.ones(10)}, tmp_path / "model.safetensors")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    card = ModelCard("m", source=str(tmp_path), adapter=str(adapter))
    assert "no adapter_config.json" in check_model(card).found
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    save_file({"a": np.ones(10)}, adapter / "adapter_model.safetensors")
    assert check_model(card).level == "ok"
    (adapter / "adapter_model.safetensors").write_bytes(b"cut")
    assert "damaged" in check_model(card).found


def test_packages_are_those_that_fusion_knows():
    packaged = pytest.importorskip("fusion.strands.packaged", exc_type=ImportError)
    assert set(PACKAGED) == set(packaged.PACKAGED)
    for name in PACKAGED:
        found = check_model(ModelCard(name))
        assert found.level == "ok" or "pip install" in found.fix
