import numpy as np
import pytest

from braidbandit import Ledger, Log, Outcome

TASKS = [{"text": f"task {i}", "type": "code"} for i in range(12)]


@pytest.fixture
def log():
    return Log([[0.0], [1.0], [2.0]], ["b", "a", "b"], [1, 0, 0.5], [0.5, 0.25, 1.0])


@pytest.fixture
def ledger(tmp_path, agent):
    with Ledger(tmp_path / "ledger.db") as opened:
        for i, task in enumerate(TASKS):
            decision = agent.recommend(task)
            opened.record_decision(decision)
            if i != 3:
                outcome = Outcome(decision.id, 0.1 * (i % 7))
                opened.record_outcome(outcome)
                agent.update(decision, outcome.reward)
        yield opened


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
