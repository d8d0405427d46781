import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

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
from braidbandit.tasks.encoder import canonical_task, is_hash_of, task_hash

TEXTS = [f"task number {i}" for i in range(30)]


def test_columns_and_dtype(encoder):
    tasks = [{"text": "sort", "type": "code", "complexity": 0.75}, "a poem"]
    with pytest.raises(NotFittedError):
        encoder.get_feature_names_out()
    x = encoder.fit(TEXTS).transform(tasks)
    names = list(encoder.get_feature_names_out())
    assert x.shape == (2, len(names)) == (2, 1 + 4 + 6 + 8 + 2 + 12)
    assert x.dtype == np.float64
    assert (x[:, 0] == 1).all()
    assert x[0, names.index("type:code")] > 0
    assert x[0, names.index("complexity")] == 0.5
    assert x[1, 11:].tolist() == [0.0] * 22
    assert encoder.blocks().tolist() == [1] * 6 + [2] * 8 + [3] * 14
    assert names[5].startswith("letters:")


def test_capabilities_are_counted_up_to_four(encoder):
    x = encoder.transform([{"type": "code", "capabilities": list("abcdef")}])
    assert x[0, -13] == 1.0


def test_fit_gives_unit_average_variance(encoder):
    x = encoder.fit(TEXTS).transform(TEXTS)[:, 1:5]
    assert x.mean(axis=0) == pytest.approx(0, abs=1e-12)
    assert x.var(axis=0).mean() == pytest.approx(1.0)


def test_the_cold_projection_is_fixed_and_has_no_letters(encoder):
    cold = encoder.transform(TEXTS)
    assert np.array_equal(cold, clone(encoder).transform(TEXTS))
    assert cold[:, 1:5].var() == pytest.approx(1.0, rel=0.4)
    n, k = cold.shape
    assert encoder.fit(TEXTS).transform(TEXTS).shape == (n, k + 6)
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
        ({"text": "x", "prompt": "y"}, KeyError, "give one of"),
        ({"text": "x", "type": "cod"}, ValueError, "known types"),
        ({"text": "x", "capabilities": "math"}, TypeError, "capabilities"),
        ({"text": "x", "capabilities": {"math"}}, TypeError, "list of text"),
        ({"complexity": 0.5}, ValueError, "needs"),
        ({"text": "x", "features": ["a"]}, TypeError, "features is a dict"),
        ({"text": "x", "features": {"a": [1]}}, TypeError, "feature 'a' is a number"),
        ({"text": "x", "features": {1: 1}}, TypeError, "name that is text"),
        ({"text": "x", "features": {"a": float("inf")}}, ValueError, "finite"),
        ({"messages": "hi"}, TypeError, "messages is a list"),
        ({"messages": [{"role": "user", "content": " "}]}, ValueError, "no message"),
        ({"messages": [{"role": "me"}]}, ValueError, "a 'role' of"),
        ("  ", ValueError, "empty"),
        ("a\udcff", ValueError, r"half a character .* at place 1"),
        ({"prompt": "\ud83d"}, ValueError, "no tokenizer can write"),
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
    for empty in ([[]], np.ones((2, 0))):
        with pytest.raises(ValueError, match="without numbers.* a task is text"):
            encoder.transform(empty)
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
    [{"type": "code", "capabilities": ["a", "b"]},
     {"type": "code", "capabilities": ["b", "a"]},
     {"type": "code", "capabilities": ["a", "b", "a"]}],
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


def test_a_whole_number_beyond_all_floats_is_refused(encoder):
    for read in (lambda task: encoder.transform([task]), task_hash):
        with pytest.raises(ValueError, match="beyond all floats"):
            read([0.5, 10**400])
        with pytest.raises(ValueError, match=r"lies in \[0, 1\]|JSON"):
            read({"text": "hi", "complexity": 10**400})


def written_otherwise(task):
    """The same task, written in other ways."""
    yield dict(reversed(task.items()))
    yield {("prompt" if key == "text" else key): value for key, value in task.items()}
    yield {**dict.fromkeys(("text", "type", "complexity", "capabilities")), **task}
    yield {"prompt": None, **task}
    if task.get("complexity") is not None:
        yield {**task, "complexity": np.float64(task["complexity"])}
    if task.get("capabilities") is not None:
        yield {**task, "capabilities": tuple(task["capabilities"])}
    yield canonical_with_names(task)


def canonical_with_names(task):
    """The canonical form, its capabilities in another order, each twice."""
    read = canonical_task(task)
    if "capabilities" in read:
        read["capabilities"] = [*reversed(read["capabilities"])] * 2
    return read


@given(tasks)
def test_a_task_is_the_same_however_it_is_written(task):
    """Same canonical form, features and hash; and what was given stays as it is."""
    encoder = TaskEncoder(embedder=embed)
    before = json.dumps(task)
    features = encoder.transform([task]).tobytes()
    for other in written_otherwise(task):
        assert canonical_task(other) == canonical_task(task)
        assert task_hash(other) == task_hash(task)
        assert encoder.transform([other]).tobytes() == features
    assert json.dumps(task) == before


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ({"type": "code"}, "A code task"),
        ({"capabilities": ["tact"]}, "A general task that needs tact"),
        (
            {"type": "legal", "capabilities": ("tact", "wit")},
            "A legal task that needs tact, wit",
        ),
        (
            {"type": "legal", "capabilities": ["wit", "tact", "wit"]},
            "A legal task that needs tact, wit",
        ),
        ({"prompt": "hi", "type": "code"}, "hi"),
        ({"text": None, "prompt": "hi"}, "hi"),
    ],
)
def test_the_text_that_is_embedded(task, text):
    asked = []

    def listening(texts):
        asked.extend(texts)
        return embed(texts)

    TaskEncoder(embedder=listening).transform([task])
    assert asked == [text] == [canonical_task(task)["text"]]


def test_columns_by_hand():
    """Bias, an embedding of zeros, two types, complexity, capabilities.

    A stated type is 2; complexity 1/4 is 2/4 - 1; three of at most four capabilities.
    """
    encoder = TaskEncoder(
        embedder=lambda texts: np.zeros((len(texts), 3)),
        n_components=1,
        types=("x", "y"),
        n_details=0,
    )
    full = {"text": "t", "type": "y", "complexity": 0.25, "capabilities": [*"abc"]}
    found = encoder.transform([full, "t", {"text": "t", "complexity": 0}])
    assert found.tolist() == [
        [1, 0, 0, 2, -0.5, 0.75],
        [1, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, -1, 0],
    ]


@pytest.mark.parametrize(
    "types",
    [["x", "y"], np.array(["x", "y"]), pd.Series(["x", "y"], index=[7, 8]),
     {"x": 0, "y": 1}.keys()],
    ids=["list", "array", "series", "keys"],
)  # fmt: skip
def test_types_in_any_ordered_collection(types):
    encoder = TaskEncoder(embedder=embed, n_components=3, types=types, n_letters=0)
    texts = [{"text": f"t{i}", "type": "y"} for i in range(9)]
    found = encoder.fit(texts).transform(texts)
    assert found[:, 4:6].tolist() == [[0.0, 2.0]] * 9
    assert encoder.nearest_type("t3") == ("y", 1.0)
    assert encoder.settings()["types"] == ["x", "y"]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"n_components": 0}, ValueError, "n_components"),
        ({"n_components": 2.5}, TypeError, "n_components"),
        ({"random_state": -1}, ValueError, "random_state"),
        ({"cache_bytes": -1}, ValueError, "cache_bytes"),
        ({"n_letters": -1}, ValueError, "n_letters"),
        ({"n_details": 1.5}, TypeError, "n_details"),
        ({"window": 10}, ValueError, "window"),
        ({"types": "code"}, ValueError, "types are distinct texts, received 'code'"),
        ({"types": ["a", "a"]}, ValueError, "types are distinct texts"),
        ({"types": ["a", ""]}, ValueError, "types are distinct texts"),
        ({"types": {"a", "b"}}, TypeError, "types is a list of names"),
        ({"embedder": "m"}, TypeError, "embedder is a function, received 'm'"),
        ({"model": "m"}, ValueError, "give model or embedder, not both: 'm' would"),
    ],
)
def test_settings_that_make_no_sense_leave_the_fit_alone(settings, error, says):
    encoder = TaskEncoder(embedder=embed, n_components=3).fit(TEXTS)
    old = {name: getattr(encoder, name) for name in settings}
    before = {n: a.tobytes() for n, a in encoder.fitted_arrays().items()}
    encoder.set_params(**settings)
    with pytest.raises(error, match=says):
        encoder.fit(TEXTS[:5])
    encoder.set_params(**old)
    assert {n: a.tobytes() for n, a in encoder.fitted_arrays().items()} == before
    assert encoder.transform(TEXTS).shape == (30, 32)


@pytest.mark.parametrize("bad", [["ok", {"text": "x", "kind": 1}], [" "], [], ["a", 3]])
def test_tasks_that_make_no_sense_leave_the_fit_alone(encoder, bad):
    encoder.fit(TEXTS)
    before = (encoder.projection_hash(), encoder.transform(TEXTS).tobytes())
    for call in (encoder.fit, encoder.transform):
        with pytest.raises((KeyError, ValueError, TypeError)):
            call(bad)
    assert (encoder.projection_hash(), encoder.transform(TEXTS).tobytes()) == before


@pytest.mark.parametrize(
    "change",
    [{"n_components": 3}, {"types": ["code"]}, {"random_state": 1},
     {"embedder": lambda texts: embed(texts)}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_setting_that_changed_after_fit_is_named(encoder, change):
    before = encoder.fit(TEXTS).get_params()
    (name,) = change
    encoder.set_params(**change)
    with pytest.raises(ValueError, match=rf"\['{name}'\] changed after fit"):
        encoder.transform(TEXTS)
    encoder.set_params(**{name: before[name]})
    assert encoder.transform(TEXTS).shape == (30, 33)


def test_where_embeddings_are_kept_may_change_after_fit(encoder, tmp_path):
    before = encoder.fit(TEXTS).transform(TEXTS)
    encoder.set_params(cache_dir=tmp_path, cache_bytes=0)
    np.testing.assert_array_equal(encoder.transform(TEXTS), before)


@pytest.mark.parametrize(
    "numbers", [np.ones((2, 3)) * 1j, np.ones((2, 3), dtype=np.complex64)]
)
def test_complex_embeddings_are_refused(numbers):
    with pytest.raises(ValueError, match="real numbers"):
        TaskEncoder().transform(numbers)


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.float16, np.float32])
def test_embeddings_of_any_kind_of_number(dtype):
    numbers = np.arange(12).reshape(4, 3) % 5
    found = TaskEncoder(n_components=2).transform(numbers.astype(dtype))
    assert found.dtype == np.float64
    want = TaskEncoder(n_components=2).transform(numbers.tolist())
    np.testing.assert_array_equal(found, want)


def test_what_one_has_found_another_takes_over(encoder):
    typed = [{"text": text, "type": "maths"} for text in TEXTS]
    encoder.fit(typed)
    other = clone(encoder).take_fit(encoder.fitted_arrays())
    np.testing.assert_array_equal(other.transform(TEXTS), encoder.transform(TEXTS))
    assert other.projection_hash() == encoder.projection_hash()
    assert other.nearest_type("x") == encoder.nearest_type("x") == ("maths", 1.0)
    assert clone(encoder).fitted_arrays() == {}


@pytest.mark.parametrize("missing", ["gates_", "components_", "example_types_"])
def test_a_fit_that_is_not_whole_is_not_taken_over(encoder, missing):
    arrays = dict(clone(encoder).fit(TEXTS).fitted_arrays())
    del arrays[missing]
    before = encoder.fit(TEXTS[:9]).projection_hash()
    with pytest.raises(KeyError, match=missing):
        encoder.take_fit(arrays)
    assert encoder.projection_hash() == before


def test_ten_neighbours_vote():
    """Of twelve typed tasks on a line, the ten nearest to 0: six legal, four code."""
    encoder = TaskEncoder(
        embedder=lambda texts: np.array([[float(text)] for text in texts]),
        n_components=1,
    )
    kinds = ["legal"] * 6 + ["code"] * 6
    encoder.fit([{"text": str(at / 12), "type": kind} for at, kind in enumerate(kinds)])
    assert encoder.nearest_type("0") == ("legal", 0.6)
    assert encoder.nearest_type("1") == ("code", 0.6)
    assert encoder.nearest_type({"text": "0", "type": "code"}) == ("code", 1.0)
    assert encoder.nearest_type(np.array([1.0])) == ("code", 0.6)


def test_threads_share_an_encoder(encoder):
    """Whoever comes first embeds; all get the same rows."""
    encoder.fit(TEXTS)
    want = clone(encoder).fit(TEXTS).transform(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: encoder.transform(TEXTS), range(24)))
    for rows in found:
        np.testing.assert_array_equal(rows, want)


def test_the_very_same_task_has_one_hash_in_every_version():
    """Ledgers hold them: they must never change."""
    assert task_hash("hello") == "cbbbdcd27692344d"
    assert task_hash([0.5, -2.0]) == "3c981c42e702d6fd"
    named = {"prompt": "hi", "capabilities": ["a"]}
    assert task_hash(named) == "a29a74eeb5ce9cf0"
    # Versions that only counted capabilities.
    assert is_hash_of("ce143c883f35c985", named)
    assert task_hash({"type": "code", "capabilities": ["a", "b"]}) == "0cc3f65566687f52"
    # Versions that described a task without a text by them in any order.
    backwards = {"type": "code", "capabilities": ["b", "a"]}
    assert is_hash_of("d729d10b18e6b32f", backwards)
    assert is_hash_of("a41f1011b033222a", backwards)


def test_capabilities_and_features_tell_tasks_apart(encoder):
    tasks = [
        {"text": "hi", "capabilities": ["maths"]},
        {"text": "hi", "capabilities": ["vision"]},
        {"text": "hi", "features": {"channel": "email"}},
        {"text": "hi", "features": {"channel": "never seen", "attachments": 2}},
        {"text": "hi", "features": {"channel": None}},
    ]
    x = encoder.fit(TEXTS).transform(tasks)
    assert len({row.tobytes() for row in x}) == len({task_hash(t) for t in tasks}) == 5
    np.testing.assert_allclose(x[4], encoder.transform(["hi"])[0], atol=1e-12)
    plain = clone(encoder).set_params(n_details=0).fit(TEXTS)
    with pytest.raises(ValueError, match="n_details=12"):
        plain.transform(tasks[2:3])


def test_the_last_turn_of_a_chat_is_the_text(encoder):
    chat = [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": [{"type": "text", "text": "sort a list"}]},
    ]
    task = {"messages": chat, "type": "code"}
    same = {"text": "sort a list", "type": "code"}
    np.testing.assert_array_equal(encoder.transform([task]), encoder.transform([same]))
    assert task_hash(task) == task_hash(same)


def test_letters_tell_texts_of_one_embedding_apart():
    encoder = TaskEncoder(embedder=lambda texts: np.ones((len(texts), 3)))
    x = encoder.fit(TEXTS).transform(["task 1", "Aufgabe 2"])
    assert x[0].tobytes() != x[1].tobytes()
    numbers = np.ones((2, 3))
    assert (encoder.transform(numbers)[:, 4:10] == 0).all()


def test_of_a_long_text_the_end_counts_most(encoder):
    """As many words in front say less than the request behind them."""
    asked = []

    def listening(texts):
        asked.extend(texts)
        return embed(texts)

    listener = clone(encoder).set_params(embedder=listening, window=100)
    front = "\n\n".join(
        f"rule {i}: be brief and polite to everybody" for i in range(60)
    )
    found = listener.embed([front + "\n\nsort the list of numbers that I gave you"])
    assert found.shape == embed(["a"]).shape
    assert len(asked) == 8
    assert asked[-1] == "sort the list of numbers that I gave you"
    assert max(map(len, asked)) <= 100


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\u00e9\n\n" * 300_000])
def test_a_giant_text_is_read(encoder, text):
    assert np.isfinite(encoder.fit(TEXTS).transform([text])).all()
