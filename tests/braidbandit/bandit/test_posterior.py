"""The posterior against dense closed forms, and what leaves it as it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from braidbandit.bandit.choice import seen_difference
from braidbandit.bandit.layout import Layout
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import GROUPS, PriorScales, parameter_groups
from braidbandit.bandit.task_noise import task_covariance, task_precision

NAMES = ["bias", "share:a", "cost"]
Z = np.array([[1, 0.5, -0.2], [1, -0.5, 0.2], [1, 0.1, 0.0]])
STATE = (*Posterior.ARRAYS, "square", "count")


def make(own_width=3, **scales):
    groups = parameter_groups(NAMES, 3)
    return Posterior(groups, PriorScales(**scales), n_arms=3, own_width=own_width)


def features(posterior, arm, x):
    """All features of one reward: the shared ones, then d of each arm."""
    d = posterior.own_width
    shared = np.outer(Z[arm], x)[posterior.groups >= 0]
    own = np.zeros((len(Z), d))
    own[arm] = x[:d]
    return np.append(shared, own.ravel())


def prior(posterior):
    """Mean and standard deviation of all parameters, in the order of features."""
    values = posterior.scales.to_dict()
    sd = [values[GROUPS[g]] for g in posterior.groups[posterior.groups >= 0]]
    own = [values["arm_intercept"], values["arm_slope"], values["arm_slope"]]
    sd = np.append(sd, own[: posterior.own_width] * len(Z))
    mean = np.zeros(len(sd))
    mean[0] = values["mean"]
    return mean, sd


def dense(posterior, Phi, r, variances):
    """P = (D^-2 + Phi' V^-1 Phi)^-1, mean = m0 + P Phi' V^-1 (r - Phi m0)."""
    m0, sd = prior(posterior)
    P = np.linalg.inv(np.diag(1 / sd**2) + Phi.T @ (Phi / variances[:, None]))
    return m0 + P @ Phi.T @ ((r - Phi @ m0) / variances), P


def stream(posterior, n=25, seed=0, arms=2):
    rng = np.random.default_rng(seed)
    rows = [
        (int(rng.integers(arms)), np.append(1.0, rng.standard_normal(2)), rng.random())
        for _ in range(n)
    ]
    for arm, x, r in rows:
        posterior.update(arm, Z[arm], x, r)
    return rows


def state(posterior):
    return b"".join(np.asarray(getattr(posterior, key)).tobytes() for key in STATE)


def assert_same(one, two, atol=1e-10):
    """Same moments; a square root of a covariance may be turned."""
    for key in ("mean", "own_mean", "own_covariance", "square", "count"):
        np.testing.assert_allclose(getattr(one, key), getattr(two, key), atol=atol)
    for root in (lambda p: p.factor, cross):
        np.testing.assert_allclose(
            root(one) @ one.factor.T, root(two) @ two.factor.T, atol=atol
        )


def cross(posterior):
    """The rows of own_load at their arms."""
    rows = np.zeros((posterior.n_arms, *posterior.own_load.shape[1:]))
    rows[posterior.seen] = posterior.own_load
    return rows


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_a_belief_handed_out_stays_what_it_was(own_width):
    """Learning works in place; what was believed before is not touched by it."""
    posterior = make(own_width)
    *_, (arm, x, r) = stream(posterior)
    held, same = posterior.belief(Z, x), posterior.copy().belief(Z, x)
    posterior.update(arm, Z[arm], x, r)
    posterior.downdate(arm, Z[arm], x, r)
    posterior.update(2, Z[2], x, r)
    np.testing.assert_array_equal(held.mean, same.mean)
    np.testing.assert_array_equal(held.sd, same.sd)
    assert abs(posterior.belief(Z, x).sd - held.sd).max() > 1e-4


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_posterior_equals_the_dense_closed_form(own_width):
    """Arm 2 is never played: its own parameters keep their prior."""
    posterior = make(own_width, noise=0.3)
    rows = stream(posterior)
    Phi = np.array([features(posterior, arm, x) for arm, x, _ in rows])
    r = np.array([r for *_, r in rows])
    mean, P = dense(posterior, Phi, r, np.full(25, 0.09))
    x = np.array([1.0, 0.3, -0.7])
    F = np.array([features(posterior, arm, x) for arm in range(3)])
    belief = posterior.belief(Z, x)
    np.testing.assert_allclose(belief.mean, F @ mean, atol=1e-10)
    np.testing.assert_allclose(belief.sd**2, np.diag(F @ P @ F.T), atol=1e-10)
    np.testing.assert_allclose(posterior.means(Z, x[None])[0], F @ mean, atol=1e-10)
    draws = belief.draw(40_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.cov(draws.T), F @ P @ F.T, atol=0.03 * P.max())


def test_surprise_is_the_standardised_residual():
    posterior = make(noise=0.3)
    stream(posterior)
    x = np.array([1.0, 0.3, -0.7])
    belief = posterior.belief(Z, x)
    expected = (0.9 - belief.mean[1]) / np.sqrt(belief.sd[1] ** 2 + 0.09)
    assert posterior.update(1, Z[1], x, 0.9) == pytest.approx(expected)


def test_unseen_arm_has_the_prior_variance_at_any_scale():
    """Of an arm that nobody played, only the own part is asked for: z = 0."""
    for scale in (0.01, 0.5, 7.0):
        posterior = make(1, arm_intercept=scale)
        x = np.array([1.0, 0.0, 0.0])
        posterior.update(0, Z[0], x, 0.9)
        belief = posterior.belief(np.zeros_like(Z), x)
        assert belief.mean[2] == 0
        assert belief.sd[2] == pytest.approx(scale)


def test_a_reward_informs_related_arms():
    posterior = make()
    x = np.array([1.0, 0.5, 0.5])
    before = posterior.belief(Z, x)
    posterior.update(0, Z[0], x, 1.0)
    after = posterior.belief(Z, x)
    assert (after.mean > before.mean).all()
    assert (after.sd < before.sd).all()


def test_weight_is_repetition():
    once, twice = make(), make()
    x = np.array([1.0, 0.5, 0.5])
    once.update(0, Z[0], x, 0.9, weight=2.0)
    twice.update(0, Z[0], x, 0.9)
    twice.update(0, Z[0], x, 0.9)
    np.testing.assert_allclose(once.mean, twice.mean, atol=1e-14)
    np.testing.assert_allclose(once.own_mean, twice.own_mean, atol=1e-14)


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_table_equals_stream(own_width):
    rng = np.random.default_rng(1)
    X = np.column_stack([np.ones(6), rng.standard_normal((6, 2))])
    R = rng.random((6, 2))
    batch, one_by_one = make(own_width), make(own_width)
    batch.learn_table([2, 0], Z[[2, 0]], X, R)
    for x, row in zip(X, R, strict=True):
        for arm, r in zip([2, 0], row, strict=True):
            one_by_one.update(arm, Z[arm], x, r)
    assert_same(batch, one_by_one)


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_the_sums_give_the_posterior_back(own_width):
    posterior = make(own_width)
    stream(posterior)
    before = posterior.copy()
    posterior.rescale(posterior.scales)
    assert_same(posterior, before)
    assert posterior.sufficient_statistics().count == 25


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_other_scales_give_the_posterior_that_they_would_have_given(own_width):
    posterior, other = make(own_width), make(own_width, noise=0.1, task=0.3)
    for one in (posterior, other):
        stream(one)
    posterior.rescale(other.scales)
    assert_same(posterior, other)


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_downdate_takes_back_one_of_many(own_width):
    whole, without = make(own_width), make(own_width)
    rows = stream(whole)
    for i, (arm, x, r) in enumerate(rows):
        if i != 3:
            without.update(arm, Z[arm], x, r)
    arm, x, r = rows[3]
    whole.downdate(arm, Z[arm], x, r)
    assert_same(whole, without)


def test_downdate_refuses_an_arm_that_was_never_played():
    posterior = make()
    stream(posterior)
    before = state(posterior)
    with pytest.raises(ValueError, match="cannot be taken back"):
        posterior.downdate(2, Z[2], np.array([1.0, 9.0, 9.0]), 0.5)
    assert state(posterior) == before


@pytest.mark.parametrize(
    "call",
    [
        (0, Z[0], np.array([1.0, np.nan, 0.0]), 0.5),
        (0, Z[0], np.array([1.0, 0.0]), 0.5),
        (0, Z[0][:2], np.array([1.0, 0.0, 0.0]), 0.5),
        (0, Z[0], np.array([1.0, 0.0, 0.0]), np.inf),
        (0, Z[0], np.array([1.0, 0.0, 0.0]), 0.5, 0.0),
        (3, Z[0], np.array([1.0, 0.0, 0.0]), 0.5),
        (-1, Z[0], np.array([1.0, 0.0, 0.0]), 0.5),
    ],
)
def test_rejected_updates_change_nothing(call):
    posterior = make()
    before = state(posterior)
    with pytest.raises(ValueError, match="received"):
        posterior.update(*call)
    assert state(posterior) == before


def test_forgetting_halves_what_was_learnt():
    """Every reward counts g as much: its noise variance is 1/g as large."""
    posterior = make(noise=0.3)
    rows = stream(posterior)
    posterior.forget(0.5)
    Phi = np.array([features(posterior, arm, x) for arm, x, _ in rows])
    r = np.array([r for *_, r in rows])
    mean, P = dense(posterior, Phi, r, np.full(25, 0.09 / 0.5))
    x = np.array([1.0, 0.3, -0.7])
    F = np.array([features(posterior, arm, x) for arm in range(3)])
    belief = posterior.belief(Z, x)
    np.testing.assert_allclose(belief.mean, F @ mean, atol=1e-10)
    np.testing.assert_allclose(belief.sd**2, np.diag(F @ P @ F.T), atol=1e-10)
    assert posterior.count == 12.5


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
    found = posterior.sufficient_statistics()
    np.testing.assert_allclose(found.own, own, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.gram, own.sum(axis=0), rtol=1e-9, atol=1e-9)
    belief = posterior.belief(np.ones((arms, 1)), x)
    np.testing.assert_allclose(belief.mean, 0.5 + W @ x, atol=0.01)


def test_long_forgetting_on_few_directions_stays_within_the_prior():
    """A discount of the precision alone passes 1e12 after 5,500 steps at 0.995."""
    posterior = make(noise=0.3)
    x, r = np.array([1.0, 0.5, 0.0]), 0.5
    for step in range(1, 20_001):
        posterior.update(0, Z[0], x, r)
        if step % 50 == 0:
            posterior.forget(0.995**50)
    idle = make(noise=0.3).belief(Z, np.array([1.0, 0.0, 3.0]))
    belief = posterior.belief(Z, np.array([1.0, 0.0, 3.0]))
    assert (belief.sd <= idle.sd * (1 + 1e-9)).all()
    assert posterior.belief(Z, x).mean[0] == pytest.approx(r, abs=0.01)
    assert posterior.count == pytest.approx(200, rel=0.3)


def test_ten_thousand_updates_equal_one_solve():
    posterior = make(noise=0.3)
    rows = stream(posterior, 10_000, arms=3)
    fresh = make(noise=0.3)
    Phi = np.array([features(fresh, arm, x) for arm, x, _ in rows])
    mean, P = dense(fresh, Phi, np.array([r for *_, r in rows]), np.full(10_000, 0.09))
    p = fresh.n_parameters
    np.testing.assert_allclose(posterior.mean, mean[:p], rtol=1e-8)
    got = posterior.factor @ posterior.factor.T
    assert np.linalg.norm(got - P[:p, :p]) <= 1e-9 * np.linalg.norm(P[:p, :p])


def test_intervals_hold():
    """Parameters drawn from the prior: 95 % intervals hold 95 % of the time.

    400 draws: standard error 1.1 %, so 92 to 98 % is within three of them.
    """
    rng = np.random.default_rng(6)
    inside, within = [], norm.ppf(0.975)
    for _ in range(400):
        posterior = make(noise=0.3)
        m0, sd = prior(posterior)
        truth = m0 + sd * rng.standard_normal(len(sd))
        for _ in range(30):
            arm, x = int(rng.integers(2)), np.append(1.0, rng.standard_normal(2))
            mean = features(posterior, arm, x) @ truth
            posterior.update(arm, Z[arm], x, mean + 0.3 * rng.standard_normal())
        arm, x = int(rng.integers(3)), np.append(1.0, rng.standard_normal(2))
        belief = posterior.belief(Z, x)
        off = features(posterior, arm, x) @ truth - belief.mean[arm]
        inside.append(abs(off) <= within * belief.sd[arm])
    assert 0.92 <= np.mean(inside) <= 0.98


def test_scales_are_found_from_a_table_and_the_same_each_time():
    rng = np.random.default_rng(5)
    X = np.column_stack([np.ones(200), rng.standard_normal((200, 2))])
    R = 0.6 + 0.2 * X[:, [1]] * Z[:, 1] + 0.05 * rng.standard_normal((200, 3))
    first, second = make(), make()
    first.start_from_table([0, 1, 2], Z, X, R)
    second.start_from_table([0, 1, 2], Z, X, R)
    assert first.scales == second.scales
    assert first.scales.noise == pytest.approx(0.05, rel=0.1)
    assert first.scales.interaction > 2 * first.scales.task
    assert first.scales.mean == pytest.approx(R.mean())


def test_a_table_compares_arms_on_the_same_tasks():
    """Tasks differ by 0.3, arms by 0.05, both without features: 30 tasks are plenty.

    Rewards that were independent would leave the difference of two arms uncertain
    by about 0.3 * sqrt(2 / 30) = 0.08.
    """
    rng = np.random.default_rng(8)
    X = np.column_stack([np.ones(30), np.zeros((30, 2))])
    hard = 0.3 * rng.standard_normal((30, 1))
    R = 0.5 + hard + np.array([0.0, 0.05, 0.1]) + 0.02 * rng.standard_normal((30, 3))
    posterior = make()
    posterior.start_from_table([0, 1, 2], Z, X, R)
    belief = posterior.belief(Z, X[0])
    np.testing.assert_allclose(np.diff(belief.mean), 0.05, atol=0.02)
    draws = belief.draw(4000, np.random.default_rng(0))
    assert (np.diff(draws, axis=1).std(axis=0) < 0.04).all()
    assert belief.sd[0] > 0.02


def test_what_moves_a_strand_on_a_task_is_no_interaction_by_itself():
    """Shares 0, 0.1, ..., 1: each task favours one strand, whatever its features say.

    Eleven arms show it eleven times. Taken for independent, they would prove slopes on
    features that have nothing to do with it.
    """
    share = np.linspace(0.0, 1.0, 11)
    descriptors = np.column_stack([np.ones(11), share - 0.5])
    groups = parameter_groups(["bias", "share:a"], 7)

    def slopes(tasks, real, shared):
        rng = np.random.default_rng(4)
        X = np.column_stack([np.ones(tasks), rng.standard_normal((tasks, 6))])
        favour = 0.1 * rng.standard_normal((tasks, 1)) + real * X[:, [1]]
        R = 0.5 + favour * (share - 0.5)
        R += 0.02 * rng.standard_normal(R.shape)
        posterior = Posterior(groups, None, 11, 1)
        posterior.start_from_table(range(11), descriptors, X, R, shared)
        return posterior.mean[-6:]

    assert np.abs(slopes(14, 0.0, shared=False)).max() > 0.03
    assert np.abs(slopes(14, 0.0, shared=True)).max() < 0.01
    # A slope that is there is found, with more tasks.
    found = slopes(100, 0.1, shared=True)
    assert found[0] == pytest.approx(0.1, abs=0.03)
    assert np.abs(found[1:]).max() < 0.03


def test_scales_are_refined_from_rewards_alone():
    """Rewards without noise but for 0.05, learnt one by one under a prior of 0.25."""
    rng = np.random.default_rng(7)
    posterior = make()
    for _ in range(300):
        arm, x = int(rng.integers(3)), np.append(1.0, rng.standard_normal(2))
        r = 0.5 + 0.1 * x[1] + 0.05 * rng.standard_normal()
        posterior.update(arm, Z[arm], x, r)
    posterior.refine_scales()
    assert posterior.scales.noise == pytest.approx(0.05, rel=0.2)
    assert posterior.scales.task > posterior.scales.arm_slope
    belief = posterior.belief(Z, np.array([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(belief.mean, 0.6, atol=0.03)


def test_arms_come_and_go():
    posterior = make()
    stream(posterior)
    x = np.array([1.0, 0.3, -0.7])
    before = posterior.belief(Z, x)
    other = posterior.take_arms([1, -1, 0])
    after = other.belief(Z[[1, 2, 0]], x)
    np.testing.assert_allclose(after.mean, before.mean[[1, 2, 0]])
    np.testing.assert_allclose(after.sd, before.sd[[1, 2, 0]])


def test_a_changed_arm_keeps_its_mean_and_is_less_certain():
    posterior = make()
    stream(posterior)
    x = np.array([1.0, 0.3, -0.7])
    before = posterior.belief(Z, x)
    posterior.widen(0, 0.5)
    after = posterior.belief(Z, x)
    np.testing.assert_allclose(after.mean, before.mean)
    scales = posterior.scales
    more = scales.braid**2 + scales.interaction**2 * (0.3**2 + 0.7**2)
    assert after.sd[0] ** 2 - before.sd[0] ** 2 == pytest.approx(0.5 * more)
    np.testing.assert_allclose(after.sd[1:], before.sd[1:])


def test_a_changed_arm_is_solved_for_with_its_own_prior():
    """Rewards, a change, more rewards; then the same sums solved for again."""
    posterior, x = make(), np.array([1.0, 0.3, -0.7])
    stream(posterior)
    posterior.widen(0, 0.5)
    assert make().take_arms([0]).own_change.tolist() == [[0.0] * 3]
    for _ in range(5):
        posterior.update(0, Z[0], x, 0.1)
    before = posterior.belief(Z, x)
    same = posterior.copy()
    same.forget(1 - 1e-13)
    after = same.belief(Z, x)
    np.testing.assert_allclose(after.mean, before.mean, atol=1e-8)
    np.testing.assert_allclose(after.sd, before.sd, rtol=1e-8)
    moved = posterior.take_arms([1, 0]).belief(Z[[1, 0]], x)
    np.testing.assert_allclose(moved.sd, before.sd[[1, 0]])
    posterior.refine_scales()
    assert np.isfinite(posterior.factor).all()


def test_a_change_is_noticed_however_alike_arms_are():
    """Own scales near nothing: the change still moves as models differ."""
    tiny = PriorScales(arm_intercept=1e-3, arm_slope=1e-3)
    posterior = Posterior(parameter_groups(NAMES, 3), tiny, n_arms=3, own_width=1)
    x = np.array([1.0, 0.3, -0.7])
    for _ in range(300):
        posterior.update(0, Z[0], x, 0.8)
    still, changed = posterior.copy(), posterior.copy()
    changed.widen(0, 0.5)
    for _ in range(10):
        still.update(0, Z[0], x, 0.2)
        changed.update(0, Z[0], x, 0.2)
    assert still.belief(Z, x).mean[0] > 0.75
    assert changed.belief(Z, x).mean[0] < 0.55


def test_bad_settings():
    with pytest.raises(ValueError, match="noise"):
        PriorScales(noise=0.0)
    with pytest.raises(ValueError, match="gamma"):
        make().forget(0.0)
    with pytest.raises(ValueError, match="share"):
        make().widen(0, 1.0)
    with pytest.raises(ValueError, match="own_width"):
        make(own_width=4)


@pytest.mark.parametrize("first", [0.0, 2.0, np.nan])
def test_features_without_the_constant_are_refused(first):
    """Feature 0 carries the intercepts; anything else gave wrong intercepts."""
    posterior, x = make(), np.array([first, 0.3, -0.7])
    table, before = np.full((1, 3), 0.5), state(posterior)
    for call in (
        lambda: posterior.belief(Z, x),
        lambda: posterior.means(Z, x[None]),
        lambda: posterior.update(0, Z[0], x, 0.5),
        lambda: posterior.downdate(0, Z[0], x, 0.5),
        lambda: posterior.learn_table(range(3), Z, x[None], table),
        lambda: posterior.start_from_table(range(3), Z, x[None], table),
    ):
        with pytest.raises(ValueError, match="constant 1"):
            call()
    assert state(posterior) == before


@pytest.mark.parametrize("size", [2e4, 1.7e9, 1e200, np.inf, np.nan])
def test_features_that_leave_no_digits_are_refused(size):
    posterior, x = make(), np.array([1.0, 0.3, size])
    table, before = np.full((1, 3), 0.5), state(posterior)
    for call in (
        lambda: posterior.belief(Z, x),
        lambda: posterior.means(Z, x[None]),
        lambda: posterior.update(0, Z[0], x, 0.5),
        lambda: posterior.downdate(0, Z[0], x, 0.5),
        lambda: posterior.learn_table(range(3), Z, x[None], table),
        lambda: posterior.start_from_table(range(3), Z, x[None], table),
    ):
        with pytest.raises(ValueError, match="feature 2"):
            call()
    assert state(posterior) == before


@pytest.mark.parametrize("weight", [1e-6, 1e3, 1e6])
@pytest.mark.parametrize("back", [0, 20])
def test_a_heavy_reward_is_taken_back_exactly(weight, back):
    whole, without = make(), make()
    for i, (arm, x, r) in enumerate(stream(make())):
        whole.update(arm, Z[arm], x, r, weight if i == back else 1.0)
        if i == back:
            taken = (arm, Z[arm], x, r, weight)
        else:
            without.update(arm, Z[arm], x, r)
    whole.downdate(*taken)
    for key in ("mean", "own_mean", "own_covariance"):
        np.testing.assert_allclose(
            getattr(whole, key), getattr(without, key), atol=1e-6
        )


def test_what_rounding_has_swallowed_is_not_taken_back():
    """A weight of 1e6 at a noise of 1e-3: of the prior variance 1e-11 is left."""
    posterior, x = make(noise=1e-3), np.array([1.0, 0.3, -0.7])
    posterior.update(0, Z[0], x, 0.9, 1e6)
    before = state(posterior)
    with pytest.raises(ValueError, match="cannot be taken back"):
        posterior.downdate(0, Z[0], x, 0.9, 1e6)
    assert state(posterior) == before
    with pytest.raises(ValueError, match="at most 1e"):
        posterior.update(0, Z[0], x, 0.9, 1e12)
    assert state(posterior) == before


def test_a_variance_that_rounding_left_below_nothing_counts_as_nothing():
    posterior, x = make(), np.array([1.0, 0.0, 0.0])
    posterior.own_covariance -= 1.0 * np.eye(3)
    belief = posterior.belief(Z, x)
    assert np.isfinite(belief.sd).all()
    assert belief.sd_of(1) == belief.sd[1]
    assert np.isfinite(belief.draw(8, np.random.default_rng(0))).all()
    assert np.isfinite(posterior.update(0, Z[0], x, 0.5))


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
    new = old.with_columns(parameter_groups(["share:b"], 3))
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


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_arrays_give_the_very_posterior_back(own_width):
    posterior = make(own_width)
    stream(posterior)
    posterior.widen(1, 0.3)
    arrays = posterior.to_arrays()
    again = Posterior.from_arrays(arrays, posterior.scales, posterior.prior)
    assert state(again) == state(posterior)
    assert again.scales == posterior.scales
    for name, array in again.to_arrays().items():
        np.testing.assert_array_equal(array, arrays[name])
    posterior.refine_scales()
    again.refine_scales()
    assert state(again) == state(posterior)


def test_two_posteriors_from_the_same_arrays_learn_apart():
    """Learning works in place; what was given stays as it was."""
    source = make()
    stream(source)
    arrays = {name: array.copy() for name, array in source.to_arrays().items()}
    one = Posterior.from_arrays(arrays, source.scales)
    other = Posterior.from_arrays(arrays, source.scales)
    one.update(0, Z[0], np.array([1.0, 0.3, -0.7]), 0.9)
    assert state(other) == state(source)
    for name, array in source.to_arrays().items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize("name", Posterior.ARRAYS)
def test_arrays_that_do_not_fit_together_are_named(name):
    posterior = make()
    stream(posterior)
    arrays = posterior.to_arrays()
    with pytest.raises(KeyError, match=name):
        Posterior.from_arrays(
            {key: a for key, a in arrays.items() if key != name}, posterior.scales
        )
    longer = np.concatenate([arrays[name], arrays[name]])
    with pytest.raises(ValueError, match="of shape"):
        Posterior.from_arrays({**arrays, name: longer}, posterior.scales)


def test_anew_is_the_prior_over_the_same_parameters():
    posterior = make(1)
    stream(posterior)
    other = posterior.anew(PriorScales(noise=0.1))
    fresh = Posterior(posterior.groups, PriorScales(noise=0.1), 3, 1)
    assert state(other) == state(fresh)
    assert other.prior == PriorScales(noise=0.1)
    assert posterior.anew().scales == PriorScales()
    # Own parameters that were all that told arms apart stay in the group they had.
    alone = Posterior(parameter_groups(["bias"], 3), n_arms=2, own_width=1)
    wider = alone.with_columns(parameter_groups(["share:a"], 3))
    assert GROUPS[wider.anew().own_groups[0]] == "braid"
    assert GROUPS[Posterior(wider.groups, None, 2, 1).own_groups[0]] == "arm_intercept"


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_arms_in_another_order_learn_as_before(own_width):
    """Taken, then taught, is taught, then taken."""
    one, other = make(own_width), make(own_width)
    rows, (first, last) = [2, 0, 1], (15, 10)
    history = stream(make(own_width), first + last)
    for arm, x, r in history[:first]:
        one.update(arm, Z[arm], x, r)
        other.update(arm, Z[arm], x, r)
    one = one.take_arms(rows)
    for arm, x, r in history[first:]:
        one.update(rows.index(arm), Z[arm], x, r)
        other.update(arm, Z[arm], x, r)
    assert_same(one, other.take_arms(rows))


def test_arms_that_are_left_out_stay_in_what_is_shared():
    posterior = make()
    stream(posterior)
    before = state(posterior)
    other = posterior.take_arms([-1])
    assert state(posterior) == before
    np.testing.assert_array_equal(other.mean, posterior.mean)
    assert other.count == posterior.count
    assert not other.own_mean.any()
    assert other.seen.tolist() == []


def test_covariances_are_products_of_their_terms():
    """Between two arms on two tasks, against the dense covariance."""
    posterior = make(1, noise=0.3)
    rows = stream(posterior)
    Phi = np.array([features(posterior, arm, x) for arm, x, _ in rows])
    r = np.array([r for *_, r in rows])
    _, P = dense(posterior, Phi, r, np.full(25, 0.09))
    x, y = np.array([1.0, 0.3, -0.7]), np.array([1.0, -1.0, 0.2])
    found = posterior.covariance_terms(0, Z[0], x) @ posterior.covariance_terms(
        1, Z[1], y
    )
    want = features(posterior, 0, x) @ P @ features(posterior, 1, y)
    assert found == pytest.approx(want, abs=1e-12)
    assert posterior.expected(1, Z[1], y) == pytest.approx(
        posterior.means(Z, y[None])[0, 1]
    )


def test_means_are_taken_over_without_the_rest():
    one, other = make(), make()
    stream(other)
    one.take_means(other)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.own_mean, other.own_mean)
    assert one.count == 0
    before = state(other)
    one.update(0, Z[0], np.array([1.0, 0.3, -0.7]), 0.9)
    assert state(other) == before


# ---- what cannot be learnt ----

NOT_NUMBERS = {
    "a reward whose square overflows": (0, Z[0], [1.0, 0.3, -0.7], 1e200),
    "a reward of the other sign": (0, Z[0], [1.0, 0.3, -0.7], -1e200),
    "a descriptor whose fourth power overflows": (
        0,
        1e120 * Z[0],
        [1.0, 0.3, -0.7],
        0.5,
    ),
    "one that does so with the features": (0, 1e153 * Z[0], [1.0, 1e4, 0.0], 0.5),
    "a descriptor that is NaN": (0, np.nan * Z[0], [1.0, 0.3, -0.7], 0.5),
}


@pytest.mark.parametrize("call", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_numbers_that_overflow_are_refused_whole(call, own_width):
    posterior = make(own_width)
    stream(posterior)
    before = state(posterior)
    arm, z, x, r = call
    for change in (posterior.update, posterior.downdate):
        with pytest.raises(ValueError, match="finite and at most 1e"):
            change(arm, z, np.array(x), r)
        assert state(posterior) == before


@pytest.mark.parametrize("weight", [1e-99, 1e-200, 1e-310])
@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_a_reward_of_next_to_no_weight_moves_nothing_and_comes_back(weight, own_width):
    """Its variance, noise^2 / weight, or the square of that, is no number any more."""
    posterior, x = make(own_width), np.array([1.0, 0.3, -0.7])
    stream(posterior, arms=3)
    before = posterior.copy()
    posterior.update(0, Z[0], x, 0.9, weight)
    for name in Posterior.ARRAYS:
        np.testing.assert_allclose(
            getattr(posterior, name), getattr(before, name), atol=1e-40
        )
    posterior.downdate(0, Z[0], x, 0.9, weight)
    assert_same(posterior, before, atol=1e-14)


TABLES = {
    "too many columns": ([0, 1], Z[:2], (3, 3), "received Z"),
    "too many rows": ([0, 1], Z[:2], (4, 2), "received Z"),
    "descriptors of other arms": ([0, 1], Z, (3, 2), "received Z"),
    "narrow descriptors": ([0, 1], Z[:2, :2], (3, 2), "received Z"),
    "an arm that is not there": ([0, 3], Z[:2], (3, 2), "received arm 3"),
    "an arm from the end": ([0, -1], Z[:2], (3, 2), "received arm -1"),
    "an arm twice": ([1, 1], Z[:2], (3, 2), "distinct"),
    "a descriptor that is NaN": ([0, 1], np.nan * Z[:2], (3, 2), "finite"),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("method", ["learn_table", "start_from_table"])
def test_a_table_that_cannot_be_right_changes_nothing(method, table):
    arms, descriptors, shape, message = table
    posterior = make()
    stream(posterior)
    before, scales = state(posterior), posterior.scales
    X = np.column_stack([np.ones(3), np.eye(3)[:, :2]])
    with pytest.raises(ValueError, match=message):
        getattr(posterior, method)(arms, descriptors, X, np.full(shape, 0.5))
    assert state(posterior) == before
    assert posterior.scales == scales


HOLES = {
    "a reward that is infinite": ((1, 0), np.inf, "finite"),
    "a row that is empty": ((1, slice(None)), np.nan, "row 1 of the table is empty"),
    "a column that is empty": ((slice(None), 1), np.nan, "column 1 .* is empty"),
}


@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)
@pytest.mark.parametrize("method", ["learn_table", "start_from_table"])
def test_a_table_that_says_nothing_somewhere_changes_nothing(method, hole):
    at, value, message = hole
    posterior = make()
    stream(posterior)
    before = state(posterior)
    X, R = np.column_stack([np.ones(2), np.eye(2)]), np.full((2, 2), 0.5)
    R[at] = value
    with pytest.raises(ValueError, match=message):
        getattr(posterior, method)([0, 1], Z[:2], X, R)
    assert state(posterior) == before


def table_with_holes(n=30, share=0.4):
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    common = 0.15 * rng.standard_normal((n, 1))
    R = (
        0.5
        + common
        + 0.1 * rng.standard_normal((n, 3))
        + X @ rng.normal(0, 0.1, (3, 3))
    )
    hidden = rng.random((n, 3)) < share
    hidden[np.arange(n), np.arange(n) % 3] = False
    return X, np.where(hidden, np.nan, R)


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_a_table_with_holes_is_the_stream_of_its_cells(own_width):
    X, R = table_with_holes()
    batch, one_by_one = make(own_width), make(own_width)
    batch.learn_table([2, 0, 1], Z[[2, 0, 1]], X, R)
    for x, row in zip(X, R, strict=True):
        for arm, r in zip([2, 0, 1], row, strict=True):
            if not np.isnan(r):
                one_by_one.update(arm, Z[arm], x, r)
    assert_same(batch, one_by_one)


def test_a_start_from_a_table_without_holes_is_what_it_was():
    """To the last bit: the sums of the whole table at once, then the scales."""
    X, R = table_with_holes(share=0.0)
    found, expected = make(), make()
    found.start_from_table([0, 1, 2], Z, X, R)
    mean = float(R.mean())
    expected.reset(PriorScales(mean=mean))
    sums = expected.sufficient_statistics().with_table(
        Layout(expected.groups), [0, 1, 2], Z, X, R - mean, task_precision(R)
    )
    expected._set(sums, expected._found_scales(sums))
    assert state(found) == state(expected)
    assert found.scales == expected.scales


def test_arms_are_compared_as_if_all_tasks_of_a_table_with_holes_were_the_same():
    """Against the closed form with the noise that the cells of a task have in common.

    Arm 2 is scored with the better arm only: taken for the difficulty of the task, its
    level would count against arm 2.
    """
    n, rng = 120, np.random.default_rng(0)
    X = np.column_stack([np.ones(n), rng.standard_normal((n, 2))])
    R = np.array([0.8, 0.3, 0.5]) + 0.15 * rng.standard_normal((n, 1))
    R = R + 0.05 * rng.standard_normal((n, 3))
    R[:60, 1], R[60:, 2] = np.nan, np.nan
    posterior = make()
    posterior.start_from_table([0, 1, 2], Z, X, R)
    C, noise = task_covariance(R), posterior.scales.noise
    cells = [(i, a) for i in range(n) for a in range(3) if not np.isnan(R[i, a])]
    Phi = np.array([features(posterior, a, X[i]) for i, a in cells])
    S = np.array([[C[a, b] if i == j else 0.0 for j, b in cells] for i, a in cells])
    half = np.linalg.cholesky(noise**2 * S)
    r = np.array([R[cell] for cell in cells])
    mean, _ = dense(
        posterior, np.linalg.solve(half, Phi), np.linalg.solve(half, r), np.ones(len(r))
    )
    expected = np.array(
        [[features(posterior, a, x) @ mean for a in range(3)] for x in X]
    )
    found = posterior.means(Z, X)
    apart = [M - M.mean(axis=1, keepdims=True) for M in (found, expected)]
    np.testing.assert_allclose(apart[0], apart[1], atol=0.005)
    np.testing.assert_allclose((found[:, 2] - found[:, 1]).mean(), 0.2, atol=0.03)


def test_a_start_for_which_no_scales_are_found_changes_nothing(monkeypatch):
    def fails(*_):
        raise np.linalg.LinAlgError("no scales")

    posterior = make()
    stream(posterior)
    before, scales = state(posterior), posterior.scales
    monkeypatch.setattr("braidbandit.bandit.posterior.find_scales", fails)
    X, R = np.column_stack([np.ones(2), np.eye(2)]), np.array([[0.1, 0.9], [0.4, 0.2]])
    with pytest.raises(np.linalg.LinAlgError, match="no scales"):
        posterior.start_from_table([0, 1], Z[:2], X, R)
    with pytest.raises(np.linalg.LinAlgError, match="no scales"):
        posterior.refine_scales()
    assert state(posterior) == before
    assert posterior.scales == scales


@pytest.mark.parametrize("arm", [-1, 3])
def test_an_arm_that_is_not_there_does_not_change(arm):
    posterior = make()
    before = state(posterior)
    with pytest.raises(ValueError, match="expected 0 to 2"):
        posterior.widen(arm, 0.5)
    assert state(posterior) == before


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_scales_are_chosen_again_after_all_was_taken_back(rewards):
    """Of the squares rounding is left, of the number of rewards nothing: no spread."""
    posterior = Posterior(parameter_groups(NAMES, 3), None, 3, 1)
    x = np.array([1.0, 0.3, -0.7])
    for r in rewards:
        posterior.update(0, Z[0], x, r)
    for r in rewards:
        posterior.downdate(0, Z[0], x, r)
    assert posterior.count == 0
    posterior.refine_scales()
    assert np.isfinite(posterior.factor).all()
    assert np.isfinite(list(posterior.scales.to_dict().values())).all()


# ---- sums by hand ----


def test_two_parameters_by_pencil():
    """Prior N(0, 1) for the level and for the slope, noise 1.

    A reward of 1 at x = (1, 1): phi'P phi + 1 = 3, gain (1/3, 1/3), so the means are
    1/3 each, and P = I - phi phi' / 3 = [[2, -1], [-1, 2]] / 3.
    A reward of 0 at x = (1, -1): P phi = (1, -1), phi'P phi + 1 = 3. Expected was
    1/3 - 1/3 = 0, so the means stay, and P loses [[1, -1], [-1, 1]] / 3: I / 3.
    """
    scales = PriorScales(mean=0.0, intercept=1.0, task=1.0, noise=1.0)
    posterior = Posterior(np.array([[0, 1]]), scales)
    one = np.ones(1)
    surprise = posterior.update(0, one, np.array([1.0, 1.0]), 1.0)
    assert surprise == pytest.approx(1 / np.sqrt(3))
    np.testing.assert_allclose(posterior.mean, [1 / 3, 1 / 3])
    np.testing.assert_allclose(
        posterior.factor @ posterior.factor.T, [[2 / 3, -1 / 3], [-1 / 3, 2 / 3]]
    )
    surprise = posterior.update(0, one, np.array([1.0, -1.0]), 0.0)
    assert surprise == pytest.approx(0.0, abs=1e-15)
    np.testing.assert_allclose(posterior.mean, [1 / 3, 1 / 3])
    np.testing.assert_allclose(
        posterior.factor @ posterior.factor.T, np.eye(2) / 3, atol=1e-15
    )
    assert (posterior.square, posterior.count) == (1.0, 2.0)


def test_an_own_intercept_by_pencil():
    """A level and an own intercept, both N(0, 1), noise 1, and a reward of 3 of arm 0.

    Its variance was 1 + 1 + 1 = 3: each of the two moves by 3 / 3 = 1, has variance
    1 - 1/3 = 2/3 left, and their covariance is -1/3. Given the level, the own variance
    is 1/2. The quality of arm 0 is 2, with variance 2/3 + 2/3 - 2/3 = 2/3; of arm 1,
    that nobody played, 1 with 2/3 + 1; and their covariance is 2/3 - 1/3 = 1/3.
    """
    scales = PriorScales(mean=0.0, intercept=1.0, braid=1.0, noise=1.0)
    posterior = Posterior(np.array([[0]]), scales, n_arms=2, own_width=1)
    one = np.ones(1)
    assert posterior.update(0, one, one, 3.0) == pytest.approx(np.sqrt(3))
    assert posterior.mean.tolist() == pytest.approx([1.0])
    assert posterior.own_mean.ravel().tolist() == pytest.approx([1.0, 0.0])
    assert posterior.own_covariance.ravel().tolist() == pytest.approx([0.5, 1.0])
    belief = posterior.belief(np.ones((2, 1)), one)
    np.testing.assert_allclose(belief.mean, [2.0, 1.0])
    np.testing.assert_allclose(belief.sd**2, [2 / 3, 5 / 3])
    terms = [posterior.covariance_terms(arm, one, one) for arm in (0, 1)]
    assert terms[0] @ terms[1] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("gamma", "mean", "variance"), [(1.0, 0.5, 0.5), (0.5, 1 / 3, 2 / 3)]
)
def test_forgetting_by_pencil(gamma, mean, variance):
    """Prior N(0, 1), noise 1, a reward of 1 that counts gamma: gamma / (1 + gamma)."""
    scales = PriorScales(mean=0.0, intercept=1.0, noise=1.0)
    posterior = Posterior(np.array([[0]]), scales)
    posterior.update(0, np.ones(1), np.ones(1), 1.0)
    posterior.forget(gamma)
    assert posterior.mean[0] == pytest.approx(mean)
    assert posterior.factor[0, 0] ** 2 == pytest.approx(variance)
    assert (posterior.square, posterior.count) == (gamma, gamma)


# ---- limits ----


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_scales_near_nothing_leave_the_prior_mean(own_width):
    """However many rewards say otherwise: nothing may differ from 0.7."""
    names = ("intercept", "task", "braid", "interaction", "knob")
    posterior = make(
        own_width, **dict.fromkeys((*names, "arm_intercept", "arm_slope"), 1e-8)
    )
    stream(posterior)
    belief = posterior.belief(Z, np.array([1.0, 0.3, -0.7]))
    np.testing.assert_allclose(belief.mean, 0.7, atol=1e-10)
    assert (belief.sd < 1e-7).all()


def test_scales_without_bound_give_least_squares():
    """One arm, no own parameters, slopes of the level: numpy's lstsq."""
    scales = PriorScales(intercept=1e5, task=1e5, noise=0.3)
    posterior = Posterior(np.array([[0, 1, 1]]), scales)
    rng = np.random.default_rng(0)
    X = np.column_stack([np.ones(30), rng.standard_normal((30, 2))])
    r = rng.random(30)
    for x, value in zip(X, r, strict=True):
        posterior.update(0, np.ones(1), x, value)
    want, *_ = np.linalg.lstsq(X, r, rcond=None)
    np.testing.assert_allclose(posterior.mean, want, atol=1e-7)
    np.testing.assert_allclose(
        posterior.factor @ posterior.factor.T,
        0.09 * np.linalg.inv(X.T @ X),
        atol=1e-7,
    )


@pytest.mark.parametrize("own_width", [0, 1, 3])
@pytest.mark.parametrize("gamma", [1e-6, 1e-100])
def test_what_is_forgotten_altogether_leaves_the_prior(own_width, gamma):
    posterior, fresh = make(own_width), make(own_width)
    stream(posterior)
    posterior.forget(gamma)
    x, atol = np.array([1.0, 0.3, -0.7]), 100 * gamma + 1e-10
    one, other = posterior.belief(Z, x), fresh.belief(Z, x)
    np.testing.assert_allclose(one.mean, other.mean, atol=atol)
    np.testing.assert_allclose(one.sd, other.sd, atol=atol)


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_forgetting_nothing_is_not_even_rounding(own_width):
    posterior = make(own_width)
    stream(posterior)
    before = state(posterior)
    posterior.forget(1.0)
    assert state(posterior) == before


# ---- equivalences ----


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([0.05, 0.4, 1.0, 3.0, 50.0]), min_size=3, max_size=12),
    st.sampled_from([0, 1, 3]),
    st.integers(0, 2),
    st.floats(0, 0.9),
)
def test_weights_and_widened_arms_equal_the_normal_equations(
    weights, own_width, arm, share
):
    """A weight divides the noise variance; a change adds to an arm's own prior."""
    posterior, rng = make(own_width, noise=0.3), np.random.default_rng(len(weights))
    posterior.widen(arm, share)
    Phi, rewards = [], []
    for weight in weights:
        played, x = int(rng.integers(3)), np.append(1.0, rng.standard_normal(2))
        Phi.append(features(posterior, played, x))
        rewards.append(rng.random())
        posterior.update(played, Z[played], x, rewards[-1], weight)
    m0, sd = prior(posterior)
    own = sd[posterior.n_parameters :].reshape(3, own_width)  # a view
    own[arm] = np.sqrt(own[arm] ** 2 + share * posterior.variance_of_change())
    A, V = np.array(Phi), 0.09 / np.array(weights)
    P = np.linalg.inv(np.diag(1 / sd**2) + A.T @ (A / V[:, None]))
    mean = m0 + P @ A.T @ ((np.array(rewards) - A @ m0) / V)
    x = np.array([1.0, 0.3, -0.7])
    F = np.array([features(posterior, a, x) for a in range(3)])
    for one in (posterior, solved_again(posterior)):
        belief = one.belief(Z, x)
        np.testing.assert_allclose(belief.mean, F @ mean, atol=1e-8)
        np.testing.assert_allclose(belief.sd**2, np.diag(F @ P @ F.T), atol=1e-8)


def solved_again(posterior):
    """The same posterior from its sums instead of reward by reward."""
    other = posterior.copy()
    other.rescale(posterior.scales)
    assert other.solved == posterior.solved + 1
    return other


@pytest.mark.parametrize("kept", [1.0, 0.25])
def test_a_share_of_a_reward_is_its_weight_but_for_the_count(kept):
    one, other, x = make(), make(), np.array([1.0, 0.3, -0.7])
    one.update(0, Z[0], x, 0.9, 2.0, kept)
    other.update(0, Z[0], x, 0.9, 2.0 * kept)
    for name in Posterior.ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.count, other.count) == (kept, 1.0)
    one.downdate(0, Z[0], x, 0.9, 2.0, kept)
    assert (one.count, one.square) == (0.0, 0.0)


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_means_of_many_tasks_are_those_of_each(own_width):
    posterior = make(own_width)
    stream(posterior)
    X = np.column_stack([np.ones(4), np.random.default_rng(0).random((4, 2))])
    found = posterior.means(Z, X)
    for x, row in zip(X, found, strict=True):
        np.testing.assert_allclose(row, posterior.belief(Z, x).mean, atol=1e-14)
        each = [posterior.expected(arm, Z[arm], x) for arm in range(3)]
        np.testing.assert_allclose(row, each, atol=1e-14)


VIEWS = {
    "float32": lambda a: a.astype(np.float32).astype(np.float64),
    "read-only": lambda a: np.frombuffer(a.tobytes()).reshape(a.shape),
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "column-major": np.asfortranarray,
}


@pytest.mark.parametrize("own_width", [0, 1, 3])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_arrays_of_any_storage_are_learnt_alike(view, own_width):
    """Values that single precision holds exactly, and products of them in any order."""
    descriptors, X = np.round(Z * 8) / 8, np.array([[1.0, 0.5, -0.25], [1.0, 2.0, 0.0]])
    R = np.array([[0.25, 0.5, 1.0], [0.0, 0.75, 0.5]])
    one, other = make(own_width), make(own_width)
    for posterior, as_given in ((one, np.array), (other, view)):
        posterior.update(1, as_given(descriptors[1]), as_given(X[0]), 0.5)
        posterior.learn_table(range(3), as_given(descriptors), as_given(X), as_given(R))
    assert_same(one, other, atol=1e-14)
    np.testing.assert_allclose(
        one.belief(descriptors, X[1]).sd, other.belief(view(descriptors), view(X[1])).sd
    )


def test_arrays_that_were_given_belong_to_who_gave_them():
    source = make()
    stream(source)
    arrays = {name: array.copy() for name, array in source.to_arrays().items()}
    again = Posterior.from_arrays(arrays, source.scales)
    for array in arrays.values():
        array[...] = 0
    assert state(again) == state(source)
    np.testing.assert_array_equal(again.groups, source.groups)
    np.testing.assert_array_equal(again.own_groups, source.own_groups)


# ---- comparisons of two arms ----


def contrast(posterior, arms, x):
    return features(posterior, arms[0], x) - features(posterior, arms[1], x)


def compared(own_width, n=30, seed=0, pairs=((0, 1), (1, 0))):
    """Rewards and comparisons in turn, and the same as dense rows."""
    posterior, rng = make(own_width), np.random.default_rng(seed)
    Phi, y, variances, said = [], [], [], []
    for i in range(n):
        x, weight = np.append(1.0, rng.standard_normal(2)), 0.5 + rng.random()
        variances.append(posterior.scales.noise**2 / weight)
        if i % 3:
            arm, r = int(rng.integers(3)), rng.random()
            posterior.update(arm, Z[arm], x, r, weight)
            Phi.append(features(posterior, arm, x))
            said.append((posterior.downdate, (arm, Z[arm], x, r, weight)))
        else:
            arms, r = pairs[i % len(pairs)], rng.normal()
            one = (arms, (Z[arms[0]], Z[arms[1]]), x, r, weight)
            posterior.compare(*one)
            Phi.append(contrast(posterior, arms, x))
            said.append((posterior.uncompare, one))
        y.append(r)
    return posterior, np.array(Phi), np.array(y), np.array(variances), said


def beliefs(posterior, x):
    """Mean and covariance of all arms on a task."""
    belief = posterior.belief(Z, x)
    load = Z @ contract_of(posterior, x)
    load[posterior.seen] -= x[: posterior.own_width] @ posterior.own_load
    squares = x[: posterior.own_width, None] * x[: posterior.own_width]
    own = (posterior.own_covariance * squares).sum(axis=(1, 2))
    return belief.mean, load @ load.T + np.diag(own)


def contract_of(posterior, x):
    W = np.zeros((*posterior.groups.shape, posterior.factor.shape[1]))
    W[posterior.groups >= 0] = posterior.factor
    return np.einsum("mkq,k->mq", W, x)


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_comparisons_and_rewards_give_the_dense_posterior(own_width):
    posterior, Phi, y, variances, _ = compared(own_width)
    m0, _ = prior(posterior)
    # The prior mean is that of one arm, and cancels in a difference.
    mean, P = dense(posterior, Phi, y, variances)
    x = np.array([1.0, 0.3, -0.7])
    rows = np.array([features(posterior, arm, x) for arm in range(3)])
    got = beliefs(posterior, x)
    np.testing.assert_allclose(got[0], rows @ mean, atol=1e-10)
    np.testing.assert_allclose(got[1], rows @ P @ rows.T, atol=1e-10)
    np.testing.assert_allclose(
        posterior.belief(Z, x).sd ** 2, np.diag(got[1]), atol=1e-10
    )
    of_two = rows[0] - rows[2]
    np.testing.assert_allclose(
        posterior.difference((0, 2), (Z[0], Z[2]), x),
        (of_two @ mean, of_two @ P @ of_two),
        atol=1e-10,
    )
    # The sums say the same, and so does what is solved from them.
    again = posterior.copy()
    again.rescale(posterior.scales)
    for one, other in zip(beliefs(again, x), got, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_comparisons_are_taken_back_in_any_order(own_width):
    posterior, Phi, y, variances, said = compared(own_width)
    gone = [3, 21, 0, 7, 12]
    for i in gone:
        undo, one = said[i]
        undo(*one)
    mean, P = dense(posterior, *(np.delete(a, gone, 0) for a in (Phi, y, variances)))
    x = np.array([1.0, -1.0, 2.0])
    rows = np.array([features(posterior, arm, x) for arm in range(3)])
    got = beliefs(posterior, x)
    np.testing.assert_allclose(got[0], rows @ mean, atol=1e-10)
    np.testing.assert_allclose(got[1], rows @ P @ rows.T, atol=1e-10)
    assert posterior.count == pytest.approx(25)


def test_comparisons_are_forgotten_as_rewards_are():
    posterior, Phi, y, variances, said = compared(3)
    posterior.forget(0.9)
    mean, P = dense(posterior, Phi, y, variances / 0.9)
    x = np.array([1.0, 0.3, -0.7])
    rows = np.array([features(posterior, arm, x) for arm in range(3)])
    np.testing.assert_allclose(beliefs(posterior, x)[0], rows @ mean, atol=1e-10)
    np.testing.assert_allclose(beliefs(posterior, x)[1], rows @ P @ rows.T, atol=1e-10)
    undo, one = said[0]
    undo(*one, kept=0.9)
    mean, _ = dense(posterior, Phi[1:], y[1:], variances[1:] / 0.9)
    np.testing.assert_allclose(beliefs(posterior, x)[0], rows @ mean, atol=1e-10)


def test_the_level_of_compared_arms_stays_unknown():
    """Differences only: what both have in common is as uncertain as before."""
    posterior, x = make(3), np.array([1.0, 0.3, -0.7])
    both = np.array([0.5, 0.5, 0.0])
    before = both @ beliefs(posterior, x)[1] @ both
    for _ in range(56):
        posterior.compare((0, 1), (Z[0], Z[1]), x, 0.4, 10.0)
    mean, variance = posterior.difference((0, 1), (Z[0], Z[1]), x)
    assert mean == pytest.approx(0.4, abs=0.01)
    assert variance < 2e-4
    assert both @ beliefs(posterior, x)[1] @ both > 0.9 * before


def test_a_retrained_arm_that_was_compared_is_less_certain_by_as_much():
    posterior, *_ = compared(3)
    x = np.array([1.0, 0.3, -0.7])
    mean, covariance = beliefs(posterior, x)
    posterior.widen(1, 0.5)
    covariance[1, 1] += 0.5 * posterior.variance_of_change() @ x**2
    again = posterior.copy()
    again.rescale(posterior.scales)
    for one in (posterior, again):
        np.testing.assert_allclose(beliefs(one, x)[0], mean, atol=1e-10)
        np.testing.assert_allclose(beliefs(one, x)[1], covariance, atol=1e-10)
    again.refine_scales()
    assert again.scales != posterior.scales


@pytest.mark.parametrize("own_width", [0, 1, 3])
def test_compared_arms_come_and_go(own_width):
    posterior, *_ = compared(own_width, pairs=((0, 1), (2, 0)))
    x, order = np.array([1.0, 0.3, -0.7]), [2, 1]
    mean, covariance = beliefs(posterior, x)
    other = posterior.take_arms([*order, -1])
    again = other.copy()
    again.rescale(other.scales)
    rows = Z[[*order, 0]]
    for one in (other, again):
        p = one.n_parameters
        assert one.factor.shape == (p, p + 2 * own_width)
        np.testing.assert_allclose(
            one.belief(rows, x).mean[:2], mean[order], atol=1e-10
        )
        np.testing.assert_allclose(
            one.belief(rows, x).sd[:2] ** 2, covariance[order, order], atol=1e-10
        )
        np.testing.assert_allclose(
            one.difference((0, 1), (Z[2], Z[1]), x)[1],
            covariance[2, 2] + covariance[1, 1] - 2 * covariance[1, 2],
            atol=1e-10,
        )
    assert other.take_arms([0, 1, 2]).joined.tolist() == other.joined.tolist()


def test_more_columns_leave_what_comparisons_taught():
    posterior, *_ = compared(3)
    x = np.array([1.0, 0.3, -0.7])
    mean, covariance = beliefs(posterior, x)
    wider = posterior.with_columns(parameter_groups(["share:b"], 3))
    again = wider.copy()
    again.rescale(wider.scales)
    rows = np.column_stack([Z, np.zeros(3)])
    for one in (wider, again):
        np.testing.assert_allclose(one.belief(rows, x).mean, mean, atol=1e-10)
        np.testing.assert_allclose(
            one.belief(rows, x).sd ** 2, np.diag(covariance), atol=1e-10
        )


def test_comparisons_survive_as_arrays():
    posterior, *_ = compared(3)
    arrays = {name: array.copy() for name, array in posterior.to_arrays().items()}
    again = Posterior.from_arrays(arrays, posterior.scales, posterior.prior)
    assert state(again) == state(posterior)
    for one in (posterior, again):
        one.compare((2, 0), (Z[2], Z[0]), np.array([1.0, 0.5, 0.5]), 0.2)
        one.refine_scales()
    assert state(again) == state(posterior)
    assert "joined" not in make().to_arrays()
    with pytest.raises(ValueError, match=r"factor of shape \(\d+, \d+\), expected"):
        Posterior.from_arrays({**arrays, "joined": arrays["joined"][:1]}, again.scales)
    nobody = np.full_like(arrays["joined"], 7)
    with pytest.raises(ValueError, match="expected arms of seen"):
        Posterior.from_arrays({**arrays, "joined": nobody}, again.scales)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": (1, 1)}, "arm 1 twice"),
        ({"arms": (0, 3)}, "received arm 3, expected 0 to 2"),
        ({"value": np.nan}, "finite"),
        ({"x": np.array([1.0, np.inf, 0.0])}, "finite"),
        ({"Z": (Z[0], Z[1][:2])}, "received z"),
        ({"weight": 0.0}, "weight is above 0"),
    ],
)
def test_a_comparison_that_is_refused_changes_nothing(change, message):
    posterior = make()
    stream(posterior)
    before, x = state(posterior), np.array([1.0, 0.0, 0.5])
    given = {"arms": (0, 1), "Z": (Z[0], Z[1]), "x": x, "value": 0.1, **change}
    for method in (posterior.compare, posterior.uncompare):
        with pytest.raises(ValueError, match=message):
            method(**given)
    assert state(posterior) == before
    assert not len(posterior.joined)


def test_what_was_never_compared_is_not_taken_back():
    posterior = make()
    stream(posterior)
    one = (0, 1), (Z[0], Z[1]), np.array([1.0, 0.0, 0.5]), 0.1
    before = state(posterior)
    with pytest.raises(ValueError, match="never compared"):
        posterior.uncompare(*one)
    assert state(posterior) == before
    posterior.compare(*one)
    before = state(posterior)
    with pytest.raises(ValueError, match="cannot be taken back"):
        posterior.uncompare(*one, weight=1e6)
    with pytest.raises(ValueError, match="before any comparison"):
        posterior.learn_table([0], Z[:1], np.ones((1, 3)), np.ones((1, 1)))
    assert state(posterior) == before
    posterior.reset(PriorScales())
    assert state(posterior) == state(make())


@pytest.mark.parametrize("prior", [None, PriorScales(noise=0.25)])
def test_choices_alone_leave_noise_and_unit_where_they_were(prior):
    """The unit of what a choice says is the noise: it cannot say how large that is."""
    rng = np.random.default_rng(0)
    groups = parameter_groups(["bias"], 2)
    posterior = Posterior(groups, prior, n_arms=4, own_width=2)
    truth, z = 0.1 * rng.standard_normal((4, 2)), np.ones(1)
    for i in range(1, 401):
        x = np.array([1.0, rng.standard_normal()])
        a, c = (int(arm) for arm in rng.choice(4, 2, replace=False))
        if (truth[a] - truth[c]) @ x + 0.25 * 2**0.5 * rng.standard_normal() < 0:
            a, c = c, a
        noise = 2 * posterior.scales.noise**2
        believed = posterior.difference((a, c), (z, z), x)
        value, weight, counted = seen_difference(*believed, noise)
        posterior.compare((a, c), (z, z), x, value, weight / 2, counted=counted)
        if i % 100 == 0:
            posterior.refine_scales()
    assert posterior.scales.noise == pytest.approx(0.25, rel=0.1)
    np.testing.assert_allclose(
        posterior.contrasts, (posterior.square, posterior.count), rtol=1e-9
    )
    again = Posterior.from_arrays(posterior.to_arrays(), posterior.scales, prior)
    again.forget(0.5)
    assert again.contrasts == tuple(0.5 * np.array(posterior.contrasts))
    # A score or two set the unit again.
    again.update(0, z, np.ones(2), 0.5)
    assert again.count - again.contrasts[1] == pytest.approx(1.0)
