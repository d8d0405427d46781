from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from learnt import decide

from braidbandit import BraidRecommender, LinUCB
from braidbandit.bandit.posterior import Posterior
from braidbandit.bandit.prior import parameter_groups
from braidbandit.recommender.lookahead import LookAhead


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
    ahead = LookAhead().ahead(posterior, pulls(6))
    assert ahead is not posterior
    np.testing.assert_allclose(ahead.mean, posterior.mean, atol=1e-14)
    for arm, z, x in pulls(6).values():
        posterior.update(arm, z, x, 0.123)
    np.testing.assert_allclose(covariance(ahead), covariance(posterior), atol=1e-14)
    np.testing.assert_allclose(ahead.own_covariance, posterior.own_covariance)


def test_a_sliding_window_is_as_good_as_a_new_one(posterior):
    flight, every = LookAhead(), pulls(40)
    names = list(every)
    for start in range(30):
        window = {name: every[name] for name in names[start : start + 10]}
        slid = flight.ahead(posterior, window)
    fresh = LookAhead().ahead(posterior, window)
    np.testing.assert_allclose(covariance(slid), covariance(fresh), atol=1e-12)


def test_nothing_in_flight_costs_nothing(posterior):
    assert LookAhead().ahead(posterior, {}) is posterior


def test_an_update_of_the_posterior_is_noticed(posterior):
    flight, two = LookAhead(), pulls(2)
    flight.ahead(posterior, two)
    posterior.update(0, np.ones(2), np.ones(3), 0.9)
    ahead = flight.ahead(posterior, two)
    np.testing.assert_allclose(ahead.mean, posterior.mean, atol=1e-14)


@pytest.mark.parametrize("refined", [False, True])
def test_rewards_that_come_leave_nothing_to_make_anew(posterior, refined, monkeypatch):
    """Rewards of pulls that wait, and of one that does not; then scales found again."""
    flight, every = LookAhead(), pulls(12)
    waiting = {name: every[name] for name in list(every)[:9]}
    flight.ahead(posterior, waiting)
    for name in ("d4", "d0", "d11"):
        arm, z, x = every[name]
        before = posterior.mean
        posterior.update(arm, z, x, 0.9)
        if refined and name == "d0":
            posterior.refine_scales()
        flight.rewarded(before, posterior, name, every[name], 1.0)
        waiting.pop(name, None)
    fresh = LookAhead().ahead(posterior, waiting)
    if not refined:
        monkeypatch.setattr(Posterior, "copy", None)
    ahead = flight.ahead(posterior, waiting)
    np.testing.assert_allclose(covariance(ahead), covariance(fresh), atol=1e-13)
    np.testing.assert_allclose(ahead.own_covariance, fresh.own_covariance, atol=1e-13)
    Z, x = np.ones((4, 2)), np.array([1.0, 0.3, -2.0])
    one, two = ahead.belief(Z, x), fresh.belief(Z, x)
    np.testing.assert_allclose(one.mean, two.mean, atol=1e-12)
    np.testing.assert_allclose(one.sd, two.sd, atol=1e-12)


def test_pending_decisions_spread(catalogue, encoder):
    """LinUCB is deterministic: without the pending pulls it would repeat itself."""
    agent = BraidRecommender(catalogue, encoder, LinUCB(1.0, floor=0.0), price=0.0)
    same = {"type": "code"}
    first = agent.recommend(same)
    before = agent.explain(same).chosen.sd
    chosen = {agent.recommend(same).braid.id for _ in range(9)}
    assert len(chosen) > 4
    row = next(r for r in agent.explain(same).rows if r.arm_id == first.braid.id)
    assert row.sd < before
    means = [r.mean for r in agent.explain(same).rows]
    agent.expire(datetime.now(timezone.utc) + timedelta(days=1))
    calm = [r.mean for r in agent.explain(same).rows]
    np.testing.assert_allclose(means, calm, atol=1e-12)


def test_widths_with_pending_pulls_are_those_after_the_rewards(agent):
    decisions = decide(agent, 6)
    waiting = [row.sd for row in agent.explain("new task").rows]
    for decision in decisions:
        agent.update(decision, 0.5)
    learnt = [row.sd for row in agent.explain("new task").rows]
    np.testing.assert_allclose(waiting, learnt, rtol=1e-9)
