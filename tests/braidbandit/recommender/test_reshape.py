import numpy as np
import pytest

from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import parameter_groups
from braidbandit.recommender.reshape import with_columns


def taught():
    posterior = Posterior(
        parameter_groups(["bias", "share:a"], 3), n_arms=3, own_width=3
    )
    rng = np.random.default_rng(0)
    for i in range(20):
        z, x = np.r_[1.0, rng.standard_normal()], np.r_[1.0, rng.standard_normal(2)]
        posterior.update(i % 2, z, x, float(rng.random()))
    return posterior


def test_new_columns_start_at_the_prior_and_move_nothing():
    old = taught()
    new = with_columns(old, parameter_groups(["share:b"], 3))
    x = np.array([1.0, 0.3, -0.2])
    Z = np.array([[1.0, 0.5], [1.0, -0.5], [1.0, 0.0]])
    wide = np.column_stack([Z, np.zeros(3)])
    before, after = old.belief(Z, x), new.belief(wide, x)
    np.testing.assert_allclose(after.mean, before.mean, atol=1e-14)
    np.testing.assert_allclose(after.sd, before.sd, atol=1e-14)
    wide[0, 2] = 1.0
    scales = old.scales
    extra = scales.braid**2 + scales.interaction**2 * (0.3**2 + 0.2**2)
    assert new.belief(wide, x).sd[0] ** 2 == pytest.approx(
        before.sd[0] ** 2 + extra, rel=1e-9
    )
