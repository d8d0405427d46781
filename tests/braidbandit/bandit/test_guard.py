"""What a guard may risk, in numbers: an account, and which policy it allows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import (
    ConservativePolicy,
    DeclineToDefault,
    Greedy,
    LinUCB,
    ThompsonSampling,
    Uniform,
)
from braidbandit.bandit.belief import Belief
from braidbandit.bandit.guard import Savings

RNG = np.random.default_rng(0)
REWARD = st.floats(0, 1)


def belief():
    """Three arms; the second looks best, the first is the baseline."""
    return Belief(np.eye(3), np.array([0.5, 0.9, 0.4]), np.eye(3) / 10)


def test_an_account_by_hand():
    """0.1 * 0.8 for a round of the baseline, -(1 - 0.3) for a departure."""
    saved = Savings("base", 1.0).after("base", 0.8, 0.1).after("other", 0.3, 0.1)
    assert saved.amount == pytest.approx(1.0 + 0.08 - 0.7)


@given(st.lists(st.tuples(st.booleans(), REWARD), max_size=20))
def test_what_is_taken_back_was_never_booked(rounds):
    saved, arms = Savings("base", 0.25), {True: "base", False: "other"}
    for stays, reward in rounds:
        saved = saved.after(arms[stays], reward, 0.1)
    for stays, reward in rounds:
        saved = saved.before(arms[stays], reward, 0.1)
    assert saved.amount == pytest.approx(0.25)


@given(st.lists(st.tuples(REWARD, REWARD), min_size=1, max_size=200), st.data())
def test_no_sequence_falls_behind_by_more_than_the_share(rounds, data):
    """Each pair: what the baseline would have earned, and what a departure does."""
    policy, saved = ConservativePolicy(Uniform(), share=0.2), Savings("base")
    earned = kept = 0.0
    for ours, theirs in rounds:
        free = policy.at(0, saved, 0) == policy.inner
        departs = free and data.draw(st.booleans())
        reward = theirs if departs else ours
        saved = saved.after("other" if departs else "base", reward, policy.share)
        earned, kept = earned + reward, kept + ours
    assert earned >= 0.8 * kept - 1e-9


@pytest.mark.parametrize(
    ("amount", "open_departures", "free"),
    [(0.99, 0, False), (1.0, 0, True), (1.99, 1, False), (2.0, 1, True)],
)
def test_a_departure_is_paid_for_before_it_happens(amount, open_departures, free):
    """It may cost 1, and so may each that is still open."""
    policy = ConservativePolicy(Uniform())
    allowed = policy.at(0, Savings("base", amount), open_departures)
    assert (allowed == policy.inner) is free
    shares = allowed.probabilities(belief(), np.zeros(3), np.ones(3, dtype=bool), RNG)
    assert shares.tolist() == pytest.approx([1 / 3] * 3 if free else [1, 0, 0])


def test_without_savings_the_baseline_is_chosen_for_certain():
    only = ConservativePolicy(Greedy(0.3)).at(0, Savings("base"), 0)
    state = RNG.bit_generator.state
    choice = only.select(belief(), np.zeros(3), np.ones(3, dtype=bool), RNG)
    assert (choice.arm, choice.propensity, choice.propensity_se) == (0, 1.0, 0.0)
    assert choice.exploration.tolist() == [0.0, 0.0, 0.0]
    assert RNG.bit_generator.state == state  # nothing was drawn
    assert only.floor == 0.3


def test_where_the_baseline_may_not_be_chosen_the_policy_is_free():
    policy, without = ConservativePolicy(Greedy(0.0)), np.array([False, True, True])
    only = policy.at(0, Savings("base"), 5)
    args = belief(), np.zeros(3), without, RNG
    assert only.select(*args).arm == 1
    assert only.probabilities(*args).tolist() == [0.0, 1.0, 0.0]


def test_settings():
    assert ConservativePolicy().inner == ThompsonSampling()
    assert ConservativePolicy(Greedy(0.3)).floor == 0.3
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="share must lie in"):
            ConservativePolicy(share=share)
    with pytest.raises(TypeError, match="baseline is an arm id"):
        ConservativePolicy(LinUCB(), baseline=3)


@given(REWARD, st.floats(0.01, 0.99), st.floats(-5, 5))
def test_what_a_reward_is_booked_at(reward, share, amount):
    """A round of the baseline earns its share; a departure costs what is left to 1."""
    saved = Savings("base", amount, expired=("d1",), forgotten=3, expired_until=1.5)
    stayed, left = (saved.after(arm, reward, share) for arm in ("base", "other"))
    assert stayed.amount == pytest.approx(amount + share * reward)
    assert left.amount == pytest.approx(amount + reward - 1.0)
    assert left.amount <= amount <= stayed.amount
    # Nothing else of the account moves, and the account of before is as it was.
    for later in (stayed, left):
        assert later == Savings("base", later.amount, ("d1",), 3, 1.5)
    assert saved.amount == amount


@pytest.mark.parametrize("arms", [3, 200])
@pytest.mark.parametrize(
    "policy", [None, LinUCB(floor=0.2), Greedy(0.5), Uniform()], ids=repr
)
def test_a_guard_that_is_free_is_the_policy_itself(policy, arms):
    """The same draws, the same choice; held, the baseline and nothing else."""
    guard, row = ConservativePolicy(policy, share=0.1), arms - 1
    rng = np.random.default_rng(3)
    told = Belief(np.ones((arms, 1)), np.zeros(1), np.eye(1), rng.random(arms))
    args = told, -rng.random(arms), np.ones(arms, dtype=bool)
    free, held = (guard.at(row, Savings("base", a), 0) for a in (1.0, 0.0))
    one, other = (
        p.select(*args, np.random.default_rng(7)) for p in (free, guard.inner)
    )
    assert one.arm == other.arm
    np.testing.assert_array_equal(one.probabilities, other.probabilities)
    found = held.probabilities(*args, rng)
    assert found[row] == found.sum() == 1.0
    np.testing.assert_array_equal(held.select(*args, rng).probabilities, found)
    assert held.floor == free.floor == guard.floor


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_how_often_it_may_depart_at_the_worst(share):
    """A baseline that earns 1 pays for one departure of reward 0 every 1 / share
    rounds: of 1,000 rounds that is share / (1 + share), and never more."""
    guard, saved, departures = ConservativePolicy(Uniform(), share), Savings("base"), 0
    for _ in range(1000):
        departs = guard.at(0, saved, 0) == guard.inner
        arm, reward = ("other", 0.0) if departs else ("base", 1.0)
        saved = saved.after(arm, reward, share)
        departures += departs
        assert saved.amount >= -1e-9
    assert departures == pytest.approx(1000 * share / (1 + share), abs=1.5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"share": -0.1}, ValueError, "share must lie in .* received -0.1"),
        ({"share": 1}, ValueError, "received 1"),
        ({"policy": "greedy"}, TypeError, "policy is a policy such as"),
        ({"policy": Greedy}, TypeError, "policy is a policy such as"),
        ({"policy": ConservativePolicy()}, TypeError, "policy is a policy such as"),
        ({"baseline": b"arm"}, TypeError, "received b'arm'"),
    ],
)
def test_settings_that_are_refused_say_what_was_received(settings, error, message):
    with pytest.raises(error, match=message):
        ConservativePolicy(**settings)


def two_arms(better):
    belief = Belief(np.eye(2), np.array([0.5, 0.5 + better]), 1e-9 * np.eye(2))
    return belief, np.zeros(2), np.ones(2, dtype=bool), np.random.default_rng(0)


def test_a_departure_is_booked_at_what_the_default_was_expected_to_earn():
    """A share of 0.01 a round; 0.9 where 0.6 was expected is 0.3 more."""
    guard, saved = DeclineToDefault(share=0.01), Savings("a")
    saved = guard.book(saved, "a", 0.1)
    assert (saved.amount, saved.departures) == (0.01, 0)
    saved = guard.book(saved, "b", 0.9, expected=0.6)
    assert saved.amount == pytest.approx(0.32)
    assert saved.departures == 1
    # Where nothing is known, the highest reward is assumed.
    unknown = guard.book(saved, "b", 0.9)
    assert unknown.amount == pytest.approx(0.32 + 0.01 - 0.1)
    # No reward is beyond 1, whatever is believed, nor below 0.
    assert guard.book(saved, "b", 0.9, expected=1.3) == unknown
    low = guard.book(saved, "b", 0.9, expected=-0.2)
    assert low == guard.book(saved, "b", 0.9, expected=0.0)
    back = guard.book(unknown, "b", 0.9, back=True)
    assert back.amount == pytest.approx(saved.amount, abs=1e-12)
    assert back.departures == 1


@pytest.mark.parametrize(
    ("amount", "departures", "open_departures", "better", "departs"),
    [
        (0.99, 0, 0, 0.2, False),  # one departure may cost 1
        (1.0, 0, 0, 0.2, True),
        (1.0, 0, 0, -0.2, False),  # nothing is better
        (1.5, 0, 1, 0.2, False),
        (4.9, 99, 0, 0.2, False),  # a standard error of 100 departures is 5
        (5.0, 99, 0, 0.2, True),
    ],
)
def test_the_default_is_declined_to(
    amount, departures, open_departures, better, departs
):
    guard = DeclineToDefault(Greedy(floor=0.1))
    saved = Savings("a", amount, departures=departures)
    policy = guard.at(0, saved, open_departures)
    shares = policy.probabilities(*two_arms(better))
    want = [0.05, 0.95] if departs else [0.95, 0.05]
    np.testing.assert_allclose(shares, want)
    choice = policy.select(*two_arms(better))
    assert choice.propensity == pytest.approx(want[choice.arm])


def test_where_the_default_may_not_be_chosen_nothing_is_declined():
    policy = DeclineToDefault(Greedy()).at(0, Savings("a"), 0)
    belief, costs, _, rng = two_arms(-0.2)
    eligible = np.array([False, True])
    assert policy.select(belief, costs, eligible, rng).arm == 1
    assert policy.probabilities(belief, costs, eligible, rng).tolist() == [0.0, 1.0]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-1, 2), st.booleans()), max_size=300)
)
def test_rewards_never_fall_behind_what_was_expected_by_more_than_the_share(rounds):
    """Whatever others earn, and whenever they are preferred."""
    guard, saved = DeclineToDefault(Greedy(), share=0.05, slack=0.0), Savings("a")
    behind = 0.0
    for n, (reward, expected, tempting) in enumerate(rounds, start=1):
        policy = guard.at(0, saved, 0)
        arm = policy.select(*two_arms(0.3 if tempting else -0.3)).arm
        if arm == 1:
            behind += min(max(expected, 0.0), 1.0) - reward
        saved = guard.book(saved, "ab"[arm], reward, expected)
        assert behind <= 0.05 * n + 1e-9


def test_slack_is_a_number_from_zero():
    with pytest.raises(ValueError, match="slack must be at least 0, received -1"):
        DeclineToDefault(slack=-1)
