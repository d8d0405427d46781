"""The closed form from sums, against the dense one over all parameters."""

from dataclasses import replace

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


def one_reward(own_sd, variance=1.0, r=3.0):
    """One shared and one own parameter of one arm, phi = x = 1, prior N(0, 1) each."""
    one = np.ones((1, 1))
    sums = SufficientStatistics(
        one, one[None], one[None], np.array([r]), np.array([[r]]), r * r, 1.0
    )
    return solve(sums, np.ones(1), np.array([own_sd]), variance)


def test_one_reward_by_pencil():
    """r = 3 of variance 1 + 1 + 1: each parameter is 1 with variance 2/3, together
    -1/3. Given the shared one, b = (3 - theta) / 2 with variance 1/2. The determinant
    of the covariance went from 1 to 4/9 - 1/9 = 1/3."""
    found = one_reward(1.0)
    assert found.mean.tolist() == pytest.approx([1.0])
    assert found.factor[0, 0] ** 2 == pytest.approx(2 / 3)
    assert found.own_mean.item() == pytest.approx(1.5)
    assert found.own_gain.item() == pytest.approx(0.5)
    assert found.own_covariance.item() == pytest.approx(0.5)
    assert found.log_determinant == pytest.approx(np.log(3))


def test_an_own_parameter_of_no_size_is_as_none():
    """Then theta alone: 3 / 2, variance 1/2."""
    found = one_reward(1e-12)
    assert found.mean.tolist() == pytest.approx([1.5])
    assert found.factor[0, 0] ** 2 == pytest.approx(0.5)
    assert found.own_mean.item() == pytest.approx(0.0, abs=1e-20)


def test_an_own_parameter_of_any_size_leaves_the_shared_one_alone():
    """It explains the whole reward: nothing is learnt of theta."""
    found = one_reward(1e6)
    assert found.mean.tolist() == pytest.approx([0.0], abs=1e-10)
    assert found.factor[0, 0] == pytest.approx(1.0)
    assert found.own_mean.item() == pytest.approx(3.0)


@pytest.mark.parametrize(("variance", "mean"), [(1e-6, 1.5), (1e12, 0.0)])
def test_noise_of_no_size_and_of_any_size(variance, mean):
    """Without noise the reward is shared evenly; with much, nothing is learnt."""
    found = one_reward(1.0, variance)
    b = found.own_mean - found.own_gain @ found.mean
    assert found.mean.tolist() == pytest.approx([mean], abs=1e-6)
    assert b.item() == pytest.approx(mean, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0))
def test_only_the_ratio_of_scales_to_noise_moves_the_mean(seed, times):
    """Scales and noise both larger: the same means, and roots as much larger."""
    _, _, sums = problem(seed)
    sd, own_sd = np.array([0.3, 0.1, 0.2]), np.array([0.2, 0.1])
    one = solve(sums, sd, own_sd, 0.09)
    other = solve(sums, times * sd, times * own_sd, times**2 * 0.09)
    np.testing.assert_allclose(other.mean, one.mean, rtol=1e-9)
    np.testing.assert_allclose(other.own_mean, one.own_mean, rtol=1e-9)
    np.testing.assert_allclose(other.factor, times * one.factor, atol=1e-9 * times)
    assert other.log_determinant == pytest.approx(one.log_determinant)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.permutations(range(3)))
def test_the_order_of_arms_does_not_matter(seed, order):
    _, _, sums = problem(seed)
    order = list(order)
    turned = replace(
        sums,
        cross=sums.cross[order],
        own=sums.own[order],
        own_moment=sums.own_moment[order],
    )
    sd, own_sd = np.array([0.3, 0.1, 0.2]), np.array([[0.2, 0.1], [0.3, 0.4], [1, 2]])
    one, other = solve(sums, sd, own_sd, 0.1), solve(turned, sd, own_sd[order], 0.1)
    np.testing.assert_allclose(other.mean, one.mean, atol=1e-10)
    np.testing.assert_allclose(other.own_mean, one.own_mean[order], atol=1e-12)
    np.testing.assert_allclose(
        other.own_covariance, one.own_covariance[order], atol=1e-14
    )


def test_sums_that_were_given_stay():
    _, _, sums = problem(1)
    before = [np.copy(value) for value in vars(sums).values()]
    solve(sums, np.ones(3), np.ones(2), 0.5)
    for value, want in zip(vars(sums).values(), before, strict=True):
        np.testing.assert_array_equal(value, want)
