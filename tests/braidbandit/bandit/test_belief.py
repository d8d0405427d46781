import numpy as np
import pytest

from braidbandit.bandit.belief import Belief

RNG = np.random.default_rng(0)
Z, HALF = RNG.standard_normal((80, 3)), RNG.standard_normal((3, 70)) / 8
OWN, VARIANCE = RNG.standard_normal(80) / 10, RNG.random(80) / 20
SEEN, COUPLING = np.array([5, 2]), RNG.standard_normal((2, 70)) / 9
MU = np.array([0.3, 0.1, -0.2])


def belief(arms=80):
    seen = SEEN[arms > SEEN]
    return Belief(
        Z[:arms], MU, HALF, OWN[:arms], VARIANCE[:arms], seen, COUPLING[: len(seen)]
    )


def covariance(arms=80):
    load = Z[:arms] @ HALF
    load[SEEN] -= COUPLING
    return load @ load.T + np.diag(VARIANCE[:arms])


def test_moments():
    np.testing.assert_allclose(belief().mean, Z @ MU + OWN)
    np.testing.assert_allclose(belief().sd ** 2, np.diag(covariance()))


@pytest.mark.parametrize("arms", [10, 80])
def test_joint_draws_in_small_and_large_catalogues(arms):
    """Two ways to draw. Own noise of arms that cannot win is left out, so variances
    are at most right; here every arm can win one of the draws."""
    draws = belief(arms).draw(20_000, np.random.default_rng(1), scale=0.5)
    expected = covariance(arms) / 4
    np.testing.assert_allclose(draws.mean(axis=0), belief(arms).mean, atol=0.02)
    np.testing.assert_allclose(np.cov(draws.T), expected, atol=0.05 * expected.max())


def test_winners_are_those_of_complete_draws():
    """Shares of wins in a large catalogue against draws from the whole covariance."""
    draws = belief().draw(20_000, np.random.default_rng(2))
    whole = np.random.default_rng(3).multivariate_normal(
        belief().mean, covariance(), size=20_000
    )
    mine, all_ = (
        np.bincount(d.argmax(axis=1), minlength=80) / 20_000 for d in (draws, whole)
    )
    assert np.abs(mine - all_).max() < 5 * np.sqrt(2 * 0.25 / 20_000)


def test_arms_that_do_not_count_get_no_noise():
    offset = np.zeros(80)
    offset[7] = -np.inf
    draws = belief().draw(5, np.random.default_rng(0), offset=offset)
    assert np.isfinite(draws).all()


@pytest.mark.parametrize("arms", [20, 100])
def test_draws_of_few_arms_do_not_depend_on_the_offset(arms):
    """What another price or budget would have led to can then be told."""
    rng = np.random.default_rng(0)
    Z, own = rng.standard_normal((arms, 3)), np.full(arms, 0.1)
    belief = Belief(Z, rng.standard_normal(3), np.eye(3), own_variance=own)
    free, dear = np.zeros(arms), rng.random(arms) * 10
    one, other = (
        belief.draw(4, np.random.default_rng(1), 1.0, o) for o in (free, dear)
    )
    np.testing.assert_array_equal(one, other)


def test_some_of_the_arms_are_believed_as_before():
    """In another order, one that was seen among them."""
    arms = np.array([70, 5, 0])
    few, all_ = belief().among(arms), belief()
    np.testing.assert_allclose(few.mean, all_.mean[arms])
    np.testing.assert_allclose(few.sd, all_.sd[arms])
    draws = few.draw(40_000, np.random.default_rng(0))
    want = covariance()[np.ix_(arms, arms)]
    np.testing.assert_allclose(np.cov(draws.T), want, atol=0.03 * want.max())
