import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from braidbandit.bandit.belief import Belief
from braidbandit.bandit.linalg import Repeats

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


# ---- the shortcuts against the plain computation ----

# On either side of each bound: a covariance of all arms, own noise of all arms.
BOUNDS = [1, 3, 64, 65, 128, 129, 512, 513]


def a_catalogue(arms, q, seed=0):
    """A belief with every part, about arms of few kinds, and its dense covariance."""
    rng = np.random.default_rng(seed)
    Z = np.column_stack([np.ones(arms), rng.integers(3, size=(arms, 4))])
    Z[:, 4] = rng.random(arms)
    mu, half = rng.standard_normal(5) / 5, rng.standard_normal((5, q)) / 20
    own, variance = rng.standard_normal(arms) / 9, rng.random(arms) / 90
    seen = rng.permutation(arms)[: max(arms // 4, 1)]
    coupling = rng.standard_normal((len(seen), q)) / 40
    load = Z @ half
    load[seen] -= coupling
    parts = (Z, mu, half, own, variance, seen, coupling)
    return parts, Z @ mu + own, load @ load.T + np.diag(variance)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("q", [4, 80])
@pytest.mark.parametrize("arms", BOUNDS)
def test_moments_on_either_side_of_every_bound(arms, q, repeats):
    """Also where fewer columns than descriptors are loaded, and where rows repeat."""
    parts, mean, want = a_catalogue(arms, q)
    told = Belief(*parts, repeats=Repeats(parts[0]) if repeats else None)
    np.testing.assert_allclose(told.mean, mean, atol=1e-13)
    # Sums of squares in single precision are off by a millionth.
    np.testing.assert_allclose(told.sd**2, np.diag(want), rtol=1e-5)


@pytest.mark.parametrize("q", [4, 80])
@pytest.mark.parametrize("arms", BOUNDS)
def test_one_arm_is_as_uncertain_as_among_all(arms, q):
    parts, _, want = a_catalogue(arms, q)
    for arm in {0, arms // 2, arms - 1, int(parts[5][0])}:
        told = Belief(*parts)
        assert told.sd_of(arm) == pytest.approx(np.sqrt(want[arm, arm]), rel=1e-12)
        assert "sd" not in vars(told)  # not of all arms
        assert told.sd_of(arm) == pytest.approx(told.sd[arm], rel=1e-12)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("arms", [3, 64, 65, 128])
def test_single_arms_are_drawn_from_their_normal_distributions(arms, repeats):
    """Kolmogorov and Smirnov, for arms one of which was seen; p above 1 in 10,000."""
    parts, mean, want = a_catalogue(arms, 80)
    told = Belief(*parts, repeats=Repeats(parts[0]) if repeats else None)
    draws = told.draw(2000, np.random.default_rng(3), scale=0.5)
    for arm in (0, arms - 1, int(parts[5][0])):
        law = norm(mean[arm], 0.5 * np.sqrt(want[arm, arm]))
        assert kstest(draws[:, arm], law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("arms", [3, 64, 65, 128])
def test_joint_draws_have_the_covariance_of_all_arms(arms):
    """Variances of sums with random signs: 5 standard errors of sqrt(2 / n)."""
    parts, mean, want = a_catalogue(arms, 80)
    draws = Belief(*parts).draw(4000, np.random.default_rng(4)) - mean
    signs = np.sign(np.random.default_rng(5).standard_normal((10, arms)))
    found = (draws @ signs.T).var(axis=0)
    expected = np.einsum("sa,ab,sb->s", signs, want, signs)
    np.testing.assert_allclose(found, expected, rtol=5 * np.sqrt(2 / 4000))


@pytest.mark.parametrize("arms", [3, 65, 129, 513])
def test_draws_of_no_spread_are_the_mean(arms):
    parts, mean, _ = a_catalogue(arms, 80)
    draws = Belief(*parts).draw(3, np.random.default_rng(0), scale=0.0)
    np.testing.assert_allclose(draws, np.tile(mean, (3, 1)), atol=1e-14)


@pytest.mark.parametrize("arms", [129, 513])
def test_arms_that_cannot_win_a_draw_have_no_noise_of_their_own(arms):
    """Behind by more than five of their own standard deviations and of the best's."""
    own = np.zeros(arms)
    own[:3], own[-1] = 1.0, 0.1
    variance = np.full(arms, 0.01)  # 5 * 0.1 twice is all of the gap
    variance[3:] = 0.0099
    told = Belief(
        np.ones((arms, 1)), np.zeros(1), np.zeros((1, 1)), own, variance, None, None
    )
    draws = told.draw(50, np.random.default_rng(0))
    assert not draws[:, 3:-1].any()
    assert (draws[:, -1] != 0.1).all()  # behind by less: it might win
    assert (draws[:, :3] != 1.0).all()
    # A price that brings the first ones down lets the others in.
    offset = np.zeros(arms)
    offset[:3] = -1.0
    assert told.draw(50, np.random.default_rng(0), 1.0, offset)[:, 3:].all()


@pytest.mark.parametrize("arms", BOUNDS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_of_the_arms_in_any_order_are_believed_as_before(arms, data):
    parts, mean, want = a_catalogue(arms, 80)
    some = data.draw(st.permutations(range(arms)))[: data.draw(st.integers(1, arms))]
    few = Belief(*parts).among(np.array(some))
    np.testing.assert_allclose(few.mean, mean[some], atol=1e-13)
    np.testing.assert_allclose(few.sd**2, np.diag(want)[some], rtol=1e-9)
    assert few.sd_of(len(some) - 1) == pytest.approx(few.sd[-1])


@pytest.mark.parametrize("arms", [3, 65, 129])
def test_arrays_of_any_storage_are_believed_alike(arms):
    """Whole numbers, single precision, read-only, and columns of a wider array."""
    parts, _, _ = a_catalogue(arms, 80)
    Z = np.round(4 * parts[0])
    want = Belief(Z, *parts[1:])
    wide = np.repeat(Z, 2, axis=1)[:, ::2]
    fixed = Z.copy()
    fixed.flags.writeable = False
    for given_ in (Z.astype(int), Z.astype(np.float32), wide, fixed, Z.copy("F")):
        told = Belief(given_, *parts[1:])
        np.testing.assert_allclose(told.mean, want.mean, atol=1e-14)
        np.testing.assert_allclose(told.sd, want.sd, rtol=1e-12)
        one, other = (b.draw(4, np.random.default_rng(1)) for b in (told, want))
        assert one.dtype == np.float64
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_a_belief_by_hand():
    """Two arms z = (1, 1) and (1, -1), W x ~ N((0.5, 0.1), diag(0.04, 0.01)).

    Means 0.6 and 0.4, the second 0.1 better by itself; variances 0.05 and 0.05 + 0.02.
    """
    told = Belief(
        np.array([[1.0, 1.0], [1.0, -1.0]]),
        np.array([0.5, 0.1]),
        np.diag([0.2, 0.1]),
        np.array([0.0, 0.1]),
        np.array([0.0, 0.02]),
    )
    np.testing.assert_allclose(told.mean, [0.6, 0.5])
    np.testing.assert_allclose(told.sd**2, [0.05, 0.07])
