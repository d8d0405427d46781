import numpy as np
import pytest

from braidbandit.inflight import InFlight
from braidbandit.posterior import Posterior
from braidbandit.prior import parameter_groups


@pytest.fixture
def posterior():
    groups = parameter_groups(["bias", "share:a"], 3)
    return Posterior(groups, n_arms=4, own_width=3)


def pulls(n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"d{i}": (i % 4, rng.standard_normal(2), np.r_[1.0, rng.standard_normal(2)])
        for i in range(n)
    }


def covariance(posterior):
    return posterior.factor @ posterior.factor.T


def test_the_width_is_that_after_the_rewards(posterior):
    """Whatever the rewards turn out to be."""
    ahead = InFlight().ahead(posterior, pulls(6))
    assert ahead is not posterior
    np.testing.assert_allclose(ahead.mean, posterior.mean, atol=1e-14)
    for arm, z, x in pulls(6).values():
        posterior.update(arm, z, x, 0.123)
    np.testing.assert_allclose(covariance(ahead), covariance(posterior), atol=1e-14)
    np.testing.assert_allclose(ahead.own_covariance, posterior.own_covariance)


def test_a_sliding_window_is_as_good_as_a_new_one(posterior):
    flight, every = InFlight(), pulls(40)
    names = list(every)
    for start in range(30):
        window = {name: every[name] for name in names[start : start + 10]}
        slid = flight.ahead(posterior, window)
    fresh = InFlight().ahead(posterior, window)
    np.testing.assert_allclose(covariance(slid), covariance(fresh), atol=1e-12)


def test_nothing_in_flight_costs_nothing(posterior):
    assert InFlight().ahead(posterior, {}) is posterior


def test_an_update_of_the_posterior_is_noticed(posterior):
    flight, two = InFlight(), pulls(2)
    flight.ahead(posterior, two)
    posterior.update(0, np.ones(2), np.ones(3), 0.9)
    ahead = flight.ahead(posterior, two)
    np.testing.assert_allclose(ahead.mean, posterior.mean, atol=1e-14)
