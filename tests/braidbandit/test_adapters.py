import json

import numpy as np
import pandas as pd
import pytest

from braidbandit import compare
from braidbandit.adapters import (
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


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"c": {"_multi"', "line 1 is damaged"),
        (line(action=3), "action 3 of 2"),
        (line(actions=("a", "a")), "named alike"),
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
