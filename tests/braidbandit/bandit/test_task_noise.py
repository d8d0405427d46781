"""What rewards of one task have in common, from tables whose parts are known."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage

from braidbandit.bandit.task_noise import task_precision


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
