import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from braidbandit.evaluation.intervals import (
    bootstrap_intervals,
    confidence_sequence,
    likelihood_interval,
)

unit = st.floats(0.0, 1.0)
EDGES = np.array([[0.0, 1.0], [1.0, 1.0]])


def test_all_of_n_succeeded():
    """The log is m^n as likely under m as under 1, so m = exp(-F / 2n)."""
    for n in (10, 200):
        low, high = likelihood_interval(np.ones(n), np.ones(n), EDGES, 0.95, n)
        expected = np.exp(-stats.f.ppf(0.95, 1, n - 1) / (2 * n))
        assert low == pytest.approx(expected, abs=1e-3)
        assert high == 1.0


def test_shares_have_the_likelihood_of_a_binomial():
    """30 of 100: the ends are where the log likelihood has dropped by F / 2."""
    rewards = np.repeat([1.0, 0.0], [30, 70])
    ends = likelihood_interval(rewards, np.ones(100), EDGES, 0.9, 100)
    for m in ends:
        drop = 30 * np.log(0.3 / m) + 70 * np.log(0.7 / (1 - m))
        assert drop == pytest.approx(stats.f.ppf(0.9, 1, 99) / 2, rel=0.01)
    assert ends[0] < 0.3 < ends[1]


def test_weights_that_came_out_too_light_are_put_right():
    """Every reward is 0.4, so that terms are 0.4 w: with a mean weight of 1 the mean is
    0.4, whatever the weights of this log were."""
    weights = np.repeat([4.0, 0.0], [15, 85])
    support = np.array([[0.0, 0.0], [0.4 * 4.0, 4.0]])
    low, high = likelihood_interval(0.4 * weights, weights, support, 0.95, 15)
    assert low == pytest.approx(0.4, abs=0.005)
    assert high == pytest.approx(0.4, abs=0.005)


def test_what_was_not_seen_counts_as_possible():
    """The same log, once with weights up to 2 and once up to 100."""
    rng = np.random.default_rng(0)
    weights = 2.0 * (rng.random(200) < 0.5)
    terms = weights * (rng.random(200) < 0.5)
    widths = []
    for most in (2.0, 100.0):
        support = np.array([[0.0, 0.0], [0.0, most], [most, most]])
        low, high = likelihood_interval(terms, weights, support, 0.95, 100)
        widths.append(high - low)
    assert widths[0] < 0.9 * widths[1]


@settings(max_examples=25)
@given(st.integers(0, 2**20), st.integers(5, 60), st.floats(0.5, 0.99))
def test_one_minus_the_reward_has_one_minus_the_interval(seed, n, level):
    rng = np.random.default_rng(seed)
    weights = 3.0 * (rng.random(n) < 1 / 3)
    guess = rng.random()
    terms = guess + weights * (rng.random(n) - guess)
    support = np.array([[guess, 0.0], [-2 * guess, 3.0], [3 - 2 * guess, 3.0]])
    low, high = likelihood_interval(terms, weights, support, level, max(n / 3, 3))
    mirror = np.column_stack([1.0 - support[:, 0], support[:, 1]])
    other = likelihood_interval(1.0 - terms, weights, mirror, level, max(n / 3, 3))
    assert 0.0 <= low <= high <= 1.0
    assert (1.0 - high, 1.0 - low) == pytest.approx(other, abs=2e-3)


def test_it_covers_where_weights_are_rare_and_heavy():
    """One row in 30 is taken, 300 rows: about 10 rows' worth. 150 logs; 95 % of them
    less three standard errors is 134."""
    covered = 0
    support = np.array([[0.5, 0.0], [0.5 - 15, 30.0], [0.5 + 15, 30.0]])
    for seed in range(150):
        rng = np.random.default_rng(seed)
        weights = 30.0 * (rng.random(300) < 1 / 30)
        rewards = (rng.random(300) < 0.9).astype(float)
        terms = 0.5 + weights * (rewards - 0.5)
        worth = max((weights > 0).sum(), 2)
        low, high = likelihood_interval(terms, weights, support, 0.95, worth)
        covered += low <= 0.9 <= high
    assert covered >= 134


def test_bootstrap_agrees_with_the_normal_interval_of_many_rows():
    rng = np.random.default_rng(0)
    values = 0.5 + 0.1 * rng.standard_normal(2000)
    low, high = bootstrap_intervals({"DM": values}, 0.95, 2000, rng)["DM"]
    half = 1.96 * values.std() / np.sqrt(2000)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_reaches_further_where_rare_rows_carry_the_weight():
    """5 rows of 1,000 carry 20 each: above the mean 0.1 there is more room than
    below, and a symmetric interval would be too short there."""
    values = np.zeros(1000)
    values[:5] = 20.0
    rng = np.random.default_rng(0)
    low, high = bootstrap_intervals({"IPS": values}, 0.9, 2000, rng)["IPS"]
    assert high - 0.1 > 1.3 * (0.1 - low)


@pytest.mark.parametrize("least", [1.0, 0.2])
def test_sequence_covers_at_every_time(least):
    """200 logs of 400 rows, each looked at after every row: the bounds may miss the
    truth at any time in 5 % of them, and miss in far fewer."""
    missed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rewards = (rng.random(400) < 0.3).astype(float)
        weights = (rng.random(400) < least) / least
        low, high = confidence_sequence(0.4 + weights * (rewards - 0.4), least)
        missed += bool(((low > 0.3) | (high < 0.3)).any())
    assert missed <= 10
    assert high[-1] - low[-1] < 0.6


@settings(max_examples=30)
@given(st.lists(unit, min_size=1, max_size=60), st.floats(0.05, 1.0))
def test_sequence_only_narrows_and_mirrors(values, least):
    outcomes = np.array(values)
    low, high = confidence_sequence(outcomes, least)
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) <= 0).all()
    mirrored = confidence_sequence(1.0 - outcomes, least)
    assert np.allclose(mirrored[0], 1.0 - high, atol=1e-12)
    assert np.allclose(mirrored[1], 1.0 - low, atol=1e-12)


def test_one_lower_bound_by_hand():
    """One row of 1 at propensity 1 and alpha 1/2 - so level 0: the centre is 1/2,
    the variance 1/4, the step the most allowed, 1/2. Bound: (0.5 - log 2 -
    (log 2 - 0.5) / 4) / 0.5 < 0, cut to 0."""
    low, high = confidence_sequence(np.ones(1), 1.0, level=0.0)
    assert (low[0], high[0]) == (0.0, 1.0)
    low, _ = confidence_sequence(np.ones(2000), 1.0)
    assert low[-1] > 0.95


def by_likelihood(terms, level):
    return likelihood_interval(terms, np.ones(len(terms)), EDGES, level, len(terms))


def by_bootstrap(terms, level):
    rng = np.random.default_rng(0)
    return bootstrap_intervals({"DM": terms}, level, 400, rng)["DM"]


def by_sequence(terms, level):
    low, high = confidence_sequence(terms, 1.0, level)
    return float(low[-1]), float(high[-1])


INTERVALS = {
    "likelihood": by_likelihood,
    "bootstrap": by_bootstrap,
    "sequence": by_sequence,
}
TERMS = np.random.default_rng(5).random(200)


@pytest.mark.parametrize("name", INTERVALS)
def test_the_mean_lies_inside_and_the_interval_in_0_to_1(name):
    low, high = INTERVALS[name](TERMS, 0.9)
    assert 0.0 <= low < TERMS.mean() < high <= 1.0


@pytest.mark.parametrize("name", INTERVALS)
def test_surer_is_wider(name):
    ends = [INTERVALS[name](TERMS, level) for level in (0.5, 0.8, 0.95, 0.99)]
    widths = [high - low for low, high in ends]
    assert widths == sorted(widths)
    assert widths[0] < 0.7 * widths[-1]


@pytest.mark.parametrize("name", INTERVALS)
def test_more_rows_are_narrower(name):
    few, many = (INTERVALS[name](np.tile(TERMS, n), 0.9) for n in (1, 10))
    assert many[1] - many[0] < 0.6 * (few[1] - few[0])


@pytest.mark.parametrize("name", INTERVALS)
def test_terms_stay_as_they_are(name):
    terms = TERMS.copy()
    INTERVALS[name](terms, 0.9)
    assert terms.tobytes() == TERMS.tobytes()


@pytest.mark.parametrize("name", ["likelihood", "bootstrap"])
def test_rows_in_another_order_have_the_same_interval(name):
    """The bootstrap draws places, so that its ends move, but little."""
    one = INTERVALS[name](TERMS, 0.9)
    other = INTERVALS[name](TERMS[::-1].copy(), 0.9)
    assert other == pytest.approx(one, abs=1e-4 if name == "likelihood" else 0.01)


def test_the_ends_are_found_to_five_digits():
    """30 of 100 again: the drop in likelihood at the ends is that of equation (31)."""
    low, high = by_likelihood(np.repeat([1.0, 0.0], [30, 70]), 0.9)
    allowed = stats.f.ppf(0.9, 1, 99) / 2

    def drop(m):
        return 30 * np.log(0.3 / m) + 70 * np.log(0.7 / (1 - m)) - allowed

    # The barrier widens the interval by less than one in a thousand.
    assert low == pytest.approx(optimize.brentq(drop, 0.01, 0.3), abs=2e-4)
    assert high == pytest.approx(optimize.brentq(drop, 0.3, 0.99), abs=2e-4)


def test_terms_outside_0_to_1_give_an_interval_inside():
    """The mean of the terms is 1.5: the only means that are left are near 1."""
    support = np.array([[0.0, 1.0], [2.0, 1.0]])
    low, high = likelihood_interval(np.full(50, 1.5), np.ones(50), support, 0.95, 50)
    assert 0.9 < low <= high == 1.0


def test_estimators_share_their_resamples():
    """The same terms under two names have the same interval."""
    rng = np.random.default_rng(0)
    found = bootstrap_intervals({"IPS": TERMS, "DM": TERMS}, 0.9, 200, rng)
    assert found["IPS"] == found["DM"]


@pytest.mark.parametrize("n_rows", [1, 2])
def test_few_rows_of_equal_terms_have_no_spread(n_rows):
    assert by_bootstrap(np.full(n_rows, 0.25), 0.9) == (0.25, 0.25)
