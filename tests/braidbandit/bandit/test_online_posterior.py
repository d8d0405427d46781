"""Rewards one by one: taken back, forgotten, and learnt whole or not at all."""

import numpy as np
import pytest

from braidbandit import PriorScales
from braidbandit.bandit.online_posterior import OnlinePosterior


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
