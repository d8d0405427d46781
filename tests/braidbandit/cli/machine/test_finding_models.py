import json

import pytest

from braidbandit import ModelCard
from braidbandit.cli.machine.doctor.models import PACKAGED
from braidbandit.cli.machine.finding_models import (
    domain_of,
    find_models,
    packaged_models,
    usual_folders,
)
from braidbandit.cli.machine.servers import Server


def adapter(folder, base):
    folder.mkdir(parents=True)
    config = {"base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def names(found, kind):
    return [model.card["model_name"] for model in found if model.kind == kind]


def test_files_adapters_and_servers(tmp_path):
    for name in ("deep/er/coder-7b.Q4_K_M.gguf", "mmproj-f16.gguf", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"GGUF")
    (tmp_path / "big-00001-of-00003.gguf").touch()
    base = tmp_path / "base"
    base.mkdir()
    tuned = adapter(tmp_path / "legal-lora", "../base")
    adapter(tmp_path / "other-lora", "some/base")
    server = Server("Ollama", "http://127.0.0.1:11434/v1", ("qwen3:8b", "l:latest"))
    found = find_models([tmp_path, tmp_path], [server])
    assert names(found, "file") == ["coder-7b.Q4_K_M"]
    assert names(found, "adapter") == ["legal-lora", "other-lora"]
    assert names(found, "Ollama") == ["qwen3:8b", "l"]
    cards = {m.card["model_name"]: m.card for m in found}
    assert cards["coder-7b.Q4_K_M"]["domain"] == "code"
    assert cards["legal-lora"]["source"] == str(base)
    assert cards["legal-lora"]["adapter"] == str(tuned)
    assert cards["other-lora"]["source"] == "some/base"
    assert cards["l"]["source"] == "l:latest"
    for card in cards.values():
        ModelCard.from_dict(card)  # which refuses what makes no sense


def test_packages_that_are_installed():
    found = packaged_models()
    assert {m.kind for m in found} <= {"package"}
    assert {m.card["model_name"] for m in found} <= set(PACKAGED)
    assert find_models([], [], found) == found


def test_models_of_one_name_get_others(tmp_path):
    for place in ("a", "b", "c"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "same.gguf").touch()
    found = find_models([tmp_path], [])
    assert names(found, "file") == ["same", "same (file)", "same (file 2)"]


def test_damaged_adapters_are_passed_over(tmp_path):
    whole = adapter(tmp_path / "whole", "base")
    (adapter(tmp_path / "text", "base") / "adapter_config.json").write_text("{")
    (adapter(tmp_path / "empty", "base") / "adapter_config.json").write_text("[]")
    (adapter(tmp_path / "none", "base") / "adapter_model.safetensors").unlink()
    found = find_models([tmp_path], [])
    assert names(found, "adapter") == [whole.name]


def test_too_deep_and_hidden_folders_are_left_alone(tmp_path):
    for place in ("1/2/3/4/5/6/7", ".hidden", "node_modules"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.gguf").touch()
    assert names(find_models([tmp_path], []), "file") == []


@pytest.mark.parametrize(
    ("name", "domain"),
    [("Qwen2.5-Coder-7B", "code"), ("BioMistral-7B", "medical"), ("gemma", "general")],
)
def test_what_a_model_is_good_at_by_its_name(name, domain):
    assert domain_of(name) == domain


def test_usual_folders_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    assert usual_folders() == [tmp_path.resolve() / "models"]
