import numpy as np
import pytest
from scipy.stats import chisquare

from braidbandit import (
    EpsilonGreedy,
    Greedy,
    LinUCB,
    SquareCB,
    ThompsonSampling,
    Uniform,
)
from braidbandit.bandit.belief import Belief
from braidbandit.recommender.saving import policy_from_dict, policy_to_dict

POLICIES = [
    ThompsonSampling(),
    ThompsonSampling(1.0),
    LinUCB(),
    SquareCB(),
    EpsilonGreedy(),
    Greedy(),
    Uniform(),
]
MEAN = np.array([0.5, 0.6, 0.4, 0.9])
ELIGIBLE = np.array([True, True, True, False])
COST = np.array([0.0, -0.02, 0.0, 0.0])


def belief():
    return Belief(np.eye(4), MEAN, np.sqrt(0.02) * np.eye(4))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: type(p).__name__)
class TestEveryPolicy:
    def test_probabilities_are_a_distribution_over_eligible_arms(self, policy):
        p = policy.probabilities(belief(), COST, ELIGIBLE, np.random.default_rng(0))
        assert p.sum() == pytest.approx(1.0)
        assert p[3] == 0
        assert (p[:3] >= policy.floor / 3 - 1e-12).all()

    def test_same_seed_same_choice(self, policy):
        one, two = (
            policy.select(belief(), COST, ELIGIBLE, np.random.default_rng(7))
            for _ in range(2)
        )
        assert one.arm == two.arm
        assert one.propensity == two.propensity

    def test_masked_arms_are_never_chosen_and_propensity_is_reported(self, policy):
        rng = np.random.default_rng(1)
        for _ in range(50):
            choice = policy.select(belief(), COST, ELIGIBLE, rng)
            assert choice.arm != 3
            assert choice.propensity == choice.probabilities[choice.arm] > 0
            assert choice.exploration.shape == (4,)

    def test_propensities_match_frequencies(self, policy):
        """Chi-square over 4,000 choices against the mean reported distribution."""
        rng = np.random.default_rng(2)
        choices = [policy.select(belief(), COST, ELIGIBLE, rng) for _ in range(4000)]
        seen = np.bincount([c.arm for c in choices], minlength=4)
        expected = np.mean([c.probabilities for c in choices], axis=0) * 4000
        possible = expected > 0
        assert seen[~possible].sum() == 0
        if possible.sum() > 1:
            assert chisquare(seen[possible], expected[possible]).pvalue > 0.001

    def test_round_trip(self, policy):
        assert policy_from_dict(policy_to_dict(policy)) == policy


def test_thompson_probability_is_the_chance_to_be_best():
    """Two arms, difference N(0.1, 2 * 0.02): P(best) = Phi(0.1 / 0.2) = 0.6915."""
    two = Belief(np.eye(2), np.array([0.6, 0.5]), np.sqrt(0.02) * np.eye(2))
    policy = ThompsonSampling(scale=1.0, n_draws=10_000, floor=0.0)
    p = policy.probabilities(
        two, np.zeros(2), np.ones(2, bool), np.random.default_rng(0)
    )
    assert p[0] == pytest.approx(0.6915, abs=4 * np.sqrt(0.21 / 10_000))


def many(arms=1000, seed=0):
    rng = np.random.default_rng(seed)
    Z = np.column_stack([np.ones(arms), rng.standard_normal((arms, 3)) / 3])
    return Belief(
        Z,
        np.array([0.5, 0.1, 0.0, 0.0]),
        np.eye(4) / 5,
        own_variance=np.full(arms, 1e-3),
    )


def test_propensities_of_many_arms_are_fine_and_right():
    """In steps of 1/64, and as often as they say, arms that rarely win together."""
    policy, rng = ThompsonSampling(scale=1.0), np.random.default_rng(0)
    cost, everything = np.zeros(1000), np.ones(1000, dtype=bool)
    counts, expected = np.zeros(1000), np.zeros(1000)
    for _ in range(3000):
        choice = policy.select(many(), cost, everything, rng)
        counts[choice.arm] += 1
        expected += choice.probabilities
        assert choice.propensity == choice.probabilities[choice.arm] > 0
    steps = (choice.probabilities - 0.005 / 1000) / 0.995 * 64
    np.testing.assert_allclose(steps, steps.round(), atol=1e-9)
    assert 0 < choice.propensity_se < 0.07
    often = expected > 5
    counts = np.append(counts[often], counts[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    assert len(counts) > 10
    assert chisquare(counts, expected).pvalue > 0.001


def test_finalists_win_as_often_as_in_draws_of_all_arms():
    """Shares of wins of the leading arms, against joint draws of all of them."""
    whole = many().draw(20_000, np.random.default_rng(1))
    want = np.bincount(whole.argmax(axis=1), minlength=1000) / len(whole)
    policy, rng = ThompsonSampling(scale=1.0, floor=0.0), np.random.default_rng(2)
    args = (many(), np.zeros(1000), np.ones(1000, dtype=bool), rng)
    got = np.mean([policy.probabilities(*args) for _ in range(500)], axis=0)
    assert 0.5 * np.abs(got - want).sum() < 0.2


def test_the_winner_of_many_arms_has_the_best_score():
    policy, rng = ThompsonSampling(floor=0.0), np.random.default_rng(0)
    cost, eligible = np.linspace(0, -0.3, 1000), np.ones(1000, dtype=bool)
    eligible[:500] = False
    for _ in range(50):
        choice = policy.select(many(), cost, eligible, rng)
        score = np.where(eligible, many().mean + choice.exploration + cost, -np.inf)
        assert score[choice.arm] == pytest.approx(score.max())
    only = np.zeros(1000, dtype=bool)
    only[7] = True
    assert policy.select(many(), cost, only, rng).arm == 7


def test_draws_are_joint():
    """Perfectly correlated arms keep their order in every draw."""
    tied = Belief(np.ones((2, 1)), np.array([0.5]), np.array([[1.0]]))
    draws = tied.draw(100, np.random.default_rng(0))
    np.testing.assert_allclose(draws[:, 0], draws[:, 1], atol=1e-6)


def test_ucb_bonus_is_alpha_sds():
    choice = LinUCB(alpha=2.0).select(
        belief(), COST, ELIGIBLE, np.random.default_rng(0)
    )
    np.testing.assert_allclose(choice.exploration, 2 * np.sqrt(0.02))


def test_ties_are_shared():
    even = Belief(np.eye(3), np.full(3, 0.5), np.eye(3))
    p = Greedy().probabilities(
        even, np.zeros(3), np.ones(3, bool), np.random.default_rng(0)
    )
    np.testing.assert_allclose(p, 1 / 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThompsonSampling(floor=1.5),
        lambda: ThompsonSampling(n_draws=0),
        lambda: LinUCB(alpha=-1),
        lambda: LinUCB(floor=float("nan")),
        lambda: Uniform(floor=0.5),
        lambda: policy_from_dict({"name": "os.system"}),
    ],
)
def test_bad_settings(make):
    with pytest.raises(ValueError, match=r"must|floor|unknown policy"):
        make()


def test_foreign_policies_are_not_saved():
    class Mine(Greedy):
        pass

    with pytest.raises(TypeError, match="Mine"):
        policy_to_dict(Mine())
