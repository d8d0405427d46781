"""What is expected where nothing was scored."""

import numpy as np
import pytest

from braidbandit.bandit.completion import completed


def table(n=60, arms=4, seed=0):
    """Level and slope of each arm, and difficulty of each task; cells missing."""
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    W = np.column_stack([rng.uniform(0.3, 0.7, arms), rng.normal(0, 0.1, (arms, 2))])
    R = X @ W.T + 0.1 * rng.standard_normal((n, 1)) + 0.03 * rng.random((n, arms))
    R = np.clip(R, 0, 1)
    hidden = rng.random((n, arms)) < 0.4
    hidden[np.arange(n), np.arange(n) % arms] = False
    return X, R, hidden


def test_a_whole_table_is_returned_as_it_is():
    X, R, _ = table()
    assert completed(X, R) is R


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_there_stays_and_the_rest_is_foretold(shared):
    """Far nearer to what was hidden than the means of the arms are."""
    X, R, hidden = table()
    seen = np.where(hidden, np.nan, R)
    found = completed(X, seen, shared)
    np.testing.assert_array_equal(found[~hidden], R[~hidden])
    away = np.abs(found - R)[hidden].mean()
    by_arm = np.abs(np.nanmean(seen, axis=0) - R)[hidden].mean()
    assert away < 0.5 * by_arm
    assert np.isnan(seen[hidden]).all()


def test_it_stays_a_reward():
    X, R, hidden = table()
    found = completed(X, np.where(hidden, np.nan, np.round(R)))
    assert ((found >= 0) & (found <= 1)).all()


def test_the_order_of_rows_and_columns_does_not_matter():
    X, R, hidden = table()
    R = np.where(hidden, np.nan, R)
    rows, columns = np.random.default_rng(1).permutation(60), np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        completed(X[rows], R[rows][:, columns]),
        completed(X, R)[rows][:, columns],
        atol=1e-4,
    )
