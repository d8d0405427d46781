from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit.bandit.logged_value import logged_value
from braidbandit.evaluation.estimators import (
    ESTIMATORS,
    cluster_terms,
    effective_sample_size,
    estimator_terms,
    switch_threshold,
)

W = np.array([4.0, 0.0, 1.0, 1.0])
R = np.array([1.0, 1.0, 0.5, 0.0])
Q = np.array([0.75, 0.5, 0.5, 0.25])
DIRECT = np.array([0.5, 0.25, 0.5, 0.75])


def test_every_estimator_by_hand():
    """IPS (4 + 0 + 0.5 + 0) / 4; clipped at sqrt(4) = 2: (2 + 0.5) / 4;
    SNIPS 4.5 / 6; DM 2 / 4; DR 2 / 4 + (4 x 0.25 + 0 + 0 - 0.25) / 4."""
    terms = estimator_terms(W, R, Q, DIRECT)
    assert tuple(terms) == ESTIMATORS
    means = {name: float(values.mean()) for name, values in terms.items()}
    assert means["IPS"] == pytest.approx(4.5 / 4)
    assert means["clipped IPS"] == pytest.approx(2.5 / 4)
    assert means["SNIPS"] == pytest.approx(4.5 / 6)
    assert means["DM"] == pytest.approx(0.5)
    assert means["DR"] == pytest.approx(0.5 + 0.75 / 4)


def test_switch_leaves_out_the_row_whose_weight_costs_too_much():
    """One weight of 4 among 100 rows, residuals +-1: beyond it lies 4 % of the
    target, a squared bias of 0.0016. Keeping it costs (16 - 0.16) / 100 / 100 = 0.0016
    more variance, less than 0.0016 only when its residual is smaller."""
    weights = np.zeros(100)
    weights[0] = 4.0
    large, small = np.zeros(100), np.zeros(100)
    large[0], small[0] = 1.2, 0.5
    assert switch_threshold(weights, large) < 4.0
    assert switch_threshold(weights, small) == 4.0
    terms = estimator_terms(weights, large, np.zeros(100), np.zeros(100))
    assert terms["SWITCH-DR"].sum() == 0.0
    assert terms["DR"].sum() == pytest.approx(4.8)


def test_effective_sample_size_by_hand():
    """(4 + 1 + 1)^2 / (16 + 1 + 1) = 2."""
    assert effective_sample_size(W) == pytest.approx(2.0)
    assert effective_sample_size(np.zeros(3)) == 0.0


unit = st.floats(0.0, 1.0)


@given(st.lists(st.tuples(unit, st.floats(0.0, 20.0)), min_size=2, max_size=30))
def test_a_perfect_reward_model_leaves_only_the_contexts(rows):
    """With q = r the weights drop out: DR is the target's predicted reward."""
    rewards, weights = np.array(rows).T
    direct = np.full(len(rows), 0.4)
    terms = estimator_terms(weights, rewards, rewards, direct)
    for name in ("DM", "DR", "SWITCH-DR"):
        assert (terms[name] == direct).all()


@given(st.lists(unit, min_size=1, max_size=30))
def test_the_logging_policy_itself_is_worth_its_mean_reward(values):
    rewards, ones = np.array(values), np.ones(len(values))
    terms = estimator_terms(ones, rewards, 0.3 * ones, 0.3 * ones)
    for name in ("IPS", "clipped IPS", "SNIPS", "DR", "SWITCH-DR"):
        assert terms[name].mean() == pytest.approx(rewards.mean(), abs=1e-12)


@given(st.lists(st.tuples(unit, st.floats(0.01, 9.0)), min_size=1), unit)
def test_snips_moves_with_the_rewards(rows, shift):
    """A constant added to every reward is added to SNIPS, which IPS does not do."""
    rewards, weights = np.array(rows).T
    zero = np.zeros(len(rows))
    low = estimator_terms(weights, rewards, zero, zero)["SNIPS"].mean()
    high = estimator_terms(weights, rewards + shift, zero, zero)["SNIPS"].mean()
    assert high - low == pytest.approx(shift, abs=1e-9)


def test_snips_is_the_score_of_the_estimators():
    taken, p = ["a", "b", "a"], np.array([0.5, 0.5, 0.25])
    rewards = np.array([1.0, 0.3, 0.5])
    weights = np.array([1.0, 0.0, 1.0]) / p
    terms = estimator_terms(weights, rewards, 0 * p, 0 * p)
    expected = logged_value(["a"] * 3, taken, rewards, p)
    assert terms["SNIPS"].mean() == pytest.approx(expected)


def test_terms_of_clusters_by_hand():
    """Rows 1, 0, 0 and 1 of which three are of one cluster; the mean is 1/2, and they
    are off by 1/2 - 1/2 - 1/2 together: 1/2 + 2/4 x -1/2, and 1/2 + 2/4 x 1/2."""
    found = cluster_terms(np.array([1.0, 0.0, 0.0, 1.0]), np.array([1, 1, 1, 0]), 0.5)
    assert found.tolist() == [0.75, 0.25]


@given(st.lists(st.tuples(unit, st.integers(0, 4)), min_size=1, max_size=40))
def test_clusters_keep_the_mean(rows):
    values, labels = (np.array(column) for column in zip(*rows, strict=True))
    clusters = np.unique(labels, return_inverse=True)[1]
    found = cluster_terms(values, clusters, values.mean())
    assert len(found) == len(set(labels.tolist()))
    assert found.mean() == pytest.approx(values.mean(), abs=1e-12)
    alone = cluster_terms(values, np.arange(len(values)), values.mean())
    assert alone == pytest.approx(values)


# Two contexts, equally likely, and two arms: what each earns, the probabilities of
# the log and of the target, and what a reward model (wrongly) says.
REWARD = np.array([[0.2, 0.8], [0.6, 0.4]])
LOGGING = np.array([[0.5, 0.5], [0.25, 0.75]])
TARGET = np.array([[0.0, 1.0], [0.5, 0.5]])
MODEL = np.array([[0.5, 0.5], [0.1, 0.9]])
# (0.8 + 0.5 x 0.6 + 0.5 x 0.4) / 2, and by the model (0.5 + 0.5 x 0.1 + 0.5 x 0.9) / 2.
TRUTH, BY_MODEL = 0.65, 0.5


def expected(name, model, n=3):
    """The mean of an estimate over every log of n rows that there can be."""
    total = 0.0
    for rows in product(product(range(2), range(2)), repeat=n):
        contexts, arms = np.array(rows).T
        chance = (0.5 * LOGGING[contexts, arms]).prod()
        terms = estimator_terms(
            TARGET[contexts, arms] / LOGGING[contexts, arms],
            REWARD[contexts, arms],
            model[contexts, arms],
            (TARGET * model).sum(axis=1)[contexts],
        )
        # Where every weight is 0, SNIPS has no value.
        total += chance * float(np.nan_to_num(terms[name], nan=0.5).mean())
    return total


@pytest.mark.parametrize("name", ["IPS", "DR"])
def test_unbiased_over_all_logs_whatever_the_model_says(name):
    assert expected(name, MODEL) == pytest.approx(TRUTH, abs=1e-12)


@pytest.mark.parametrize("name", ["DM", "DR", "SWITCH-DR"])
def test_right_wherever_the_model_is(name):
    assert expected(name, REWARD) == pytest.approx(TRUTH, abs=1e-12)


def test_the_bias_of_the_others():
    """DM believes the model. Clipping weights of 2 at sqrt(3) loses reward. SNIPS is
    biased by few rows, and less by more of them."""
    assert expected("DM", MODEL) == pytest.approx(BY_MODEL, abs=1e-12)
    assert expected("clipped IPS", MODEL) < TRUTH - 0.01
    off = [abs(expected("SNIPS", MODEL, n) - TRUTH) for n in (1, 3, 5)]
    assert off[0] > off[1] > off[2] > 0


rows_of_a_log = st.lists(
    st.tuples(unit, st.floats(0.01, 9.0), unit, unit), min_size=2, max_size=20
)


@pytest.mark.parametrize("name", ESTIMATORS)
@given(rows=rows_of_a_log, data=st.data())
def test_rows_in_another_order_have_the_same_terms(name, rows, data):
    rewards, weights, q, direct = np.array(rows).T
    at = np.array(data.draw(st.permutations(range(len(rows)))))
    one = estimator_terms(weights, rewards, q, direct)[name]
    other = estimator_terms(weights[at], rewards[at], q[at], direct[at])[name]
    assert other == pytest.approx(one[at], abs=1e-9)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_row_twice_says_the_same(name):
    """But clipping is at sqrt(n): at 2 with 4 rows, and at 2.83 with 8."""
    once = estimator_terms(W, R, Q, DIRECT)[name].mean()
    rows = (np.tile(values, 2) for values in (W, R, Q, DIRECT))
    twice = estimator_terms(*rows)[name].mean()
    if name == "clipped IPS":
        assert (once, twice) == pytest.approx((2.5 / 4, (np.sqrt(8) + 0.5) / 4))
    else:
        assert twice == pytest.approx(once)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_terms_are_new_arrays_and_the_given_ones_stay(name):
    given_arrays = [values.copy() for values in (W, R, Q, DIRECT)]
    found = estimator_terms(*given_arrays)[name]
    assert not any(np.shares_memory(found, values) for values in given_arrays)
    found[:] = -1.0
    for values, before in zip(given_arrays, (W, R, Q, DIRECT), strict=True):
        assert values.tobytes() == before.tobytes()


@given(rows_of_a_log)
def test_snips_and_dm_stay_among_the_rewards(rows):
    rewards, weights, q, direct = np.array(rows).T
    terms = estimator_terms(weights, rewards, q, direct)
    assert rewards.min() - 1e-9 <= terms["SNIPS"].mean() <= rewards.max() + 1e-9
    assert direct.min() - 1e-9 <= terms["DM"].mean() <= direct.max() + 1e-9


def test_snips_has_no_value_where_every_weight_is_0():
    none = np.zeros(3)
    terms = estimator_terms(none, np.ones(3), none, none)
    assert np.isnan(terms["SNIPS"]).all()
    assert terms["IPS"].tolist() == [0.0] * 3


@given(st.lists(st.floats(0.01, 50.0), min_size=1, max_size=40), st.floats(0.1, 10.0))
def test_rows_worth_are_at_most_the_rows_and_have_no_units(weights, unit_of_weight):
    values = np.array(weights)
    worth = effective_sample_size(values)
    assert 1.0 - 1e-9 <= worth <= len(values) + 1e-9
    assert effective_sample_size(unit_of_weight * values) == pytest.approx(worth)
