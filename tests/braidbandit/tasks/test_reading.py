"""Tasks are read alike however they are written, and their hashes tell it."""

import hashlib
import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from toy_embedder import embed

from braidbandit import TaskEncoder
from braidbandit._json import content_hash
from braidbandit.tasks.reading import is_hash_of, task_hash


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
