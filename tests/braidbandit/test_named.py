"""Whatever names its arms, features or rows is read by name, wherever it is given."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import cross_validate
from toy_embedder import embed

from braidbandit import (
    Braid,
    BraidRecommender,
    Catalogue,
    Greedy,
    LinearBandit,
    Log,
    ModelCard,
    TaskEncoder,
    UnderLimits,
    compare,
    evaluate,
)
from braidbandit._named import column_names, ordered, places
from braidbandit.bandit.logged_value import logged_value
from braidbandit.catalogue.features import describe, with_gains
from braidbandit.evaluation.importers import (
    log_from_battles,
    log_from_frame,
    log_from_scores,
)
from braidbandit.evaluation.replay import table_of
from braidbandit.evaluation.target_policies import target_probabilities
from braidbandit.ledger.records import Decision
from braidbandit.recommender.objectives import Preference

RNG = np.random.default_rng(0)
CATALOGUE = Catalogue(map(ModelCard, "abc"), map(Braid, "abc"))
IDS = list(CATALOGUE.ids)
TASKS = [f"task {'x' * i}" for i in range(12)]
ROWS = [f"row {i}" for i in range(12)]
ARMS = np.array(["a", "b", "c"] * 4)
X = RNG.standard_normal((12, 2))
REWARDS = RNG.random(12)
SHARES = RNG.dirichlet([2.0, 2.0, 2.0], 12)
ALLOWED = np.array([[True, True, i % 2 == 0] for i in range(12)])
# Every row has the arm that it was given, whatever else is masked.
ALLOWED[np.arange(12), [0, 1, 2] * 4] = True


def agent():
    return BraidRecommender(
        CATALOGUE, TaskEncoder(embedder=embed, n_components=2), Greedy(), price=0.0
    )


def log(**changes):
    given = {"X": X, "arms": ARMS, "rewards": REWARDS, "propensities": SHARES[:, 0]}
    return Log(**{**given, **changes})


def frame(rows=ROWS):
    return pd.DataFrame(X, columns=["u", "v"], index=rows)


def texts():
    return pd.Series(TASKS, index=ROWS)


def scores_of(fitted):
    return fitted.decision_function(TASKS if hasattr(fitted, "catalogue") else frame())


def log_arrays(found):
    parts = (found.X, found.columns, found.rewards, found.propensities, found.eligible)
    return np.column_stack([part.reshape(len(found.X), -1) for part in parts])


def target(policy, **changes):
    return target_probabilities(policy, log(**changes))


def warm(table, tasks=TASKS):
    return scores_of(agent().warm_start(tasks, IDS, table))


def eligible(mask):
    one = agent()
    other = UnderLimits(one, eligible=mask)
    x = TaskEncoder(embedder=embed, n_components=2).transform(TASKS)
    found = other(Log(x, IDS * 4, REWARDS, SHARES[:, 0], IDS))
    decision = one.recommend("x", eligible=mask)
    rows = one.explain("x", eligible=mask).rows
    return [*found.ravel(), *decision.eligible, *(row.probability for row in rows)]


def masked(mask):
    bandit = LinearBandit(random_state=0).fit(frame(), ARMS, reward=REWARDS)
    return [str(part) for part in bandit.recommend(frame(), mask=mask)]


def described(descriptors, **settings):
    arms = ["a", "b", "c"]
    bandit = LinearBandit(arms=arms, descriptors=descriptors, **settings)
    return scores_of(bandit.fit(frame(), ARMS, reward=REWARDS))


class ClassesOnly:
    classes_ = np.array(["a", "b", "c"])

    def __init__(self, found):
        self.found = found

    def predict_proba(self, X):
        return self.found


def decided(scores):
    one = Decision("d", "h", (1.0,), Braid("a"), 1.0, 0.0, tuple(IDS), scores, (True,),
                   0.5, 0.1, 0.0, {}, "p", "c", "e")  # fmt: skip
    return list(one.scores)


def described_braids(costs):
    return describe(CATALOGUE.braids, CATALOGUE.cards, costs)[0]


def gains(signatures):
    pairs = [Braid("a", (donor,), (0.5, 0.5), ("output",), "router") for donor in "bc"]
    braids = [*CATALOGUE.braids, *pairs]
    Z, names = describe(braids, CATALOGUE.cards, np.ones(5))
    return with_gains(Z, names, braids, ["a", "b", "c"], signatures)[0]


class Place(NamedTuple):
    """A place that takes one value per name along the last axis, or along the rows."""

    names: list[str]
    values: Any
    call: Callable[[Any], Any]
    rows: bool = False
    matters: bool = True

    def labelled(self, names, values):
        if self.rows:
            kind = pd.Series if values.ndim == 1 else pd.DataFrame
            return kind(values, index=names)
        if values.ndim == 1:
            return pd.Series(values, index=names)
        return pd.DataFrame(values, columns=names)

    def taken(self, order):
        return self.values[order] if self.rows else self.values[..., order]


COLUMNS = {
    "warm_start": Place(IDS, SHARES, warm),
    "eligible": Place(IDS, np.array([False, True, True]), eligible),
    "mask of one row": Place(list("abc"), np.array([False, True, False]), masked),
    "mask of all rows": Place(list("abc"), ALLOWED, masked),
    "Log(eligible)": Place(list("abc"), ALLOWED, lambda v: log_arrays(log(eligible=v))),
    "target probabilities": Place(list("abc"), SHARES, target),
    "target of a callable": Place(list("abc"), SHARES, lambda v: target(lambda log: v)),
    "predict_proba": Place(list("abc"), SHARES, lambda v: target(ClassesOnly(v))),
    "table_of": Place(
        list("abc"), SHARES, lambda v: table_of(v, X, ["a", "b", "c"]).rewards
    ),
    "Decision": Place(IDS, np.array([0.1, 0.2, 0.3]), decided),
    "costs": Place(IDS, np.array([1.0, 2.0, 4.0]), described_braids),
    "signatures": Place(list("abc"), SHARES, gains),
    "names of descriptors": Place(
        ["share:a", "cost", "other"],
        RNG.random((3, 3)),
        lambda v: described(v, columns=["share:a", "cost", "other"]),
    ),
    "Braid(shares)": Place(
        ["a", "b", "c"],
        np.array([0.5, 0.3, 0.2]),
        lambda v: Braid("a", ("b", "c"), v, ("output",), "router").shares,
    ),
}


def fit_agent(tasks=None, **given):
    rows = {"y": [IDS[i % 3] for i in range(12)], "reward": REWARDS, **given}
    return scores_of(agent().fit(texts() if tasks is None else tasks, **rows))


def score_agent(**given):
    rows = {"y": [IDS[i % 3] for i in range(12)], "reward": REWARDS, **given}
    return agent().score(texts(), **rows)


def fit_bandit(**given):
    return scores_of(
        LinearBandit().fit(frame(), **{"y": ARMS, "reward": REWARDS, **given})
    )


def partly(**given):
    bandit = LinearBandit().fit(frame(), ARMS, reward=REWARDS)
    return scores_of(
        bandit.partial_fit(frame(), **{"y": ARMS, "reward": REWARDS, **given})
    )


def score_bandit(**given):
    bandit = LinearBandit().fit(frame(), ARMS, reward=REWARDS)
    return bandit.score(frame(), **{"y": ARMS, "reward": REWARDS, **given})


def rows_of_log(**changes):
    return log_arrays(log(**{"X": frame(), **changes}))


def in_frame(**columns):
    given = {"u": X[:, 0], "arm": pd.Series(ARMS, index=ROWS), "reward": REWARDS}
    given |= {"propensity": SHARES[:, 0], **columns}
    return log_arrays(log_from_frame(given, context=["u"]))


Y_IDS = np.array([IDS[i % 3] for i in range(12)])
WEIGHTS = SHARES[:, 1]
BY_ROW = {
    "warm_start": Place(ROWS, SHARES, lambda v: warm(v, texts()), True),
    "warm_start by text": Place(TASKS, SHARES, warm, True),
    "warm_start by text of dicts": Place(
        TASKS, SHARES, lambda v: warm(v, [{"prompt": task} for task in TASKS]), True
    ),
    "fit by text": Place(TASKS, REWARDS, lambda v: fit_agent(TASKS, reward=v), True),
    "Log(arms)": Place(ROWS, ARMS, lambda v: rows_of_log(arms=v), True),
    "Log(rewards)": Place(ROWS, REWARDS, lambda v: rows_of_log(rewards=v), True),
    "Log(propensities)": Place(
        ROWS, WEIGHTS, lambda v: rows_of_log(propensities=v), True
    ),
    "Log(eligible)": Place(
        ROWS, ALLOWED, lambda v: rows_of_log(eligible=pd.DataFrame(v)), True
    ),
    "Log(groups)": Place(
        ROWS,
        np.arange(12) // 2,
        lambda v: log(X=frame(), groups=v).contexts,
        True,
    ),
    "Log without labels of X": Place(
        ROWS,
        REWARDS,
        lambda v: rows_of_log(X=X, arms=pd.Series(ARMS, index=ROWS), rewards=v),
        True,
    ),
    "target probabilities": Place(ROWS, SHARES, lambda v: target(v, X=frame()), True),
    "target arms": Place(ROWS, ARMS, lambda v: target(v, X=frame()), True),
    "table_of": Place(ROWS, SHARES, lambda v: table_of(v, frame()).rewards, True),
    "log_from_frame": Place(ROWS, REWARDS, lambda v: in_frame(reward=v), True),
    "log_from_scores": Place(
        ROWS,
        REWARDS,
        lambda v: (
            log_from_scores(
                {"u": X[:, 0], "a": pd.Series(WEIGHTS, index=ROWS), "b": v},
                ["a", "b"],
                context="u",
            ).rewards
        ),
        True,
    ),
    "log_from_battles": Place(
        ROWS,
        np.array(["x", "y", "z"] * 4),
        lambda v: (
            log_from_battles(
                {
                    "u": pd.Series(X[:, 0], index=ROWS),
                    "model_a": v,
                    "model_b": ["w"] * 12,
                    "winner": ["model_a", "tie"] * 6,
                },
                context="u",
            ).columns
        ),
        True,
    ),
    "descriptors by arm": Place(list("abc"), RNG.random((3, 2)), described, True),
    "embeddings by text": Place(
        TASKS,
        RNG.random((12, 4)),
        lambda v: TaskEncoder(embedder=lambda texts: v).transform(TASKS),
        True,
    ),
}
for _name, _value in {
    "reward": REWARDS,
    "propensity": WEIGHTS,
    "sample_weight": WEIGHTS,
}.items():
    for _call in (fit_agent, score_agent, fit_bandit, partly, score_bandit):
        BY_ROW[f"{_call.__name__}({_name})"] = Place(
            ROWS,
            _value,
            lambda v, c=_call, n=_name: c(**{n: v}),
            True,
            # The posterior conditions on the arm, whatever its probability was.
            _name != "propensity" or "score" in _call.__name__,
        )
    BY_ROW[f"logged_value({_name})"] = Place(
        ROWS,
        _value,
        lambda v, n=_name: logged_value(
            pd.Series(["a"] * 12, index=ROWS), ARMS, **{"reward": REWARDS, n: v}
        ),
        True,
    )
for _call, _arms in (
    (fit_agent, Y_IDS),
    (score_agent, Y_IDS),
    (fit_bandit, ARMS),
    (partly, ARMS),
    (score_bandit, ARMS),
):
    BY_ROW[f"{_call.__name__}(y)"] = Place(ROWS, _arms, lambda v, c=_call: c(y=v), True)

EVERY = [*COLUMNS.items(), *((f"{k}, by row", p) for k, p in BY_ROW.items())]
every_place = pytest.mark.parametrize(
    "place", [place for _, place in EVERY], ids=[name for name, _ in EVERY]
)


@every_place
def test_another_order_of_names_is_the_same(place):
    order = np.roll(np.arange(len(place.names)), 1)
    moved = place.labelled([place.names[i] for i in order], place.taken(order))
    wanted = place.call(place.values)
    np.testing.assert_array_equal(place.call(moved), wanted)
    if place.matters:
        # Read by position, it would have been something else.
        with suppress(ValueError):
            assert not np.array_equal(place.call(place.taken(order)), wanted)


@every_place
def test_labels_that_pandas_gives_by_itself_are_no_names(place):
    names = list(range(len(place.names)))
    unnamed = place.labelled(names, place.values)
    np.testing.assert_array_equal(place.call(unnamed), place.call(place.values))


@every_place
@pytest.mark.parametrize("wrong", ["missing", "unknown", "twice"])
def test_other_names_are_refused(place, wrong):
    names, values = list(place.names), place.values
    if wrong == "missing":
        names, values = names[1:], place.taken(np.arange(1, len(names)))
    elif wrong == "unknown":
        names[0] = "nobody"
    else:
        names[0] = names[1]
    with pytest.raises(ValueError, match=r"by other labels than expected"):
        place.call(place.labelled(names, values))


# A mapping of descriptors is by arm.
BY_ARM = {k: place for k, place in COLUMNS.items() if k != "names of descriptors"}


@pytest.mark.parametrize("place", BY_ARM.values(), ids=BY_ARM)
def test_mappings_are_read_by_name(place):
    order = np.roll(np.arange(len(place.names)), 1)
    mapping = {place.names[i]: place.values[..., i] for i in order}
    wanted = place.call(place.values)
    np.testing.assert_array_equal(place.call(mapping), wanted)
    with pytest.raises(ValueError, match="by other labels"):
        place.call({"nobody": mapping.pop(place.names[0]), **mapping})


TABLES = {k: place for k, place in BY_ARM.items() if place.values.ndim == 2}


@pytest.mark.parametrize("place", TABLES.values(), ids=TABLES)
def test_rows_of_a_table_may_each_be_a_series(place):
    order = np.roll(np.arange(len(place.names)), 1)
    names = [place.names[i] for i in order]
    rows = [pd.Series(row[order], index=names) for row in place.values]
    np.testing.assert_array_equal(place.call(rows), place.call(place.values))
    rows[3] = rows[3].rename({names[0]: "nobody"})
    with pytest.raises(ValueError, match="by other labels"):
        place.call(rows)


@pytest.mark.parametrize("names", [ROWS, TASKS], ids=["labels", "texts"])
def test_values_of_rows_may_be_a_mapping(names):
    order = np.roll(np.arange(12), 1)
    given = {names[i]: REWARDS[i] for i in order}
    np.testing.assert_array_equal(fit_agent(reward=given), fit_agent(reward=REWARDS))
    tables = {arm: {names[i]: SHARES[i, j] for i in order} for j, arm in enumerate(IDS)}
    np.testing.assert_array_equal(warm(tables, texts()), warm(SHARES, texts()))
    del given[names[3]]
    with pytest.raises(ValueError, match="missing"):
        fit_agent(reward=given)
    with pytest.raises(ValueError, match="have no names"):
        LinearBandit().fit(X, ARMS, reward=given)


def test_names_of_features_are_as_many_as_the_columns():
    cold = TaskEncoder(embedder=embed)  # knows how many it has once it is fitted
    table = {"prompt": TASKS, "arm": ARMS, "reward": REWARDS, "propensity": WEIGHTS}
    assert log_from_frame(table, context="prompt", encoder=cold).feature_names is None
    warm = TaskEncoder(embedder=embed).fit(TASKS)
    found = log_from_frame(table, context="prompt", encoder=warm)
    assert found.feature_names == tuple(warm.get_feature_names_out())
    with pytest.raises(ValueError, match="1 feature names for 2 columns"):
        log(feature_names=["u"])


def test_a_preference_may_be_a_series():
    weights = pd.Series({"compute": 0.2, "quality": 2.0})
    assert Preference.read(weights) == Preference(compute=0.1)


def test_model_selection_splits_labelled_rows_together():
    order = RNG.permutation(12)
    moved = pd.Series(REWARDS, index=ROWS).iloc[order]
    given = {"cv": 3, "error_score": "raise"}
    plain = cross_validate(LinearBandit(), X, ARMS, params={"reward": REWARDS}, **given)
    labelled = cross_validate(
        LinearBandit(),
        frame(),
        pd.Series(ARMS, index=ROWS),
        params={"reward": pd.Series(REWARDS, index=ROWS)},
        **given,
    )
    np.testing.assert_array_equal(plain["test_score"], labelled["test_score"])
    with pytest.raises(ValueError, match="reward by row is named by other labels"):
        cross_validate(LinearBandit(), frame(), ARMS, params={"reward": moved}, **given)


def test_descriptors_as_a_mapping_from_arm_to_row():
    rows = RNG.random((3, 2))
    mapping = {"c": rows[2], "a": rows[0], "b": rows[1]}
    np.testing.assert_array_equal(described(mapping), described(rows))


def test_a_data_frame_names_the_descriptors():
    rows = RNG.random((3, 2))
    table = pd.DataFrame(rows, columns=["share:a", "cost"], index=["a", "b", "c"])
    bandit = LinearBandit(arms=["a", "b", "c"], descriptors=table).fit(X, ARMS)
    assert bandit.columns_ == ("bias", "share:a", "cost")


def test_a_pivoted_table_is_read_by_name():
    """Rows and columns sorted by pandas; the first arm earns most on every task."""
    tasks = TASKS[::-1]
    rows = [
        {"prompt": task, "arm": arm, "score": 0.9 - 0.3 * at - 0.01 * i}
        for i, task in enumerate(tasks)
        for at, arm in enumerate(IDS)
    ]
    table = pd.DataFrame(rows).pivot_table("score", "prompt", "arm")
    assert table.columns.tolist() != IDS
    found = warm(table, tasks)
    plain = warm(np.array([r["score"] for r in rows]).reshape(12, 3), tasks)
    np.testing.assert_array_equal(found, plain)
    one = agent().warm_start(tasks, IDS, table)
    assert one.baseline_ == IDS[0]
    assert set(one.predict(tasks)) == {IDS[0]}


def test_what_is_refused_leaves_a_recommender_as_it_was():
    one = agent()
    table = pd.DataFrame(SHARES, columns=[*IDS[:2], "nobody"])
    with pytest.raises(ValueError, match="nobody"):
        one.warm_start(TASKS, IDS, table)
    rewards = pd.Series(REWARDS, index=[*ROWS[:11], "nobody"])
    with pytest.raises(ValueError, match="nobody"):
        one.fit(texts(), Y_IDS, reward=rewards)
    with pytest.raises(ValueError, match="nobody"):
        one.recommend("x", eligible={IDS[0]: True, "nobody": False})
    assert one.posterior_ is None
    assert not one.pending_
    assert not one.encoder_.__sklearn_is_fitted__()


def test_policies_get_the_columns_of_a_log_by_name():
    """Fitted on u and v; the log has them the other way round."""
    bandit = LinearBandit(Greedy()).fit(frame(), ARMS, reward=REWARDS)
    wanted = bandit.predict_proba(frame())
    other = log(X=frame()[["v", "u"]])
    np.testing.assert_array_equal(target_probabilities(bandit, other), wanted)
    table = frame().assign(arm=ARMS, reward=REWARDS, propensity=WEIGHTS)
    other = log_from_frame(table, context=["v", "u"])
    np.testing.assert_array_equal(target_probabilities(bandit, other), wanted)
    with pytest.raises(ValueError, match="missing \\['v'\\]"):
        target_probabilities(bandit, log(X=frame().rename(columns={"v": "w"})))


def test_recommenders_get_the_columns_of_a_log_by_name():
    one = agent().fit(TASKS, Y_IDS, reward=REWARDS)
    names = one.encoder_.get_feature_names_out()
    features = pd.DataFrame(one.encoder_.transform(TASKS), columns=names)
    wanted = target_probabilities(one, log(X=features, arms=Y_IDS, arm_ids=IDS))
    moved = log(X=features[names[::-1]], arms=Y_IDS, arm_ids=IDS)
    np.testing.assert_array_equal(target_probabilities(one, moved), wanted)


def test_features_in_another_order_are_refused_after_fit():
    bandit = LinearBandit(random_state=0).fit(frame(), ARMS, reward=REWARDS)
    moved = frame()[["v", "u"]]
    calls = [
        lambda: bandit.predict(moved),
        lambda: bandit.predict_proba(moved),
        lambda: bandit.decision_function(moved),
        lambda: bandit.recommend(moved),
        lambda: bandit.score(moved, ARMS),
        lambda: bandit.partial_fit(moved, ARMS),
    ]
    before = bandit.posterior_.mean.tobytes()
    for call in calls:
        with pytest.raises(ValueError, match="same order"):
            call()
    assert bandit.posterior_.mean.tobytes() == before


def test_names_of_features_go_with_the_fit():
    bandit = LinearBandit().fit(frame(), ARMS).fit(X, ARMS)
    assert not hasattr(bandit, "feature_names_in_")
    assert len(bandit.predict(X)) == 12


def test_estimates_by_name():
    rng = np.random.default_rng(0)
    arms = rng.choice(["a", "b", "c"], 300)
    data = Log(rng.random((300, 1)), arms, arms == "a", np.full(300, 1 / 3))
    always = np.tile([1.0, 0.0, 0.0], (300, 1))
    table = pd.DataFrame(always, columns=["a", "b", "c"])[["c", "b", "a"]]
    assert evaluate(table, data) == evaluate(always, data)
    both = compare({"table": table, "dict": dict(table)}, data)
    assert len({row.value for row in both.rows if row.estimator == "DR"}) == 1


def test_a_table_of_rewards_names_its_models():
    table = pd.DataFrame(SHARES, columns=["c", "a", "b"])
    assert list(table_of(table, X).catalogue.cards) == ["c", "a", "b"]
    assert list(table_of(dict(table), X).catalogue.cards) == ["c", "a", "b"]
    with pytest.raises(ValueError, match="2 names for 3 columns"):
        table_of(SHARES, X, ["a", "b"])


def test_sets_have_no_order():
    assert ordered({"b": 1, "a": 2}.keys(), "arms") == ["b", "a"]
    calls = [
        lambda: agent().warm_start(TASKS, set(IDS), SHARES),
        lambda: log(arm_ids={"a", "b", "c"}),
        lambda: table_of(SHARES, X, {"a", "b", "c"}),
        lambda: Braid("a", {"b", "c"}, (0.5, 0.3, 0.2), ("output",), "router"),
        lambda: log_from_scores({"a": REWARDS, "b": REWARDS}, {"a", "b"}),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="set"):
            call()


class Polars:
    """What is used of a data frame of polars: columns, and to be read as an array."""

    def __init__(self, values, columns):
        self.values, self.columns = values, columns

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype=dtype)


def test_data_frames_without_an_index():
    moved = Polars(SHARES[:, [2, 0, 1]], ["c", "a", "b"])
    np.testing.assert_array_equal(target(moved), SHARES)
    unnamed = Polars(SHARES, ["column_0", "column_1", "column_2"])
    np.testing.assert_array_equal(target(unnamed), SHARES)
    assert column_names(unnamed) == [0, 1, 2]


def test_numbers_can_be_names():
    """Arms 2, 0, 1; a frame whose columns are 0, 1, 2 has named them."""
    assert places([0, 1, 2], [2, 0, 1], "table") == [2, 0, 1]
    data = Log(X, [2, 0, 1] * 4, REWARDS, WEIGHTS, [2, 0, 1])
    found = target_probabilities(pd.DataFrame(SHARES), data)
    np.testing.assert_array_equal(found, SHARES[:, [2, 0, 1]])


def test_tables_and_texts_are_no_lists_of_tasks():
    from braidbandit import build_table

    for tasks in ("a text", {"text": "one task"}, pd.DataFrame({"prompt": TASKS})):
        with pytest.raises(TypeError, match="list of tasks"):
            build_table(CATALOGUE, tasks, lambda braid, task: 0.5, progress=False)
