"""Sums over rewards: small ones by hand, and a table against its rewards one by one."""

import numpy as np
import pytest

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
