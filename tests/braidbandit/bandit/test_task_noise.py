"""What rewards of one task have in common, from tables whose parts are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf_shrinkage

from braidbandit.bandit.task_noise import (
    _of_incomplete,
    task_covariance,
    task_precision,
)


def test_arms_that_share_a_strand_are_one_measurement_not_two():
    """Arms 0 and 1 move together from task to task, arm 2 against them.

    Sizes 1/9, 1/9 and 4/9 of one variance, scaled to 1/2, 1/2 and 2 (a mean of 1), and
    shrunk by a tenth: 0.55, 0.55 and 1.9, with 0.9 * 1/2 = 0.45 and -0.9 in between.
    """
    u = np.random.default_rng(1).standard_normal((4000, 1))
    R = 0.5 + u * np.array([0.1, 0.1, -0.2])
    expected = [[0.55, 0.45, -0.9], [0.45, 0.55, -0.9], [-0.9, -0.9, 1.9]]
    covariance = np.linalg.inv(task_precision(R, shared=True))
    np.testing.assert_allclose(covariance, expected, atol=1e-9)
    np.testing.assert_allclose(task_precision(R), np.eye(3), atol=1e-9)


def test_a_table_that_is_the_same_on_every_task_has_no_covariance():
    R = np.tile([0.2, 0.4, 0.9], (5, 1))
    np.testing.assert_array_equal(task_precision(R, shared=True), np.eye(3))


def test_two_tasks_say_little_about_the_covariance():
    """Both deviate by as much from their mean: one direction, without any scatter."""
    R = np.random.default_rng(0).random((2, 6))
    R -= R.mean(axis=1, keepdims=True)
    covariance = np.linalg.inv(task_precision(R, shared=True))
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance)[:5], 0.5, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 4), (5, 1)])
def test_of_one_task_or_one_arm_nothing_is_known(shape):
    R = np.random.default_rng(0).random(shape)
    np.testing.assert_array_equal(task_precision(R, shared=True), np.eye(shape[1]))


def test_a_common_part_is_found_in_the_share_it_has():
    """Variance 0.04 for the task, 0.01 for each reward: rho = 0.8, so the covariance
    has 1 on its diagonal and 0.8 beside it."""
    rng = np.random.default_rng(0)
    hard = 0.2 * rng.standard_normal((20_000, 1))
    R = 0.5 + hard + 0.1 * rng.standard_normal((20_000, 3))
    covariance = np.linalg.inv(task_precision(R))
    np.testing.assert_allclose(covariance, 0.8 + 0.2 * np.eye(3), atol=0.01)


def test_the_common_part_has_nine_tenths_at_most():
    """Arms that always agree: without a bound, the precision would be infinite."""
    R = np.tile(np.linspace(0, 1, 9)[:, None], (1, 2))
    covariance = np.linalg.inv(task_precision(R))
    np.testing.assert_allclose(covariance, [[1.0, 0.9], [0.9, 1.0]])


def test_the_shrinkage_is_that_of_ledoit_and_wolf():
    """Rows and columns of the table have mean 0, so all of it is what is left."""
    rng = np.random.default_rng(2)
    R = rng.standard_normal((12, 6))
    R -= R.mean(axis=1, keepdims=True)
    R -= R.mean(axis=0)
    R /= np.sqrt((R**2).mean())
    intensity = ledoit_wolf_shrinkage(R, assume_centered=True)
    assert 0.1 < intensity < 1.0
    expected = (1 - intensity) * R.T @ R / 12 + intensity * np.eye(6)
    covariance = np.linalg.inv(task_precision(R, shared=True))
    np.testing.assert_allclose(covariance, expected, atol=1e-10)


def test_two_arms_and_two_tasks_by_hand():
    """Rewards (0.9, 0.5) and (0.1, 0.1): means 0.7, 0.1 of tasks, 0.5, 0.3 of arms.

    What is left is 0.1 in size everywhere: alone = 4 * 0.01 / 1 = 0.04. The means of
    the tasks have variance 0.18, of which 0.04 / 2 is the rest: common = 0.16, and its
    share 0.16 / 0.2 = 0.8. The inverse of [[1, 0.8], [0.8, 1]] has 1 / 0.36 and
    -0.8 / 0.36.
    """
    found = task_precision(np.array([[0.9, 0.5], [0.1, 0.1]]))
    np.testing.assert_allclose(found, np.array([[1, -0.8], [-0.8, 1]]) / 0.36)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(2, 7), st.booleans(), st.integers(0, 1000))
def test_it_is_a_precision_whatever_the_table(n, arms, shared, seed):
    """Symmetric and positive; of noise that is at most as large as one reward's, on
    average: its inverse has 1 on the diagonal, by arm or on average."""
    rng = np.random.default_rng(seed)
    R = rng.random((n, arms)) * rng.random((n, 1)) ** rng.integers(4)
    found = task_precision(R, shared)
    np.testing.assert_array_equal(found, found.T)
    assert np.linalg.eigvalsh(found).min() > 0
    diagonal = np.diag(np.linalg.inv(found))
    assert diagonal.mean() == pytest.approx(1.0)
    if not shared:
        np.testing.assert_allclose(diagonal, 1.0)


@settings(max_examples=30, deadline=None)
@given(st.booleans(), st.integers(0, 1000), st.floats(-1, 1), st.floats(0.01, 100))
def test_neither_level_nor_unit_nor_order_of_rewards_matters(shared, seed, level, unit):
    rng = np.random.default_rng(seed)
    R, better = rng.random((6, 4)), rng.random(4)
    found = task_precision(R, shared)
    close = {"rtol": 1e-7, "atol": 1e-8}
    moved = unit * (R + level + better)
    np.testing.assert_allclose(task_precision(moved, shared), found, **close)
    rows, columns = rng.permutation(6), rng.permutation(4)
    np.testing.assert_allclose(
        task_precision(R[rows][:, columns], shared),
        found[np.ix_(columns, columns)],
        **close,
    )


@pytest.mark.parametrize("shared", [False, True])
def test_tasks_that_are_all_alike_leave_rewards_independent(shared):
    """Common variance below what the rest alone explains counts as none."""
    R = np.random.default_rng(0).standard_normal((2000, 3))
    R -= R.mean(axis=1, keepdims=True)
    before = R.copy()
    found = np.linalg.inv(task_precision(R, shared))
    np.testing.assert_array_equal(R, before)
    if not shared:
        np.testing.assert_array_equal(found, np.eye(3))
    else:
        # What is left sums to 0 over the arms: -1/2 between any two, shrunk by a tenth.
        want = 1.45 * np.eye(3) - 0.45
        np.testing.assert_allclose(found, want, atol=5 / np.sqrt(2000))


# ---- tables with missing cells ----


def holed(R, share, seed=0):
    """A copy with cells missing, one of each row and column at least kept."""
    rng = np.random.default_rng(seed)
    hidden = rng.random(R.shape) < share
    rows = np.arange(len(R))
    hidden[rows, rows % R.shape[1]] = False
    return np.where(hidden, np.nan, R)


def correlated(n=40, arms=5, seed=0):
    rng = np.random.default_rng(seed)
    return 0.5 + 0.2 * rng.standard_normal((n, 1)) + 0.2 * rng.random((n, arms))


@pytest.mark.parametrize("seed", range(4))
def test_without_a_hole_the_restricted_likelihood_is_the_analysis_of_variance(seed):
    R = correlated(seed=seed)
    found = _of_incomplete(R, np.isnan(R), shared=False)
    np.testing.assert_allclose(found, task_covariance(R), atol=1e-4)


def test_a_common_part_is_found_whatever_is_missing():
    """As above: rho = 0.8, from 60 % of the cells, the best arm's three times."""
    rng = np.random.default_rng(0)
    hard = 0.2 * rng.standard_normal((5_000, 1))
    R = 0.5 + hard + np.array([0.2, 0, 0, 0]) + 0.1 * rng.standard_normal((5_000, 4))
    found = task_covariance(holed(R, np.array([0.0, 0.6, 0.6, 0.6])))
    np.testing.assert_allclose(found, 0.8 + 0.2 * np.eye(4), atol=0.02)


def test_arms_that_share_a_strand_are_known_from_the_tasks_that_both_have():
    u = np.random.default_rng(1).standard_normal((4000, 1))
    R = 0.5 + u * np.array([0.1, 0.1, -0.2])
    found = task_covariance(holed(R, 0.3), shared=True)
    assert found[0, 1] > 0.1
    assert found[0, 2] < -0.1
    assert np.linalg.eigvalsh(found).min() > 0


def test_an_arm_of_one_score_is_no_surer_than_others():
    """Its only deviation may be 0 by chance; that does not make its noise small."""
    R = correlated()
    R[1:, 4] = np.nan
    found = task_covariance(R, shared=True)
    assert found[4, 4] > 0.8 * np.diag(found)[:4].min()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 9),
    st.integers(2, 6),
    st.booleans(),
    st.integers(0, 1000),
    st.floats(0, 1),
)
def test_a_covariance_whatever_is_missing(n, arms, shared, seed, share):
    rng = np.random.default_rng(seed)
    R = holed(
        rng.random((n, arms)) * rng.random((n, 1)) ** rng.integers(4), share, seed
    )
    R = R[:, ~np.isnan(R).all(axis=0)]
    found = task_covariance(R, shared)
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    assert np.linalg.eigvalsh(found).min() > 0
    assert np.diag(found).mean() == pytest.approx(1.0)


@pytest.mark.parametrize("shared", [False, True])
def test_a_constant_table_with_holes_says_nothing(shared):
    R = holed(np.full((6, 3), 0.5), 0.4)
    np.testing.assert_array_equal(task_covariance(R, shared), np.eye(3))
