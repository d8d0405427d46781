"""Building on two tiny real models; the loop around it is in test_meta_braider.py."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from braidbandit import Braid, ModelCard
from braidbandit.agent.braid_builder import (
    BraidBuilder,
    check_settings,
    completed,
    dtype_in,
    source_of,
)
from braidbandit.tasks.packaged import calibration_texts

tiny = pytest.importorskip("tiny")
TEXTS = [f"The dog number {i} sleeps beside {i + 1} strands." for i in range(12)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        family: str(tiny.tiny_folder(family, folder / family))
        for family in ("llama", "gemma")
    }


def test_braids_share_strands_and_are_built_once(sources, tmp_path):
    builder = BraidBuilder(sources, tmp_path, TEXTS)
    alone = Braid("llama")
    pair = Braid("llama", ("gemma",), (0.7, 0.3), ("final",), "learned_weighted")
    assert pair not in builder
    assert builder.build(alone) is None
    report = builder.build(pair)
    assert report is not None
    assert "final" in report.trained
    assert builder[pair] is builder[pair]
    assert builder[pair].anchor is builder[alone].anchor is builder.strands["llama"]
    again = BraidBuilder(sources, tmp_path).build(pair)
    assert again is not None
    assert again.trained == ()


def test_an_adapter_stands_on_the_base_of_another_card(sources, tmp_path):
    pytest.importorskip("peft", reason="the extra named adapters is not installed")
    tuned = ModelCard("tuned", sources["llama"], adapter=tiny.tiny_adapter(tmp_path))
    plain = ModelCard("llama", sources["llama"])
    given = {card.name: source_of(card) for card in (tuned, plain)}
    assert completed(tuned, given).parameters > completed(plain, given).parameters
    builder = BraidBuilder(given, tmp_path, TEXTS)
    pair = Braid("tuned", ("llama",), (0.7, 0.3), ("final",), "learned_weighted")
    assert "final" in builder.build(pair).trained
    model = builder[pair]
    head, other = (strand.head for strand in (model.anchor, *model.donors))
    assert head.weight is other.weight
    assert model.config.sources == {
        "tuned": {"source": sources["llama"], "adapter": str(tmp_path)},
        "llama": sources["llama"],
    }


def test_the_folder_keeps_the_settings(sources, tmp_path):
    BraidBuilder(sources, tmp_path, TEXTS, "bfloat16")
    later = BraidBuilder(sources, tmp_path)
    assert (later.texts, later.dtype) == (TEXTS, "bfloat16")
    before = (tmp_path / "calibration.json").read_bytes()
    with pytest.raises(ValueError, match="received 'int8'"):
        BraidBuilder(sources, tmp_path, dtype="int8")
    assert (tmp_path / "calibration.json").read_bytes() == before
    assert json.loads(before)["dtype"] == "bfloat16"


def test_a_card_says_more_than_the_configuration(sources):
    card = completed(ModelCard("llama", layers=99), sources)
    assert card.layers == 99
    assert card.width == tiny.tiny_strand("llama", "x").width
    assert card.vocab_size
    whole = ModelCard("nowhere", parameters=1, layers=1, width=1, vocab_size=1)
    assert completed(whole, {}) == whole
    assert completed(whole, {}).memory == 4
    assert completed(whole, {}, "bfloat16").memory == 2
    known = replace(whole, memory=77)
    assert completed(known, {}) is known


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_memory_of_a_card_is_what_is_loaded(sources, tmp_path, dtype):
    """Whatever the card says of the file: transformers expands it."""
    card = completed(ModelCard("llama", quantisation="int8"), sources, dtype)
    builder = BraidBuilder(sources, tmp_path, TEXTS, dtype)
    assert card.memory == builder.strands["llama"].memory
    whole = replace(card, memory=None)
    assert completed(whole, sources, dtype).memory == card.memory


def test_a_gguf_file_that_stays_as_it_is_takes_what_its_strand_does(tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    import ggufs

    file = ggufs.write(tmp_path / "llama.gguf", "llama")
    card = completed(ModelCard("it", source=str(file)), {"it": str(file)})
    strand = ggufs.native_strand(tmp_path, "llama", "it")
    assert card.memory == strand.memory
    sizes = {"parameters": 9, "layers": 1, "width": 1, "vocab_size": 1}
    told = ModelCard("it", source=str(file), quantisation="q4_k_m", **sizes)
    assert completed(told, {"it": str(file)}).memory == card.memory
    gone = replace(told, source="gone.gguf")
    assert completed(gone, {"it": "gone.gguf"}).memory is None


def test_the_dtype_of_a_folder_is_known_before_it_is_opened(sources, tmp_path):
    assert dtype_in(None, None) == dtype_in(tmp_path / "new", None) == "float32"
    assert not (tmp_path / "new").exists()
    BraidBuilder(sources, tmp_path, TEXTS, "bfloat16")
    assert dtype_in(tmp_path, None) == dtype_in(None, "bfloat16") == "bfloat16"


class Stub:
    """In place of a braid of real models: counts how often it is built."""

    built: ClassVar[list[str]] = []
    at_work = staticmethod(lambda anchor: None)

    def __init__(self, config, strands):
        self.at_work(config["anchor"])
        self.built.append(config["anchor"])


@pytest.fixture
def builder(monkeypatch, tmp_path):
    """A builder of stubs; nothing is loaded or trained."""
    monkeypatch.setattr(Stub, "built", [])
    monkeypatch.setattr(Stub, "at_work", staticmethod(lambda anchor: None))
    monkeypatch.setattr("fusion.BraidConfig", dict)
    monkeypatch.setattr("fusion.BraidedLLM", Stub)
    monkeypatch.setattr("fusion.Pool", lambda sources, dtype: dict(sources))
    return BraidBuilder(dict.fromkeys("abcd", "nowhere"), tmp_path, TEXTS)


def test_threads_that_ask_for_one_braid_get_one(builder, monkeypatch):
    """The others wait for the first, and take what it has built."""
    monkeypatch.setattr(Stub, "at_work", staticmethod(lambda anchor: time.sleep(0.05)))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: builder[Braid("a")], range(8)))
    assert Stub.built == ["a"]
    assert all(one is found[0] for one in found)


def test_different_braids_are_built_side_by_side(builder, monkeypatch):
    """Each waits for the other to be at work: it would fail one after the other."""
    both = threading.Barrier(2, timeout=5)
    monkeypatch.setattr(Stub, "at_work", staticmethod(lambda anchor: both.wait()))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: builder[Braid(name)], "ab"))
    assert sorted(Stub.built) == ["a", "b"]


def test_a_kept_braid_is_there_while_another_is_built(builder, monkeypatch):
    kept = builder[Braid("a")]
    seen = []
    look = staticmethod(lambda anchor: seen.append(builder[Braid("a")]))
    monkeypatch.setattr(Stub, "at_work", look)
    builder[Braid("b")]
    assert seen == [kept]


def test_the_braids_that_were_used_last_are_kept(builder, monkeypatch):
    monkeypatch.setattr("braidbandit.agent.braid_builder._MOST_BRAIDS", 2)
    for name in "abac":
        builder[Braid(name)]
    assert [Braid(name) in builder for name in "abcd"] == [True, False, True, False]
    builder[Braid("b")]
    assert Stub.built == ["a", "b", "c", "b"]


def test_a_build_that_fails_is_tried_again(builder, monkeypatch):
    def fail(anchor):
        raise MemoryError("too large")

    monkeypatch.setattr(Stub, "at_work", staticmethod(fail))
    for _ in range(2):
        with pytest.raises(MemoryError, match="too large"):
            builder[Braid("a")]
        assert Braid("a") not in builder
    monkeypatch.setattr(Stub, "at_work", staticmethod(lambda anchor: None))
    assert builder[Braid("a")] is builder[Braid("a")]


def test_building_anew_replaces_what_was_kept(builder):
    first = builder[Braid("a")]
    assert builder.build(Braid("a")) is None
    assert builder[Braid("a")] is not first
    assert Stub.built == ["a", "a"]


def test_after_a_fork_no_lock_is_held_by_a_thread_that_is_gone(builder, monkeypatch):
    """A thread of the parent is at work on the braid, and never ends in the child."""
    begun, may_end = threading.Event(), threading.Event()

    def work(anchor):
        begun.set()
        may_end.wait(5)

    monkeypatch.setattr(Stub, "at_work", staticmethod(work))
    with ThreadPoolExecutor(2) as pool:
        parent = pool.submit(builder.build, Braid("a"))
        assert begun.wait(5)
        monkeypatch.setattr(Stub, "at_work", staticmethod(lambda anchor: None))
        builder.after_fork()
        child = pool.submit(builder.__getitem__, Braid("a"))
        assert isinstance(child.result(timeout=5), Stub)
        may_end.set()
        parent.result(timeout=5)


@pytest.mark.parametrize(
    ("texts", "dtype", "error", "says"),
    [
        (None, "float16", ValueError, "dtype is 'float32' or 'bfloat16', received 'fl"),
        ("one text", None, TypeError, "calibration_texts is a str; give a list"),
        ({"prompt": "x"}, None, TypeError, "calibration_texts is a dict; give a list"),
        (pd.DataFrame({"prompt": ["x"]}), None, TypeError, "is a DataFrame; give a"),
        ([], None, ValueError, "calibration_texts is empty; give some, or None"),
        (["fine", " "], None, TypeError, "a calibration text is text, or a dict"),
        (["fine", 3], None, TypeError, "received 3"),
        ([{"prompt": "x"}], None, TypeError, "with 'prompt' and 'reference'"),
    ],
)
def test_settings_that_no_braid_could_be_built_with(
    tmp_path, texts, dtype, error, says
):
    """They are refused, in a new folder and in one that has settings, and not kept."""
    for _ in range(2):
        before = [file.read_bytes() for file in tmp_path.iterdir()]
        with pytest.raises(error, match=says):
            check_settings(texts, dtype)
        with pytest.raises(error, match=says):
            BraidBuilder({}, tmp_path, texts, dtype)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == before
        BraidBuilder({}, tmp_path, TEXTS)


@pytest.mark.parametrize(
    "texts",
    [
        ["a", "b"],
        ("a", "b"),
        [{"prompt": "p", "reference": "r", "domain": "d"}],
        np.array(["a", "b"]),
        pd.Series(["a", "b"], index=[5, 9]),
    ],
)
def test_texts_in_any_collection_are_kept_as_a_list(tmp_path, texts):
    given_ = BraidBuilder({}, tmp_path, texts).texts
    assert given_ == list(texts)
    assert BraidBuilder({}, tmp_path).texts == given_


def test_settings_that_stay_the_same_are_not_written_again(tmp_path):
    assert BraidBuilder({}, tmp_path).texts == calibration_texts()
    file = tmp_path / "calibration.json"
    before = file.stat()
    for texts, dtype in ((None, None), (calibration_texts(), None), (None, "float32")):
        BraidBuilder({}, tmp_path, texts, dtype)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )
    BraidBuilder({}, tmp_path, TEXTS)
    later = BraidBuilder({}, tmp_path, dtype="bfloat16")
    assert (later.texts, later.dtype) == (TEXTS, "bfloat16")
