"""The closed form from sums, against the dense one over all parameters."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidbandit.bandit.solution import solve, symmetric
from braidbandit.bandit.sufficient_statistics import SufficientStatistics


def problem(seed, n=12, arms=3, p=3, d=2):
    """Rewards of the first two of three arms: all their features, rewards, sums."""
    rng = np.random.default_rng(seed)
    shared, own = rng.standard_normal((n, p)), rng.standard_normal((n, d))
    arm, r = rng.integers(2, size=n), rng.random(n) - 0.5
    spread = np.zeros((n, arms, d))
    spread[np.arange(n), arm] = own
    sums = SufficientStatistics(
        shared.T @ shared,
        np.einsum("nad,np->adp", spread, shared),
        np.einsum("nad,nae->ade", spread, spread),
        shared.T @ r,
        np.einsum("nad,n->ad", spread, r),
        float(r @ r),
        float(n),
    )
    return np.hstack([shared, spread.reshape(n, -1)]), r, sums


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 4.0), st.booleans())
def test_it_is_the_dense_closed_form(seed, variance, each):
    """P = (D^-2 + F'F / v)^-1 and mean = P F'r / v, over shared and own together."""
    features, r, sums = problem(seed)
    rng = np.random.default_rng(seed)
    sd, own_sd = 0.2 + rng.random(3), 0.2 + rng.random((3, 2) if each else 2)
    found = solve(sums, sd, own_sd, variance)
    prior = np.append(sd, np.broadcast_to(own_sd, (3, 2)))
    P = np.linalg.inv(np.diag(prior**-2) + features.T @ features / variance)
    mean = P @ features.T @ r / variance
    close = {"atol": 1e-9, "rtol": 1e-7}
    np.testing.assert_allclose(found.mean, mean[:3], **close)
    shared = found.factor @ found.factor.T
    np.testing.assert_allclose(shared, P[:3, :3], **close)
    own = found.own_mean - found.own_gain @ found.mean
    np.testing.assert_allclose(own.ravel(), mean[3:], **close)
    np.testing.assert_allclose(
        -(found.own_gain @ shared).reshape(6, 3), P[3:, :3], **close
    )
    for arm in range(3):
        at = slice(3 + 2 * arm, 5 + 2 * arm)
        gain = found.own_gain[arm]
        total = found.own_covariance[arm] + gain @ shared @ gain.T
        np.testing.assert_allclose(total, P[at, at], **close)
    log_prior, (_, log_posterior) = 2 * np.log(prior).sum(), np.linalg.slogdet(P)
    assert found.log_determinant == pytest.approx(log_prior - log_posterior)


def test_an_arm_without_rewards_keeps_its_prior():
    _, _, sums = problem(0)
    found = solve(sums, np.ones(3), np.array([0.5, 0.25]), 1.0)
    assert not found.own_mean[2].any()
    assert not found.own_gain[2].any()
    assert found.own_covariance[2].tolist() == [[0.25, 0.0], [0.0, 0.0625]]


def test_sums_that_overflow_say_what_to_do():
    _, _, sums = problem(0)
    with pytest.raises(np.linalg.LinAlgError, match="standardise the features"):
        solve(sums.scaled(-1e6), np.ones(3), np.zeros(2) + 1e-12, 1.0)


def test_the_symmetric_part_of_many():
    matrices = np.random.default_rng(0).random((4, 3, 3))
    found = symmetric(matrices)
    np.testing.assert_array_equal(found, np.swapaxes(found, 1, 2))
    np.testing.assert_allclose(
        np.trace(found, axis1=1, axis2=2).sum(),
        np.trace(matrices, axis1=1, axis2=2).sum(),
    )
    assert symmetric(np.zeros((0, 2, 2))).shape == (0, 2, 2)
