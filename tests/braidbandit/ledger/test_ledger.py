import dataclasses
from datetime import datetime, timezone

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from toy_embedder import embed

from braidbandit import (
    Braid,
    BraidRecommender,
    Catalogue,
    Ledger,
    ModelCard,
    Outcome,
    TaskEncoder,
)
from braidbandit.ledger.records import now as now_text

TASKS = [{"text": f"task {i}", "type": "code"} for i in range(12)]


@pytest.fixture
def ledger(ledger_url):
    with Ledger(ledger_url) as opened:
        yield opened


def live(agent, ledger, tasks=TASKS):
    """Decide all, then learn in another order: late, out-of-order rewards."""
    decisions = [agent.recommend(task) for task in tasks]
    for decision in decisions:
        ledger.record_decision(decision)
    for i in np.random.default_rng(0).permutation(len(tasks))[:-2]:
        reward = 0.1 * (i % 7)
        ledger.record_outcome(Outcome(decisions[i].id, reward))
        agent.update(decisions[i], reward)
    return decisions


def test_fit_on_the_ledger_equals_the_live_stream_bit_for_bit(agent, ledger):
    live(agent, ledger)
    again = clone(agent).sync(ledger, anew=True)
    assert again.posterior_.mean.tobytes() == agent.posterior_.mean.tobytes()
    assert again.posterior_.factor.tobytes() == agent.posterior_.factor.tobytes()
    assert again.n_updates_ == agent.n_updates_ == 10


def test_forgetting_is_replayed_too(agent, ledger):
    agent.set_params(forgetting=0.99)
    live(agent, ledger, [f"t{i}" for i in range(120)])
    again = clone(agent).sync(ledger, anew=True)
    assert again.posterior_.factor.tobytes() == agent.posterior_.factor.tobytes()


def test_sync_applies_only_what_is_new(agent, ledger, tmp_path, encoder):
    live(agent, ledger)
    behind = clone(agent).sync(ledger)
    assert behind.ledger_position_ == 10
    behind.save(tmp_path / "state")
    decision = ledger.pending()[0]
    ledger.record_outcome(Outcome(decision.id, 0.9))
    agent.update(decision, 0.9)
    behind = type(agent).load(tmp_path / "state", encoder=encoder).sync(ledger)
    assert behind.posterior_.mean.tobytes() == agent.posterior_.mean.tobytes()
    mean = agent.posterior_.mean.tobytes()
    assert agent.sync(ledger).posterior_.mean.tobytes() == mean


def test_outcomes_are_recorded_once(agent, ledger):
    decision = agent.recommend("x")
    assert ledger.record_decision(decision, text="x")
    assert not ledger.record_decision(decision)
    with pytest.raises(ValueError, match="another decision"):
        ledger.record_decision(dataclasses.replace(decision, propensity=0.5))
    outcome = Outcome(decision.id, 0.5, latency_ms=3.0)
    assert ledger.record_outcome(outcome)
    assert not ledger.record_outcome(Outcome(decision.id, 0.5, latency_ms=3.0))
    with pytest.raises(ValueError, match="already"):
        ledger.record_outcome(Outcome(decision.id, 0.6))
    with pytest.raises(KeyError, match="unknown decision"):
        ledger.record_outcome(Outcome("nope", 0.5))
    with pytest.raises(KeyError, match="unknown decision"):
        ledger.decision("nope")


def test_counts_pending_and_reopening(agent, ledger_url):
    with Ledger(ledger_url) as ledger:
        first, second = agent.recommend("a"), agent.recommend("b")
        ledger.record_decision(first)
        ledger.record_decision(second)
        ledger.record_outcome(Outcome(second.id, 1.0))
    with Ledger(ledger_url) as ledger:
        assert ledger.counts() == {"decisions": 2, "outcomes": 1, "pending": 1}
        assert ledger.pending() == [first]
        assert ledger.decision(second.id) == second
        [(sequence, decision, outcome)] = ledger.pairs()
        assert (decision, outcome.reward) == (second, 1.0)
        assert list(ledger.pairs(after=sequence)) == []
        third = agent.recommend("c")
        ledger.record_decision(third)
        assert ledger.pending() == [first, third]
        assert ledger.pending(newest=1) == [third]


def history(agent, ledger):
    """Outcomes, revisions and retractions of 40 decisions, learnt as they come."""
    decisions = [agent.recommend(f"task {i}") for i in range(40)]
    for decision in decisions:
        ledger.record_decision(decision)
        ledger.record_outcome(Outcome(decision.id, 0.7, latency_ms=5.0))
        agent.update(decision, 0.7, latency_ms=5.0)
    for i in (3, 9, 30):
        assert ledger.revise(decisions[i].id, 0.1, source="judge")
        agent.revise(decisions[i], 0.1)
    for i in (4, 9, 31):
        assert ledger.retract(decisions[i].id)
        agent.retract(decisions[i])
    ledger.record_outcome(Outcome(decisions[4].id, 0.2))
    agent.update(decisions[4], 0.2)
    return decisions


def test_what_was_taken_back_is_not_learnt_again(agent, ledger):
    decisions = history(agent, ledger)
    again = clone(agent).sync(ledger, anew=True)
    assert again.settled_ == agent.settled_
    assert decisions[31].id not in again.settled_
    assert again.settled_[decisions[3].id] == 0.1
    assert again.n_updates_ == 38 == ledger.counts()["outcomes"]
    assert again.posterior_.mean.tobytes() == agent.posterior_.mean.tobytes()
    assert again.posterior_.factor.tobytes() == agent.posterior_.factor.tobytes()
    mean = agent.posterior_.mean.tobytes()
    assert agent.sync(ledger).ledger_position_ == again.ledger_position_ == 47
    # Learnt live, and ahead of the record: followed, and back where it was.
    np.testing.assert_allclose(
        np.frombuffer(mean), agent.posterior_.mean, rtol=0, atol=1e-12
    )
    assert agent.settled_ == again.settled_


def test_a_retraction_is_as_if_nothing_had_come(agent, ledger):
    decisions = live(agent, ledger)
    twin = clone(agent).sync(ledger, anew=True)
    late = agent.recommend("late")
    ledger.record_decision(late)
    ledger.record_outcome(Outcome(late.id, 0.0))
    ledger.retract(late.id)
    again = clone(agent).sync(ledger, anew=True)
    np.testing.assert_allclose(
        again.posterior_.mean, twin.posterior_.mean, rtol=0, atol=1e-12
    )
    assert decisions[0].id in again.settled_
    assert late.id in [decision.id for decision in ledger.pending()]


def test_what_cannot_be_taken_back_is_learnt_anew(agent, tmp_path):
    """With forgetting, a reward of more than 500 rewards ago has no record left."""
    ledger = Ledger(tmp_path / "l.db")
    agent.set_params(forgetting=0.999)
    decisions = [agent.recommend(f"task {i % 7}") for i in range(520)]
    for decision in decisions:
        ledger.record_decision(decision)
        ledger.record_outcome(Outcome(decision.id, 0.6))
    agent.sync(ledger)
    ledger.retract(decisions[0].id)
    waiting = agent.recommend("x")
    agent.sync(ledger)
    assert agent.n_updates_ == 519
    assert agent.ledger_position_ == 521
    assert decisions[0].id not in agent.settled_
    assert waiting.id in agent.pending_
    agent.sync(ledger)
    assert agent.n_updates_ == 519
    ledger.close()


def test_events_are_the_history(agent, ledger):
    first = agent.recommend("a")
    ledger.record_decision(first)
    ledger.record_outcome(Outcome(first.id, 0.5, compute=2.0))
    assert not ledger.revise(first.id, 0.5)
    assert ledger.revise(first.id, 0.25, source="judge")
    assert ledger.retract(first.id)
    assert not ledger.retract(first.id)
    said = [
        (e.sequence, e.kind, e.outcome and e.outcome.reward) for e in ledger.events()
    ]
    assert said == [(1, "outcome", 0.5), (2, "revision", 0.25), (3, "retraction", None)]
    revised = list(ledger.events(after=1))[0].outcome
    assert (revised.compute, revised.source) == (2.0, "judge")
    assert list(ledger.pairs()) == []
    with pytest.raises(KeyError, match="no outcome"):
        ledger.revise(first.id, 0.5)
    with pytest.raises(KeyError, match="unknown decision"):
        ledger.retract("nope")
    with pytest.raises(ValueError, match="reward"):
        Outcome(first.id, 2.0)
    assert ledger.record_outcome(Outcome(first.id, 0.75))
    with pytest.raises(ValueError, match="reward"):
        ledger.revise(first.id, 1.5)
    assert [(s, o.reward) for s, _, o in ledger.pairs()] == [(4, 0.75)]


def test_what_is_written_is_returned_as_it_is_read(agent, ledger):
    """Nobody has to read back what was just written, or what it replaced."""
    one, other = agent.recommend("a"), agent.recommend("b")
    for decision in (one, other):
        ledger.record_decision(decision)
    written = [
        ledger.record_outcome(Outcome(one.id, 0.5, latency_ms=2)),
        ledger.record_outcome(Outcome(other.id, True, compute=3.0), other),
        ledger.revise(one, 0.25, source="judge"),
        ledger.retract(one.id),
        ledger.record_outcome(Outcome(one.id, 0.75), one),
    ]
    assert written == list(ledger.events())
    assert [event.sequence for event in written] == [1, 2, 3, 4, 5]
    assert [event.follows for event in written] == [0, 1, 2, 3, 4]
    said = [event.before and event.before.reward for event in written]
    assert said == [None, None, 0.5, 0.25, None]
    assert [event.decision for event in written] == [one, other, one, one, one]
    assert list(ledger.events(after=3)) == written[3:]
    for event in written:
        known = ledger.said_before(event.decision.id, event.sequence)
        assert known == event.before


def test_a_decision_in_hand_is_not_read_again(agent, ledger):
    decision, other = agent.recommend("a"), agent.recommend("b")
    ledger.record_decision(decision)
    assert ledger.record_outcome(Outcome(decision.id, 0.5), decision).decision is (
        decision
    )
    assert ledger.revise(decision, 0.75).decision is decision
    assert ledger.retract(decision).decision is decision
    with pytest.raises(ValueError, match=f"received decision '{other.id}'"):
        ledger.record_outcome(Outcome(decision.id, 0.5), other)
    with pytest.raises(KeyError, match="unknown decision"):
        ledger.record_outcome(Outcome(other.id, 0.5), other)
    assert ledger.last_sequence() == 3


def test_a_reward_costs_one_read_and_one_write(agent, ledger):
    """Of a decision in hand: what was written before, and the event."""
    decision, statements = agent.recommend("a"), []
    ledger.record_decision(decision)

    def note(connection, cursor, statement, *_):
        if not statement.startswith("LOCK TABLE"):
            statements.append(statement.split()[0])

    sa.event.listen(ledger.database.engine, "before_cursor_execute", note)
    found = ledger.decision(decision.id)
    assert statements == ["SELECT"]
    for write in (
        lambda: ledger.record_outcome(Outcome(decision.id, 0.5), found),
        lambda: ledger.revise(found, 0.75),
        lambda: ledger.retract(found),
        lambda: ledger.record_outcome(Outcome(decision.id, 0.25)),
    ):
        statements.clear()
        assert write()
        assert statements == ["SELECT", "INSERT"]


def test_an_event_tells_whether_others_wrote_before_it(agent, ledger_url):
    """Two that share a ledger: each sees that the other one was there in between."""
    with Ledger(ledger_url) as mine, Ledger(ledger_url) as theirs:
        decisions = [agent.recommend(f"task {i}") for i in range(4)]
        for decision in decisions:
            mine.record_decision(decision)
        ledgers = (mine, mine, theirs, mine)
        written = [
            ledger.record_outcome(Outcome(decision.id, 0.5))
            for ledger, decision in zip(ledgers, decisions, strict=True)
        ]
        position, missed = 0, []
        for ledger, event in zip(ledgers, written, strict=True):
            if ledger is mine:
                missed.append(event.follows > position)
                position = event.sequence
        assert missed == [False, False, True]


def test_a_number_that_was_purged_is_followed_all_the_same(agent, ledger):
    old, new = agent.recommend("old"), agent.recommend("new")
    ledger.record_decision(old)
    ledger.record_outcome(Outcome(old.id, 0.5))
    ledger.purge(before=datetime.now(timezone.utc), records=True)
    ledger.record_decision(new)
    event = ledger.record_outcome(Outcome(new.id, 0.5))
    assert (event.sequence, event.follows) == (2, 0)


def test_since_skips_the_beginning(agent, ledger):
    decisions = live(agent, ledger)
    fresh = clone(agent)
    assert fresh.sync(ledger, since=7).n_updates_ == 3
    assert fresh.sync(ledger, since=0).n_updates_ == 3  # exactly once
    last = ledger.pending()[0]
    now = datetime.now(timezone.utc)
    ledger.record_outcome(Outcome(last.id, 0.5))
    assert clone(agent).sync(ledger, since=now).settled_ == {last.id: 0.5}
    with pytest.raises(TypeError, match="since"):
        clone(agent).sync(ledger, since="yesterday")
    with pytest.raises(ValueError, match="zone"):
        clone(agent).sync(ledger, since=datetime(2026, 1, 1))
    for learn in (clone(agent).fit, clone(agent).partial_fit):
        with pytest.raises(TypeError, match=r"sync\(ledger\)"):
            learn(ledger, [decisions[0].braid.id])


def test_outcomes_of_unknown_arms_are_passed_over_with_a_warning(agent, ledger):
    decisions = live(agent, ledger)
    strange = dataclasses.replace(decisions[0], id="strange", braid=Braid("elsewhere"))
    ledger.record_decision(strange)
    ledger.record_outcome(Outcome("strange", 0.5))
    ledger.revise("strange", 0.75)
    last = ledger.pending()[0]
    ledger.record_outcome(Outcome(last.id, 0.5))
    fresh = clone(agent)
    with pytest.warns(UserWarning, match=rf"2 outcomes .*{strange.braid.id}"):
        fresh.sync(ledger)
    assert fresh.settled_.keys() == {*agent.settled_, last.id}
    assert fresh.ledger_position_ == 13
    fresh.sync(ledger)  # said once
    fresh.add_arms([strange.braid], [ModelCard("elsewhere", parameters=10)])
    assert fresh.sync(ledger, anew=True).settled_["strange"] == 0.75


def test_an_outcome_of_another_encoder_says_how_to_go_on(agent, ledger):
    decisions = live(agent, ledger)
    other = dataclasses.replace(decisions[0], id="other", encoder_hash="0")
    ledger.record_decision(other)
    ledger.record_outcome(Outcome("other", 0.5))
    last = ledger.pending()[0]
    ledger.record_outcome(Outcome(last.id, 0.5))
    fresh = clone(agent)
    with pytest.raises(ValueError, match=r"was made with .* since=11\)"):
        fresh.sync(ledger)
    assert fresh.n_updates_ == 10
    assert fresh.sync(ledger, since=11).n_updates_ == 11


def test_learning_anew_skips_what_since_skips(agent, tmp_path, monkeypatch):
    """A reward is taken back that has no record left, as its arm was trained anew.

    Of 10 outcomes the first 7 are skipped, or the fifth to the seventh.
    """
    monkeypatch.setattr("braidbandit.recommender.feedback_log._MOST_LEARNT", 1)
    with Ledger(tmp_path / "l.db") as ledger:
        live(agent, ledger)
        events = list(ledger.events())
        late, some = clone(agent), clone(agent)
        late.sync(ledger, since=7)
        some.start()
        for event in events[:4]:
            some.update(event.decision, event.outcome.reward)
        some.sync(ledger, since=7)
        for one in (late, some):
            one.retrain(events[8].decision.braid)
        ledger.retract(events[8].decision.id)
        late.sync(ledger, since=7)
        some.sync(ledger, since=7)
    kept = [event.decision.id for event in events]
    assert list(late.settled_) == [kept[7], kept[9]]
    assert list(some.settled_) == [*kept[:4], kept[7], kept[9]]


def test_an_expired_decision_takes_no_outcome(agent, ledger):
    early, rated = agent.recommend("a"), agent.recommend("b")
    for decision in (early, rated):
        ledger.record_decision(decision)
    ledger.record_outcome(Outcome(rated.id, 1.0))
    assert ledger.expire(datetime.now(timezone.utc)) == 1
    assert ledger.expire(datetime.now(timezone.utc)) == 0
    assert ledger.pending() == []
    assert ledger.counts() == {"decisions": 2, "outcomes": 1, "pending": 0}
    with pytest.raises(KeyError, match="expired before its outcome"):
        ledger.record_outcome(Outcome(early.id, 0.5))
    with pytest.raises(ValueError, match="zone"):
        ledger.expire(datetime(2026, 1, 1))
    assert ledger.retract(rated.id)
    assert ledger.counts()["pending"] == 1


def test_one_decision_may_expire(agent, ledger):
    """The others are waited for, and one that has its outcome keeps it."""
    first, second, rated = (agent.recommend(task) for task in "abc")
    for decision in (first, second, rated):
        ledger.record_decision(decision)
    ledger.record_outcome(Outcome(rated.id, 1.0))
    assert [ledger.expire(one) for one in (first, first.id, rated.id)] == [1, 0, 0]
    assert [decision.id for decision in ledger.pending()] == [second.id]
    assert list(ledger.expired()) == [first.id]
    with pytest.raises(KeyError, match="unknown"):
        ledger.expire("nobody")


def test_text_is_kept_only_if_given_and_redacted(agent, ledger_url):
    with Ledger(
        ledger_url, redact=lambda text: text.replace("Ann", "[name]")
    ) as ledger:
        silent, told = agent.recommend("Ann is ill"), agent.recommend("Ann is well")
        ledger.record_decision(silent)
        ledger.record_decision(told, text="Ann is well")
        assert ledger.text(silent.id) is None
        assert ledger.text(told.id) == "[name] is well"
        assert [text for _, text in ledger.decisions()] == [None, "[name] is well"]
        ledger.redact = lambda text: None
        with pytest.raises(TypeError, match="must return text"):
            ledger.record_decision(agent.recommend("x"), text="x")
        assert ledger.counts()["decisions"] == 2
        with pytest.raises(KeyError, match="unknown"):
            ledger.text("nope")


def test_purge_forgets_texts_or_whole_records(agent, ledger):
    old, new = agent.recommend("old"), agent.recommend("new")
    ledger.record_decision(old, text="old secret")
    ledger.record_outcome(Outcome(old.id, 0.5))
    between = datetime.now(timezone.utc)
    new = dataclasses.replace(new, created_at=now_text())
    ledger.record_decision(new, text="new secret")
    ledger.record_outcome(Outcome(new.id, 0.5))
    assert ledger.purge(before=between) == 1
    assert (ledger.text(old.id), ledger.text(new.id)) == (None, "new secret")
    assert clone(agent).sync(ledger, anew=True).n_updates_ == 2
    assert ledger.purge(before=datetime.now(timezone.utc), records=True) == 2
    assert ledger.counts() == {"decisions": 0, "outcomes": 0, "pending": 0}
    ledger.record_decision(new)
    ledger.record_outcome(Outcome(new.id, 0.5))
    # A number is never used twice: an agent that has read up to 2 learns this.
    assert [s for s, *_ in ledger.pairs(after=2)] == [3]
    with pytest.raises(ValueError, match="zone"):
        ledger.purge(before=datetime(2026, 1, 1))


def test_purged_text_is_gone_from_the_files(agent, tmp_path):
    with Ledger(tmp_path / "l.db") as ledger:
        decision = agent.recommend("x")
        ledger.record_decision(decision, text="a very particular secret")
        files = list(tmp_path.iterdir())
        assert any(b"particular" in file.read_bytes() for file in files)
        ledger.purge(before=datetime.now(timezone.utc))
        assert not any(b"particular" in file.read_bytes() for file in files)


def test_a_snapshot_in_the_ledger(agent, ledger, encoder):
    with pytest.raises(FileNotFoundError, match="no saved"):
        type(agent).load(ledger, encoder=encoder)
    live(agent, ledger)
    behind = clone(agent).sync(ledger)
    for _ in range(5):
        behind.save(ledger)
    last = ledger.pending()[0]
    ledger.record_outcome(Outcome(last.id, 0.4))
    loaded = type(agent).load(ledger, encoder=encoder)
    assert loaded.ledger_position_ == 10
    loaded.sync(ledger)
    fresh = clone(agent).sync(ledger, anew=True)
    assert loaded.posterior_.mean.tobytes() == fresh.posterior_.mean.tobytes()
    with ledger.database.engine.begin() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM snapshots").scalar()
        assert count == 3
        broken = ledger.database.tables.snapshots.update().values(arrays=b"broken")
        connection.execute(broken)
    with pytest.raises(ValueError, match="snapshot in the ledger is damaged"):
        type(agent).load(ledger, encoder=encoder)
    assert ledger.counts()["outcomes"] == 11


def test_many_arms_are_kept_once(agent, ledger):
    decisions = live(agent, ledger)
    found = ledger.decision(decisions[0].id)
    assert found == decisions[0]
    with ledger.database.engine.connect() as connection:
        read = connection.exec_driver_sql
        assert read("SELECT count(*) FROM arm_sets").scalar() == 1
        body = read("SELECT body FROM decisions").scalars().first()
    assert "scores" not in body
    with Ledger(
        ledger.database.engine.url.render_as_string(hide_password=False)
    ) as again:
        assert again.decision(decisions[1].id) == decisions[1]


def test_pairs_are_of_one_time(agent, ledger, monkeypatch):
    """What is revised, taken back or said between two pages counts next time: nothing
    is given twice."""
    monkeypatch.setattr("braidbandit.ledger.ledger._PAGE", 3)
    decisions = live(agent, ledger)
    expected = [(s, d.id, o.reward) for s, d, o in ledger.pairs()]
    waiting, found = ledger.pending()[0], []
    for n, (sequence, decision, outcome) in enumerate(ledger.pairs()):
        found.append((sequence, decision.id, outcome.reward))
        if n == 0:
            ledger.revise(expected[0][1], 1.0)
            ledger.revise(expected[8][1], 1.0)
            ledger.retract(expected[9][1])
            ledger.record_outcome(Outcome(waiting.id, 0.5))
    assert found == expected
    now = {d.id: o.reward for _, d, o in ledger.pairs()}
    assert len(now) == 10
    assert now[expected[0][1]] == now[expected[8][1]] == 1.0
    assert expected[9][1] not in now
    assert ledger.counts() == {"decisions": 12, "outcomes": 10, "pending": 2}
    assert [d.id for d in decisions if d.id not in now] == [
        d.id for d in ledger.pending()
    ]


def test_a_ledger_is_composed():
    assert Ledger.__mro__ == (Ledger, object)


WRITES = st.lists(
    st.tuples(
        st.sampled_from(["outcome", "revise", "retract"]),
        st.integers(0, 2),
        st.sampled_from([0.0, 0.25, 1.0]),
    ),
    max_size=12,
)


@settings(max_examples=25)
@given(writes=WRITES)
def test_whatever_is_written_the_returned_events_are_the_history(writes):
    """Against a model of it: what is in force of each decision, and what is refused."""
    agent = BraidRecommender(
        Catalogue.build(("one", "other"), layer_sets=("output",)),
        TaskEncoder(embedder=embed, n_components=4),
        random_state=0,
    )
    decisions = [agent.recommend(f"task {i}") for i in range(3)]
    written, now, ever = [], {}, set()
    with Ledger(":memory:") as ledger:
        for decision in decisions:
            ledger.record_decision(decision)
        for call, number, reward in writes:
            decision = decisions[number]
            before = now.get(number)
            try:
                if call == "outcome":
                    event = ledger.record_outcome(Outcome(decision.id, reward))
                elif call == "revise":
                    event = ledger.revise(decision.id, reward)
                else:
                    event = ledger.retract(decision)
            except ValueError:
                assert call == "outcome"
                assert before not in (None, reward)
                continue
            except KeyError:
                assert call != "outcome"
                assert before is None
                assert call == "revise" or number not in ever
                continue
            after = None if call == "retract" else reward
            assert (event is None) == (after == before)
            if event is not None:
                assert (event.before and event.before.reward) == before
                assert (event.outcome and event.outcome.reward) == after
                now[number] = after
                ever.add(number)
                written.append(event)
        assert list(ledger.events()) == written
        in_force = {d.id: o.reward for _, d, o in ledger.pairs()}
        assert in_force == {
            decisions[k].id: reward for k, reward in now.items() if reward is not None
        }
        assert ledger.counts()["outcomes"] == len(in_force)
        for at in range(len(written) + 1):
            assert list(ledger.events(after=at)) == written[at:]


# ---- a person's choice, and who was asked ----


def overridden(agent, ledger):
    """A decision in the ledger, and the one that a person makes in its place."""
    first = agent.recommend("x")
    ledger.record_decision(first, "x")
    other = next(arm for arm in agent.arm_ids_ if arm != first.braid.id)
    return first, agent.override(first, other)


def test_a_persons_choice_takes_the_place_of_a_decision(agent, ledger):
    first, second = overridden(agent, ledger)
    assert ledger.record_decision(second)
    assert ledger.decision(second.id) == second
    assert [decision.id for decision in ledger.pending()] == [second.id]
    assert list(ledger.expired()) == [first.id]
    assert not ledger.record_decision(second)  # twice counts once
    with pytest.raises(KeyError, match="a person chose another arm"):
        ledger.record_outcome(Outcome(first.id, 0.5))
    assert ledger.record_outcome(Outcome(second.id, 0.5))
    assert ledger.counts() == {"decisions": 2, "outcomes": 1, "pending": 0}


def test_a_choice_in_place_of_what_was_rated_or_gone_writes_nothing(agent, ledger):
    first, second = overridden(agent, ledger)
    ledger.record_outcome(Outcome(first.id, 0.5))
    with pytest.raises(ValueError, match="has an outcome"):
        ledger.record_decision(second)
    ledger.retract(first)
    ledger.record_decision(second)
    third = dataclasses.replace(second, id="third")
    with pytest.raises(KeyError, match="a person chose another arm"):
        ledger.record_decision(third)
    stranger = dataclasses.replace(second, id="fourth", instead_of="stranger")
    with pytest.raises(KeyError, match="unknown decision 'stranger'"):
        ledger.record_decision(stranger)
    assert ledger.counts()["decisions"] == 2


def test_who_was_asked_is_written_once(agent, ledger):
    decision = agent.recommend("x")
    asked = {"asked": True, "probability": 0.3, "worth": 0.01, "rate": 0.1}
    with pytest.raises(KeyError, match="unknown decision"):
        ledger.record_asked(decision, asked)
    ledger.record_decision(decision, "x")
    assert ledger.decision(decision.id).asked is None
    assert ledger.record_asked(decision, asked) == asked
    again = ledger.record_asked(decision.id, {**asked, "asked": False})
    assert again == ledger.decision(decision.id).asked == asked
    assert ledger.text(decision.id) == "x"
    # It is the same decision still, which is written once.
    assert ledger.decision(decision.id) == decision
    assert not ledger.record_decision(decision)
    assert [d.asked for d in ledger.pending()] == [asked]
