"""GGUF files are converted once each, and told apart by what is in them."""

import os
from pathlib import Path

import pytest
import tiny
import torch

from fusion.strands.gguf import converted
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


@pytest.fixture
def readable(tmp_path, monkeypatch):
    """A GGUF file whose reader is a stand-in: it finds a llama."""
    monkeypatch.setattr(
        "fusion.strands.gguf._read",
        lambda file: (tiny.tiny_model("llama"), tiny.tiny_tokenizer("llama")),
    )
    (tmp_path / "model.gguf").write_text("weights")
    return tmp_path / "model.gguf"


def test_what_is_converted_is_the_model_of_the_file(readable, tmp_path):
    cache = tmp_path / "cache"
    pool = Pool({"it": str(readable)}, cache_dir=cache, native=False)
    strand, wanted = pool["it"], tiny.tiny_model("llama").state_dict()
    assert strand.source == str(readable)
    assert strand.dtype == torch.float32
    found = strand.model.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert strand.tokens.encode(tiny.EMOJI)


def test_a_model_that_calls_itself_quantised_is_converted(
    readable, tmp_path, monkeypatch
):
    """transformers refuses to save such a one."""
    model = tiny.tiny_model("llama")
    model.config.quantization_config = {"quant_method": "gguf"}
    monkeypatch.setattr(
        "fusion.strands.gguf._read", lambda file: (model, tiny.tiny_tokenizer("llama"))
    )
    folder = converted(readable, tmp_path / "cache")
    assert "quantization_config" not in (folder / "config.json").read_text()


def test_a_conversion_that_fails_leaves_nothing_and_may_be_tried_again(
    readable, tmp_path, monkeypatch
):
    def full(self, folder, *_, **__):
        (folder / "half").write_text("half")
        raise OSError("No space left on device")

    kind = type(tiny.tiny_model("llama"))
    with monkeypatch.context() as patch:
        patch.setattr(kind, "save_pretrained", full)
        with pytest.raises(OSError, match="No space"):
            converted(readable, tmp_path / "cache")
    assert list((tmp_path / "cache" / "strands").iterdir()) == []
    assert (converted(readable, tmp_path / "cache") / "config.json").is_file()


def test_a_conversion_that_another_process_was_faster_with_is_taken(
    readable, tmp_path, monkeypatch
):
    kind = type(tiny.tiny_model("llama"))
    real, cache = kind.save_pretrained, tmp_path / "cache"

    def slow(self, folder, *_, **__):
        real(self, folder)
        other = folder.parent.parent / folder.name
        other.mkdir()
        (other / "theirs").write_text("theirs")

    monkeypatch.setattr(kind, "save_pretrained", slow)
    folder = converted(readable, cache)
    assert [file.name for file in folder.iterdir()] == ["theirs"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_file_is_read_for_its_hash_once_as_long_as_it_stays(
    readable, tmp_path, monkeypatch
):
    first = converted(readable, tmp_path / "cache")
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("read again"))
    assert converted(readable, tmp_path / "cache") == first
