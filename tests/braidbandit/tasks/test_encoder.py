import hashlib
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from toy_embedder import embed

from braidbandit import TaskEncoder
from braidbandit._json import content_hash
from braidbandit.tasks.encoder import is_hash_of, task_hash

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


def test_numbers_of_numpy_are_numbers():
    task = {"type": "code", "complexity": np.float32(0.5)}
    assert task_hash(task) == task_hash({"type": "code", "complexity": 0.5})


# One task each, written in several ways.
ALIKE = [
    ["hi", {"text": "hi"}, {"prompt": "hi"}, {"text": "hi", "type": None},
     {"text": "hi", "capabilities": []}, {"text": "hi", "complexity": None}],
    [{"type": "code", "complexity": 1.0}, {"complexity": 1, "type": "code"},
     {"type": "code", "complexity": np.float32(1)}],
    [{"type": "code", "complexity": 0}, {"type": "code", "complexity": -0.0}],
    [{"text": "hi", "capabilities": ["a", "b"]},
     {"text": "hi", "capabilities": ("b", "a")}],
    [{"type": "code", "capabilities": ["a", "b"]}],
    [{"type": "code", "capabilities": ["b", "a"]}],
    ["caf\u00e9"],
    ["cafe\u0301"],
    [np.array([1.0, 0.0]), [1, 0], np.array([1, 0]), [1.0, -0.0]],
]  # fmt: skip


def test_equal_tasks_share_a_hash_however_they_are_written(encoder):
    """Equal is what has the same features; unlike tasks have unlike hashes."""
    for tasks in ALIKE:
        assert len({task_hash(task) for task in tasks}) == 1, tasks
        rows = {encoder.transform([task]).tobytes() for task in tasks}
        assert len(rows) == 1, tasks
    assert len({task_hash(tasks[0]) for tasks in ALIKE}) == len(ALIKE)


def of_javascript(task):
    """The task as JSON.parse and JSON.stringify leave it."""

    def plain(value):
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value

    return json.loads(json.dumps({key: plain(value) for key, value in task.items()}))


tasks = st.fixed_dictionaries(
    {"text": st.text(min_size=1).filter(str.strip)},
    optional={
        "type": st.sampled_from(["code", "legal", None]),
        "complexity": st.one_of(
            st.none(), st.sampled_from([0, 1]), st.floats(0, 1, width=16)
        ),
        "capabilities": st.one_of(st.none(), st.lists(st.text(), max_size=6)),
    },
)


@given(tasks, tasks)
def test_the_hash_is_of_what_is_read(one, other):
    encoder = TaskEncoder(embedder=embed)
    assert task_hash(of_javascript(one)) == task_hash(one)
    a, b = encoder.transform([one, other])
    assert (task_hash(one) == task_hash(other)) == (a.tobytes() == b.tobytes())


def test_hashes_of_earlier_versions_are_known():
    for task, old in (
        ("hi", content_hash("hi")),
        ({"prompt": "hi", "type": None}, content_hash({"prompt": "hi", "type": None})),
        ({"type": "code", "complexity": 0.7}, "86991227ed8cd8f8"),
        ([1.0, -0.0], hashlib.sha256(np.array([1.0, -0.0]).tobytes()).hexdigest()[:16]),
    ):
        assert is_hash_of(old, task)
        assert is_hash_of(task_hash(task), task)
        assert not is_hash_of(old, "another")


def test_a_numeric_task_has_one_hash_as_list_and_array():
    assert task_hash([0.5, 1.0]) == task_hash(np.array([0.5, 1.0]))
    assert task_hash([0.5, 1.0]) != task_hash([0.5, 2.0])
