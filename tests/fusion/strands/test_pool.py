from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
import torch

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


def test_a_source_is_a_name_of_its_own(tmp_path):
    folder = str(tiny.tiny_folder("gpt2", tmp_path))
    for sources in (folder, [folder], {folder: folder}):
        pool = Pool(sources)
        assert list(pool) == [folder]
        assert pool.facts(folder)["layers"] == 3


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


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BRAIDBANDIT_CACHE", str(tmp_path / "here"))
    assert default_cache() == tmp_path / "here"
    monkeypatch.delenv("BRAIDBANDIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "braidbandit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "braidbandit"


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
