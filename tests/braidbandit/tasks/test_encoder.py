import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from toy_embedder import embed

from braidbandit import TaskEncoder

TEXTS = [f"task number {i}" for i in range(30)]


def test_columns_and_dtype(encoder):
    tasks = [{"text": "sort", "type": "code", "complexity": 0.75}, "a poem"]
    with pytest.raises(NotFittedError):
        encoder.get_feature_names_out()
    x = encoder.fit(TEXTS).transform(tasks)
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
