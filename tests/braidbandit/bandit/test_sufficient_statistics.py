"""Sums over rewards: small ones by hand, and a table against its rewards one by one."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from braidbandit.bandit.layout import Layout
from braidbandit.bandit.prior import parameter_groups
from braidbandit.bandit.sufficient_statistics import SufficientStatistics

NAMES = ("gram", "cross", "own", "moment", "own_moment", "square", "count")


def table(seed=0, n=5):
    """Layout, descriptors, tasks and rewards of arms 2 and 0 of three."""
    rng = np.random.default_rng(seed)
    layout = Layout(parameter_groups(["bias", "share:a", "cost"], 3))
    Z = rng.standard_normal((2, 3))
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    return layout, [2, 0], Z, X, rng.random((n, 2)) - 0.5


def nothing(d):
    return SufficientStatistics.of_nothing(p=7, arms=3, d=d)


@pytest.mark.parametrize("d", [0, 1, 3])
def test_a_table_is_the_sum_over_its_rewards(d):
    layout, arms, Z, X, R = table()
    found = nothing(d).with_table(layout, arms, Z, X, R, np.eye(2))
    phi = np.array([[layout.features(z, x) for z in Z] for x in X])
    want = {
        "gram": np.einsum("nbp,nbq->pq", phi, phi),
        "moment": np.einsum("nbp,nb->p", phi, R),
        "square": (R**2).sum(),
        "count": 10,
    }
    for name, value in want.items():
        np.testing.assert_allclose(getattr(found, name), value, atol=1e-12)
    for column, arm in enumerate(arms):
        own, r = X[:, :d], R[:, column]
        np.testing.assert_allclose(found.cross[arm], own.T @ phi[:, column], atol=1e-12)
        np.testing.assert_allclose(found.own[arm], own.T @ own, atol=1e-12)
        np.testing.assert_allclose(found.own_moment[arm], own.T @ r, atol=1e-12)
    assert not found.cross[1].any()
    assert found.seen.tolist() == ([0, 2] if d else [])


def test_rewards_of_a_task_that_are_correlated_count_by_their_precision():
    layout, arms, Z, X, R = table()
    V = np.array([[2.0, -1.0], [-1.0, 3.0]])
    found = nothing(1).with_table(layout, arms, Z, X, R, V)
    phi = np.array([[layout.features(z, x) for z in Z] for x in X])
    gram = np.einsum("nbp,bc,ncq->pq", phi, V, phi)
    np.testing.assert_allclose(found.gram, gram, atol=1e-12)
    moment = np.einsum("nbp,bc,nc->p", phi, V, R)
    np.testing.assert_allclose(found.moment, moment, atol=1e-12)
    assert found.square == pytest.approx(np.einsum("nb,bc,nc->", R, V, R))


def test_two_tables_are_one_table():
    layout, arms, Z, X, R = table(n=8)
    whole = nothing(3).with_table(layout, arms, Z, X, R, np.eye(2))
    parts = nothing(3)
    for rows in (slice(0, 3), slice(3, 8)):
        before = parts.gram.copy()
        parts_ = parts.with_table(layout, arms, Z, X[rows], R[rows], np.eye(2))
        np.testing.assert_array_equal(parts.gram, before)  # it is a value
        parts = parts_
    for name in NAMES:
        np.testing.assert_allclose(
            getattr(parts, name), getattr(whole, name), atol=1e-12
        )


def test_what_is_left_of_every_sum():
    layout, arms, Z, X, R = table()
    whole = nothing(1).with_table(layout, arms, Z, X, R, np.eye(2))
    for name in NAMES:
        np.testing.assert_array_equal(
            getattr(whole.scaled(0.25), name), 0.25 * np.asarray(getattr(whole, name))
        )


def test_arms_without_a_reward_are_left_out():
    layout, arms, Z, X, R = table()
    whole = nothing(3).with_table(layout, arms, Z, X, R, np.eye(2))
    few = whole.of_seen()
    assert few.own.shape == (2, 3, 3)
    np.testing.assert_array_equal(few.cross, whole.cross[[0, 2]])
    np.testing.assert_array_equal(few.own_moment, whole.own_moment[[0, 2]])
    assert few.gram is whole.gram
    assert nothing(3).of_seen().own.shape == (0, 3, 3)


def test_a_table_by_hand():
    """A level and a cost z without slopes; arms z = 2 and 3, own intercepts.

    Two tasks, rewards (1, 0) and (2, -1). The four phi are (1, 2), (1, 3) twice.
    """
    layout = Layout(np.array([[0], [4]]))
    Z, X = np.array([[1.0, 2.0], [1.0, 3.0]]), np.ones((2, 1))
    R = np.array([[1.0, 0.0], [2.0, -1.0]])
    sums = SufficientStatistics.of_nothing(2, 3, 1)
    found = sums.with_table(layout, [2, 0], Z, X, R, np.eye(2))
    assert found.gram.tolist() == [[4.0, 10.0], [10.0, 26.0]]
    assert found.moment.tolist() == [2.0, 3.0]  # 1 + 2 + 0 - 1; 2 (1 + 2) + 3 (0 - 1)
    assert found.cross.tolist() == [[[2.0, 6.0]], [[0.0, 0.0]], [[2.0, 4.0]]]
    assert found.own.ravel().tolist() == [2.0, 0.0, 2.0]
    assert found.own_moment.ravel().tolist() == [-1.0, 0.0, 3.0]
    assert (found.square, found.count) == (6.0, 4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0, 1, 3]))
def test_the_order_of_tasks_and_of_columns_does_not_matter(seed, d):
    layout, arms, Z, X, R = table(seed)
    rng = np.random.default_rng(seed)
    V = np.array([[2.0, -0.5], [-0.5, 1.0]])
    rows = rng.permutation(len(X))
    one = nothing(d).with_table(layout, arms, Z, X, R, V)
    other = nothing(d).with_table(
        layout, arms[::-1], Z[::-1], X[rows], R[rows][:, ::-1], V[::-1, ::-1]
    )
    for name in NAMES:
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), atol=1e-12)


@pytest.mark.parametrize("d", [0, 1, 3])
def test_a_table_of_no_tasks_adds_nothing(d):
    layout, arms, Z, X, R = table()
    one = nothing(d).with_table(layout, arms, Z, X, R, np.eye(2))
    other = one.with_table(layout, arms, Z, X[:0], R[:0], np.eye(2))
    for name in NAMES:
        np.testing.assert_array_equal(getattr(other, name), getattr(one, name))


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 4), st.floats(0, 4))
@example(1e-311, 3.0)
def test_shares_of_shares_multiply(a, b):
    layout, arms, Z, X, R = table()
    whole = nothing(1).with_table(layout, arms, Z, X, R, np.eye(2))
    for name in NAMES:
        np.testing.assert_allclose(
            getattr(whole.scaled(a).scaled(b), name),
            getattr(whole.scaled(a * b), name),
            rtol=1e-12,
            atol=1e-300,  # below that floats have fewer digits
        )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000))
def test_sums_of_squares_are_never_negative(seed):
    """Together with the own parts of all arms, whatever the precision of a task."""
    layout, arms, Z, X, R = table(seed)
    half = np.random.default_rng(seed).standard_normal((2, 2))
    found = nothing(3).with_table(layout, arms, Z, X, R, half @ half.T)
    whole = np.zeros((7 + 9, 7 + 9))
    whole[:7, :7] = found.gram
    for arm in range(3):
        at = slice(7 + 3 * arm, 10 + 3 * arm)
        whole[at, :7], whole[:7, at] = found.cross[arm], found.cross[arm].T
        whole[at, at] = found.own[arm]
    values = np.linalg.eigvalsh(whole)
    assert values.min() >= -1e-10 * values.max()
    assert found.square >= 0
