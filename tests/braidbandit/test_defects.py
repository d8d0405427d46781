"""Defects that were found in other bandit libraries, and must not be ours.

Each test names the library and what went wrong there. The tenth, a fusion attention
without a causal mask (CALM), is covered by the conformance tests of ``fusion``.
"""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import braidbandit
from braidbandit import (
    BraidRecommender,
    EpsilonGreedy,
    LinearBandit,
    LinUCB,
    PriorScales,
    ThompsonSampling,
)
from braidbandit.bandit.online_posterior import OnlinePosterior

X = np.random.default_rng(0).standard_normal((60, 3))
Y = np.array(["a", "b", "c"] * 20)


def test_an_unpulled_arm_has_the_width_of_the_prior():
    """MABWiser starts the inverse of lambda I as lambda I: bonus 10, should be 0.1."""
    prior = PriorScales(intercept=0.06, arm_intercept=0.01, braid=0.08)
    online = OnlinePosterior.start(["bias"], width=1, n_arms=2, prior=prior)
    belief = online.posterior.belief(np.ones((2, 1)), np.ones(1))
    np.testing.assert_allclose(LinUCB(1.0).bonus(belief), 0.1, rtol=1e-12)


@pytest.mark.parametrize("kind", [BraidRecommender, LinearBandit])
def test_settings_beyond_the_obvious_go_by_name(kind):
    """River passed burn_in into the place of reward_scaler."""
    parameters = list(inspect.signature(kind).parameters.values())
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[3:])
    wide, narrow = (
        LinearBandit(LinUCB(alpha), random_state=0).fit(X, Y) for alpha in (9.0, 0.0)
    )
    assert (wide.recommend(X)[0] != narrow.recommend(X)[0]).any()


def test_zero_is_a_seed():
    """contextualbandits refuses random_state=0."""
    one, other = (LinearBandit(random_state=0).fit(X, Y) for _ in range(2))
    assert one.recommend(X)[0].tolist() == other.recommend(X)[0].tolist()


def test_unknown_arms_are_refused():
    """MABWiser takes an unknown arm in partial_fit without a word."""
    with pytest.raises(ValueError, match="unknown arms"):
        LinearBandit().fit(X, Y).partial_fit(X[:1], ["d"])


@pytest.mark.parametrize("policy", [ThompsonSampling(), EpsilonGreedy(0.5)])
def test_the_global_generator_plays_no_part(agent, policy):
    """pybandits draws from numpy's global generator, so a seed decides nothing."""
    agent.set_params(policy=policy)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for i in range(5):
        agent.recommend(f"task {i}")
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_feedback_counts_once_is_checked_and_never_just_logged(agent):
    """ParetoBandit counts duplicates twice, clamps rewards, only logs unknown ids."""
    decision = agent.recommend("x")
    once = agent.update(decision.id, 0.9).posterior_.mean.tobytes()
    assert agent.update(decision.id, 0.9).posterior_.mean.tobytes() == once
    with pytest.raises(ValueError, match="0, 1"):
        agent.update(agent.recommend("y"), 1.2)
    with pytest.raises(KeyError, match="no pending"):
        agent.update("unknown", 0.5)


def test_unrated_decisions_are_not_free(agent):
    """ParetoBandit's pacer sees a cost only when feedback arrives."""
    agent.set_params(mean_cost=0.0, price=0.0)
    for i in range(20):
        agent.recommend(f"task {i}", eligible=agent.catalogue.ids[-1:])
    assert agent.pacer_.price > 0


def test_replicas_do_not_replay_one_another(agent, encoder, tmp_path):
    """bayesianbandits: two replicas of one file explore identically."""
    agent.save(tmp_path / "s")
    choices = [
        [loaded.recommend(f"task {i}").braid.id for i in range(40)]
        for loaded in (
            BraidRecommender.load(tmp_path / "s", encoder=encoder) for _ in range(2)
        )
    ]
    assert choices[0] != choices[1]


def test_forgetting_on_few_directions_stays_finite():
    """Plain discounting passes 1e12 after 5,500 steps at 0.995 on low-rank contexts."""
    Z = np.ones((2, 1))
    online = OnlinePosterior.start(["bias"], width=8, n_arms=2, forgetting=0.995)
    rng = np.random.default_rng(0)
    few = rng.standard_normal((2, 8))
    unseen = np.append(1.0, np.linalg.svd(few[:, 1:])[2][-1])
    for _ in range(6000):
        x = rng.standard_normal(2) @ few
        x[0] = 1.0
        arm = int(rng.integers(2))
        reward = float(np.clip(0.5 + 0.05 * x[1] + 0.1 * rng.standard_normal(), 0, 1))
        online.update(arm, Z[arm], x, reward)
    posterior = online.posterior
    assert np.isfinite(posterior.factor).all()
    values = [s for n, s in posterior.scales.to_dict().items() if n != "mean"]
    width = posterior.belief(Z, unseen).sd
    # Features of squared length 2, shared parameters and the arm's own.
    assert (width <= max(values) * np.sqrt(4)).all()


def test_nobody_runs_remote_code_by_default():
    """mergekit's tokensurgeon hard-codes trust_remote_code=True."""
    root = Path(braidbandit.__file__).parent.parent
    for file in [*root.glob("braidbandit/**/*.py"), *root.glob("fusion/**/*.py")]:
        assert not re.search(r"trust_remote_code\s*=\s*True", file.read_text("utf-8"))


def test_the_thousandth_reward_still_counts():
    """LiteLLM's adaptive router drops every update after about 200."""
    bandit = LinearBandit(forgetting=0.99)
    zero = np.zeros((600, 1))
    y = np.array(["a", "b"] * 300)
    bandit.fit(zero, y, reward=np.where(y == "a", 0.9, 0.1))
    assert bandit.predict(zero[:1])[0] == "a"
    bandit.partial_fit(zero, y, reward=np.where(y == "a", 0.1, 0.9))
    assert bandit.predict(zero[:1])[0] == "b"
