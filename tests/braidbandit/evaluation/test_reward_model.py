import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st

from braidbandit.evaluation.contexts import FOLDS, contexts_of
from braidbandit.evaluation.reward_model import (
    cross_fitted,
    from_the_past,
    predict_rewards,
)


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
    # The row's own fold, and no row of another one.
    fold = same.all(axis=1)
    assert fold[7]
    assert fold.sum() == 400 // FOLDS


def test_the_past_sees_no_later_row(rows):
    X, arms, rewards, _ = rows
    changed = rewards.copy()
    changed[100:] = 0.0
    before = from_the_past(X, arms, rewards, 3)
    after = from_the_past(X, arms, changed, 3)
    assert (before[:101] == after[:101]).all()
    assert (before[300:] != after[300:]).any()
    assert (before[:16] == 0.5).all()


@pytest.mark.parametrize("n_arms", [2, 5, 10, 15])
@pytest.mark.parametrize("order", ["by task", "by arm"])
def test_arms_in_turn_are_known_to_every_fold(n_arms, order):
    """Arm 0 earns 1 and the others nothing, in rows that have a period."""
    X = np.repeat(np.random.default_rng(0).random((100, 1)), n_arms, axis=0)
    arms = np.tile(np.arange(n_arms), 100)
    if order == "by arm":
        at = np.argsort(arms, kind="stable")
        X, arms = X[at], arms[at]
    found = cross_fitted(X, arms, (arms == 0) * 1.0, n_arms)
    assert found[:, 0].min() > 0.85
    assert found[:, 1:].max() < 0.15


def test_rows_of_one_context_never_tell_of_each_other():
    """30 contexts in 4 rows each, shuffled: one reward changes what is said of others
    only, and rows of one context are told the same."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((30, 2)), 4, axis=0)[rng.permutation(120)]
    arms, rewards = rng.integers(3, size=120), rng.random(120)
    before = cross_fitted(X, arms, rewards, 3)
    changed = rewards.copy()
    changed[5] = 1.0 - changed[5]
    after = cross_fitted(X, arms, changed, 3)
    own = (X == X[5]).all(axis=1)
    assert own.sum() == 4
    assert (before[own] == after[own]).all()
    assert (before != after).any()
    for row in X:
        assert np.ptp(before[(X == row).all(axis=1)], axis=0).max() == 0


@pytest.mark.parametrize("n_kinds", [2, 9, 12, 50])
def test_kinds_of_tasks_are_no_tasks(n_kinds):
    """Each kind comes some 20 times for each of two arms and has its own best arm, of
    which the others say nothing: every row is dealt alone."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(n_kinds, size=40 * n_kinds)
    X, arms = np.eye(n_kinds)[kinds], rng.integers(2, size=len(kinds))
    assert len(set(contexts_of(X, arms, 2).tolist())) == len(X)
    good = rng.random(n_kinds) < 0.5
    found = cross_fitted(X, arms, (good[kinds] == arms) * 1.0, 2)
    assert (found[:, 1] > found[:, 0]).tolist() == good[kinds].tolist()


def test_contexts_may_be_given():
    """Rows of equal features in two groups of their own: each is told of the other."""
    X, arms = np.zeros((4, 1)), np.zeros(4, dtype=int)
    rewards = np.array([1.0, 1.0, 0.0, 0.0])
    found = cross_fitted(X, arms, rewards, 1, np.array([0, 0, 1, 1]))
    assert found[:, 0].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_rows_of_one_cluster_see_the_same_past():
    X, arms = np.zeros((30, 1)), np.zeros(30, dtype=int)
    clusters = np.repeat([4, 2], [20, 10])
    found = from_the_past(X, arms, np.ones(30), 1, clusters)[:, 0]
    assert found.tolist() == [0.5] * 20 + [1.0] * 10


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X * 1e200,
        lambda X: X * 1e-200,
        lambda X: X * [1e-160, 1e170],
        lambda X: X + 1e6,
        lambda X: 1.7e9 + 60.0 * X,
        lambda X: np.column_stack([X, np.full(len(X), 0.1 * 1e9)]),
    ],
)
def test_the_units_of_a_column_do_not_matter(rows, change):
    X, arms, rewards, _ = rows
    found = cross_fitted(change(X), arms, rewards, 3)
    np.testing.assert_allclose(found, cross_fitted(X, arms, rewards, 3), atol=1e-6)


def test_a_row_far_from_all_that_were_learnt_is_0_or_1(rows):
    X, arms, rewards, _ = rows
    far = np.array([[1e308, 0.0], [-1e308, 0.0]])
    found = predict_rewards(1e-9 * X, arms, rewards, far, 3)
    assert found.tolist() == [[1.0] * 3, [0.0] * 3]


def by_equation(X, arms, rewards, new, n_arms):
    """Equation (26) written out: two ridge regressions, solved as normal equations."""

    def ridge(rows, targets, variances):
        penalty = np.diag(1.0 / variances)
        return np.linalg.solve(rows.T @ rows + penalty, rows.T @ targets)

    def design(values):
        return np.column_stack([np.ones(len(values)), (values - mean) / spread])

    mean, spread = X.mean(axis=0), X.std(axis=0)
    rows, asked = design(X), design(new)
    level, k = rewards.mean(), rows.shape[1]
    common = ridge(rows, rewards - level, np.ones(k))
    left = rewards - level - rows @ common
    predicted = np.repeat((level + asked @ common)[:, None], n_arms, axis=1)
    variances = np.append(0.1, np.full(k - 1, 0.02))
    for arm in set(arms.tolist()):
        at = arms == arm
        predicted[:, arm] += asked @ ridge(rows[at], left[at], variances)
    return np.clip(predicted, 0.0, 1.0)


@settings(max_examples=40)
@given(st.integers(0, 2**20), st.integers(2, 80), st.integers(1, 6), st.integers(1, 5))
def test_it_is_the_equation(seed, n, width, n_arms):
    rng = np.random.default_rng(seed)
    X, new = rng.standard_normal((n, width)), rng.standard_normal((7, width))
    arms, rewards = rng.integers(n_arms, size=n), rng.random(n)
    found = predict_rewards(X, arms, rewards, new, n_arms)
    expected = by_equation(X, arms, rewards, new, n_arms)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("predict", [cross_fitted, from_the_past])
def test_predictions_lie_in_0_to_1_and_leave_the_rows_alone(rows, predict):
    X, arms, rewards, _ = rows
    before = [values.tobytes() for values in (X, arms, rewards)]
    found = predict(X, arms, rewards, 3)
    assert found.shape == (400, 3)
    assert found.min() >= 0.0
    assert found.max() <= 1.0
    assert [values.tobytes() for values in (X, arms, rewards)] == before


def test_rows_in_another_order_teach_the_same(rows):
    X, arms, rewards, _ = rows
    at = np.random.default_rng(1).permutation(400)
    one = predict_rewards(X, arms, rewards, X[:5], 3)
    other = predict_rewards(X[at], arms[at], rewards[at], X[:5], 3)
    np.testing.assert_allclose(one, other, atol=1e-12)


def test_contexts_without_a_column():
    """Only the levels are left: 1/2, and a third of the way to each arm's own mean."""
    arms = np.arange(40) % 2
    found = predict_rewards(np.zeros((40, 0)), arms, arms * 1.0, np.zeros((1, 0)), 2)
    assert found[0] == pytest.approx([0.5 - 1 / 3, 0.5 + 1 / 3])


@pytest.mark.parametrize(("n_known", "n_new"), [(0, 3), (3, 0), (1, 2)])
def test_few_rows(n_known, n_new):
    """Nothing learnt predicts 1/2; one row of 1 predicts 1, and nothing is asked."""
    X, arms, new = np.zeros((n_known, 2)), np.zeros(n_known, int), np.ones((n_new, 2))
    found = predict_rewards(X, arms, np.ones(n_known), new, 2)
    assert found.tolist() == [[1.0 if n_known else 0.5] * 2] * n_new


def test_frames_as_the_output_of_scikit_learn_change_nothing(rows):
    X, arms, rewards, _ = rows
    expected = predict_rewards(X, arms, rewards, X[:3], 3)
    with sklearn.config_context(transform_output="pandas"):
        found = predict_rewards(X, arms, rewards, X[:3], 3)
    assert (found == expected).all()
