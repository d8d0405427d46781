"""GGUF files are converted once each, and told apart by what is in them."""

import os
from pathlib import Path

import pytest
import tiny

from fusion.strands.pool import Pool


def test_gguf_files_of_one_name_and_size_are_told_apart(tmp_path, monkeypatch):
    def convert(file, target):
        target.mkdir(parents=True)
        (target / "content").write_text(file.read_text())

    monkeypatch.setattr("fusion.strands.gguf._convert", convert)
    pool = Pool(cache_dir=tmp_path / "cache")
    files = [tmp_path / part / "model.gguf" for part in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text(file.parent.name)
    for file in (*files, *files):
        folder = Path(pool.folder(str(file)))
        assert (folder / "content").read_text() == file.parent.name
    assert len(list((tmp_path / "cache" / "strands").iterdir())) == 2


def test_a_gguf_file_of_the_same_size_and_time_is_told_apart(tmp_path, monkeypatch):
    def convert(file, target):
        target.mkdir(parents=True)
        (target / "content").write_text(file.read_text())

    monkeypatch.setattr("fusion.strands.gguf._convert", convert)
    pool, file = Pool(cache_dir=tmp_path / "cache"), tmp_path / "model.gguf"
    for content in "ab":
        file.write_text(content)
        os.utime(file, ns=(10**18, 10**18))
        folder = Path(pool.folder(str(file)))
        assert (folder / "content").read_text() == content


def test_a_gguf_file_is_converted_by_itself(tmp_path, monkeypatch):
    """What else is in its folder is not in its hash."""
    seen = []

    def look(folder, **_):
        seen.extend(sorted(file.name for file in Path(folder).iterdir()))
        raise OSError("enough")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", look)
    (tmp_path / "model.gguf").write_text("weights")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="enough"):
        Pool(cache_dir=tmp_path / "cache").folder(str(tmp_path / "model.gguf"))
    assert seen == ["model.gguf"]


def test_a_gguf_file_that_is_none_is_told(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="cannot load a model.* run `git lfs pull`"):
        Pool(cache_dir=tmp_path / "cache").folder(str(file))
    assert not (tmp_path / "cache").exists()


def test_a_conversion_makes_no_weights_up(tmp_path, monkeypatch):
    """The file's reader is a stand-in that has found no head."""
    model = tiny.tiny_model("llama")
    told = {"missing_keys": {"lm_head.weight"}, "mismatched_keys": set()}
    name = "transformers.{}.from_pretrained"
    monkeypatch.setattr(name.format("AutoTokenizer"), lambda *_, **__: None)
    monkeypatch.setattr(
        name.format("AutoModelForCausalLM"), lambda *_, **__: (model, told)
    )
    (tmp_path / "model.gguf").write_text("weights")
    with pytest.raises(ValueError, match="lack 1 of the weights .*: lm_head.weight"):
        Pool(cache_dir=tmp_path / "cache").folder(str(tmp_path / "model.gguf"))
    assert not (tmp_path / "cache").exists()
