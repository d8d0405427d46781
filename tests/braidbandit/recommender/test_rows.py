"""What people give to learn from: read in any form, refused before anything changes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from learnt import fingerprint

from braidbandit import Braid, Catalogue, Ledger, ModelCard
from braidbandit.recommender.rows import (
    arm_ids_of,
    check_rows,
    check_table,
    decision_id_of,
)

NOTHING = {"reward": None, "propensity": None, "sample_weight": None}
X = ["one", "two", "three"]


@pytest.mark.parametrize("collect", [list, tuple, iter, np.array])
def test_arms_may_be_ids_in_any_collection(collect):
    assert arm_ids_of(collect(["b", "a", "b"])) == ["b", "a", "b"]


def test_ids_are_plain_text_and_braids_have_one():
    ids = arm_ids_of([Braid("a"), np.str_("b")])
    assert ids == [Braid("a").id, "b"]
    assert {type(arm_id) for arm_id in ids} == {str}


@pytest.mark.parametrize("arms", ["a", Braid("a")])
def test_one_arm_is_no_collection(arms):
    with pytest.raises(TypeError, match="expected a collection of arms"):
        arm_ids_of(arms)


@pytest.mark.parametrize("arms", [[None], ["a", float("nan")]])
def test_a_missing_arm_is_refused(arms):
    with pytest.raises((TypeError, ValueError)):
        arm_ids_of(arms)


def test_a_decision_or_its_id(agent):
    decision = agent.recommend("x")
    assert decision_id_of(decision) == decision_id_of(decision.id) == decision.id
    with pytest.raises(TypeError, match="a Decision or its id, received int"):
        decision_id_of(3)


def test_rows_are_arms_rewards_and_weights(catalogue):
    """Without rewards every arm was a good choice, and all rows weigh the same."""
    ids = [catalogue.ids[2], catalogue.braids[0], catalogue.ids[2]]
    rows, rewards, weights = check_rows(X, ids, NOTHING, catalogue)
    assert rows == [2, 0, 2]
    assert rewards.tolist() == weights.tolist() == [1.0, 1.0, 1.0]
    given = {**NOTHING, "reward": [0, True, 0.5], "sample_weight": [0, 2, 1e-6]}
    rows, rewards, weights = check_rows(X, ids, given, catalogue)
    assert rewards.tolist() == [0.0, 1.0, 0.5]
    assert weights.tolist() == [0.0, 2.0, 1e-6]


@given(order=st.permutations(range(3)))
def test_labelled_columns_follow_the_tasks(order):
    """Rewards named by task, in any order, are those of their tasks."""
    size = {"parameters": 1000, "layers": 8, "width": 5, "vocab_size": 40}
    cards = [ModelCard(name, **size) for name in "ab"]
    catalogue = Catalogue(cards, map(Braid, "ab"))
    y = pd.Series([catalogue.ids[i % 2] for i in range(3)], index=X)
    reward = pd.Series([0.0, 0.5, 1.0], index=X)
    place = list(order)
    given = {**NOTHING, "reward": reward.iloc[place]}
    rows, rewards, _ = check_rows(X, y.iloc[place[::-1]], given, catalogue)
    assert rows == [0, 1, 0]
    assert rewards.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"y": None}, ValueError, r"fit needs the arm of each task \(y\)"),
        ({"y": [0, 1]}, ValueError, "3 tasks and 2 arms"),
        ({"y": ["nobody"] * 3}, KeyError, "nobody"),
        ({"reward": [0.5, 0.5]}, ValueError, "2"),
        ({"reward": [0.5, 0.5, 1.5]}, ValueError, "1.5"),
        ({"reward": [0.5, 0.5, float("nan")]}, ValueError, "reward"),
        ({"reward": ["a", "b", "c"]}, ValueError, "'a'"),
        ({"propensity": [0.5, 0.0, 0.5]}, ValueError, "propensit"),
        ({"propensity": [0.5, 0.5, 1.1]}, ValueError, "propensit"),
        ({"sample_weight": [1.0, -1.0, 1.0]}, ValueError, "weight"),
        ({"sample_weight": [1.0, 1.0, np.inf]}, ValueError, "weight"),
    ],
)
@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_refused_rows_leave_every_bit(agent, call, change, error, match):
    ids = agent.catalogue.ids
    agent.fit(X, ids[:3], reward=[0.1, 0.2, 0.3])
    agent.recommend("one that waits")
    before = fingerprint(agent)
    given = {"y": list(ids[:3]), **NOTHING, **change}
    if given["y"] == [0, 1]:
        given["y"] = list(ids[:2])
    y = given.pop("y")
    with pytest.raises(error, match=match):
        getattr(agent, call)(X, y, **given)
    assert fingerprint(agent) == before


def test_a_ledger_is_no_list_of_tasks(catalogue, tmp_path):
    with Ledger(tmp_path / "l.db") as ledger:
        with pytest.raises(TypeError, match=r"learnt by sync\(ledger\)"):
            check_rows(ledger, None, NOTHING, catalogue)


def test_a_table_has_a_row_per_task_and_a_column_per_arm(catalogue):
    arms = [catalogue.ids[3], catalogue.ids[1]]
    table = [[0.1, 0.2], [0.3, 0.4], [0.0, 1.0]]
    rows, scores = check_table(X, arms, table, catalogue)
    assert rows == [3, 1]
    assert scores.tolist() == table
    frame = pd.DataFrame(table, columns=arms, index=X)
    for labelled in (
        frame.iloc[::-1, ::-1],
        {arms[1]: [0.2, 0.4, 1.0], arms[0]: frame[arms[0]]},
    ):
        rows, scores = check_table(X, arms, labelled, catalogue)
        assert rows == [3, 1]
        assert scores.tolist() == table


def test_a_table_of_no_tasks_is_refused(catalogue):
    arms = list(catalogue.ids[:2])
    with pytest.raises(ValueError, match="received 0 tasks and 2 arms"):
        check_table([], arms, np.zeros((0, 2)), catalogue)


def test_a_table_may_have_holes(catalogue):
    arms, nan = list(catalogue.ids[:2]), float("nan")
    for table in (
        [[0.1, nan], [nan, 0.4], [0.0, 1.0]],
        [[0.1, None], [None, 0.4], [0.0, 1.0]],
        pd.DataFrame({arms[0]: [0.1, None, 0.0], arms[1]: [None, 0.4, 1.0]}, index=X),
    ):
        _, scores = check_table(X, arms, table, catalogue)
        np.testing.assert_array_equal(scores, [[0.1, nan], [nan, 0.4], [0.0, 1.0]])


@pytest.mark.parametrize(
    ("arms", "table", "error", "match"),
    [
        ([0, 1], np.ones((2, 2)), ValueError, r"shape \(2, 2\), expected \(3, 2\)"),
        ([0, 1], np.ones(3), ValueError, r"expected \(3, 2\)"),
        ([], np.ones((3, 0)), ValueError, "received 3 tasks and 0 arms"),
        ([0, 1], [[0.1], [0.1, 0.2], [0.3, 0.4]], ValueError, r"have \[1, 2\] scores"),
        ([0, 1], np.full((3, 2), 1.01), ValueError, r"lies in \[0, 1\]"),
        ([0, 1], np.full((3, 2), -0.01), ValueError, r"lies in \[0, 1\]"),
        ([0, 1], np.full((3, 2), np.nan), ValueError, "row 0 of the table is empty"),
        (
            [0, 1],
            [[0.5, None], [None, None], [0.2, 0.1]],
            ValueError,
            "row 1 of the table is empty: it has no score at all",
        ),
        (
            [0, 1],
            [[0.5, np.nan], [0.5, np.nan], [0.2, np.nan]],
            ValueError,
            "column 1 of the table is empty.*Leave the arm out",
        ),
        ([0, 1], [[0.5, np.inf], [0.5, 0.5], [0.2, 0.2]], ValueError, r"in \[0, 1\]"),
        ([0, 0], np.ones((3, 2)), ValueError, "must differ"),
        ([0, "nobody"], np.ones((3, 2)), KeyError, "nobody"),
    ],
)
def test_a_refused_table_leaves_every_bit(agent, arms, table, error, match):
    ids = agent.catalogue.ids
    agent.warm_start(X, list(ids[:2]), np.full((3, 2), 0.5))
    agent.update(agent.recommend("x"), 0.5)
    before = fingerprint(agent)
    arms = [ids[arm] if isinstance(arm, int) else arm for arm in arms]
    with pytest.raises(error, match=match):
        check_table(X, arms, table, agent.catalogue)
    with pytest.raises(error, match=match):
        agent.warm_start(X, arms, table)
    assert fingerprint(agent) == before
