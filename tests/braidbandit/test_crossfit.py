import numpy as np
import pytest

from braidbandit.crossfit import FOLDS, cross_fitted, from_the_past, predict_rewards


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 2))
    arms = rng.integers(3, size=400)
    means = 0.5 + 0.1 * X[:, :1] + np.array([[0.0, 0.2, -0.2]])
    rewards = np.clip(means[np.arange(400), arms], 0, 1)
    return X, arms, rewards, means


def test_level_by_hand():
    """20 rows of 1 and 20 of 0, contexts all 0. The mean is 1/2; of an arm's 10 that
    are left over 20 rows, 20 / (20 + 1 / 0.1) of its own 1/2 are believed."""
    X, arms = np.zeros((40, 1)), np.arange(40) % 2
    found = predict_rewards(X, arms, arms.astype(float), X[:1], 3)
    assert found[0] == pytest.approx([0.5 - 1 / 3, 0.5 + 1 / 3, 0.5])


def test_it_learns_levels_and_slopes(rows):
    X, arms, rewards, means = rows
    found = cross_fitted(X, arms, rewards, 3)
    assert np.abs(found - np.clip(means, 0, 1)).mean() < 0.03


def test_a_row_never_sees_its_own_reward(rows):
    X, arms, rewards, _ = rows
    changed = rewards.copy()
    changed[7] = 1.0 - changed[7]
    same = cross_fitted(X, arms, rewards, 3) == cross_fitted(X, arms, changed, 3)
    fold = np.arange(400) % FOLDS == 7 % FOLDS
    assert same[fold].all()
    assert not same[~fold].all()


def test_the_past_sees_no_later_row(rows):
    X, arms, rewards, _ = rows
    changed = rewards.copy()
    changed[100:] = 0.0
    before = from_the_past(X, arms, rewards, 3)
    after = from_the_past(X, arms, changed, 3)
    assert (before[:101] == after[:101]).all()
    assert (before[300:] != after[300:]).any()
    assert (before[:16] == 0.5).all()
