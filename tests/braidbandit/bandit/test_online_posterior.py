"""Rewards one by one: taken back, forgotten, and learnt whole or not at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidbandit import PriorScales
from braidbandit.bandit.online_posterior import OnlinePosterior, check_learning
from braidbandit.bandit.posterior import Posterior


def log(n=200, seed=0):
    """Uniform logging of two arms: "a" earns 0.9 where x > 0, "b" where x < 0."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2))
    y = rng.choice(["a", "b"], n)
    right = (X[:, 0] > 0) == (y == "a")
    return X, y, np.where(right, 0.9, 0.2), np.full(n, 0.5)


def fingerprint(online):
    posterior = online.posterior
    arrays = [getattr(posterior, name).tobytes() for name in posterior.ARRAYS]
    return [*arrays, online.n_updates, online.clock, online.faded]


def test_an_unpulled_arm_has_the_prior_width():
    """Prior sd 0.1, nothing learnt: the bonus is 0.1, not 10 (field notes, 1e.1)."""
    prior = PriorScales(intercept=0.06, braid=0.08)
    bandit = OnlinePosterior.start(["bias"], 2, 2, prior=prior)
    belief = bandit.posterior.belief(np.ones((2, 1)), np.array([1.0, 0.0]))
    np.testing.assert_allclose(belief.sd, 0.1, rtol=1e-12)


@pytest.mark.parametrize("forgetting", [1.0, 0.99])
def test_taking_a_reward_back_is_exact(forgetting):
    """120 rewards, one of them taken back later: as if it had never been there.

    With forgetting the others keep their places, so the one is learnt as nothing.
    """
    X, y, reward, _ = log(120)
    X = np.column_stack([np.ones(120), X])
    gone = 30

    def run(skip):
        bandit = OnlinePosterior.start(["bias"], 3, 2, forgetting=forgetting)
        faded = 0.0
        for i, (x, arm, r) in enumerate(zip(X, y == "b", reward, strict=True)):
            weight = 1e-300 if skip and i == gone else 1.0
            faded = bandit.faded if i == gone else faded
            bandit.update(int(arm), np.ones(1), x, float(r), weight)
        return bandit, faded

    (bandit, faded), (never, _) = run(False), run(True)
    # Prior scales are chosen from the rewards, at the 64th of them: the same for both.
    bandit.posterior.rescale(never.posterior.scales)
    arm = int(y[gone] == "b")
    bandit.downdate(arm, np.ones(1), X[gone], float(reward[gone]), 1.0, faded)
    for part in (
        lambda p: p.mean,
        lambda p: p.factor @ p.factor.T,
        lambda p: p.own_mean,
        lambda p: p.own_covariance,
        lambda p: p.own_load @ p.factor.T,
    ):
        np.testing.assert_allclose(
            part(bandit.posterior), part(never.posterior), rtol=1e-7, atol=1e-10
        )


def test_what_forgetting_left_of_rewards_is_what_is_taken_back():
    """Of the first 20 of 100 rewards 1 / 16 each is left, of the last 50 a quarter."""
    bandit = OnlinePosterior.start(["bias"], 1, 1, forgetting=0.25 ** (1 / 50))
    z, x, faded = np.ones(1), np.ones(1), []
    for i in range(100):
        faded.append(bandit.faded)
        bandit.update(0, z, x, (i % 5) / 5)
    assert bandit.posterior.count == pytest.approx(50 / 16 + 50 / 4)
    for i in range(20):
        bandit.downdate(0, z, x, (i % 5) / 5, 1.0, faded[i])
    assert bandit.posterior.count == pytest.approx(30 / 16 + 50 / 4)
    for i in range(20, 100):
        bandit.downdate(0, z, x, (i % 5) / 5, 1.0, faded[i])
    assert 0 <= bandit.posterior.count < 1e-12
    for i in range(28):  # prior scales are chosen at the 128th
        bandit.update(0, z, x, (i % 5) / 5)
    assert bandit.clock == 128
    assert 0.1 < bandit.posterior.scales.noise < 1


def test_learning_that_fails_has_changed_nothing(monkeypatch):
    """Prior scales are chosen at the 64th reward."""
    X, y, reward, _ = log(63)
    bandit = OnlinePosterior.start(["bias"], 3, 2)
    for x, arm, r in zip(X, y == "b", reward, strict=True):
        bandit.update(int(arm), np.ones(1), np.append(1.0, x), float(r))

    def fails(posterior):
        raise ValueError("no scales")

    monkeypatch.setattr("braidbandit.bandit.posterior.Posterior.refine_scales", fails)
    before = fingerprint(bandit)
    x = np.append(1.0, X[0])
    with pytest.raises(ValueError, match="no scales"):
        bandit.update(0, np.ones(1), x, 0.5)
    assert fingerprint(bandit) == before


# ---- any rewards, whatever they are ----

ARMS, COLUMNS, WIDTH = 4, ["bias", "share:a", "cost"], 3
Z = np.random.default_rng(0).standard_normal((ARMS, len(COLUMNS)))
REWARDS = st.tuples(
    st.integers(0, ARMS - 1),
    st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    st.floats(0, 1),
    st.floats(0.1, 5),
)
STREAMS = st.lists(REWARDS, min_size=1, max_size=25)
few = settings(max_examples=30, deadline=None)


def begin(forgetting=1.0, max_parameters=640):
    return OnlinePosterior.start(
        COLUMNS,
        WIDTH,
        ARMS,
        prior=PriorScales(),
        forgetting=forgetting,
        max_parameters=max_parameters,
    )


def told(row):
    """What update and downdate take for one of these rewards."""
    arm, x, reward, weight = row
    return arm, Z[arm], np.append(1.0, x), reward, weight


def learnt(rows, **settings):
    online = begin(**settings)
    for row in rows:
        online.update(*told(row))
    return online


def moments(posterior):
    """Means and covariances; a root of a covariance may be turned, arms reordered."""
    load = np.zeros((ARMS, *posterior.own_load.shape[1:]))
    load[posterior.seen] = posterior.own_load
    return [
        posterior.mean,
        posterior.factor @ posterior.factor.T,
        posterior.own_mean,
        posterior.own_covariance,
        load @ posterior.factor.T,
        posterior.square,
        posterior.count,
    ]


def assert_same(one, other, atol=1e-8):
    for a, b in zip(moments(one.posterior), moments(other.posterior), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@few
@given(STREAMS, REWARDS, st.sampled_from([0, 640]))
def test_update_then_downdate_is_as_before(rows, row, max_parameters):
    online = learnt(rows, max_parameters=max_parameters)
    before = online.copy()
    online.update(*told(row))
    online.downdate(*told(row), faded=online.faded)
    assert_same(online, before)
    assert online.n_updates == before.n_updates
    assert online.clock == before.clock + 1


@few
@given(STREAMS, st.randoms())
def test_the_order_of_rewards_does_not_matter(rows, random):
    one = learnt(rows)
    random.shuffle(rows)
    assert_same(one, learnt(rows))


@few
@given(STREAMS, st.data())
def test_a_reward_that_is_replaced_is_as_if_it_had_been_the_other(rows, data):
    at = data.draw(st.integers(0, len(rows) - 1))
    other = data.draw(st.floats(0, 1))
    arm, x, reward, weight = rows[at]
    online = learnt(rows)
    clock = online.clock
    arm, z, features, _, weight = told(rows[at])
    online.replace(arm, z, features, (reward, other), weight, faded=0.0)
    assert (online.n_updates, online.clock) == (len(rows), clock)
    rows[at] = (arm, x, other, weight)
    assert_same(online, learnt(rows))


X = np.array([1.0, 0.3, -0.7])
REJECTED = {
    "arm": (ARMS, Z[0], X, 0.5),
    "features": (0, Z[0], X[:2], 0.5),
    "no constant": (0, Z[0], X + 1.0, 0.5),
    "NaN": (0, Z[0], np.array([1.0, np.nan, 0.0]), 0.5),
    "descriptor": (0, Z[0][:2], X, 0.5),
    "reward": (0, Z[0], X, np.nan),
    "weight": (0, Z[0], X, 0.5, 0.0),
    "heavy": (0, Z[0], X, 0.5, 1e7),
}


@pytest.mark.parametrize("call", REJECTED.values(), ids=REJECTED)
@pytest.mark.parametrize("n", [10, 49, 63])
def test_what_is_refused_changes_nothing(call, n):
    """Also where the next reward would forget, at the 50th, or refine, at the 64th."""
    rng = np.random.default_rng(n)
    rows = [(int(rng.integers(3)), tuple(rng.random(2)), 0.5, 1.0) for _ in range(n)]
    online = learnt(rows, forgetting=0.99)
    before = fingerprint(online)
    arm, z, x, reward, *weight = call
    for change in (
        lambda: online.update(*call),
        lambda: online.downdate(*call),
        lambda: online.replace(arm, z, x, (0.5, reward), *(weight or [1.0]), 0.0),
    ):
        with pytest.raises(ValueError, match="received|taken back"):
            change()
        assert fingerprint(online) == before


def test_a_reward_that_was_never_learnt_is_not_replaced():
    """Arm 3 has none; on the others, features that no reward had."""
    rows = [(i % 3, (0.0, 0.0), 0.5, 1.0) for i in range(12)]
    online = learnt(rows)
    before = fingerprint(online)
    for arm, size in ((3, 0.0), (0, 3000.0)):
        x = np.array([1.0, size, -size])
        with pytest.raises(ValueError, match="taken back"):
            online.replace(arm, Z[arm], x, (0.5, 0.9), 1.0, 0.0)
        with pytest.raises(ValueError, match="taken back"):
            online.downdate(arm, Z[arm], x, 0.5)
        assert fingerprint(online) == before


@few
@given(STREAMS, st.floats(0.5, 1.0))
def test_saved_and_resumed_it_goes_on_as_if_nothing_had_been(rows, forgetting):
    one = learnt([*rows, *rows, *rows], forgetting=forgetting)
    arrays = {name: a.copy() for name, a in one.posterior.to_arrays().items()}
    posterior = Posterior.from_arrays(arrays, one.posterior.scales, PriorScales())
    other = OnlinePosterior.resume(
        posterior,
        forgetting,
        n_updates=one.n_updates,
        clock=one.clock,
        faded=one.faded,
    )
    assert fingerprint(other) == fingerprint(one)
    for row in rows:
        assert other.update(*told(row)) == one.update(*told(row))
    assert fingerprint(other) == fingerprint(one)


def test_a_copy_goes_its_own_way():
    one = learnt([(0, (0.5, 0.5), 0.5, 1.0)] * 3)
    before, other = fingerprint(one), one.copy()
    other.update(*told((1, (0.1, 0.2), 0.3, 1.0)))
    other.widen(0, 0.5)
    other.forget_at(0.5)
    assert fingerprint(one) == before
    assert one.forgetting == 1.0


def test_forgetting_is_done_for_fifty_rewards_at_once():
    """After 120 rewards the first 50 were forgotten twice, the next 50 once."""
    rows = [(i % ARMS, (0.1 * (i % 7), -0.2), 0.5, 1.0) for i in range(120)]
    online = learnt(rows, forgetting=0.99)
    assert online.faded == pytest.approx(100 * np.log(0.99))
    kept = 50 * 0.99**100 + 50 * 0.99**50 + 20
    assert online.posterior.count == pytest.approx(kept)
    assert online.kept(50 * np.log(0.99)) == pytest.approx(0.99**50)


def test_scales_are_refined_at_every_power_of_two_from_64():
    online, refined = begin(), []
    rng = np.random.default_rng(1)
    for clock in range(1, 300):
        scales = online.posterior.scales
        online.update(*told((clock % 4, tuple(rng.random(2)), rng.random(), 1.0)))
        if online.posterior.scales != scales:
            refined.append(clock)
    assert refined == [64, 128, 256]


def test_arms_that_come_and_go_keep_what_counts():
    online = learnt([(i % 3, (0.2 * i, -0.1), 0.4, 1.0) for i in range(12)])
    counters = (online.n_updates, online.clock, online.faded)
    online.carry_over(lambda posterior: posterior.take_arms([2, 0, -1]))
    assert (online.n_updates, online.clock, online.faded) == counters
    assert sorted(online.posterior.seen) == [0, 1]
    assert online.posterior.n_arms == 3


def test_own_slopes_while_they_are_few():
    assert begin(max_parameters=ARMS * WIDTH).posterior.own_width == WIDTH
    assert begin(max_parameters=ARMS * WIDTH - 1).posterior.own_width == 1
    assert begin().width == WIDTH


def test_what_could_not_be_solved_is_noticed_once(monkeypatch):
    def fails(*_):
        raise np.linalg.LinAlgError

    monkeypatch.setattr("braidbandit.bandit.posterior.solve", fails)
    with pytest.raises(np.linalg.LinAlgError):
        begin()
    monkeypatch.undo()
    online = learnt([(0, (0.5, 0.5), 0.5, 1.0)] * 49, forgetting=0.9)
    assert not online.take_notice()
    monkeypatch.setattr("braidbandit.bandit.posterior.solve", fails)
    online.update(*told((0, (0.5, 0.5), 0.5, 1.0)))
    assert (online.clock, online.n_updates, online.faded) == (50, 50, 0.0)
    assert online.unsolved
    assert [online.take_notice() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ((0.0, None, 640), ValueError),
        ((1.1, None, 640), ValueError),
        ((float("nan"), None, 640), ValueError),
        ((1.0, {"noise": 0.1}, 640), TypeError),
        ((1.0, None, 1.5), TypeError),
        ((1.0, None, -1), ValueError),
    ],
)
def test_settings_with_which_nothing_could_be_learnt(settings, error):
    with pytest.raises(error, match="received"):
        check_learning(*settings)
    check_learning(0.5, PriorScales(), 0)


@pytest.mark.parametrize("forgetting", [1e-300, 1e-7, 0.01, 0.5])
def test_however_fast_it_forgets_it_goes_on(forgetting):
    """0.0000001 to the 50th is no number above 0 any more. After 100 rewards, what the
    last 50 did not say is forgotten: the level of before, 0.9, with it."""
    online, fresh = begin(forgetting), begin(forgetting)
    for i in range(130):
        reward = 0.9 if i < 50 else 0.1
        online.update(*told((i % ARMS, (0.3, -0.7), reward, 1.0)))
    assert online.clock == online.n_updates == 130
    assert not online.unsolved
    assert online.faded == pytest.approx(100 * np.log(forgetting))
    # Prior scales were chosen at the 64th and the 128th.
    fresh.posterior.rescale(online.posterior.scales)
    for i in range(100, 130):
        fresh.update(*told((i % ARMS, (0.3, -0.7), 0.1, 1.0)))
    assert_same(online, fresh, atol=1e-6)


def test_forgetting_by_pencil():
    """Prior N(0, 1), noise 1, fifty rewards of 1: their weight is 50 / 4 after the
    fiftieth, so the mean is 12.5 / 13.5, and the variance 1 / 13.5."""
    scales = PriorScales(mean=0.0, intercept=1.0, noise=1.0)
    posterior = Posterior(np.zeros((1, 1), dtype=int), scales)
    online = OnlinePosterior(posterior, forgetting=0.25 ** (1 / 50))
    for _ in range(50):
        online.update(0, np.ones(1), np.ones(1), 1.0)
    assert online.posterior.mean[0] == pytest.approx(12.5 / 13.5)
    assert online.posterior.factor[0, 0] ** 2 == pytest.approx(1 / 13.5)
    assert online.kept(0.0) == pytest.approx(0.25)


@pytest.mark.parametrize("n", [4000, 20_000])
def test_a_reward_long_forgotten_is_replaced_or_refused(n):
    """Of 0.9 to the 4,000th nothing shows; 0.9 to the 20,000th is no number above 0."""
    online = begin(0.9)
    online.update(*told((0, (0.3, -0.7), 0.5, 1.0)))
    online = OnlinePosterior.resume(
        online.posterior, 0.9, n_updates=1, clock=n, faded=n * np.log(0.9)
    )
    before, copy = fingerprint(online), online.copy()
    arm, z, x, reward, weight = told((0, (0.3, -0.7), 0.5, 1.0))
    if online.kept(0.0) > 0:
        online.replace(arm, z, x, (reward, 0.9), weight, 0.0)
        assert_same(online, copy, atol=1e-12)
    else:
        with pytest.raises(ValueError, match="received 0"):
            online.replace(arm, z, x, (reward, 0.9), weight, 0.0)
        assert fingerprint(online) == before


def test_another_share_is_kept_from_now_on():
    """Forty rewards at 1, ten at 0.98: what is forgotten at the 50th is 0.98^50."""
    online = begin()
    for i in range(50):
        if i == 40:
            online.forget_at(0.98)
        online.update(*told((i % ARMS, (0.1, 0.2), 0.5, 1.0)))
    assert online.posterior.count == pytest.approx(50 * 0.98**50)
    assert online.faded == pytest.approx(50 * np.log(0.98))


@few
@given(STREAMS, st.integers(0, ARMS - 1), st.floats(0, 0.9))
def test_a_widened_arm_is_less_certain_and_no_other_is(rows, arm, share):
    online, x = learnt(rows), np.array([1.0, 0.3, -0.7])
    before = online.posterior.belief(Z, x)
    online.widen(arm, share)
    after = online.posterior.belief(Z, x)
    np.testing.assert_array_equal(after.mean, before.mean)
    others = np.arange(ARMS) != arm
    np.testing.assert_allclose(after.sd[others], before.sd[others], rtol=1e-12)
    assert after.sd[arm] >= before.sd[arm]


@few
@given(STREAMS)
def test_a_surprise_is_counted_in_standard_deviations(rows):
    online, variance = begin(), PriorScales().noise ** 2
    for row in rows:
        arm, z, x, reward, weight = told(row)
        belief = online.posterior.belief(Z, x)
        width = np.sqrt(belief.sd[arm] ** 2 + variance / weight)
        want = (reward - belief.mean[arm]) / width
        assert online.update(arm, z, x, reward, weight) == pytest.approx(want)
