import copy
import dataclasses
import json
import pickle
from datetime import datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Decision, Outcome
from braidbandit.ledger.records import Event, dumps, new_id, now


def test_decision_round_trips_exactly(agent):
    decision = agent.recommend({"type": "code", "complexity": 1 / 3})
    assert Decision.from_dict(json.loads(dumps(decision))) == decision
    assert str(decision).startswith("chose ")


def test_unknown_keys_are_refused(agent):
    data = agent.recommend("x").to_dict()
    with pytest.raises(KeyError, match="colour"):
        Decision.from_dict({**data, "colour": 1})


def test_outcome_checks():
    assert Outcome("d", True).reward == 1.0
    for reward in (1.5, float("nan"), "good"):
        with pytest.raises(ValueError, match="reward"):
            Outcome("d", reward)
    with pytest.raises(ValueError, match="latency_ms"):
        Outcome("d", 0.5, latency_ms=-1.0)
    assert Outcome("d", 0.5).same_measurement(Outcome("d", 0.5, created_at="later"))
    assert not Outcome("d", 0.5).same_measurement(Outcome("d", 0.6))


def test_scores_given_as_an_array_are_tuples_when_read(agent):
    """Kept as arrays until somebody looks; equal, copied and written as before."""
    decision = agent.recommend("x")
    scores, eligible = np.array([0.1, 0.25, 0.5]), np.array([True, False, True])
    lazy = dataclasses.replace(
        decision, arm_ids=("a", "b", "c"), scores=scores, eligible=eligible
    )
    eager = dataclasses.replace(
        decision,
        arm_ids=("a", "b", "c"),
        scores=(0.1, 0.25, 0.5),
        eligible=(True, False, True),
    )
    assert lazy.only("b").scores == (0.25,)
    assert lazy.only("b").eligible == (False,)
    assert lazy.only(None).arm_ids == lazy.only("z").scores == ()
    assert pickle.loads(pickle.dumps(lazy)) == copy.copy(lazy) == lazy == eager
    assert lazy.scores is lazy.scores
    assert isinstance(lazy.scores, tuple)
    assert Decision.from_dict(json.loads(dumps(lazy))) == eager
    with pytest.raises(dataclasses.FrozenInstanceError):
        lazy.scores = ()


def test_numbers_of_numpy_are_numbers():
    outcome = Outcome("d", 0.5, latency_ms=np.float32(3.0), compute=np.int64(7))
    assert dumps(outcome) == dumps(
        Outcome("d", 0.5, 3.0, 7, "user", outcome.created_at)
    )


@given(
    st.floats(0, 1),
    st.none() | st.floats(0, 1e300),
    st.none() | st.integers(0, 10**30),
    st.text(),
)
def test_an_outcome_round_trips_exactly(reward, latency_ms, compute, source):
    outcome = Outcome("d", reward, latency_ms, compute, source)
    again = Outcome.from_dict(json.loads(dumps(outcome)))
    assert again == outcome
    assert repr(again) == repr(outcome)
    assert again.same_measurement(outcome)


def test_an_event_is_true_and_never_changes(agent):
    """So that ``if ledger.record_outcome(...)`` asks whether anything was written."""
    event = Event(1, agent.recommend("x"), "retraction", None)
    assert event
    assert (event.before, event.follows) == (None, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.sequence = 2


def test_ids_are_never_the_same():
    assert len({new_id() for _ in range(1000)}) == 1000


def test_times_have_a_zone():
    assert datetime.fromisoformat(now()).utcoffset() == timedelta(0)
