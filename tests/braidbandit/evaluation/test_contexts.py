import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit.evaluation.contexts import FOLDS, contexts_of, is_table, run_starts


def test_a_table_with_repetitions_has_contexts():
    """12 prompts, 3 arms, 10 times each: however often, these arms were not drawn.
    With 9 prompts none can be spared."""
    arms = np.tile(np.arange(3), 120)
    X = np.repeat(np.arange(12.0), 30)[:, None]
    assert contexts_of(X, arms, 3).tolist() == X[:, 0].tolist()
    assert is_table(contexts_of(X, arms, 3), arms, 3)
    few = X[:, 0] < 9
    assert len(set(contexts_of(X[few], arms[few], 3).tolist())) == 270
    arms[0] = 1
    assert not is_table(X[:, 0].astype(int), arms, 3)
    assert len(set(contexts_of(X, arms, 3).tolist())) == 360


@pytest.mark.parametrize("n_contexts", [1, 2 * FOLDS - 1, 2 * FOLDS, 2 * FOLDS + 1])
def test_fewer_than_two_contexts_a_fold_are_kinds_of_tasks(n_contexts):
    X, arms = np.repeat(np.arange(n_contexts), 2)[:, None] * 1.0, np.tile([0, 1], 1)
    found = contexts_of(X, np.tile(arms, n_contexts), 2)
    together = n_contexts >= 2 * FOLDS
    assert len(set(found.tolist())) == (n_contexts if together else 2 * n_contexts)


def test_minus_zero_is_zero():
    X = np.arange(20.0)[:, None]
    X[1] = -0.0
    found = contexts_of(X, np.zeros(20, dtype=int), 1)
    assert found[0] == found[1]
    assert len(set(found.tolist())) == 19


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_runs_put_together_are_the_labels(labels):
    """Each run has one label, and neighbours have different ones."""
    array = np.array(labels)
    starts = run_starts(array)
    assert starts[0] == 0
    lengths = np.diff(np.append(starts, len(array)))
    assert np.repeat(array[starts], lengths).tolist() == labels
    assert (np.diff(array[starts]) != 0).all()


@given(st.integers(1, 6), st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_table_stays_one_in_any_order(n_contexts, n_arms, random):
    rows = [(c, a) for c in range(n_contexts) for a in range(n_arms)]
    random.shuffle(rows)
    contexts, arms = np.array(rows).T
    assert is_table(contexts, arms, n_arms)
    if n_arms > 1:
        again = np.append(contexts, 0), np.append(arms, 0)
        assert not is_table(*again, n_arms)


@pytest.mark.parametrize("more", [0, 1])
def test_more_than_two_rows_for_each_arm_and_context_are_kinds_of_tasks(more):
    """10 contexts and 2 arms: up to 40 rows are about tasks, from 41 on about kinds.
    No table: context 0 met arm 0 three times as often as arm 1, or more."""
    contexts = np.append(np.repeat(np.arange(10), 4), [0] * more)
    arms = np.append(np.tile([0, 1], 20), [0] * more)
    arms[:3] = 0
    found = contexts_of(contexts[:, None] * 1.0, arms, 2)
    if more:
        assert found.tolist() == list(range(41))
    else:
        assert found.tolist() == contexts.tolist()


@given(st.lists(st.integers(0, 14), min_size=20, max_size=40))
def test_rows_have_one_number_exactly_where_they_are_equal(rows):
    """Numbers count up from 0 as contexts are first seen; few contexts are not."""
    X = np.array(rows, dtype=float)[:, None]
    found = contexts_of(X, np.arange(len(rows)) % 3, 3).tolist()
    if len(set(rows)) < 2 * FOLDS:
        assert found == list(range(len(rows)))
    else:
        seen = list(dict.fromkeys(rows))
        assert found == [seen.index(row) for row in rows]


def test_rows_that_differ_in_one_column_are_apart():
    X = np.zeros((20, 3))
    X[:, 2] = np.arange(20) // 2
    assert contexts_of(X, np.arange(20) % 2, 2).tolist() == X[:, 2].tolist()
    X[1, 0] = 1e-300
    assert len(set(contexts_of(X, np.arange(20) % 2, 2).tolist())) == 11


@pytest.mark.parametrize(
    ("contexts", "arms", "even"),
    [
        ([0], [0], True),
        ([0, 0], [0, 0], True),
        ([0, 1], [0, 1], True),
        ([0, 0, 0], [0, 1, 1], False),
        ([0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], True),
        ([2, 0, 2, 0, 0], [1, 0, 0, 1, 1], False),
    ],
)
def test_a_table_meets_each_arm_of_a_context_equally_often(contexts, arms, even):
    """Whether contexts met the same arms as each other does not matter."""
    assert is_table(np.array(contexts), np.array(arms), 2) is even
