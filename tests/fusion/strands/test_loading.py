"""Models are read whole or refused, and what is wrong with their files is told."""

import json
import re
from contextlib import nullcontext

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from fusion.strands.loading import load, load_model, no_bars
from fusion.strands.pool import Pool


def test_loads_from_disk_without_a_bar(tmp_path, capfd):
    pool = Pool({"it": str(tiny.tiny_folder("gpt2", tmp_path))})
    capfd.readouterr()
    shown = logging.is_progress_bar_enabled()
    assert pool["it"]
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled() == shown


def test_a_hub_id_that_cannot_be_reached_says_so():
    with pytest.raises(ValueError, match="cannot load a model from 'nobody/nothing'"):
        Pool()["nobody/nothing"]


def test_a_folder_that_is_no_model_says_so(tmp_path):
    with pytest.raises(ValueError, match="cannot load a model"):
        Pool()[str(tmp_path)]


def test_pickled_weights_are_not_read(tmp_path):
    folder = tiny.tiny_folder("llama", tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(tiny.tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        Pool()[str(folder)]


def test_code_of_a_model_is_not_run(tmp_path):
    folder = tiny.tiny_folder("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "mine"
    config["auto_map"] = {
        "AutoConfig": "mine.Config",
        "AutoModelForCausalLM": "mine.Model",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="cannot load a model"):
        Pool()[str(folder)]


def _without(folder, drop):
    """Take tensors out of a folder's file, and shorten others."""
    file = folder / "model.safetensors"
    kept = {name: drop(name, tensor) for name, tensor in load_file(file).items()}
    kept = {name: tensor for name, tensor in kept.items() if tensor is not None}
    save_file(kept, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("drop", "told"),
    [
        (lambda n, t: None if ".layers.2." in n else t, "layers.2.input_layernorm"),
        (lambda n, t: None if n == "lm_head.weight" else t, "lm_head.weight"),
        (lambda n, t: t[:5].clone() if n == "model.norm.weight" else t, "(5,) for (32"),
    ],
    ids=["a layer", "the head", "another shape"],
)
def test_weights_that_no_file_has_are_named(drop, told, tmp_path):
    """transformers would give them random values."""
    folder = tiny.tiny_folder("llama", tmp_path)
    _without(folder, drop)
    with pytest.raises(ValueError, match="cannot load a model from") as error:
        Pool()[str(folder)]
    assert told in str(error.value)


def test_a_shard_that_is_missing_is_an_error(tmp_path):
    folder = tiny.tiny_folder("llama", tmp_path)
    (folder / "model.safetensors").unlink()
    tiny.tiny_model("llama").save_pretrained(folder, max_shard_size="20KB")
    assert Pool()[str(folder)].n_layers == 4
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(ValueError, match="cannot load a model from"):
        Pool()[str(folder)]


def test_tied_weights_are_stored_once(tmp_path):
    model = tiny.tiny_model("llama")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    tiny.tiny_tokenizer("llama").save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    strand = Pool()[str(tmp_path)]
    assert torch.equal(strand.head.weight, model.lm_head.weight)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "tokenizer.json", "config.json", "generation_config.json"],
)
def test_damaged_files_are_told(name, tmp_path):
    folder = tiny.tiny_folder("llama", tmp_path)
    file = folder / name
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot load a model.* cut off: try it again"):
        Pool()[str(folder)]
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9")
    with pytest.raises(ValueError, match=f"{name} is a pointer .* run `git lfs pull`"):
        Pool()[str(folder)]


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_bars_are_afterwards_as_they_were(shown, fails):
    before = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        with pytest.raises(KeyError) if fails else nullcontext(), no_bars():
            assert not logging.is_progress_bar_enabled()
            if fails:
                raise KeyError
        assert logging.is_progress_bar_enabled() == shown
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


class Broken:
    """An Auto class whose files are damaged in a way that nobody has foreseen."""

    @staticmethod
    def from_pretrained(folder, **options):
        assert options == {"trust_remote_code": False, "revision": "main"}
        raise ZeroDivisionError("by nothing")


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (None, "a .gguf file$"),
        ({}, "try it again$"),
        ({"a.bin": "x" * 2000, "b.txt": "words"}, "try it again$"),
        ({"b.bin": "version https://git-lfs", "a.txt": "words"}, "b.bin is a pointer"),
        ({"big": "version https://git-lfs" + " " * 1024}, "try it again$"),
    ],
)
def test_whatever_a_reader_raises_is_told_with_what_to_do(tmp_path, files, advice):
    folder = tmp_path / "model"
    for name, content in (files or {}).items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    if files is not None:
        folder.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="from '.*model': by nothing") as told:
        load(Broken, "elsewhere", str(folder), revision="main")
    assert re.search(advice, str(told.value))
    assert isinstance(told.value.__cause__, ZeroDivisionError)


def test_of_many_weights_that_are_missing_five_are_named(tmp_path):
    folder = tiny.tiny_folder("llama", tmp_path)
    _without(folder, lambda name, t: t if "layers" not in name else None)
    with pytest.raises(ValueError, match=r"lack 36 of the weights of a Llama") as told:
        load_model(str(folder), "mine")
    assert str(told.value).count("model.layers.") == 5
    assert ", ...; give all files" in str(told.value)
