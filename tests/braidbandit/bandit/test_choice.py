"""What a choice between two says, against the integrals it stands for."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from braidbandit.bandit.choice import seen_difference


def given_choice(mean, variance, noise):
    """Mean and variance of the difference, given that it looked positive."""

    def moment(power):
        return quad(
            lambda d: (
                d**power * norm.pdf(d, mean, variance**0.5) * norm.cdf(d / noise**0.5)
            ),
            mean - 12 * variance**0.5,
            mean + 12 * variance**0.5,
            epsabs=1e-14,
        )[0]

    total, first, second = (moment(power) for power in range(3))
    return first / total, second / total - (first / total) ** 2


@pytest.mark.parametrize("mean", [-1.5, -0.2, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("variance", [0.01, 0.2])
def test_the_observation_leads_to_the_moments_given_the_choice(mean, variance):
    noise = 0.125
    value, weight, _ = seen_difference(mean, variance, noise)
    precision = 1 / variance + weight / noise
    after = (mean / variance + weight / noise * value) / precision
    np.testing.assert_allclose(
        (after, 1 / precision), given_choice(mean, variance, noise), rtol=1e-6
    )


def test_at_no_difference_a_choice_is_worth_two_of_pi_of_a_score():
    value, weight, _ = seen_difference(0.0, 1e-9, 2.0)
    assert weight == pytest.approx(2 / np.pi, rel=1e-6)
    assert value == pytest.approx((2.0 * np.pi / 2) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("mean", [-1e100, -1e5, -9.9e3, -50.0, 50.0, 1e5, 1e100])
def test_far_out_the_observation_stays_finite(mean):
    value, weight, counted = seen_difference(mean, 1.0, 1.0)
    assert np.isfinite(value)
    assert 1e-6 <= weight <= 1.0
    assert 0.0 <= counted <= 10.0
    # A surprise pulls the difference to about 0, what was expected pulls nowhere.
    assert weight == pytest.approx(1.0 if mean < 0 else 1e-6, rel=0.01)
    after = (mean + weight * value) / (1 + weight)
    assert after == pytest.approx(mean / 2 if mean < 0 else mean, rel=0.02)


def test_half_a_statement_has_half_the_weight():
    whole, half = (seen_difference(0.1, 0.2, 0.3, s) for s in (1.0, 0.5))
    assert half == (whole.value, whole.weight / 2, whole.counted / 2)


@pytest.mark.parametrize("mean", [-0.5, 0.0, 0.4])
def test_a_choice_counts_as_much_as_its_residual_is_worth(mean):
    """So that the noise that fits best is the one that was taken."""
    value, weight, counted = seen_difference(mean, 0.1, 0.2)
    assert counted == pytest.approx((value - mean) ** 2 / (0.1 + 0.2 / weight))
