import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_checks import COLLIDING, MISSING

from braidbandit import compare, evaluate
from braidbandit.evaluation.importers import (
    log_from_battles,
    log_from_dsjson,
    log_from_frame,
    log_from_scores,
)


def test_a_data_frame(encoder):
    frame = pd.DataFrame(
        {
            "task": ["sort a list", "a poem"],
            "arm": ["b", "a"],
            "reward": [1.0, 0.25],
            "propensity": [0.5, 0.25],
            "length": [11, 6],
        }
    )
    log = log_from_frame(frame, context=["length"], arm_ids=["a", "b", "c"])
    assert log.X.tolist() == [[11.0], [6.0]]
    assert log.arm_ids == ("a", "b", "c")
    assert [log.arm_ids[c] for c in log.columns] == ["b", "a"]
    assert log.rewards.tolist() == [1.0, 0.25]
    encoder.fit(["x", "y z", "z"])
    log = log_from_frame(frame, context="task", encoder=encoder)
    np.testing.assert_array_equal(log.X, encoder.transform(frame["task"].tolist()))
    assert log.encoder_hash == encoder.projection_hash()


def test_scores_give_what_a_policy_earns_on_the_table():
    """strong earns 0.75, weak 0.5; strong on even rows and weak on odd ones 0.75."""
    frame = pd.DataFrame(
        {
            "length": np.arange(40.0),
            "strong": [True, True, True, False] * 10,
            "weak": [False, True, False, True] * 10,
        }
    )
    log = log_from_scores(frame, ["strong", "weak"], context=["length"])
    mixed = np.repeat(["strong", "weak"] * 20, 2)
    table = compare({"strong": "strong", "weak": "weak", "mixed": mixed}, log)
    ips = {row.policy: row.value for row in table.rows if row.estimator == "IPS"}
    assert ips == pytest.approx({"strong": 0.75, "weak": 0.5, "mixed": 1.0})


def test_a_prompt_that_comes_twice_is_one(encoder):
    """Twelve prompts of which each is in the table twice, with features or without."""
    frame = {
        "task": [f"task {i}" for i in range(12)] * 2,
        "length": np.arange(24.0) % 12,
        "a": [1.0, 0.0] * 12,
        "b": [0.0, 1.0] * 12,
    }
    encoder.fit(frame["task"])
    log = log_from_scores(frame, ["a", "b"], context="task", encoder=encoder)
    assert len(set(log.clusters.tolist())) == 12
    assert (log.contexts[:24] == log.contexts[24:]).all()
    numbers = log_from_scores(frame, ["a", "b"], context=["length"])
    assert len(set(numbers.clusters.tolist())) == 24


def test_battles():
    """x meets y twice and z once: 1, 1/2 and 1 of three."""
    frame = {
        "length": [1, 2, 3],
        "model_a": ["x", "y", "z"],
        "model_b": ["y", "x", "x"],
        "winner": ["model_a", "tie (bothbad)", "model_b"],
    }
    log = log_from_battles(frame, context=["length"])
    assert log.arm_ids == ("x", "y", "z")
    assert log.propensities.tolist() == pytest.approx(np.array([3, 2, 2, 3, 1, 3]) / 6)
    assert log.rewards[log.columns == 0].tolist() == [1.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="winners"):
        log_from_battles({**frame, "winner": ["a", "b", "c"]}, context=["length"])


def test_newer_battles_call_a_tie_of_losers_both_bad():
    frame = {
        "length": [1, 2],
        "model_a": ["x", "y"],
        "model_b": ["y", "x"],
        "winner": ["both_bad", "model_a"],
    }
    log = log_from_battles(frame, context=["length"])
    assert log.rewards.tolist() == [0.5, 0.5, 1.0, 0.0]
    assert log.clusters.tolist() == [0, 0, 1, 1]


def test_both_rows_of_a_battle_are_one_observation():
    """x wins 60 of 100 battles; the two rows of each say the same. Its value is 0.6
    with the error of 100 battles, not that of 200 rows."""
    frame = {
        "length": np.arange(100.0),
        "model_a": ["x"] * 100,
        "model_b": ["y"] * 100,
        "winner": ["model_a", "model_a", "model_a", "model_b", "model_b"] * 20,
    }
    log = log_from_battles(frame, context=["length"])
    [ips] = [row for row in evaluate("x", log) if row.estimator == "IPS"]
    assert ips.value == pytest.approx(0.6)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 100)
    assert (ips.high - ips.low) / 2 == pytest.approx(half, rel=0.15)


@pytest.mark.parametrize("name", [*MISSING, *COLLIDING])
def test_rows_without_an_arm_are_no_arm(name):
    labels = {**MISSING, **COLLIDING}[name]
    frame = {"length": [1, 2, 3, 4], "arm": labels, "reward": [1.0] * 4}
    reason = "no arm|several kinds"
    with pytest.raises(ValueError, match=reason):
        log_from_frame({**frame, "propensity": [0.5] * 4}, context=["length"])
    battles = {**frame, "model_a": ["a"] * 4, "model_b": labels, "winner": ["tie"] * 4}
    with pytest.raises(ValueError, match=reason):
        log_from_battles(battles, context=["length"])


def test_a_left_join_without_partners():
    """The float column that comes of it has no arm in 30 rows; there are three arms."""
    numbers = pd.Series(np.tile([1.0, 2.0, 3.0], 30))
    frame = pd.DataFrame({"x": np.arange(90.0), "arm": numbers, "reward": 1.0})
    frame["propensity"] = 1 / 3
    assert log_from_frame(frame, context=["x"], arm_ids=[1, 2, 3]).arm_ids == (1, 2, 3)
    frame.loc[:29, "arm"] = np.nan
    with pytest.raises(ValueError, match="30 rows have no arm, of 90"):
        log_from_frame(frame, context=["x"])


def test_masked_numbers_are_no_numbers():
    column = np.ma.array([1.0, 2.0], mask=[False, True])
    frame = {"x": [1, 2], "arm": ["a", "b"], "reward": [1, 0], "propensity": [1, 1]}
    for name in ("x", "reward", "propensity"):
        with pytest.raises(ValueError, match="1 values of"):
            log_from_frame({**frame, name: column}, context=["x"])
    scores = {"x": [1, 2], "a": [1, 0], "b": column}
    with pytest.raises(ValueError, match="1 values of b"):
        log_from_scores(scores, ["a", "b"], context=["x"])


TWO = [{"id": 1}, {"id": 2}]


def line(action=1, cost=-1.0, p=0.5, actions=("a", "b"), **more):
    multi = [{"Article": {"id": name}} for name in actions]
    event = {
        "_label_cost": cost,
        "_label_probability": p,
        "_label_Action": action,
        "_labelIndex": action - 1,
        "EventId": "e",
        "a": list(range(1, len(actions) + 1)),
        "c": {"User": {"age": 30, "from": "Bern"}, "_multi": multi},
        "p": [1.0 / len(actions)] * len(actions),
    }
    return json.dumps({**event, **more})


def test_dsjson(tmp_path):
    file = tmp_path / "log.json"
    dangling = '{"RewardValue": 1.0, "EventId": "e"}'
    lines = [line(), "", line(2, cost=0.5, p=0.25, actions=("c", "a")), dangling]
    file.write_text("\n".join(lines))
    log = log_from_dsjson(file, reward_range=(-1.0, 1.0))
    assert log.arm_ids == ("a", "b", "c")
    assert log.columns.tolist() == [0, 0]
    assert log.rewards.tolist() == [1.0, 0.25]
    assert log.propensities.tolist() == [0.5, 0.25]
    assert log.eligible.tolist() == [[True, True, False], [True, False, True]]
    assert log.X.tolist() == [[30.0, 1.0], [30.0, 1.0]]


def test_dsjson_names_its_arms():
    tagged = {"User": {"n": 1}, "_multi": [{"_tag": "t", "id": "i"}, {"x": {"k": 2}}]}
    first, second = log_from_dsjson([line(c=tagged)]).arm_ids
    assert (first, len(second)) == ("t", 16)
    log = log_from_dsjson([line()], arm_of=lambda action: action["Article"]["id"] * 2)
    assert log.arm_ids == ("aa", "bb")


def test_dsjson_leaves_out_what_was_never_shown():
    """A deferred decision that nobody activated has a cost of 0, and no reward. It is
    not looked at any further: it may have no probability."""
    shown = [line(), line(2, cost=0.0, _skipLearn=False), line(_skipLearn=None)]
    hidden = [line(cost=0.0, _skipLearn=True), line(p=0.0, pdrop=0.5, _skipLearn=True)]
    log = log_from_dsjson([*hidden, *shown, *hidden])
    assert log.rewards.tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="was shown"):
        log_from_dsjson(hidden)


def test_dsjson_keeps_ids_apart():
    """Ids beyond 2^53 are no floats, and 1.5 is not 1."""
    ids = [2**53, 2**53 + 1, 1.5, 1.0, 2]
    log = log_from_dsjson([line(actions=ids)])
    assert log.arm_ids == (str(2**53), str(2**53 + 1), "1.5", "1", "2")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (line(_skipLearn="false"), "_skipLearn is true or false"),
        ("[]", "expected an object"),
        (line(actions=("a", "")), "1 entries of arm_ids"),
        ('{"c": {"_multi"', "line 1 is damaged"),
        (line(action=3), "action 3 of 2"),
        (line(_label_Action=1.7), r"action 1\.7 of 2"),
        (line(_label_Action=True), "action True of 2"),
        (
            line(c={"_multi": TWO, "a.b": 1, "a": {"b": 2}}),
            "same name",
        ),
        (line(c={"_multi": TWO, "n": 10**400}), "line 1 is damaged"),
        (line(actions=("a", "a")), "same name"),
        (line(cost=-2.0), "reward"),
        (line(p=0.0), "propensity"),
        (line(pdrop=0.5), "dropped"),
        (line(_label_cost=None), "no line"),
    ],
)
def test_bad_dsjson(bad, message):
    with pytest.raises(ValueError, match=message):
        log_from_dsjson([bad])


def test_bad_tables(encoder):
    frame = {"task": ["a"], "arm": ["x"], "reward": [1.0], "propensity": [1.0]}
    with pytest.raises(ValueError, match="not numeric"):
        log_from_frame(frame, context="task")
    with pytest.raises(KeyError, match="no column 'size'"):
        log_from_frame(frame, context=["size"])
    with pytest.raises(ValueError, match="names the column"):
        log_from_frame(frame, context=["task"], encoder=encoder)
    with pytest.raises(ValueError, match="two columns"):
        log_from_scores(frame, ["x"], context="task")
    with pytest.raises(ValueError, match="reward_range"):
        log_from_dsjson([line()], reward_range=(1.0, 1.0))


BATTLE = {"length": [1, 2], "model_a": ["x", "y"], "model_b": ["y", "x"]}
IMPORTERS = {
    "frame": (
        lambda frame, **more: log_from_frame(frame, context=["length"], **more),
        {
            "length": [1.0, 2.0],
            "arm": ["a", "b"],
            "reward": [1.0, 0.0],
            "propensity": [0.5, 0.5],
        },
    ),
    "scores": (
        lambda frame, **more: log_from_scores(
            frame, ["a", "b"], context=["length"], **more
        ),
        {"length": [1.0, 2.0], "a": [1.0, 0.0], "b": [0.0, 1.0]},
    ),
    "battles": (
        lambda frame, **more: log_from_battles(frame, context=["length"], **more),
        {**BATTLE, "winner": ["model_a", "tie"]},
    ),
}


def copied(frame):
    return {name: list(column) for name, column in frame.items()}


@pytest.mark.parametrize("name", IMPORTERS)
def test_every_column_is_needed(name):
    read, frame = IMPORTERS[name]
    read(frame)
    for column in frame:
        less = {key: values for key, values in frame.items() if key != column}
        with pytest.raises(KeyError, match=f"no column {column!r}; there are"):
            read(less)


@pytest.mark.parametrize("name", IMPORTERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, "many"])
def test_contexts_are_finite_numbers(name, bad):
    read, frame = IMPORTERS[name]
    with pytest.raises(ValueError, match="finite|not numeric"):
        read({**frame, "length": [1.0, bad]})


@pytest.mark.parametrize("name", IMPORTERS)
def test_no_rows_make_no_log(name):
    read, frame = IMPORTERS[name]
    with pytest.raises(ValueError, match="at least one row"):
        read({column: [] for column in frame})


@pytest.mark.parametrize("name", IMPORTERS)
def test_an_encoder_reads_one_column_of_tasks(name, encoder):
    read, frame = IMPORTERS[name]
    with pytest.raises(ValueError, match="context names the column of the tasks"):
        read(frame, encoder=encoder)


@pytest.mark.parametrize("name", IMPORTERS)
def test_what_is_given_stays_as_it_is(name):
    read, frame = IMPORTERS[name]
    given = copied(frame)
    read(given)
    with pytest.raises(ValueError, match="finite"):
        read({**given, "length": [1.0, np.nan]})
    assert given == frame


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_data_frame_and_a_mapping_are_one_table(name):
    read, frame = IMPORTERS[name]
    one, two = read(frame), read(pd.DataFrame(frame))
    for field in ("X", "columns", "rewards", "propensities", "clusters"):
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))
    assert one.feature_names == two.feature_names == ("length",)
    assert one.arm_ids == two.arm_ids


@pytest.mark.parametrize("name", IMPORTERS)
def test_rows_in_another_order_are_the_same_log(name):
    """Two logs are equal as sets of rows."""
    read, frame = IMPORTERS[name]

    def rows(log):
        arms = [log.arm_ids[column] for column in log.columns]
        table = zip(log.X[:, 0], arms, log.rewards, log.propensities, strict=True)
        return sorted(table)

    turned = {column: values[::-1] for column, values in frame.items()}
    assert rows(read(frame)) == rows(read(turned))


@pytest.mark.parametrize("bad", [1.5, -0.1, np.nan])
@pytest.mark.parametrize("name", ["frame", "scores"])
def test_rewards_lie_between_0_and_1(name, bad):
    read, frame = IMPORTERS[name]
    column = {"frame": "reward", "scores": "b"}[name]
    with pytest.raises(ValueError, match=r"a reward lies in \[0, 1\]"):
        read({**frame, column: [1.0, bad]})


def test_dsjson_of_a_file_names_file_and_line(tmp_path):
    file = tmp_path / "log.json"
    file.write_text(line() + "\n\n" + "{not json\n")
    with pytest.raises(ValueError, match=r"line 3 of .*log\.json is damaged"):
        log_from_dsjson(file)
    file.write_text(line() + "\n" + line(action=3) + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*log\.json is damaged.*3 of 2"):
        log_from_dsjson(str(file))


def test_dsjson_without_features_has_a_constant():
    log = log_from_dsjson([line(c={"_multi": TWO})])
    assert log.X.tolist() == [[1.0]]


def test_dsjson_features_by_path():
    """Numbers are columns, words one column each, lists are numbered."""
    shared = {"a": {"n": 2, "kind": "x"}, "tags": ["u", "v"], "none": None}
    lines = [line(c={**shared, "_multi": TWO}), line(c={"a": {"n": 3}, "_multi": TWO})]
    log = log_from_dsjson(lines)
    # In alphabetical order: a.kind=x, a.n, tags[0]=u, tags[1]=v.
    assert log.X.tolist() == [[1.0, 2.0, 1.0, 1.0], [0.0, 3.0, 0.0, 0.0]]


# ---- what columns and lines come to ----


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=8))
def test_scores_are_told_prompt_by_prompt_and_model_by_model(scores):
    table = np.array(scores) / 4
    frame = dict(zip("xyz", table.T, strict=True))
    frame = {"n": range(len(table)), **frame}
    log = log_from_scores(frame, list("zyx"), context="n")
    assert log.rewards.reshape(-1, 3).tolist() == table[:, ::-1].tolist()
    assert log.columns.reshape(-1, 3).tolist() == [[0, 1, 2]] * len(table)
    assert log.X[:, 0].tolist() == np.repeat(np.arange(len(table)), 3).tolist()
    assert set(log.propensities) == {1 / 3}
    assert log.clusters.tolist() == np.repeat(np.arange(len(table)), 3).tolist()


@given(
    st.lists(
        st.tuples(
            st.sampled_from("xyz"),
            st.sampled_from("xyz"),
            st.sampled_from(["model_a", "model_b", "tie", "tie (bothbad)"]),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_a_battle_hands_out_one_reward(battles):
    """1 and 0, or two halves; a model's propensity is its share of the rows."""
    one, other, winners = zip(*battles, strict=True)
    frame = {"n": range(len(battles)), "model_a": one, "model_b": other}
    log = log_from_battles({**frame, "winner": winners}, context="n")
    pairs = log.rewards.reshape(-1, 2)
    assert (pairs.sum(axis=1) == 1.0).all()
    assert pairs[:, 0].tolist() == [
        {"model_a": 1.0, "model_b": 0.0}.get(winner, 0.5) for winner in winners
    ]
    taken = [log.arm_ids[column] for column in log.columns]
    assert taken == [model for pair in zip(one, other, strict=True) for model in pair]
    shares = [taken.count(model) / len(taken) for model in taken]
    assert log.propensities.tolist() == shares


@pytest.mark.parametrize("name", IMPORTERS)
def test_columns_that_name_their_rows_need_no_order(name):
    """The first column says their order; another comes the other way round."""
    read, frame = IMPORTERS[name]
    expected = read(frame)
    columns = {
        key: pd.Series(values, index=["p", "q"]) for key, values in frame.items()
    }
    for turned in list(frame)[1:]:
        found = read({**columns, turned: columns[turned][::-1]})
        for field in ("X", "columns", "rewards", "propensities"):
            one, other = getattr(found, field), getattr(expected, field)
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("models", "raised", "message"),
    [
        ("ab", ValueError, "at least two columns, received 'ab'"),
        ([], ValueError, "at least two columns"),
        ({"a", "b"}, TypeError, "models is a list of names"),
        (["a", "a"], ValueError, "named twice"),
        (["a", "c"], KeyError, "no column 'c'; there are"),
    ],
)
def test_models_are_named_in_order_each_once(models, raised, message):
    with pytest.raises(raised, match=message):
        log_from_scores(IMPORTERS["scores"][1], models, context="length")


@pytest.mark.parametrize("name", IMPORTERS)
def test_columns_of_different_lengths_are_refused(name):
    read, frame = IMPORTERS[name]
    for short in frame:
        with pytest.raises(ValueError, match="expected|dimension|shape|argument|match"):
            read({**frame, short: frame[short][:1]})


def test_features_of_an_encoder_are_named_by_it(encoder):
    frame = {"task": ["u v", "w"], "a": [1.0, 0.0], "b": [0.0, 1.0]}
    encoder.fit(frame["task"])
    log = log_from_scores(frame, ["a", "b"], context="task", encoder=encoder)
    assert log.feature_names == tuple(encoder.get_feature_names_out())
    assert log.encoder_hash == encoder.projection_hash()


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.0, 2.0), (-1.0, 0.0), (0, 100)])
@given(share=st.floats(0.0, 1.0))
def test_minus_the_cost_is_scaled_to_the_range(bounds, share):
    low, high = bounds
    cost = -min(max(low + share * (high - low), low), high)
    log = log_from_dsjson([line(cost=cost)], reward_range=bounds)
    assert log.rewards[0] == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("reward", [-1.001, 1.001])
def test_a_cost_beyond_the_range_is_refused(reward):
    with pytest.raises(ValueError, match=r"a reward lies in \[0, 1\]"):
        log_from_dsjson([line(cost=-reward)], reward_range=(-1.0, 1.0))


@pytest.mark.parametrize(
    "bounds", [(1, 0), (0, 0), (float("nan"), 1), (0, float("nan"))]
)
def test_a_range_has_a_low_and_a_high_end(bounds):
    with pytest.raises(ValueError, match=r"reward_range is \(low, high\), received"):
        log_from_dsjson([line()], reward_range=bounds)


def test_lines_come_from_wherever_they_are(tmp_path, monkeypatch):
    """A path, text or bytes, with the line ends of any system."""
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = [line(), line(2, cost=-0.5)]
    (tmp_path / "log.json").write_bytes("\r\n".join(lines).encode())
    sources = [
        tmp_path / "log.json", "~/log.json", lines, iter(lines), map(str.encode, lines)
    ]  # fmt: skip
    for source in sources:
        assert log_from_dsjson(source).rewards.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("shared", "found"),
    [
        ([{"a": "x", "a=x": 5}], r"\['a=x'\]"),
        ([{"a": "x"}, {"a=x": 5}], r"\['a=x'\]"),
    ],
)
def test_a_word_and_a_number_share_no_column(shared, found):
    """The word x of a is the column "a=x": a number of that name would be added."""
    lines = [line(c={**features, "_multi": TWO}) for features in shared]
    with pytest.raises(ValueError, match=f"would share the columns {found}"):
        log_from_dsjson(lines)


@pytest.mark.parametrize("multi", [{"id": 1}, "ab", 5, None])
def test_actions_are_a_list(multi):
    with pytest.raises(ValueError, match="line 1 is damaged.*_multi is a list"):
        log_from_dsjson([line(c={"n": 1, "_multi": multi})])


@pytest.mark.parametrize("missing", ["_label_probability", "_label_Action"])
def test_a_shown_line_says_which_action_and_how_likely(missing):
    event = json.loads(line())
    del event[missing]
    with pytest.raises(ValueError, match=f"line 2 is damaged.*{missing}"):
        log_from_dsjson([line(), json.dumps(event)])
