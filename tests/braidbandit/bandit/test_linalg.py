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
