"""Profiles of tiny real models: measured once for a machine and a model."""

import json
import logging
from pathlib import Path

import pytest
import torch
from toy_embedder import embed

from braidbandit import Catalogue, MetaBraider, ModelCard, TaskEncoder, profile
from braidbandit.agent import measuring

tiny = pytest.importorskip("tiny")

TEXTS = [f"The dog number {i} sleeps beside {i + 1} strands." for i in range(12)]


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Where profiles are kept."""
    monkeypatch.setenv("BRAIDBANDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "profiles.json"


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [
        {"model_name": f, "source": str(tiny.tiny_folder(f, folder / f))}
        for f in ("llama", "gemma")
    ]


@pytest.fixture
def measured(monkeypatch):
    """Names of the strands that are really measured."""
    import fusion.braid.speed

    names, measure = [], fusion.braid.speed.measure

    def counted(strand):
        names.append(strand.name)
        return measure(strand, 2)

    monkeypatch.setattr(fusion.braid.speed, "measure", counted)
    return names


def test_every_local_model_is_measured_once(pool, measured, kept):
    price = {"input": 1, "output": 2}
    served = ModelCard("far", endpoint="http://127.0.0.1:9/v1", price=price)
    first = profile([*pool, served])
    assert measured == list(first) == ["llama", "gemma"]
    assert profile(pool) == first
    assert measured == ["llama", "gemma"]
    entries = json.loads(kept.read_text())
    assert [entry["strand"][:2] for entry in entries.values()] == [
        ["transformers", "float32"]
    ] * 2
    assert json.loads(json.dumps(first.to_dict())) == first.to_dict()
    assert str(first).splitlines()[0].startswith("llama: transformers, float32: reads")


def test_memory_is_at_least_what_is_loaded(pool, measured, monkeypatch):
    monkeypatch.setattr(measuring, "_STATM", Path("/nowhere"))  # as where none is told
    for name, found in profile(pool).items():
        assert found.memory == tiny.tiny_strand(name).memory


@pytest.mark.skipif(not measuring._STATM.exists(), reason="no /proc here")
def test_memory_is_what_a_process_takes_more(pool, measured, monkeypatch):
    """A strand that comes with 64 MB of something; what was freed is not counted."""
    import fusion

    load = fusion.Pool._load

    def loaded(self, name, file):
        strand = load(self, name, file)
        strand.something = bytearray(b"x" * 2**26)
        return strand

    monkeypatch.setattr(fusion.Pool, "_load", loaded)
    found = profile(pool[:1])["llama"]
    assert 2**26 < found.memory < 2**26 + 2**25


def test_another_dtype_and_other_threads_are_measured_anew(pool, measured, monkeypatch):
    monkeypatch.setattr(measuring, "_STATM", Path("/nowhere"))
    one = profile(pool[:1])["llama"]
    half = profile(pool[:1], dtype="bfloat16")["llama"]
    assert half.dtype == "bfloat16"
    assert half.memory < 0.6 * one.memory
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        profile(pool[:1])
    finally:
        torch.set_num_threads(threads)
    assert measured == ["llama"] * 3
    profile(pool[:1], anew=True)
    assert measured == ["llama"] * 4


def test_a_model_is_known_by_its_content(measured, tmp_path):
    """A copy elsewhere is the same; other weights in the same place are not."""
    first = tiny.tiny_folder("llama", tmp_path / "first")
    profile([{"model_name": "a", "source": first}])
    copy = tiny.tiny_folder("llama", tmp_path / "copy")
    profile([{"model_name": "b", "source": copy}])
    assert measured == ["a"]
    tiny.tiny_folder("llama", copy, seed=3)
    profile([{"model_name": "c", "source": copy}])
    assert measured == ["a", "c"]


def test_a_gguf_file_is_known_by_its_engine(measured, tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import ggufs

    from fusion.strands import pool as pools

    file = ggufs.write(tmp_path / "llama.gguf", "llama")
    folder = tiny.tiny_folder("llama", tmp_path / "converted")
    tokenizer = tiny.tiny_tokenizer("llama")
    monkeypatch.setattr(pools, "tokenizer_of", lambda *_: tokenizer)
    monkeypatch.setattr(pools, "converted", lambda *_: folder)
    card = [{"model_name": "it", "source": str(file)}]
    plain = profile(card)["it"]
    assert (plain.engine, plain.layered) == ("llama.cpp", None)
    strand = ggufs.native_strand(tmp_path, "llama", "it")
    assert strand.context_memory == 4 * strand.vocab_size * 256
    assert plain.memory >= strand.memory + strand.context_memory
    both = profile(card, layers=True)["it"]
    assert measured == ["it", "it"]
    assert both.layered is not None
    assert both.layered.engine == "transformers"
    assert profile(card)["it"] == plain


@pytest.mark.parametrize("damage", ["", "[]", "null", '{"x": 1}', "{"])
def test_a_damaged_file_is_made_anew(pool, measured, kept, damage):
    kept.parent.mkdir()
    kept.write_text(damage)
    first = profile(pool[:1])
    entries = json.loads(kept.read_text())
    for entry in entries.values():
        if isinstance(entry, dict):
            entry["profile"]["memory"] = "much"
    kept.write_text(json.dumps(entries))
    assert set(profile(pool[:1])) == set(first)
    assert measured == ["llama"] * 2


def test_it_works_where_nothing_can_be_kept(
    pool, measured, monkeypatch, tmp_path, caplog
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BRAIDBANDIT_CACHE", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        assert list(profile(pool[:1])) == ["llama"]
    assert "cannot be kept" in caplog.text


def test_bad_input_measures_nothing(pool, measured, kept):
    with pytest.raises(ValueError, match="must differ"):
        profile([pool[0], pool[0]])
    with pytest.raises(ValueError, match="received 'int8'"):
        profile(pool, dtype="int8")
    with pytest.raises(TypeError, match="a pool is a list"):
        profile("llama")
    with pytest.raises(ValueError, match="unknown model source"):
        profile(["nowhere"])
    assert measured == []
    assert not kept.exists()
    assert profile([]) == {}


def test_the_machine_says_what_speed_depends_on():
    here = measuring.machine()
    assert here["threads"] == torch.get_num_threads()
    assert here["torch"] == torch.__version__
    assert here["processor"]
    assert json.loads(json.dumps(here)) == here


@pytest.mark.parametrize("strategy", ["learned_weighted", "router", "attention"])
def test_trained_parts_are_as_large_as_they_are_told(pool, strategy, measured):
    """Fusers of real braids, to the byte, at every layer set."""
    from fusion import BraidConfig, BraidedLLM, Pool

    names = [card["model_name"] for card in pool]
    cards = [
        ModelCard.from_dict({**Pool({n: card["source"]}).facts(n), **card})
        for n, card in zip(names, pool, strict=True)
    ]
    found = profile(pool)
    catalogue = Catalogue.build(
        cards,
        layer_sets=("output", "final", "final+output", "sparse"),
        strategies=(strategy,),
        shares=((0.75, 0.25),),
        profiles=found,
    )
    strands = Pool({n: card["source"] for n, card in zip(names, pool, strict=True)})
    for braid, told in zip(catalogue, catalogue.memory(), strict=True):
        model = BraidedLLM(BraidConfig(**braid.recipe()), pool=strands)
        held = sum(found[s.name].memory for s in (model.anchor, *model.donors))
        held += sum(p.numel() * p.element_size() for p in model.parameters())
        if "output" in braid.fusion_layers:  # maps between vocabularies
            held += 400 * sum(donor.vocab_size for donor in model.donors)
        assert told == held, braid.label()


def open_agent(pool, folder, **options):
    return MetaBraider(
        pool,
        folder=folder,
        calibration_texts=TEXTS,
        encoder=TaskEncoder(embedder=embed, n_components=4),
        random_state=0,
        **options,
    )


def test_an_agent_with_profiles_keeps_its_costs(pool, measured, tmp_path):
    found = profile(pool)
    with open_agent(pool, tmp_path, profiles=found) as agent:
        costs = agent.catalogue.costs()
        assert agent.catalogue.is_measured
        single = agent.catalogue.singles[0]
        assert costs[single] == pytest.approx(1 / found["llama"].tokens_per_s)
        decision = agent.forward({"type": "code"})
        agent.learn_from_feedback({"type": "code"}, decision, 0.5)
    with open_agent(pool, tmp_path) as agent:
        assert agent.catalogue.costs().tolist() == costs.tolist()
    slower = {name: changed(found[name]) for name in found}
    with pytest.warns(UserWarning, match="the profiles have no effect"):
        agent = open_agent(pool, tmp_path, profiles=slower)
    with agent:
        assert agent.catalogue.costs().tolist() == costs.tolist()


def changed(found):
    return measuring.Profile(**{**found.to_dict(), "body_seconds": 1.0})


def test_a_folder_without_profiles_stays_without(pool, measured, tmp_path):
    with open_agent(pool, tmp_path) as agent:
        costs = agent.catalogue.costs()
    with pytest.warns(UserWarning, match="the profiles have no effect"):
        agent = open_agent(pool, tmp_path, profiles=profile(pool))
    with agent:
        assert agent.catalogue.costs().tolist() == costs.tolist()
