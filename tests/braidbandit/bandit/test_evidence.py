import numpy as np
import pytest
from scipy.stats import multivariate_normal

from braidbandit.bandit.evidence import (
    HYPER_SD,
    Information,
    find_scales,
    negative_log_evidence,
    task_precision,
)
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import PriorScales, parameter_groups

LABELS = np.array([0, 1, 1])
OWN_LABELS = np.array([2, 3])
SCALES = np.array([0.3, 0.06, 0.15, 0.08, 0.25])


def problem(seed=3, n=14, arms=3):
    """Rewards of two of three arms: features (n, p + A d), rewards, and the sums."""
    rng = np.random.default_rng(seed)
    shared, own = rng.standard_normal((n, 3)), rng.standard_normal((n, 2))
    arm, r = rng.integers(2, size=n), rng.random(n) - 0.5
    spread = np.zeros((n, arms, 2))
    spread[np.arange(n), arm] = own
    info = Information(
        shared.T @ shared,
        np.einsum("nad,np->adp", spread, shared),
        np.einsum("nad,nae->ade", spread, spread),
        shared.T @ r,
        np.einsum("nad,n->ad", spread, r),
        float(r @ r),
        float(n),
    )
    return np.hstack([shared, spread.reshape(n, -1)]), r, info


CHANGE = np.array([[0.02, 0.0], [0.0, 0.0], [0.5, 0.1]])


def evidence(scales, info, centre=0.0):
    """Of arms the first and the last of which have changed."""
    return negative_log_evidence(
        np.log(scales), info, LABELS, OWN_LABELS, np.full(5, centre), CHANGE
    )


def test_evidence_is_the_density_of_the_rewards():
    """Differences of the evidence equal differences of the dense log density."""
    Phi, r, info = problem()

    def ours(scales):
        return -(
            evidence(scales, info)[0] - ((np.log(scales) / HYPER_SD) ** 2).sum() / 2
        )

    def dense(scales):
        own = np.sqrt(scales[OWN_LABELS] ** 2 + CHANGE)
        sd = np.append(scales[LABELS], own.ravel())
        cov = (Phi * sd**2) @ Phi.T + scales[-1] ** 2 * np.eye(len(r))
        return multivariate_normal(np.zeros(len(r)), cov).logpdf(r)

    other = SCALES * np.array([2.0, 0.5, 1.5, 3.0, 0.7])
    assert ours(SCALES) - ours(other) == pytest.approx(
        dense(SCALES) - dense(other), abs=1e-9
    )


def test_gradient_is_the_derivative():
    _, _, info = problem()
    _, gradient = evidence(SCALES, info, centre=-1.0)
    for i in range(5):
        step = np.exp(1e-5 * np.eye(5)[i])
        up, down = (
            evidence(SCALES * step, info, -1.0),
            evidence(SCALES / step, info, -1.0),
        )
        assert gradient[i] == pytest.approx(
            (up[0] - down[0]) / 2e-5, rel=1e-4, abs=1e-6
        )


def test_found_scales_are_a_minimum():
    _, _, info = problem(n=60)
    centre = np.log(SCALES)
    found = find_scales(info, LABELS, OWN_LABELS, centre, centre)
    best = negative_log_evidence(found, info, LABELS, OWN_LABELS, centre)[0]
    rng = np.random.default_rng(0)
    for _ in range(20):
        near = found + 0.1 * rng.standard_normal(5)
        there = negative_log_evidence(near, info, LABELS, OWN_LABELS, centre)[0]
        assert there >= best - 1e-6


def test_less_of_everything():
    _, _, info = problem()
    half = info.scaled(0.5)
    assert half.count == 7
    np.testing.assert_allclose(half.gram, info.gram / 2)
    assert info.seen.tolist() == [0, 1]


def test_forgetting_of_noise_free_rewards_keeps_exact_sums():
    """What rounding made unsymmetric in an arm's covariance doubled at every
    forgetting, until the sums had a negative eigenvalue after some 6,000 rewards."""
    rng, arms, k, gamma = np.random.default_rng(0), 3, 5, 0.995**50
    groups = parameter_groups(["bias"], k)
    # Where the scales end up when the rewards have no noise.
    scales = PriorScales(
        intercept=0.2, task=0.02, braid=1e-3, interaction=0.1, noise=1e-3
    )
    posterior = Posterior(groups, scales, arms, k)
    W, z, own = rng.standard_normal((arms, k)) / 8, np.ones(1), np.zeros((arms, k, k))
    for t in range(1, 7001):
        x, arm = np.append(1.0, rng.standard_normal(k - 1)), int(rng.integers(arms))
        posterior.update(arm, z, x, 0.5 + float(W[arm] @ x))
        own[arm] += np.outer(x, x)
        if t % 50 == 0:
            posterior.forget(gamma)
            own *= gamma
    found = posterior.information()
    np.testing.assert_allclose(found.own, own, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.gram, own.sum(axis=0), rtol=1e-9, atol=1e-9)
    belief = posterior.belief(np.ones((arms, 1)), x)
    np.testing.assert_allclose(belief.mean, 0.5 + W @ x, atol=0.01)


def test_the_search_turns_back_where_rounding_is_all_that_is_left():
    """One-hot features beside the constant repeat each other: with wide scales and
    hardly any noise, nothing is left of the shared parameters' covariance."""
    rng = np.random.default_rng(0)
    X = np.eye(6)[rng.integers(6, size=3000)] - 1 / 6
    X = np.column_stack([np.ones(len(X)), X])
    r = 0.3 * X[:, 1] + 0.2 * rng.standard_normal(len(X))
    own, moment = (X.T @ X)[None], (X.T @ r)[None]
    info = Information(own[0], own, own, moment[0], moment, float(r @ r), 3000.0)
    labels, usual = np.array([0] + [1] * 6), np.log([0.3, 0.1, 0.1, 0.1, 0.3])
    far = np.log([3.0, 3.0, 3.0, 3.0, 1e-3])
    value, gradient = negative_log_evidence(far, info, labels, labels + 2, usual)
    assert value > 1e11
    assert not gradient.any()
    found = find_scales(info, labels, labels + 2, usual, usual)
    assert np.exp(found[-1]) == pytest.approx(0.2, rel=0.05)


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
