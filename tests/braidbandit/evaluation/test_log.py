import dataclasses
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Braid, Decision, Log, Outcome
from braidbandit.evaluation.log import encoder_names


def test_a_log_is_read_from_the_ledger_without_what_is_pending(ledger, agent):
    log = Log.read(ledger)
    assert log.X.shape == (11, len(agent.posterior_.groups[0]))
    assert log.arm_ids == agent.catalogue.ids
    pairs = [(d, o) for _, d, o in ledger.pairs()]
    assert [log.arm_ids[c] for c in log.columns] == [d.braid.id for d, _ in pairs]
    assert log.rewards.tolist() == [o.reward for _, o in pairs]
    assert log.propensities.tolist() == [d.propensity for d, _ in pairs]
    with pytest.raises(ValueError, match="no outcome"):
        Log.read(ledger, after=11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": [[np.nan], [0.0]]}, "finite"),
        ({"X": [[0.0]]}, "expected"),
        ({"rewards": [0.0, 2.0]}, "reward"),
        ({"propensities": [0.0, 1.0]}, "propensity"),
        ({"propensities": None}, "propensities are needed"),
        ({"rewards": np.ma.array([0.0, 1.0], mask=[False, True])}, "1 values of rew"),
        ({"propensities": np.ma.array([0.5, 0.5], mask=True)}, "2 values of prop"),
        ({"X": np.ma.array([[0.0], [1.0]], mask=[[True], [False]])}, "1 values of X"),
        ({"arms": ["a", None]}, "1 rows have no arm, of 2"),
        ({"arms": "ab"}, "each row"),
        ({"arm_ids": ["a", "b", None]}, "1 entries of arm_ids"),
        ({"arms": ["1", "2"], "arm_ids": [1, 2]}, "several kinds"),
        ({"arms": [True, False], "arm_ids": [0, 1]}, "several kinds"),
        ({"groups": [1]}, "groups"),
        ({"groups": [np.nan, np.nan]}, "2 rows have no group, of 2"),
        ({"groups": np.ma.array([1, 2], mask=[True, False])}, "1 rows have no group"),
        ({"groups": [1, "1"]}, "labels of groups are of several kinds"),
        ({"arm_ids": ["a"]}, "unknown arms"),
        ({"arm_ids": ["a", "b", "b"]}, "twice"),
        ({"eligible": [[True, False]] * 2}, "could not be"),
        ({"eligible": [[1, 1]] * 2}, "boolean"),
    ],
)
def test_logs_that_make_no_sense(change, message):
    good = {
        "X": [[0.0], [1.0]],
        "arms": ["a", "b"],
        "rewards": [0.0, 1.0],
        "propensities": [0.5, 0.5],
    }
    Log(**good)
    with pytest.raises(ValueError, match=message):
        Log(**{**good, **change})


def test_rows_about_one_thing(log):
    """Three rows are too few to tell. Twelve tasks of two rows each are contexts, and
    clusters too, unless some task met one arm more often than the other."""
    assert log.contexts.tolist() == log.clusters.tolist() == [0, 1, 2]
    X = np.repeat(np.arange(12.0)[:, None], 2, axis=0)
    table = Log(X, ["a", "b"] * 12, np.ones(24), np.full(24, 0.5))
    assert table.contexts.tolist() == np.repeat(np.arange(12), 2).tolist()
    assert table.clusters.tolist() == table.contexts.tolist()
    again = np.append(X, X[:1], axis=0)
    stream = Log(again, ["a", "b"] * 12 + ["a"], np.ones(25), np.full(25, 0.5))
    assert stream.contexts.tolist() == [*table.contexts.tolist(), 0]
    assert stream.clusters.tolist() == list(range(25))
    given = Log(X, ["a"] * 24, np.ones(24), np.full(24, 0.5), groups=["p", "q"] * 12)
    assert given.contexts.tolist() == given.clusters.tolist() == [0, 1] * 12


def test_a_log_of_pairs(ledger):
    pairs = [(d, o) for _, d, o in ledger.pairs()]
    assert Log.read(ledger).decision_ids == tuple(d.id for d, _ in pairs)
    assert Log.of(pairs[:4]).decision_ids == tuple(d.id for d, _ in pairs[:4])
    with pytest.raises(ValueError, match="no outcome"):
        Log.of([])


GOOD = {
    "X": [[0.0], [1.0]],
    "arms": ["a", "b"],
    "rewards": [0.0, 1.0],
    "propensities": [0.5, 0.5],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_names": ["u", "v"]}, "2 feature names for 1 columns"),
        ({"decision_ids": ["d1"]}, "1 decision_ids for 2 rows"),
        ({"X": [], "arms": [], "rewards": [], "propensities": []}, "at least one row"),
    ],
)
def test_names_and_ids_fit(change, message):
    with pytest.raises(ValueError, match=message):
        Log(**{**GOOD, **change})


def test_rows_come_in_the_order_of_their_labels():
    """X names its rows 7 and 5; rewards and arms have them the other way round."""
    X = pd.DataFrame({"u": [1.0, 2.0]}, index=[7, 5])
    log = Log(
        X,
        pd.Series(["b", "a"], index=[5, 7]),
        pd.Series([0.25, 1.0], index=[5, 7]),
        [0.5, 0.125],
        eligible=pd.DataFrame({"b": [False, True], "a": True}, index=[7, 5]),
    )
    assert [log.arm_ids[column] for column in log.columns] == ["a", "b"]
    assert log.rewards.tolist() == [1.0, 0.25]
    assert log.propensities.tolist() == [0.5, 0.125]
    assert log.eligible.tolist() == [[True, False], [True, True]]
    assert log.feature_names == ("u",)


def test_inputs_of_an_estimator_with_names():
    log = Log([[3.0, 5.0]], ["a"], [1.0], [1.0], feature_names=["u", "v"])
    frame = log.inputs(["v", "u"])
    assert frame.to_dict("list") == {"v": [5.0], "u": [3.0]}
    assert log.inputs(None) is log.X
    with pytest.raises(ValueError, match="X of the log by column"):
        log.inputs(["v", "w"])
    unnamed = Log([[3.0, 5.0]], ["a"], [1.0], [1.0])
    assert unnamed.inputs(["v", "u"]) is unnamed.X


def test_inputs_without_pandas_are_an_array(monkeypatch):
    log = Log([[3.0, 5.0]], ["a"], [1.0], [1.0], feature_names=["u", "v"])
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert log.inputs(["v", "u"]).tolist() == [[5.0, 3.0]]


def test_what_is_given_stays_as_it_is():
    X, rewards = np.array([[0.0], [1.0]]), np.array([0.0, 1.0])
    Log(X, ["a", "b"], rewards, [0.5, 0.5])
    with pytest.raises(ValueError, match="propensity"):
        Log(X, ["a", "b"], rewards, [0.5, 0.0])
    assert (X.tolist(), rewards.tolist()) == ([[0.0], [1.0]], [0.0, 1.0])


@given(st.permutations(range(6)))
def test_rows_in_another_order_are_the_same_rows(order):
    """Arms, columns, and which rows belong together, in whatever order they come."""
    arms, groups = np.array(list("abcabc")), np.array(list("ppqqrr"))
    X, rewards = np.arange(6.0)[:, None], np.arange(6) / 6
    one = Log(X, arms, rewards, np.full(6, 0.5), groups=groups)
    at = np.array(order)
    other = Log(X[at], arms[at], rewards[at], np.full(6, 0.5), groups=groups[at])
    assert one.arm_ids == other.arm_ids
    for field in ("X", "columns", "rewards", "contexts", "clusters", "eligible"):
        np.testing.assert_array_equal(getattr(one, field)[at], getattr(other, field))


def test_a_ledger_of_two_encoders_is_refused(ledger):
    pairs = [(d, o) for _, d, o in ledger.pairs()]
    other = dataclasses.replace(pairs[0][0], encoder_hash="another")
    with pytest.raises(ValueError, match="features of 2 encoders"):
        Log.of([(other, pairs[0][1]), *pairs[1:]])


def test_names_of_an_encoder_once_it_is_fitted(encoder, tasks):
    assert encoder_names(encoder) is None
    encoder.fit(tasks)
    assert encoder_names(encoder) == list(encoder.get_feature_names_out())


@given(st.lists(st.sampled_from("dbca"), min_size=1, max_size=8))
def test_arms_are_sorted_unless_they_are_given(arms):
    n = len(arms)
    log = Log(np.zeros((n, 1)), arms, [1.0] * n, [0.5] * n)
    assert log.arm_ids == tuple(sorted(set(arms)))
    given = Log(np.zeros((n, 1)), arms, [1.0] * n, [0.5] * n, list("dcba"))
    assert given.arm_ids == tuple("dcba")
    for one in (log, given):
        assert [one.arm_ids[column] for column in one.columns] == arms
        assert one.eligible.shape == (n, len(one.arm_ids))
        assert one.eligible.all()


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("rewards", [0.0, 1.0], [np.nextafter(0, -1), np.nextafter(1, 2), np.nan]),
        ("propensities", [5e-324, 1.0], [0.0, -0.5, np.nextafter(1, 2), np.nan]),
        ("X", [1e300, -1e300], [np.inf, -np.inf, np.nan]),
    ],
)
def test_numbers_at_their_bounds_and_just_beyond(field, good, bad):
    def change(value):
        shape = (2, 1) if field == "X" else (2,)
        return {**GOOD, field: np.full(shape, value)}

    for value in good:
        assert getattr(Log(**change(value)), field).ravel().tolist() == [value] * 2
    for value in bad:
        with pytest.raises(ValueError, match="lies in|finite"):
            Log(**change(value))


@pytest.mark.parametrize(
    "change",
    [
        {"X": [0.0, 1.0]},
        {"X": [[[0.0]], [[1.0]]]},
        {"X": [[0.0], [1.0], [2.0]]},
        {"rewards": [0.0]},
        {"rewards": [[0.0, 1.0]]},
        {"propensities": 0.5},
        {"arms": [["a"], ["b"]]},
        {"arms": ["a", "b", "a"]},
        {"eligible": [[True, True]]},
        {"eligible": [True, True]},
        {"eligible": np.ones((2, 3), dtype=bool)},
        {"groups": [[1], [2]]},
        {"groups": [1, 2, 3]},
    ],
)
def test_shapes_that_do_not_fit_say_what_was_expected(change):
    with pytest.raises(ValueError, match="expected|shape"):
        Log(**{**GOOD, **change})


@given(st.lists(st.sampled_from(["p", "q", "r"]), min_size=2, max_size=8))
def test_groups_are_numbered_from_0_without_gaps(groups):
    n = len(groups)
    log = Log(np.zeros((n, 1)), ["a"] * n, [1.0] * n, [0.5] * n, groups=groups)
    names = sorted(set(groups))
    assert log.contexts.tolist() == [names.index(group) for group in groups]
    assert log.clusters.tolist() == log.contexts.tolist()


def choice(number, arms, chosen, eligible):
    """A decision on one feature among some of the arms."""
    return Decision(
        id=f"d{number}", task_hash="", x=(float(number),), braid=Braid(chosen),
        propensity=0.5, propensity_se=0.0, arm_ids=tuple(Braid(a).id for a in arms),
        scores=(0.0,) * len(arms), eligible=tuple(eligible), expected_quality=0.5,
        uncertainty=0.1, relative_cost=0.0, budget={}, policy="", catalogue_hash="",
        encoder_hash="e",
    )  # fmt: skip


def test_arms_of_decisions_that_had_different_ones():
    """b and a first, then c and b: a row's other arms were not eligible."""
    rows = [choice(1, "ba", "a", [True, True]), choice(2, "cb", "c", [True, False])]
    log = Log.of([(row, Outcome(row.id, 0.25)) for row in rows])
    assert log.arm_ids == tuple(Braid(name).id for name in "bac")
    assert log.columns.tolist() == [1, 2]
    assert log.eligible.tolist() == [[True, True, False], [False, False, True]]
    assert log.X.tolist() == [[1.0], [2.0]]
    assert (log.encoder_hash, log.decision_ids) == ("e", ("d1", "d2"))
    assert log.feature_names is None


def test_a_decision_that_chose_what_was_not_eligible_is_refused():
    wrong = choice(1, "ab", "a", [False, True])
    with pytest.raises(ValueError, match="taken where eligible says it could not be"):
        Log.of([(wrong, Outcome("d1", 0.5))])


@pytest.mark.parametrize("after", [0, 3, 10])
def test_a_part_of_a_ledger_is_the_end_of_the_whole(ledger, after):
    """A revision moves its decision to the end."""
    whole, part = Log.read(ledger), Log.read(ledger, after=after)
    assert part.decision_ids == whole.decision_ids[after:]
    assert part.rewards.tolist() == whole.rewards[after:].tolist()
    ledger.revise(whole.decision_ids[0], 0.125)
    again = Log.read(ledger, after=after)
    assert again.decision_ids[-1] == whole.decision_ids[0]
    assert again.rewards[-1] == 0.125
