import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidbandit.bandit import linalg


def problem(seed, p=5, n=12):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, p)), rng.random(n), 0.2 + rng.random(p)


def dense(Phi, r, sd, variance):
    """Closed form: P = (diag(1/sd^2) + Phi'Phi/v)^-1, mean = P Phi'r/v."""
    P = np.linalg.inv(np.diag(1 / sd**2) + Phi.T @ Phi / variance)
    return P @ Phi.T @ r / variance, P


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.01, 4.0))
def test_steps_give_the_closed_form_and_back(seed, variance):
    Phi, r, sd = problem(seed)
    mean, factor = np.zeros(5), np.diag(sd)
    for phi, value in zip(Phi, r, strict=True):
        load, before = phi @ factor, phi @ factor @ factor.T @ phi + variance
        total, beta = linalg.potter(load, variance)
        assert total == pytest.approx(before)
        mean = mean + factor @ load * (value - phi @ mean) / total
        last = factor.copy()
        factor = linalg.add_outer(factor, -beta, factor @ load, load)
    expected, P = dense(Phi, r, sd, variance)
    np.testing.assert_allclose(mean, expected, atol=1e-10)
    np.testing.assert_allclose(factor @ factor.T, P, atol=1e-10)
    load = Phi[-1] @ factor
    _, beta = linalg.potter_back(load, variance)
    back = linalg.add_outer(factor, beta, factor @ load, load)
    np.testing.assert_allclose(back, last, atol=1e-10)


def test_a_step_back_refuses_what_was_never_learnt():
    with pytest.raises(ValueError, match="positive definite"):
        linalg.potter_back(np.array([2.0, 0.0]), 1.0)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_outer_product_is_added_in_place_where_it_can_be(order):
    matrix = np.zeros((3, 2), order=order)
    found = linalg.add_outer(matrix, 2.0, np.array([1.0, 0, 3]), np.array([1.0, 2]))
    assert found.tolist() == [[2, 4], [0, 0], [6, 12]]
    assert (found is matrix or np.shares_memory(found, matrix)) == (order == "C")


def test_draws_have_the_right_moments():
    rng = np.random.default_rng(0)
    P = np.array([[0.5, 0.3], [0.3, 0.4]])
    draws = linalg.gaussian_draws(np.array([1.0, 2.0]), linalg.root(P), 40_000, rng)
    np.testing.assert_allclose(draws.mean(axis=0), [1, 2], atol=5 * 0.7 / 200)
    np.testing.assert_allclose(np.cov(draws.T), P, atol=0.02)


def test_root_of_a_singular_covariance():
    P = np.ones((3, 3))
    half = linalg.root(P)
    np.testing.assert_allclose(half @ half.T, P, atol=1e-6)
    assert (linalg.root(np.zeros((2, 2))) == 0).all()
    with pytest.raises(ValueError, match="negative"):
        linalg.root(np.diag([1.0, -1.0]))


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 6))
def test_repeated_rows_give_the_products_of_every_row(seed, n, levels):
    """Columns with few values, and one that differs in every row."""
    rng = np.random.default_rng(seed)
    Z = rng.integers(levels, size=(n, 4)).astype(float)
    Z[:, 3] = rng.random(n)
    half, v = rng.standard_normal((4, 6)), rng.standard_normal(4)
    repeats = linalg.Repeats(Z)
    np.testing.assert_allclose(repeats.times(v), Z @ v, atol=1e-12)
    want, left = ((Z @ half) ** 2).sum(axis=1), repeats.columns
    size = ((Z[:, left] @ half[left]) ** 2).sum(axis=1)
    off = np.abs(repeats.quadratic(half @ half.T) - want)
    assert (off <= 3e-6 * size + 1e-9).all()
    assert len(repeats.left) <= max(n // 4, 1)


def test_a_step_by_hand():
    """P = diag(4, 1), phi = (1, 1), noise 4: variance 9, so P loses (4, 1)(4, 1)'/9.

    beta = 1 / (9 + sqrt(4 * 9)) = 1 / 15. Going back, the variance is that of the noise
    less 4 * 5 / 9, and with it 9 again.
    """
    factor, phi = np.diag([2.0, 1.0]), np.ones(2)
    load = phi @ factor
    total, beta = linalg.potter(load, 4.0)
    assert (total, beta) == pytest.approx((9.0, 1 / 15))
    after = factor - beta * np.outer(factor @ load, load)
    want = np.diag([4.0, 1.0]) - np.outer([4, 1], [4, 1]) / 9
    np.testing.assert_allclose(after @ after.T, want)
    total, beta = linalg.potter_back(phi @ after, 4.0)
    assert total == pytest.approx(4 - 20 / 9)
    back = after + beta * np.outer(after @ (phi @ after), phi @ after)
    np.testing.assert_allclose(back, factor, atol=1e-15)


@settings(max_examples=40)
@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_a_step_of_one_parameter_adds_precisions(prior, variance):
    """1 / v = 1 / prior + 1 / variance."""
    factor = np.sqrt(prior)
    load = np.array([factor])
    _, beta = linalg.potter(load, variance)
    after = factor - beta * factor * load[0] ** 2
    assert after**2 == pytest.approx(prior * variance / (prior + variance), rel=1e-7)
    assert after > 0


@pytest.mark.parametrize("variance", [1e-12, 1.0, 1e12])
def test_a_step_back_stops_where_six_digits_are_left(variance):
    """A variance of 1 - s of the noise leaves the share s of it."""
    for share, fine in ((2e-7, True), (0.5e-7, False), (0.0, False), (-1.0, False)):
        load = np.array([np.sqrt(variance * (1 - share))])
        if fine:
            total, _ = linalg.potter_back(load, variance)
            assert total == pytest.approx(share * variance, rel=1e-6)
        else:
            with pytest.raises(ValueError, match="cannot be taken back"):
                linalg.potter_back(load, variance)


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (7, 2), (2, 7), (1, 6), (6, 1)])
@pytest.mark.parametrize("rows", ["all", "every other", "transposed"])
def test_an_outer_product_is_added_to_a_matrix_of_any_storage(shape, rows):
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal(shape)
    given_ = {
        "all": matrix.copy(),
        "every other": np.repeat(matrix, 2, axis=0)[::2],
        "transposed": matrix.T.copy().T,
    }[rows]
    left, right = rng.standard_normal(shape[0]), rng.standard_normal(2 * shape[1])[::2]
    found = linalg.add_outer(given_, -0.7, left, right)
    np.testing.assert_allclose(found, matrix - 0.7 * np.outer(left, right), atol=1e-14)
    assert linalg.add_outer(np.zeros((0, 3)), 1.0, np.zeros(0), np.ones(3)).size == 0


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 8), st.integers(0, 8), st.floats(-6, 6))
def test_a_root_is_lower_and_its_square_the_covariance(seed, n, rank, size):
    """Of any rank and size, and what was given stays."""
    half = 10**size * np.random.default_rng(seed).standard_normal((n, rank))
    covariance = half @ half.T
    before = covariance.copy()
    lower = linalg.root(covariance)
    np.testing.assert_array_equal(covariance, before)
    np.testing.assert_array_equal(lower, np.tril(lower))
    scale = covariance.max(initial=0.0)
    np.testing.assert_allclose(lower @ lower.T, covariance, atol=2e-8 * scale)


@pytest.mark.parametrize("q", [1, 2, 5])
def test_draws_are_those_of_the_noise_that_was_drawn(q):
    """mean + lower e for the standard normal numbers of the same generator."""
    rng = np.random.default_rng(0)
    mean, lower = rng.standard_normal(3), rng.standard_normal((3, q))
    found = linalg.gaussian_draws(mean, lower, 4, np.random.default_rng(9))
    noise = np.random.default_rng(9).standard_normal((4, q))
    for row, e in zip(found, noise, strict=True):
        np.testing.assert_allclose(row, mean + lower @ e)


@pytest.mark.parametrize("arms", [1, 3, 64, 129, 600])
@pytest.mark.parametrize("kinds", [1, 2, 1000])
def test_a_split_matrix_is_put_together_again(arms, kinds):
    """Every column is in one part, and code says which distinct row each row has."""
    rng = np.random.default_rng(arms)
    Z = np.column_stack(
        [np.ones(arms), rng.integers(kinds, size=(arms, 3)), rng.random(arms)]
    )
    repeats = linalg.Repeats(Z)
    columns = np.concatenate([repeats.columns, repeats.others])
    assert sorted(columns.tolist()) == list(range(5))
    again = np.empty_like(Z)
    again[:, repeats.columns] = repeats.left[repeats.code]
    again[:, repeats.others] = repeats.right
    np.testing.assert_array_equal(again, Z)
    assert len(np.unique(repeats.left, axis=0)) == len(repeats.left)
    draws = rng.standard_normal((2, 7, 5))
    np.testing.assert_allclose(repeats.times(draws), draws @ Z.T, atol=1e-12)
