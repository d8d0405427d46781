"""Prior scales from rewards: the evidence, its gradient, and where it is largest."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from braidbandit.bandit.evidence import (
    HYPER_SD,
    find_scales,
    negative_log_evidence,
)
from braidbandit.bandit.sufficient_statistics import SufficientStatistics

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


CHANGE = np.array([[0.02, 0.0], [0.0, 0.0], [0.5, 0.1]])


def evidence(scales, sums, centre=0.0):
    """Of arms the first and the last of which have changed."""
    return negative_log_evidence(
        np.log(scales), sums, LABELS, OWN_LABELS, np.full(5, centre), CHANGE
    )


def test_evidence_is_the_density_of_the_rewards():
    """Differences of the evidence equal differences of the dense log density."""
    Phi, r, sums = problem()

    def ours(scales):
        return -(
            evidence(scales, sums)[0] - ((np.log(scales) / HYPER_SD) ** 2).sum() / 2
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
    _, _, sums = problem()
    _, gradient = evidence(SCALES, sums, centre=-1.0)
    for i in range(5):
        step = np.exp(1e-5 * np.eye(5)[i])
        up, down = (
            evidence(SCALES * step, sums, -1.0),
            evidence(SCALES / step, sums, -1.0),
        )
        assert gradient[i] == pytest.approx(
            (up[0] - down[0]) / 2e-5, rel=1e-4, abs=1e-6
        )


def test_found_scales_are_a_minimum():
    _, _, sums = problem(n=60)
    centre = np.log(SCALES)
    found = find_scales(sums, LABELS, OWN_LABELS, centre, centre)
    best = negative_log_evidence(found, sums, LABELS, OWN_LABELS, centre)[0]
    rng = np.random.default_rng(0)
    for _ in range(20):
        near = found + 0.1 * rng.standard_normal(5)
        there = negative_log_evidence(near, sums, LABELS, OWN_LABELS, centre)[0]
        assert there >= best - 1e-6


def test_the_search_turns_back_where_rounding_is_all_that_is_left():
    """One-hot features beside the constant repeat each other: with wide scales and
    hardly any noise, nothing is left of the shared parameters' covariance."""
    rng = np.random.default_rng(0)
    X = np.eye(6)[rng.integers(6, size=3000)] - 1 / 6
    X = np.column_stack([np.ones(len(X)), X])
    r = 0.3 * X[:, 1] + 0.2 * rng.standard_normal(len(X))
    own, moment = (X.T @ X)[None], (X.T @ r)[None]
    sums = SufficientStatistics(
        own[0], own, own, moment[0], moment, float(r @ r), 3000.0
    )
    labels, usual = np.array([0] + [1] * 6), np.log([0.3, 0.1, 0.1, 0.1, 0.3])
    far = np.log([3.0, 3.0, 3.0, 3.0, 1e-3])
    value, gradient = negative_log_evidence(far, sums, labels, labels + 2, usual)
    assert value > 1e11
    assert not gradient.any()
    found = find_scales(sums, labels, labels + 2, usual, usual)
    assert np.exp(found[-1]) == pytest.approx(0.2, rel=0.05)
