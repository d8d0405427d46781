"""Every policy under every contract; then what is particular to each of them.

A new policy is one row of ``POLICIES``.
"""

import dataclasses
import pickle
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, norm

from braidbandit import (
    EpsilonGreedy,
    Greedy,
    LinUCB,
    SquareCB,
    ThompsonSampling,
    Uniform,
)
from braidbandit.bandit.belief import Belief
from braidbandit.bandit.guard import ConservativePolicy, Savings
from braidbandit.bandit.online_posterior import OnlinePosterior
from braidbandit.bandit.policies import Policy, check_policy, mix, pick
from braidbandit.recommender.saving import policy_from_dict, policy_to_dict


class Row(NamedTuple):
    policy: Policy
    exact: bool = True  # whether propensities are without a Monte-Carlo error
    learns: bool = True  # whether it earns more than Uniform


POLICIES = {
    "Thompson": Row(ThompsonSampling(), exact=False),
    "Thompson, wide": Row(ThompsonSampling(1.0, floor=0.2), exact=False),
    "LinUCB": Row(LinUCB()),
    "LinUCB, floor": Row(LinUCB(2.0, floor=0.3)),
    "SquareCB": Row(SquareCB()),
    "SquareCB, floor": Row(SquareCB(20.0, floor=0.2)),
    "EpsilonGreedy": Row(EpsilonGreedy()),
    "Greedy": Row(Greedy()),
    "Uniform": Row(Uniform(), learns=False),
}
GUARDED = {
    "guarded, free": ConservativePolicy(LinUCB(floor=0.2)).at(0, Savings("a", 9.0), 0),
    "guarded, held": ConservativePolicy(LinUCB(floor=0.2)).at(0, Savings("a"), 0),
}
EVERY = {**{name: row.policy for name, row in POLICIES.items()}, **GUARDED}
each_policy = pytest.mark.parametrize("policy", EVERY.values(), ids=EVERY)
each_row = pytest.mark.parametrize("row", POLICIES.values(), ids=POLICIES)

MEAN = np.array([0.5, 0.6, 0.4, 0.9])
ELIGIBLE = np.array([True, True, True, False])
COST = np.array([0.0, -0.02, 0.0, 0.0])


def belief():
    return Belief(np.eye(4), MEAN, np.sqrt(0.02) * np.eye(4))


def some_belief(arms, seed):
    """One that is correlated, with noise of each arm's own."""
    rng = np.random.default_rng(seed)
    Z = np.column_stack([np.ones(arms), rng.standard_normal((arms, 2)) / 3])
    half = rng.standard_normal((3, 3)) / 5
    return Belief(Z, rng.random(3), half, own_variance=rng.random(arms) / 100)


SITUATIONS = st.tuples(
    st.lists(st.booleans(), min_size=1, max_size=200).filter(any),
    st.integers(0, 1000),
)


@each_policy
@settings(max_examples=30, deadline=None)
@given(situation=SITUATIONS)
def test_probabilities_are_a_distribution_over_eligible_arms(policy, situation):
    eligible, seed = np.array(situation[0]), situation[1]
    rng, arms = np.random.default_rng(seed), len(eligible)
    told, cost = some_belief(arms, seed), -rng.random(arms)
    p = policy.probabilities(told, cost, eligible, rng)
    choice = policy.select(told, cost, eligible, rng)
    for found in (p, choice.probabilities):
        assert found.shape == (arms,)
        assert found.sum() == pytest.approx(1.0)
        assert (found >= 0).all()
        assert not found[~eligible].any()
    assert eligible[choice.arm]
    assert choice.propensity == choice.probabilities[choice.arm] > 0
    assert choice.exploration.shape == (arms,)
    assert 0 <= choice.propensity_se < 0.5


@each_row
@settings(max_examples=30, deadline=None)
@given(situation=SITUATIONS)
def test_every_eligible_arm_has_its_share_of_the_floor(row, situation):
    eligible, seed = np.array(situation[0]), situation[1]
    rng, arms = np.random.default_rng(seed), len(eligible)
    args = (some_belief(arms, seed), np.zeros(arms), eligible, rng)
    least = row.policy.floor / eligible.sum() - 1e-12
    assert (row.policy.probabilities(*args)[eligible] >= least).all()
    assert (row.policy.select(*args).probabilities[eligible] >= least).all()


@each_policy
def test_same_seed_same_choice(policy):
    one, two = (
        policy.select(belief(), COST, ELIGIBLE, np.random.default_rng(7))
        for _ in range(2)
    )
    assert one[:3] == two[:3]
    np.testing.assert_array_equal(one.exploration, two.exploration)
    np.testing.assert_array_equal(one.probabilities, two.probabilities)


@each_policy
def test_what_it_is_told_stays_as_it_was(policy):
    told, cost, eligible = belief(), COST.copy(), ELIGIBLE.copy()
    for method in (policy.select, policy.probabilities):
        method(told, cost, eligible, np.random.default_rng(0))
    np.testing.assert_array_equal(told.mean, belief().mean)
    np.testing.assert_array_equal(told.sd, belief().sd)
    np.testing.assert_array_equal(cost, COST)
    np.testing.assert_array_equal(eligible, ELIGIBLE)


@each_policy
def test_propensities_match_frequencies(policy):
    """Chi-square over 4,000 choices against the mean reported distribution."""
    rng = np.random.default_rng(2)
    choices = [policy.select(belief(), COST, ELIGIBLE, rng) for _ in range(4000)]
    seen = np.bincount([c.arm for c in choices], minlength=4)
    expected = np.mean([c.probabilities for c in choices], axis=0) * 4000
    possible = expected > 0
    assert seen[~possible].sum() == 0
    if possible.sum() > 1:
        assert chisquare(seen[possible], expected[possible]).pvalue > 0.001


@each_row
def test_propensities_are_exact_or_say_how_far_they_are_off(row):
    """Probabilities of 400 calls spread as their standard error says, or not at all."""
    rng = np.random.default_rng(4)
    choices = [row.policy.select(belief(), COST, ELIGIBLE, rng) for _ in range(400)]
    p = np.array([c.probabilities for c in choices])
    errors = np.array([c.propensity_se for c in choices])
    if row.exact:
        assert (p == p[0]).all()
        assert not errors.any()
        asked = row.policy.probabilities(belief(), COST, ELIGIBLE, rng)
        np.testing.assert_array_equal(asked, p[0])
    else:
        often = p.mean(axis=0).argmax()
        of_it = errors[[c.arm == often for c in choices]]
        assert p[:, often].std() == pytest.approx(of_it.mean(), rel=0.25)


@each_policy
def test_the_only_arm_there_is_is_certain(policy):
    one = Belief(np.ones((1, 1)), np.array([0.3]), np.array([[0.1]]))
    args = (one, np.zeros(1), np.ones(1, dtype=bool), np.random.default_rng(0))
    choice = policy.select(*args)
    assert (choice.arm, choice.propensity) == (0, pytest.approx(1.0))
    assert policy.probabilities(*args) == pytest.approx([1.0])


@each_policy
@pytest.mark.parametrize("arms", [4, 500])
def test_the_only_eligible_arm_is_certain(policy, arms):
    only = np.zeros(arms, dtype=bool)
    only[-1] = True
    args = (some_belief(arms, 0), np.zeros(arms), only, np.random.default_rng(0))
    choice = policy.select(*args)
    assert (choice.arm, choice.propensity) == (arms - 1, pytest.approx(1.0))


@each_row
def test_it_earns_more_than_uniform(row):
    """Three arms that earn 0.8, 0.4 and 0.3 on average, and so Uniform 0.5 a round,
    with a standard error of 0.025 over 400 rounds."""
    rng, z, x = np.random.default_rng(0), np.ones(1), np.ones(1)
    online, earned = OnlinePosterior.start(["bias"], 1, 3), []
    free, every = np.zeros(3), np.ones(3, dtype=bool)
    for _ in range(400):
        told = online.posterior.belief(np.ones((3, 1)), x)
        arm = row.policy.select(told, free, every, rng).arm
        earned.append(float(rng.random() < (0.8, 0.4, 0.3)[arm]))
        online.update(arm, z, x, earned[-1])
    assert (np.mean(earned) > 0.5 + 4 * 0.025) == row.learns


@each_row
def test_round_trip(row):
    again = policy_from_dict(policy_to_dict(row.policy))
    assert again == row.policy
    assert type(again) is type(row.policy)
    guard = ConservativePolicy(row.policy, 0.02, "some arm")
    assert policy_from_dict(policy_to_dict(guard)) == guard
    assert pickle.loads(pickle.dumps(row.policy)) == row.policy


@each_row
def test_a_policy_is_a_value(row):
    """Settings that were checked stay, and equal policies are one key of a dict."""
    for field in dataclasses.fields(row.policy):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(row.policy, field.name, 0.5)
    assert hash(row.policy) == hash(dataclasses.replace(row.policy))
    check_policy(row.policy)


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


def test_the_floor_is_mixed_in():
    """0.8 x (0.75, 0.25, 0) + 0.2 / 2 for each of the first two."""
    eligible = np.array([True, True, False])
    found = mix(np.array([0.75, 0.25, 0.0]), eligible, 0.2)
    np.testing.assert_allclose(found, [0.7, 0.3, 0.0])


def test_the_floor_picks_any_eligible_arm():
    rng, eligible = np.random.default_rng(0), np.array([True, False, True, True])
    found = [pick(2, eligible, 0.3, rng) for _ in range(3000)]
    counts = np.bincount(found, minlength=4)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2, 3]], [300, 2400, 300]).pvalue > 0.001


def test_squarecb_by_hand():
    """Gaps 0.1 and 0.2 of three arms at gamma 20: 1 / 5, 1 / 7, and what remains."""
    three = Belief(np.eye(3), np.array([0.5, 0.4, 0.3]), np.eye(3))
    args = (three, np.zeros(3), np.ones(3, dtype=bool), np.random.default_rng(0))
    found = SquareCB(gamma=20.0).probabilities(*args)
    np.testing.assert_allclose(found, [1 - 1 / 5 - 1 / 7, 1 / 5, 1 / 7])


@pytest.mark.parametrize("policy", ["greedy", Greedy, 3, ConservativePolicy()])
def test_what_is_no_policy(policy):
    with pytest.raises(TypeError, match="policy is a policy such as LinUCB"):
        check_policy(policy)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThompsonSampling(floor=1.5),
        lambda: ThompsonSampling(scale=-0.1),
        lambda: EpsilonGreedy(floor=-0.1),
        lambda: Greedy(floor=2.0),
        lambda: SquareCB(gamma=0.0),
        lambda: SquareCB(floor=1.1),
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


# ---- by the formulas, and at the limits ----


def asked(policy, told, cost=None, eligible=None, seed=0):
    """Probabilities, where nothing is said without a price and with every arm."""
    arms = len(told.mean)
    cost = np.zeros(arms) if cost is None else np.asarray(cost)
    eligible = np.ones(arms, dtype=bool) if eligible is None else np.asarray(eligible)
    return policy.probabilities(told, cost, eligible, np.random.default_rng(seed))


def independent(mean, sd):
    return Belief(np.eye(len(mean)), np.asarray(mean), np.diag(sd))


@pytest.mark.parametrize("scale", [0.3, 1.0])
@pytest.mark.parametrize(
    ("mean", "sd", "together"),
    [
        ((0.6, 0.5), (0.1, 0.2), 0.0),
        ((0.6, 0.5), (0.1, 0.2), 0.9),
        ((0.5, 0.5), (0.3, 0.01), -0.5),
        ((0.4, 0.5), (0.05, 0.3), 0.5),
    ],
)
def test_thompson_shares_of_two_arms_are_a_normal_integral(mean, sd, together, scale):
    """P(0 beats 1) = Phi((m0 - m1) / (scale s)), s^2 = s0^2 + s1^2 - 2 r s0 s1."""
    covariance = together * np.outer(sd, sd)
    np.fill_diagonal(covariance, np.square(sd))
    told = Belief(np.eye(2), np.array(mean), np.linalg.cholesky(covariance))
    spread = np.sqrt(sd[0] ** 2 + sd[1] ** 2 - 2 * together * sd[0] * sd[1])
    want = norm.cdf((mean[0] - mean[1]) / (scale * spread))
    found = asked(ThompsonSampling(scale, n_draws=20_000, floor=0.1), told)
    error = np.sqrt(want * (1 - want) / 20_000)
    assert found[0] == pytest.approx(0.9 * want + 0.05, abs=5 * error)


def test_thompson_shares_of_three_equal_arms_are_a_third():
    found = asked(ThompsonSampling(1.0, 20_000, 0.0), independent([0.5] * 3, [0.2] * 3))
    np.testing.assert_allclose(found, 1 / 3, atol=5 * np.sqrt(2 / 9 / 20_000))


@pytest.mark.parametrize("arms", [4, 65, 129, 513])
@pytest.mark.parametrize(
    "policy",
    [ThompsonSampling(scale=0.0, floor=0.1), LinUCB(0.0, 0.1), SquareCB(1e12, 0.1)],
    ids=["no spread", "no bonus", "any gap"],
)
def test_without_exploration_of_its_own_a_policy_is_greedy(policy, arms):
    told, rng = some_belief(arms, 1), np.random.default_rng(0)
    cost, eligible = -rng.random(arms) / 9, rng.random(arms) < 0.8
    want = asked(EpsilonGreedy(0.1), told, cost, eligible)
    np.testing.assert_allclose(asked(policy, told, cost, eligible), want, atol=1e-6)


@pytest.mark.parametrize("arms", [3, 200])
@pytest.mark.parametrize(
    "policy",
    [ThompsonSampling(floor=1.0), LinUCB(floor=1.0), SquareCB(floor=1.0), Greedy(1.0)],
    ids=lambda policy: type(policy).__name__,
)
def test_a_floor_of_1_is_the_uniform_policy(policy, arms):
    told, eligible = some_belief(arms, 2), np.arange(arms) % 3 != 1
    np.testing.assert_allclose(
        asked(policy, told, eligible=eligible),
        asked(Uniform(), told, eligible=eligible),
        atol=1e-15,
    )


def test_squarecb_that_sees_hardly_any_gap_is_uniform():
    told = some_belief(6, 0)
    np.testing.assert_allclose(asked(SquareCB(1e-12), told), 1 / 6, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    situation=SITUATIONS,
    gamma=st.floats(0.1, 1e4),
    floor=st.floats(0, 1),
)
def test_squarecb_is_inverse_gap_weighting(situation, gamma, floor):
    """Algorithm 1 of the paper, arm by arm, with the number of eligible arms as mu."""
    eligible, seed = np.array(situation[0]), situation[1]
    told, mu = some_belief(len(eligible), seed), int(eligible.sum())
    cost = -np.random.default_rng(seed).random(len(eligible))
    score = told.mean + cost
    best = max(np.flatnonzero(eligible), key=lambda arm: score[arm])
    want = np.zeros(len(eligible))
    for arm in np.flatnonzero(eligible):
        if arm != best:
            want[arm] = 1 / (mu + gamma * (score[best] - score[arm]))
    want[best] = 1 - want.sum()
    want[eligible] = (1 - floor) * want[eligible] + floor / mu
    np.testing.assert_allclose(
        asked(SquareCB(gamma, floor), told, cost, eligible), want, atol=1e-12
    )


def test_a_bonus_by_hand():
    """0.5 + 2 * 0.1 = 0.7 against 0.4 + 2 * 0.2 = 0.8; a price of 0.11 turns it."""
    told, policy = independent([0.5, 0.4], [0.1, 0.2]), LinUCB(2.0, floor=0.2)
    np.testing.assert_allclose(policy.bonus(told), [0.2, 0.4])
    np.testing.assert_allclose(asked(policy, told), [0.1, 0.9])
    np.testing.assert_allclose(asked(policy, told, [0.0, -0.11]), [0.9, 0.1])
    np.testing.assert_allclose(asked(policy, told, eligible=[True, False]), [1, 0])


def test_an_epsilon_by_hand():
    """0.3 over the two eligible arms, and 0.7 for the better one of them."""
    told = independent([0.9, 0.5, 0.4], [0.1] * 3)
    found = asked(EpsilonGreedy(0.3), told, eligible=[False, True, True])
    np.testing.assert_allclose(found, [0.0, 0.85, 0.15])


@pytest.mark.parametrize(
    "policy", [EpsilonGreedy(0.2), Greedy(0.2), LinUCB(floor=0.2)], ids=repr
)
def test_the_best_of_equal_arms_share_what_is_left(policy):
    """Two best arms of three: 0.8 / 2 + 0.2 / 3 each."""
    found = asked(policy, independent([0.5, 0.5, 0.3], [0.1] * 3))
    np.testing.assert_allclose(found, [0.4 + 0.2 / 3] * 2 + [0.2 / 3])


@each_policy
@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.floats(-0.5, 0.5), st.integers(0, 99))
def test_neither_names_nor_levels_of_arms_matter(policy, order, level, seed):
    """Another order, another level of every score. Draws follow the order, so of
    Thompson sampling only how good its shares are is compared."""
    if policy in GUARDED.values():
        return  # the baseline is an arm by its position
    order, cost = np.array(order), -np.random.default_rng(seed).random(5) / 4
    told = some_belief(5, seed)
    one = asked(policy, told, cost)
    other = asked(policy, told.among(order), cost[order] + level)
    if isinstance(policy, ThompsonSampling):
        assert one.sum() == pytest.approx(other.sum())
        # Two shares of 64 draws: five standard errors of their difference.
        off = 5 * np.sqrt(2 * 0.25 / policy.n_draws)
    else:
        off = 1e-9
    np.testing.assert_allclose(other, one[order], atol=off)


@each_policy
def test_a_price_that_rises_makes_no_arm_more_probable(policy):
    if policy is GUARDED["guarded, held"]:
        return  # it plays the baseline at any price
    before = 1.0
    for price in (0.0, 0.05, 0.1, 0.2, 0.5, 5.0):
        found = asked(policy, belief(), np.array([0.0, 0.0, 0.0, -price]))[3]
        # The same draws each time.
        assert found <= before + 1e-12
        before = found
    assert before == pytest.approx(policy.floor / 4, abs=0.02)


@pytest.mark.parametrize("arms", [64, 65, 128, 129, 512, 513, 5000])
def test_what_exploration_added_explains_the_choice(arms):
    """On either side of every bound of the shortcuts: the arm with the best sum of
    mean, exploration and price is the one that was chosen, but for the floor."""
    told, rng = some_belief(arms, 3), np.random.default_rng(1)
    cost, eligible = -rng.random(arms) / 9, rng.random(arms) < 0.9
    for policy in (ThompsonSampling(1.0, floor=0.0), LinUCB(1.0, floor=0.0), Greedy()):
        for _ in range(5):
            choice = policy.select(told, cost, eligible, rng)
            score = np.where(eligible, told.mean + choice.exploration + cost, -np.inf)
            assert score[choice.arm] >= score.max() - 1e-12


@pytest.mark.parametrize("arms", [129, 600])
def test_an_arm_far_ahead_wins_every_draw_of_many(arms):
    """Ten standard deviations before all others, which the finalists must not miss."""
    mean = np.full(arms, 0.3)
    mean[arms - 2] = 0.9
    told = Belief(
        np.ones((arms, 1)),
        np.zeros(1),
        np.array([[0.2]]),
        own=mean,
        own_variance=np.full(arms, 0.03**2),
    )
    found = asked(ThompsonSampling(1.0, floor=0.0), told)
    assert found[arms - 2] == 1.0


@pytest.mark.parametrize("eligible", [1, 63, 64, 65, 130])
def test_few_eligible_arms_of_many_share_the_draws(eligible):
    """Of 600 arms alike: no other ever wins, however few may be chosen."""
    told = Belief(
        np.ones((600, 1)),
        np.array([0.5]),
        np.array([[0.1]]),
        own_variance=np.full(600, 0.01),
    )
    may = np.zeros(600, dtype=bool)
    may[np.random.default_rng(0).permutation(600)[:eligible]] = True
    found = asked(ThompsonSampling(1.0, 512, 0.0), told, eligible=may)
    assert found.sum() == pytest.approx(1.0)
    assert not found[~may].any()
    # Alike, so none of the n that are drawn wins more than its share, 512 / n, and
    # five standard errors, as a Poisson number has.
    fair = 512 / min(eligible, 64)
    assert found.max() * 512 <= fair + 5 * np.sqrt(fair)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ThompsonSampling(floor=1.5), "floor must lie in .* received 1.5"),
        (lambda: ThompsonSampling(scale=float("inf")), "scale must be at least 0"),
        (lambda: ThompsonSampling(n_draws=0), "n_draws"),
        (lambda: LinUCB(alpha=float("nan")), "alpha must be at least 0, received nan"),
        (lambda: SquareCB(gamma=-1.0), "gamma must be above 0, received -1.0"),
        (lambda: SquareCB(gamma=float("inf")), "gamma must be above 0, received inf"),
        (lambda: EpsilonGreedy(float("nan")), "floor must lie in .* received nan"),
        (lambda: Uniform(0.0), "Uniform has floor 1, received 0.0"),
    ],
)
def test_a_refusal_says_what_was_received(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_number_of_draws_is_whole():
    with pytest.raises(TypeError, match="n_draws"):
        ThompsonSampling(n_draws=2.5)
