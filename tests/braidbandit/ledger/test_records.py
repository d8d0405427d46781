"""Records are what they say, and become rows that come back bit for bit."""

import copy
import dataclasses
import json
import pickle
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Braid, Decision, Ledger, Outcome
from braidbandit.ledger.database import Database
from braidbandit.ledger.ledger import ArmSets
from braidbandit.ledger.records import (
    KINDS,
    Event,
    decision_of,
    decision_row,
    dumps,
    in_force,
    in_utc,
    kept_text,
    new_id,
    now,
    outcome_of,
    outcome_row,
)


def test_decision_round_trips_exactly(agent):
    decision = agent.recommend({"type": "code", "complexity": 1 / 3})
    assert Decision.from_dict(json.loads(dumps(decision))) == decision
    assert str(decision).startswith("chose ")


def test_a_record_of_before_conversations_has_the_defaults(agent, tmp_path):
    decision = agent.recommend("x")
    data = decision.to_dict()
    later = ("conversation", "instead_of", "asked")
    old = {key: value for key, value in data.items() if key not in later}
    assert Decision.from_dict(old) == decision
    # And as a row of a ledger.
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        arms = ArmSets(ledger.database).key_of(decision.arm_ids)
    row = decision_row(decision, arms)
    body = {k: v for k, v in json.loads(row["body"]).items() if k not in later}
    before = SimpleNamespace(**{**row, "body": json.dumps(body)})
    found = decision_of(before, decision.arm_ids)
    assert found == decision
    assert (found.conversation, found.instead_of, found.asked) == (None, None, None)


def test_whether_a_person_was_asked_makes_no_other_decision(agent):
    decision = agent.recommend("x")
    asked = dataclasses.replace(decision, asked={"asked": True})
    assert asked == decision
    assert Decision.from_dict(json.loads(dumps(asked))).asked == {"asked": True}
    assert dataclasses.replace(decision, instead_of="other") != decision


def test_unknown_keys_are_refused(agent):
    data = agent.recommend("x").to_dict()
    with pytest.raises(KeyError, match="colour"):
        Decision.from_dict({**data, "colour": 1})


def test_outcome_checks():
    assert Outcome("d", True).reward == 1.0
    for reward in (1.5, float("nan")):
        with pytest.raises(ValueError, match="reward"):
            Outcome("d", reward)
    with pytest.raises(TypeError, match="reward"):
        Outcome("d", "good")
    for latency_ms in (-1.0, 10**400):
        with pytest.raises(ValueError, match="latency_ms"):
            Outcome("d", 0.5, latency_ms=latency_ms)
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


# ---- as rows ----

numbers = st.floats(allow_nan=False, allow_infinity=False)
times = st.datetimes(
    datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc)
)
# PostgreSQL and JSON files have no lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]))
BRAIDS = [
    Braid("a"),
    Braid("a", ("b",), (0.7, 0.3), (3, "output"), "learned_weighted"),
]


@st.composite
def decisions(draw):
    n = draw(st.integers(0, 20))
    arms = draw(st.lists(texts, min_size=n, max_size=n, unique=True))
    return Decision(
        id=draw(st.uuids()).hex,
        task_hash=draw(texts),
        x=tuple(draw(st.lists(numbers, max_size=5))),
        braid=draw(st.sampled_from(BRAIDS)),
        propensity=draw(numbers),
        propensity_se=draw(numbers),
        arm_ids=tuple(arms),
        # A masked arm has no score.
        scores=tuple(
            draw(st.lists(numbers | st.just(-np.inf), min_size=n, max_size=n))
        ),
        eligible=tuple(draw(st.lists(st.booleans(), min_size=n, max_size=n))),
        expected_quality=draw(numbers),
        uncertainty=draw(numbers),
        relative_cost=draw(numbers),
        budget=draw(st.dictionaries(texts, st.none() | numbers | texts, max_size=3)),
        policy=draw(texts),
        catalogue_hash=draw(texts),
        encoder_hash=draw(texts),
        sentence=draw(texts),
        created_at=draw(times).isoformat(),
        version=draw(st.integers(0, 9)),
        expected_latency_ms=draw(st.none() | numbers),
    )


outcomes = st.builds(
    Outcome,
    st.uuids().map(lambda name: name.hex),
    st.floats(0, 1) | st.booleans(),
    latency_ms=st.none() | st.floats(0, 1e9) | st.integers(0, 9),
    compute=st.none() | st.floats(0, 1e9),
    source=texts,
    created_at=times.map(datetime.isoformat),
)


def as_row(columns):
    return SimpleNamespace(**columns)


@given(decisions(), st.booleans())
def test_a_decision_comes_back_bit_for_bit(decision, arrays):
    given = decision
    if arrays:  # as they are before anybody has read them
        given = dataclasses.replace(
            decision,
            scores=np.array(decision.scores, dtype=float),
            eligible=np.array(decision.eligible, dtype=bool),
        )
    row = as_row(decision_row(given, "key", "text"))
    assert (row.id, row.arm_id) == (decision.id, decision.braid.id)
    assert (row.arms, row.text) == ("key", "text")
    found = decision_of(row, decision.arm_ids)
    assert found == decision
    assert repr(found) == repr(decision)  # -0.0 is not 0.0


@given(decisions())
def test_a_row_of_the_first_version_has_all_in_one_column(decision):
    row = SimpleNamespace(body=json.dumps(decision.to_dict()), arms=None)
    assert decision_of(row, None) == decision


def test_writing_a_row_makes_no_tuples(agent):
    """Ten thousand arms cost more as Python numbers than they do to choose from."""
    decision = agent.recommend("x")
    scores = vars(decision)["scores"]
    decision_row(decision, "key")
    assert vars(decision)["scores"] is scores


def test_what_json_cannot_hold_is_refused(agent):
    decision = dataclasses.replace(agent.recommend("x"), uncertainty=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        decision_row(decision, "key")


@given(outcomes, st.integers(0, 9), st.sampled_from(KINDS))
def test_an_outcome_comes_back_bit_for_bit(outcome, revision, kind):
    row = outcome_row(outcome, revision, kind)
    assert outcome_of(row["body"]) == outcome
    assert (row["decision_id"], row["revision"]) == (outcome.decision_id, revision)
    taken_back = kind == "retraction"
    assert row["reward"] == (None if taken_back else outcome.reward)
    assert in_force(kind, row["body"]) == (None if taken_back else outcome)
    assert in_force(None, None) is None


@given(times, times, st.integers(-12, 12))
def test_times_sort_as_text(one, other, hours):
    zone = timezone(timedelta(hours=hours))
    assert in_utc(one.astimezone(zone)) == in_utc(one.isoformat()) == in_utc(one)
    assert (in_utc(one) < in_utc(other)) == (one < other)


def test_a_time_without_a_zone_is_refused():
    for time in (datetime(2026, 1, 1), "2026-01-01T00:00:00"):
        with pytest.raises(ValueError, match="zone"):
            in_utc(time)


def test_text_is_kept_redacted():
    assert kept_text(None, str.upper) is None
    assert kept_text("a", None) == "a"
    assert kept_text("a", str.upper) == "A"
    with pytest.raises(TypeError, match="must return text"):
        kept_text("a", lambda text: None)


def test_a_set_of_arms_is_kept_once(ledger_url):
    database = Database(ledger_url)
    one, other = ArmSets(database), ArmSets(database)
    key = one.key_of(("a", "b"))
    assert key == one.key_of(("a", "b")) == other.key_of(("a", "b"))
    assert key != one.key_of(("b", "a"))
    with database.engine.connect() as connection:
        kept = connection.execute(database.tables.arm_sets.select()).all()
    assert {row.hash: json.loads(row.arm_ids) for row in kept} == {
        key: ["a", "b"],
        one.key_of(("b", "a")): ["b", "a"],
    }
    database.close()


def test_a_set_that_could_not_be_written_is_not_remembered(tmp_path, monkeypatch):
    """Else a decision could point to arms that nobody can read."""
    database = Database(tmp_path / "l.db")
    arms = ArmSets(database)

    def full(**_):
        raise OSError(28, "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(database, "writing", full)
        with pytest.raises(OSError, match="full"):
            arms.key_of(("a",))
    key = arms.key_of(("a",))
    with database.engine.connect() as connection:
        [row] = connection.execute(database.tables.arm_sets.select()).all()
    assert row.hash == key
    database.close()


def test_sets_of_other_processes_are_read_when_they_are_met(agent, tmp_path):
    """By the connection that read the rows, many rows at a time."""
    made = [agent.recommend(f"task {i}") for i in range(3)]
    made += [dataclasses.replace(made[0], id="few").only(made[0].braid.id)]
    with Ledger(tmp_path / "l.db") as one, Ledger(tmp_path / "l.db") as other:
        for decision in made:
            one.record_decision(decision)
        d = other.database.tables.decisions
        with other.database.engine.connect() as connection:
            rows = connection.execute(d.select().order_by(d.c.sequence)).all()
            assert other.arm_sets.decisions(connection, rows) == made
        assert other.arm_sets.decisions(None, rows) == made  # from memory


@pytest.mark.parametrize("time", [5, None, 1.5, ("2026-01-01",)])
def test_a_number_is_no_time(time):
    with pytest.raises(ValueError, match="expected a time with a zone, received"):
        in_utc(time)
