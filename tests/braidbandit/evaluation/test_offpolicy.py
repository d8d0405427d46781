from functools import cache

import numpy as np
import pytest

from braidbandit import (
    BraidRecommender,
    EpsilonGreedy,
    Ledger,
    Log,
    Outcome,
    UnderLimits,
    compare,
    evaluate,
)
from braidbandit.evaluation.estimators import ESTIMATORS
from braidbandit.evaluation.importers import log_from_scores
from braidbandit.evaluation.offpolicy import check_support


def make_log(n=600, seed=0, floor=0.3):
    """Three arms worth 0.2, 0.5 and 0.8; the log prefers one by the context."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 1))
    p = np.full((n, 3), floor / 3)
    p[np.arange(n), np.where(X[:, 0] > 0, 0, 1)] += 1.0 - floor
    arms = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    rewards = (rng.random(n) < 0.2 + 0.3 * arms).astype(float)
    return Log(X, arms, rewards, p[np.arange(n), arms], [0, 1, 2])


def by_name(estimates):
    return {e.estimator: e for e in estimates}


def test_the_best_arm_is_found_in_a_log_that_avoids_it():
    log = make_log()
    table = compare({"0": 0, "1": 1, "2": 2, "random": np.full((600, 3), 1 / 3)}, log)
    assert table.best().policy == "2"
    truth = {"0": 0.2, "1": 0.5, "2": 0.8, "random": 0.5}
    for row in table.rows:
        if row.estimator == "DR":
            assert row.low <= row.value <= row.high
            assert row.sequence_low <= truth[row.policy] <= row.sequence_high
            assert abs(row.value - truth[row.policy]) < 0.15
    assert table.logged == log.rewards.mean()
    assert table.to_dict()["rows"][0]["estimator"] == "IPS"
    assert len(str(table).splitlines()) == 1 + 4 * 6 + 1


def test_intervals_cover():
    """100 logs; 95 % intervals of DR cover in at least 95 - 3 x 2.2 = 88."""
    covered = 0
    for seed in range(100):
        found = by_name(evaluate(2, make_log(300, seed), n_resamples=200))["DR"]
        covered += found.low <= 0.8 <= found.high
    assert covered >= 88


def test_the_same_seed_gives_the_same_numbers():
    log = make_log()
    assert evaluate(1, log) == evaluate(1, log)
    assert evaluate(1, log) != evaluate(1, log, random_state=1)


def test_a_log_that_learnt_as_it_went_is_covered_at_all_times():
    """The log follows the better mean so far with probability 0.8, so that its rows
    depend on each other; the confidence sequence of arm 0 still covers 0.4."""
    missed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sums, counts = np.ones(2), np.full(2, 2.0)
        arms, rewards, p = [], [], []
        for _ in range(200):
            share = np.full(2, 0.2)
            share[np.argmax(sums / counts)] = 0.8
            arm = int(rng.random() > share[0])
            reward = float(rng.random() < (0.4, 0.5)[arm])
            sums[arm] += reward
            counts[arm] += 1
            arms.append(arm)
            rewards.append(reward)
            p.append(share[arm])
        log = Log(np.zeros((200, 1)), arms, rewards, p, [0, 1])
        found = by_name(evaluate(0, log, n_resamples=100, least_propensity=0.2))["DR"]
        missed += not found.sequence_low <= 0.4 <= found.sequence_high
    # 5 % of 60, and three standard errors.
    assert missed <= 3 + 5


def test_a_deterministic_log_is_refused():
    rng = np.random.default_rng(0)
    arms = rng.integers(3, size=50)
    log = Log(rng.random((50, 1)), arms, np.ones(50), np.ones(50))
    with pytest.raises(ValueError, match="deterministic.*explores"):
        evaluate(0, log)
    with pytest.raises(ValueError, match="none of the policies"):
        compare({"a": 0, "b": 1}, log)
    # The very same choices need no exploration.
    assert by_name(evaluate(arms, log))["DR"].value == pytest.approx(1.0)


def test_arms_that_were_not_eligible_are_refused():
    eligible = np.ones((40, 2), dtype=bool)
    eligible[::4, 1] = False
    log = Log(np.zeros((40, 1)), [0] * 40, [0.5] * 40, [0.5] * 40, [0, 1], eligible)
    with pytest.raises(ValueError, match=r"25.0% of the policy's choices"):
        check_support(np.tile([0.0, 1.0], (40, 1)), log)


def test_propensities_of_another_log_are_refused():
    """Logged with 1/2, reported as 1/10: the weights are 5 on average."""
    rng = np.random.default_rng(0)
    arms = rng.integers(2, size=2000)
    log = Log(np.zeros((2000, 1)), arms, np.ones(2000), np.full(2000, 0.1))
    with pytest.raises(ValueError, match="mean weight is 4"):
        evaluate(0, log)


def test_an_arm_that_was_never_possible_is_refused():
    """1,000 rows at propensity 1/2, and arm 1 in none of them."""
    log = Log(np.zeros((1000, 1)), [0] * 1000, [1.0] * 1000, [0.5] * 1000, [0, 1])
    with pytest.raises(ValueError, match="mean weight is 0"):
        evaluate(1, log)


def test_too_little_evidence_is_refused():
    """Three rows in 300 took the arm, at propensity 0.01."""
    arms = np.zeros(300, dtype=int)
    arms[:3] = 1
    p = np.where(arms == 1, 0.01, 0.99)
    log = Log(np.zeros((300, 1)), arms, np.ones(300), p)
    with pytest.raises(ValueError, match="as much .* as 3.0 of its own"):
        evaluate(1, log)
    table = compare({"rare": 1, "usual": 0}, log)
    assert list(table.refused) == ["rare"]
    assert "rare: refused" in str(table)
    table = compare({"never": 2, "usual": 0}, log)
    assert "the log does not know" in table.refused["never"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": 1.0}, "level"),
        ({"n_resamples": 10}, "n_resamples"),
        ({"least_propensity": 0.9}, "least_propensity"),
        ({"least_propensity": 0.0}, "least_propensity"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate(1, make_log(), **settings)


def test_no_policy():
    with pytest.raises(ValueError, match="at least one policy"):
        compare({}, make_log(20))


def test_a_ledger_is_judged_as_it_is(agent, tmp_path):
    agent.set_params(policy=EpsilonGreedy(floor=0.8))
    before = None
    with Ledger(tmp_path / "ledger.db") as ledger:
        for i in range(120):
            decision = agent.recommend({"text": f"task {i % 9}", "type": "code"})
            ledger.record_decision(decision)
            reward = 0.9 if decision.braid.id == agent.catalogue.ids[0] else 0.3
            ledger.record_outcome(Outcome(decision.id, reward))
            agent.update(decision, reward)
        before = agent.posterior_.mean.tobytes()
        with pytest.warns(UserWarning, match="learnt from 120 of the 120 rows"):
            table = compare(
                {
                    "now": agent,
                    "best": agent.catalogue.ids[0],
                    "cheap": UnderLimits(agent, compute_budget=0.0),
                },
                ledger,
            )
    assert agent.posterior_.mean.tobytes() == before
    dr = {row.policy: row.value for row in table.rows if row.estimator == "DR"}
    assert dr["best"] == pytest.approx(0.9, abs=0.1)
    assert dr["best"] > dr["now"] > 0.3


def test_what_was_learnt_is_judged_on_what_came_later(agent, encoder, tmp_path):
    """Rewards are a toss of a coin: a policy is worth 0.5 on rows it did not see, and
    seems to be worth more on those it chose by."""
    agent.set_params(policy=EpsilonGreedy(floor=0.5), price=0.0)
    rng = np.random.default_rng(0)
    with Ledger(tmp_path / "ledger.db") as ledger:

        def go_on(rounds):
            for _ in range(rounds):
                text = "x" * int(rng.integers(1, 60))
                decision = agent.recommend({"text": text, "type": "code"})
                ledger.record_decision(decision)
                ledger.record_outcome(Outcome(decision.id, float(rng.random() < 0.5)))
            agent.sync(ledger)

        go_on(300)
        agent.save(tmp_path / "saved")
        saved = BraidRecommender.load(tmp_path / "saved", encoder=encoder)
        go_on(300)
        with pytest.warns(UserWarning, match="'policy' learnt from 300 of the 600"):
            evaluate(saved, ledger)
        limited = UnderLimits(saved, compute_budget=0.3)
        with pytest.warns(UserWarning, match="'cheap' learnt from 300"):
            compare({"cheap": limited}, ledger)
        later = Log.read(ledger, after=saved.ledger_position_)
        assert len(later.X) == 300
        found = by_name(evaluate(saved, later))["DR"]
        assert found.low <= 0.5 <= found.high
        # Fixed policies, and arrays, learnt from nothing.
        evaluate(agent.catalogue.ids[0], ledger, least_propensity=0.001)


def table_log(n=200, n_arms=5, seed=0, **columns):
    """Prompts of which each is easy or hard for every model alike: means 0.5."""
    rng = np.random.default_rng(seed)
    easy = (rng.random(n) < 0.5) * 1.0
    names = [f"m{i}" for i in range(n_arms)]
    frame = {"length": rng.random(n), **dict.fromkeys(names, easy), **columns}
    return log_from_scores(frame, names, context=["length"]), frame


@pytest.mark.parametrize("n_arms", [2, 4, 5, 6, 10, 15])
def test_a_table_of_scores_says_what_a_model_earns_on_it(n_arms):
    """Whatever the number of models, DR is the mean of the column, and its interval
    that of as many prompts."""
    rng = np.random.default_rng(n_arms)
    mine = (rng.random(200) < 0.9) * 1.0
    log, _ = table_log(n_arms=n_arms, m0=mine)
    for row in compare({"m0": "m0"}, log).rows:
        if row.estimator != "DM":
            assert row.value == pytest.approx(mine.mean(), abs=1e-9)
            assert row.low < mine.mean() < row.high
    found = by_name(evaluate("m0", log))["DR"]
    half = 1.96 * mine.std() / np.sqrt(200)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.25)
    assert found.effective_n == pytest.approx(200)


def test_rows_of_one_prompt_are_one_observation():
    """Five models that are right on the same prompts are no five times the evidence:
    the error of the mean of 200 prompts is 0.5 / sqrt(200), whatever the policy."""
    log, frame = table_log()
    uniform = np.full((1000, 5), 0.2)
    by_hand = 1.96 * frame["m0"].std() / np.sqrt(200)
    for name, found in by_name(evaluate(uniform, log)).items():
        if name != "DM":
            width = (found.high - found.low) / 2
            assert width == pytest.approx(by_hand, rel=0.1), name
            assert found.effective_n == pytest.approx(200)


@pytest.mark.parametrize("order", ["by prompt", "by model", "shuffled"])
def test_a_long_table_says_what_the_wide_one_says(order):
    """Rows with equal features and every model once are one prompt."""
    wide, _ = table_log(seed=3)
    at = np.arange(1000)
    if order == "by model":
        at = np.argsort(wide.columns, kind="stable")
    elif order == "shuffled":
        at = np.random.default_rng(0).permutation(1000)
    arms = [wide.arm_ids[column] for column in wide.columns[at]]
    long = Log(wide.X[at], arms, wide.rewards[at], wide.propensities[at])
    assert len(set(long.clusters.tolist())) == 200
    one, other = (by_name(evaluate("m1", log))["DR"] for log in (wide, long))
    assert other.value == pytest.approx(one.value, abs=1e-9)
    assert other.effective_n == pytest.approx(one.effective_n)
    assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=0.01)


def test_no_sequence_where_nobody_decided_in_this_order():
    """Sorted by model, a row says which one comes next. m0 earns 1, the others 0.5."""
    log, frame = table_log(m0=np.ones(200))
    at = np.argsort(log.columns, kind="stable")
    arms = [log.arm_ids[column] for column in log.columns[at]]
    by_model = Log(log.X[at], arms, log.rewards[at], log.propensities[at])
    for arm in ("m0", "m4"):
        found = by_name(evaluate(arm, by_model))["DR"]
        assert (found.sequence_low, found.sequence_high) == (None, None)
        kept = by_name(evaluate(arm, log))["DR"]
        assert kept.sequence_low <= frame[arm].mean() <= kept.sequence_high
    mixed = by_name(evaluate(np.full((1000, 5), 0.2), by_model))["DR"]
    assert (mixed.sequence_low, mixed.sequence_high) == (None, None)


@pytest.mark.parametrize("drawn", [False, True])
def test_no_sequence_where_rewards_are_sorted(drawn):
    """A table of five models, or choices drawn of these, in their own order and by
    reward. Only the former has a sequence, and it holds the value."""
    rng = np.random.default_rng(0)
    quality = rng.beta(4.0, 4.0, size=(80, 5))
    prompts, arms = np.repeat(np.arange(80), 5), np.tile(np.arange(5), 80)
    if drawn:
        arms = rng.integers(5, size=400)
    X, reward = rng.random((80, 3))[prompts], quality[prompts, arms]
    for order in (np.argsort(reward), np.argsort(-reward), np.arange(400)):
        log = Log(X[order], arms[order], reward[order], np.full(400, 0.2))
        found = by_name(evaluate(4, log))["DR"]
        assert (found.sequence_low is None) == (order[0] > 0)
    assert found.sequence_low <= quality[:, 4].mean() <= found.sequence_high


def test_groups_of_any_size_cover():
    """1 to 6 rows a prompt, alike in luck. 95 % intervals cover 0.5 in at least
    95 - 3 x 2.2 = 88 of 100; taking rows for independent in far fewer."""
    covered = {"groups": 0, "rows": 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(120), rng.integers(1, 7, size=120))
        n = len(groups)
        rewards = (rng.random(120) < 0.5).astype(float)[groups]
        X, arms = rng.random((n, 1)), rng.integers(2, size=n)
        for name, given in (("groups", groups), ("rows", np.arange(n))):
            log = Log(X, arms, rewards, np.full(n, 0.5), groups=given)
            found = evaluate(np.full((n, 2), 0.5), log, n_resamples=100)
            dr = by_name(found)["DR"]
            covered[name] += dr.low <= 0.5 <= dr.high
    assert covered["groups"] >= 88
    assert covered["rows"] < 80


@cache
def variants():
    """Estimates of one policy on one log, and on the same rows in another form."""
    log, uniform = make_log(300), np.full((300, 3), 1 / 3)
    at, names = np.random.default_rng(1).permutation(300), np.array(["x", "y", "z"])
    grouped = (log.rewards, log.propensities)

    def rows(order, arms=None):
        """The rows in an order; groups say which fold each is in."""
        taken = log.columns[order] if arms is None else arms[log.columns[order]]
        columns = (column[order] for column in grouped)
        ids = [0, 1, 2] if arms is None else arms
        return Log(log.X[order], taken, *columns, ids, groups=log.contexts[order])

    straight = np.arange(300)
    return {
        "as it is": by_name(evaluate(2, rows(straight))),
        "in another order": by_name(evaluate(2, rows(at))),
        "other names": by_name(evaluate("z", rows(straight, names))),
        "uniform": by_name(evaluate(uniform, rows(straight), n_resamples=100)),
    }


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_do_not_depend_on_the_order_of_rows(name):
    one, other = (variants()[key][name] for key in ("as it is", "in another order"))
    assert other.value == pytest.approx(one.value, abs=1e-12)
    assert other.effective_n == pytest.approx(one.effective_n)
    assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=0.02)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_arms_by_other_names_earn_the_same(name):
    assert variants()["as it is"][name] == variants()["other names"][name]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_even_mix_of_arms_worth_a_fifth_a_half_and_four_fifths(name):
    """It is worth 0.5. The interval of DM leaves out what its model may have wrong."""
    found = variants()["uniform"][name]
    assert found.value == pytest.approx(0.5, abs=0.12)
    assert name == "DM" or found.low <= 0.5 <= found.high


def test_compare_says_what_evaluate_says():
    """Both with the same seed; the reward model is fitted once for all policies."""
    log = make_log(300)
    settings = {"level": 0.8, "random_state": 3, "n_resamples": 100}
    together = compare({"one": 1, "two": 2}, log, **settings)
    alone = [
        row
        for name, policy in (("one", 1), ("two", 2))
        for row in evaluate(policy, log, name=name, **settings)
    ]
    assert list(together.rows) == alone


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        (7, {}, "does not know the arms"),
        (1, {"level": 2.0}, "level"),
        (1, {"least_propensity": 2.0}, "least_propensity"),
        ([[1.0, 1.0, 1.0]] * 300, {}, "sum to 1"),
    ],
)
def test_a_refusal_leaves_the_log_as_it_was(policy, settings, message):
    log, rng = make_log(300), np.random.default_rng(0)
    state = rng.bit_generator.state
    fields = ("X", "columns", "rewards", "propensities", "eligible", "clusters")
    before = {field: getattr(log, field).tobytes() for field in fields}
    with pytest.raises(ValueError, match=message):
        evaluate(policy, log, random_state=rng, **settings)
    assert before == {field: getattr(log, field).tobytes() for field in fields}
    assert rng.bit_generator.state == state


def test_every_policy_that_is_refused_is_named_with_its_reason():
    with pytest.raises(ValueError, match="a: the log does not know.*b: expected 300"):
        compare({"a": 7, "b": [1, 2]}, make_log(300))


def test_settings_of_compare_are_checked_before_any_policy():
    with pytest.raises(ValueError, match="level lies in"):
        compare({"a": 7}, make_log(300), level=0.0)


# ---- at the bounds of what a log can say ----


def coin_log(n):
    """Arms 0 and 1 in turn, by the toss of a coin; arm 1 earns 1 and arm 0 nothing."""
    arms = np.arange(n) % 2
    return Log(np.zeros((n, 1)), arms, arms * 1.0, np.full(n, 0.5))


@pytest.mark.parametrize("n", [2, 4, 18, 20])
def test_ten_rows_of_evidence_are_enough_and_fewer_are_not(n):
    """Always arm 1: weights 0 and 2, half of the rows say something."""
    target = np.tile([0.0, 1.0], (n, 1))
    if n // 2 >= 10:
        weights = check_support(target, coin_log(n))
        assert weights.tolist() == [0.0, 2.0] * (n // 2)
    else:
        with pytest.raises(
            ValueError, match=f"{n} rows say as much .* as {n / 2:.1f} "
        ):
            check_support(target, coin_log(n))
    as_logged = check_support(np.full((n, 2), 0.5), coin_log(n))
    assert as_logged.tolist() == [1.0] * n


def test_the_policy_of_the_log_earns_what_the_log_did():
    """Weights of 1: every estimator but DM is the mean reward, 1/2."""
    log = coin_log(40)
    for name, found in by_name(evaluate(np.full((40, 2), 0.5), log)).items():
        assert (found.mean_weight, found.largest_weight) == (1.0, 1.0)
        assert (found.n, found.effective_n) == (40, pytest.approx(40.0))
        assert name == "DM" or found.value == pytest.approx(0.5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_intervals_lie_in_the_unit_interval_and_widen_with_their_level(name):
    log = make_log(300)
    narrow, wide = (
        by_name(evaluate(2, log, level=level, n_resamples=200))[name]
        for level in (0.5, 0.99)
    )
    assert 0.0 <= wide.low <= narrow.low <= narrow.high <= wide.high <= 1.0
    assert (wide.sequence_low is None) == (name != "DR")
    if name == "DR":
        assert 0.0 <= wide.sequence_low <= narrow.sequence_low
        assert narrow.sequence_high <= wide.sequence_high <= 1.0


def test_the_least_propensity_may_be_that_of_the_log_and_no_more():
    log = make_log(100)
    smallest = float(log.propensities.min())
    assert evaluate(2, log, least_propensity=smallest) == evaluate(2, log)
    beyond = float(np.nextafter(smallest, 1.0))
    with pytest.raises(ValueError, match=r"least_propensity lies in \(0, "):
        evaluate(2, log, least_propensity=beyond)


def test_a_smaller_bound_of_propensities_makes_the_sequence_no_narrower():
    log = make_log(300)
    loose, tight = (
        by_name(evaluate(2, log, least_propensity=least))["DR"]
        for least in (0.01, None)
    )
    assert loose.sequence_low <= tight.sequence_low
    assert loose.sequence_high >= tight.sequence_high
    assert loose.value == tight.value


def test_a_generator_is_drawn_from_as_its_seed_is():
    log = make_log(100)
    generator = np.random.default_rng(7)
    first = evaluate(2, log, random_state=generator)
    assert first == evaluate(2, log, random_state=7)
    assert evaluate(2, log, random_state=generator) != first


def test_what_is_refused_is_listed_in_order_and_does_not_touch_the_others():
    log = make_log(100)
    policies = {"x": 9, "two": 2, "y": np.ones((3, 3)), "one": 1}
    found = compare(policies, log)
    assert list(found.refused) == ["x", "y"]
    assert [row.policy for row in found.rows[:: len(ESTIMATORS)]] == ["two", "one"]
    assert found.rows == compare({"two": 2, "one": 1}, log).rows
    assert found.logged == pytest.approx(float(log.rewards.mean()))
