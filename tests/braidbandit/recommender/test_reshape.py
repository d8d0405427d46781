import numpy as np
import pytest

from braidbandit import Braid, Catalogue, ModelCard
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import parameter_groups
from braidbandit.recommender.reshape import extend_descriptors, with_columns


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


def test_old_arms_keep_their_numbers():
    cards = [ModelCard("a", parameters=100), ModelCard("b", parameters=900)]
    small = Catalogue.build(cards, layer_sets=("output",))
    Z, columns = small.descriptors()
    newcomers = [Braid("c"), Braid("c", ("a",), (0.5, 0.5), ("output",), "router")]
    large = small.with_braids(newcomers, [ModelCard("c", parameters=10**6)])
    wide, names = extend_descriptors(
        Z, columns, small.braids, large.descriptors(), newcomers
    )
    assert names[: len(columns)] == tuple(columns)
    assert wide[: len(small), : len(columns)].tolist() == Z.tolist()
    assert not wide[: len(small), len(columns) :].any()
    share = names.index("share:c")
    assert wide[-2, share] - wide[0, share] == pytest.approx(1.0)
    cost = names.index("cost")
    ratio = np.log(large.costs()[-2] / large.costs()[0])
    assert wide[-2, cost] - wide[0, cost] == pytest.approx(ratio)
