import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from fusion.braid.configuration import BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.strands.pool import Pool, default_cache

IDS = torch.tensor([[5, 50, 150]])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_loads_a_folder(family, tmp_path):
    folder = tiny.tiny_folder(family, tmp_path / "m")
    strand = Pool({"it": str(folder)})["it"]
    assert (strand.name, strand.source) == ("it", str(folder))
    assert torch.equal(strand.model(IDS).logits, tiny.tiny_model(family)(IDS).logits)
    assert strand.tokens.table == tiny.tiny_strand(family).tokens.table
    # A name without a source is its own source.
    assert Pool()[str(folder)].name == str(folder)


def test_loads_from_disk_without_a_bar(tmp_path, capfd):
    pool = Pool({"it": str(tiny.tiny_folder("gpt2", tmp_path))})
    capfd.readouterr()
    shown = logging.is_progress_bar_enabled()
    assert pool["it"]
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled() == shown


def test_loads_once_from_many_threads(tmp_path):
    pool = Pool({"it": str(tiny.tiny_folder("gpt2", tmp_path))})
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: pool["it"], range(8)))
    assert all(s is found[0] for s in found)


def test_lists_sources_and_added_strands(strands):
    pool = Pool({"later": "somewhere/else"})
    pool.add(strands["llama"])
    assert list(pool) == ["later", "llama"]
    assert len(pool) == 2
    assert pool["llama"] is strands["llama"]


def test_asking_for_a_name_loads_nothing(strands):
    pool = Pool({"missing": "/no/such/folder"})
    pool.add(strands["llama"])
    assert "llama" in pool
    assert "missing" in pool
    assert "other" not in pool


def test_dtype(tmp_path):
    folder = str(tiny.tiny_folder("llama", tmp_path))
    assert Pool({"it": folder}, dtype=torch.bfloat16)["it"].dtype == torch.bfloat16


def test_facts_need_no_weights(tmp_path):
    folder = tiny.tiny_folder("llama", tmp_path)
    (folder / "model.safetensors").unlink()
    facts = Pool({"it": str(folder)}).facts("it")
    model = tiny.tiny_model("llama")
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert (facts["layers"], facts["width"]) == (4, 32)
    assert facts["vocab_size"] == model.config.vocab_size
    assert facts["source"] == str(folder)


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


def test_home_is_known_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BRAIDBANDIT_CACHE", "~/kept")
    assert default_cache() == Pool().cache_dir == tmp_path / "kept"
    assert Pool(cache_dir="~/other").cache_dir == tmp_path / "other"
    monkeypatch.delenv("BRAIDBANDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert default_cache() == tmp_path / ".cache" / "braidbandit"


def test_a_folder_may_have_any_name(tmp_path):
    folder = tiny.tiny_folder("llama", tmp_path / "strands" / "it")
    assert Pool({"it": str(folder)}).facts("it")["quantisation"] is None


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder", "missing.gguf"])
def test_an_unknown_source_is_refused(source):
    with pytest.raises(ValueError, match="unknown model source"):
        Pool({"it": source})["it"]


def test_a_hub_id_that_cannot_be_reached_says_so():
    with pytest.raises(ValueError, match="cannot load a model from 'nobody/nothing'"):
        Pool()["nobody/nothing"]


def test_a_folder_that_is_no_model_says_so(tmp_path):
    with pytest.raises(ValueError, match="cannot load a model"):
        Pool()[str(tmp_path)]


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BRAIDBANDIT_CACHE", str(tmp_path / "here"))
    assert default_cache() == tmp_path / "here"
    monkeypatch.delenv("BRAIDBANDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "braidbandit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "braidbandit"


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


def test_fifty_braids_hold_each_strand_once(tmp_path):
    """Every weight of three strands is in memory once, whatever is braided of them."""
    names = ("llama", "gemma", "gpt2")
    sources = {f: str(tiny.tiny_folder(f, tmp_path / f)) for f in names}
    pool = Pool(sources)
    pairs = [(a, [d]) for a in names for d in names if a != d]
    triples = [(a, [d for d in names if d != a]) for a in names]
    places = (["final"], ["output"], [1], [1, "final", "output"])
    recipes = [
        BraidConfig(a, d, [0.5, *[0.5 / len(d)] * len(d)], place, strategy)
        for strategy in ("learned_weighted", "router")
        for place in places
        for a, d in pairs + triples
    ]
    braids = [BraidedLLM(recipe, pool=pool) for recipe in recipes[:50]]
    assert len(braids) == 50
    strands = {id(s) for b in braids for s in (b.anchor, *b.donors)}
    assert strands == {id(pool[name]) for name in names}

    def storages(modules):
        tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
        return {t.untyped_storage().data_ptr(): t.nbytes for t in tensors}

    held = storages(m for b in braids for m in (b.anchor.model, *b.children()))
    once = storages(pool[name].model for name in names)
    frozen = sum(size for where, size in held.items() if where in once)
    assert frozen == sum(once.values())
    # Beside them: fusers, and one map of vocabularies for each of six pairs.
    maps = [m for b in braids if b.mixer is not None for m in b.mixer.maps]
    assert len({id(m) for m in maps}) == 6
    fusers = storages(b.fusers for b in braids)
    assert not set(fusers) & set(once)


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


def test_a_relative_source_is_found_from_anywhere(tmp_path, monkeypatch):
    folder = tiny.tiny_folder("llama", tmp_path / "models" / "it")
    monkeypatch.chdir(tmp_path)
    pool = Pool({"it": "models/it"})
    braid = BraidedLLM(BraidConfig("it", [], [1.0], []), pool=pool)
    braid.save_pretrained(tmp_path / "braid")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = BraidedLLM.from_pretrained(tmp_path / "braid")
    assert again.anchor.source == str(folder)
    assert torch.equal(again(IDS).logits, braid(IDS).logits)


def test_where_there_is_no_home(monkeypatch, tmp_path):
    def no_home(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", _unless_home(no_home))
    monkeypatch.setenv("BRAIDBANDIT_CACHE", str(tmp_path))
    assert default_cache() == Pool().cache_dir == tmp_path
    with pytest.raises(ValueError, match="unknown model source"):
        Pool({"it": "~/models/it"})["it"]
    monkeypatch.delenv("BRAIDBANDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "braidbandit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(RuntimeError, match="set BRAIDBANDIT_CACHE to a folder"):
        default_cache()


def _unless_home(no_home):
    return lambda path: no_home() if str(path).startswith("~") else path
