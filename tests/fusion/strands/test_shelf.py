"""Strands in memory: what is let go, what is held, what never fits."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch

from fusion import BraidConfig, BraidedLLM, Pool
from fusion.strands.shelf import Shelf, bytes_of

NAMES = ("llama", "gemma", "gpt2")
IDS = torch.tensor([[5, 50, 150]])


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {f: str(tiny.tiny_folder(f, folder / f)) for f in NAMES}


@pytest.fixture(scope="module")
def sizes(sources):
    """Bytes of each strand, as the pool says before it loads it."""
    return {name: Pool(sources).facts(name)["memory"] for name in NAMES}


def counted(monkeypatch):
    """Names of what a pool loads from now on."""
    loaded, load = [], Pool._load
    monkeypatch.setattr(
        Pool,
        "_load",
        lambda pool, name, file: loaded.append(name) or load(pool, name, file),
    )
    return loaded


def test_bytes_are_those_of_the_weights_once(strands):
    llama, gemma = strands["llama"], strands["gemma"]
    assert bytes_of([llama]) == bytes_of([llama, llama]) == llama.memory
    assert bytes_of([llama, gemma]) == llama.memory + gemma.memory
    other = tiny.Strand("twin", llama.model, llama.tokenizer)
    buffers = sum(b.nbytes for b in llama.model.buffers())
    assert bytes_of([llama, other]) == llama.memory + buffers


def test_the_least_recently_used_makes_room(sources, sizes, monkeypatch):
    loaded = counted(monkeypatch)
    pool = Pool(sources, memory_limit=sum(sizes.values()) - 1)
    seen = {name: weakref.ref(pool[name]) for name in ("llama", "gemma")}
    assert pool["llama"] is seen["llama"]()  # used again: gemma is older now
    pool["gpt2"]
    assert pool.loaded == ("llama", "gpt2")
    assert seen["gemma"]() is None
    assert seen["llama"]() is not None
    assert loaded == ["llama", "gemma", "gpt2"]
    # What was let go is loaded again, and says the same.
    assert torch.equal(
        pool["gemma"].model(IDS).logits, tiny.tiny_model("gemma")(IDS).logits
    )
    assert loaded == ["llama", "gemma", "gpt2", "gemma"]
    assert seen["llama"]() is None
    assert list(pool) == list(NAMES)


def test_what_fits_stays(sources, sizes, monkeypatch):
    loaded = counted(monkeypatch)
    pool = Pool(sources, memory_limit=sum(sizes.values()))
    for name in (*NAMES, *NAMES):
        pool[name]
    assert loaded == list(NAMES)


def test_a_strand_that_a_braid_holds_stays_and_counts(sources, sizes):
    limit = sizes["llama"] + sizes["gemma"] + sizes["gpt2"] - 1
    pool = Pool(sources, memory_limit=limit)
    config = BraidConfig("llama", ["gemma"], [0.5, 0.5], ["final"], "router")
    braid = BraidedLLM(config, pool=pool)
    with pytest.raises(MemoryError, match=r"\['llama', 'gemma'\], which somebody"):
        pool["gpt2"]
    # They are still the pool's, and not loaded twice.
    assert pool["llama"] is braid.anchor
    assert pool["gemma"] is braid.donors[0]
    logits = braid(IDS).logits
    assert torch.isfinite(logits).all()
    gone = [weakref.ref(braid.anchor), weakref.ref(braid.donors[0])]
    del braid
    pool["gpt2"]
    assert [strand() is None for strand in gone] == [True, False]


def test_what_nobody_holds_goes_before_what_somebody_does(sources, sizes):
    pool = Pool(sources, memory_limit=sum(sizes.values()) - 1)
    held = pool["llama"]
    other = weakref.ref(pool["gemma"])
    pool["gpt2"]
    assert other() is None
    assert pool["llama"] is held


def test_a_strand_larger_than_the_limit_is_refused(sources, sizes):
    pool = Pool(sources, memory_limit=sizes["gpt2"] - 1)
    small = weakref.ref(pool["llama"])
    with pytest.raises(MemoryError, match="more than the pool's memory_limit"):
        pool["gpt2"]
    assert pool["llama"] is small()  # nothing was let go for it
    pool = Pool(sources, memory_limit=max(sizes.values()))
    assert all(pool[name].name == name for name in NAMES)


def test_what_was_added_is_never_let_go(sources, sizes, strands):
    pool = Pool(sources, memory_limit=sizes["gemma"])
    mine = tiny.tiny_strand("llama", "mine")
    pool.add(mine)
    seen = weakref.ref(mine)
    del mine
    with pytest.raises(MemoryError, match=r"\['mine'\], .* given to the pool"):
        pool["gpt2"]
    assert pool["mine"] is seen()


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="above 0"):
        Pool(memory_limit=limit)
    with pytest.raises(ValueError, match="above 0"):
        Shelf(limit)


def test_threads_that_push_each_other_out_get_what_they_ask_for(sources, sizes):
    pool = Pool(sources, memory_limit=max(sizes.values()) + min(sizes.values()))
    go, found = threading.Barrier(3), []
    wanted = {name: tiny.tiny_model(name)(IDS).logits for name in NAMES}

    def ask(name):
        go.wait()
        for _ in range(4):
            try:
                logits = pool[name].model(IDS).logits
            except MemoryError:
                continue  # the others were at work with theirs
            found.append(name)
            assert torch.equal(logits, wanted[name])

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(ask, NAMES))
    assert found


def test_native_strands_make_room_too(tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import ggufs

    from fusion.strands import pool as pools

    tokenizer = tiny.tiny_tokenizer
    monkeypatch.setattr(pools, "tokenizer_of", lambda file, _: tokenizer(file.stem))
    files = {f: str(ggufs.write(tmp_path / f"{f}.gguf", f)) for f in ("llama", "gemma")}
    sizes = {name: Pool(files).facts(name)["memory"] for name in files}
    pool = Pool(files, memory_limit=sum(sizes.values()) - 1)
    first = weakref.ref(pool["llama"])
    assert first().memory == sizes["llama"]
    pool["gemma"]
    assert first() is None
    assert pool["llama"].name == "llama"
