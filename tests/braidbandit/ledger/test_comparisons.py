"""Comparisons in a ledger: one order with the outcomes, once, taken back, moved."""

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from sklearn.base import clone

from braidbandit import Ledger, Outcome, export_ledger, import_ledger
from braidbandit.evaluation.log import Log
from braidbandit.evaluation.offpolicy import compare
from braidbandit.ledger import schema
from braidbandit.ledger.database import Database
from braidbandit.ledger.records import Comparison, Event, comparison_key
from braidbandit.ledger.transfer import purge_export, restore

OLD = Path(__file__).parents[2] / "data" / "ledger-schema-2.json"


@pytest.fixture
def ledger(ledger_url):
    with Ledger(ledger_url) as opened:
        yield opened


def two(agent, ledger, task="task"):
    one = agent.recommend(task)
    other = agent.recommend(task, excluded=[one.braid.id])
    for decision in (one, other):
        ledger.record_decision(decision)
    return one, other


def of(better, worse, **given):
    return Comparison(better.braid.id, worse.braid.id, better.id, worse.id, **given)


def history(agent, ledger):
    """An outcome, comparisons, one taken back, and outcomes again."""
    a, b = two(agent, ledger)
    c, d = two(agent, ledger, "another")
    written = [
        ledger.record_outcome(Outcome(a.id, 0.5)),
        ledger.record_comparison(of(a, b), a),
        ledger.record_comparison(of(b, a, source="judge")),
        ledger.revise(a.id, 0.75),
        ledger.record_comparison(
            Comparison(c.braid.id, d.braid.id, None, d.id, strength=0.5)
        ),
        ledger.retract_comparison(of(a, b).key),
        ledger.record_outcome(Outcome(b.id, 0.25)),
        ledger.record_comparison(of(b, a)),
    ]
    return (a, b, c, d), written


def test_a_comparison_is_one_of_two_answers_to_one_task(agent, ledger):
    a, b = two(agent, ledger)
    one = of(a, b)
    assert one.key == of(b, a).key == comparison_key(b.id, a.id, "user")
    assert one.key != of(a, b, source="judge").key
    assert one.decision_ids == (a.id, b.id)
    assert Comparison.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    beside = Comparison(a.braid.id, b.braid.id, worse_decision=b.id)
    assert (beside.decision_id, beside.answers) == (b.id, (a.braid.id, b.id))
    assert Event(1, a, "comparison", None).comparison is None


def test_all_that_was_said_is_in_one_order(agent, ledger):
    _, written = history(agent, ledger)
    assert list(ledger.events()) == written
    assert [event.sequence for event in written] == sorted(
        {event.sequence for event in written}
    )
    assert [event.follows for event in written] == [
        0,
        *(event.sequence for event in written[:-1]),
    ]
    for at, event in enumerate(written):
        after = list(ledger.events(after=event.sequence))
        assert after == written[at + 1 :]
    assert ledger.last_sequence() == written[-1].sequence
    kinds = [event.kind for event in written]
    assert kinds[1:6] == [
        "comparison",
        "comparison",
        "revision",
        "comparison",
        "retraction",
    ]


def test_those_in_force(agent, ledger):
    (a, b, _, d), written = history(agent, ledger)
    found = list(ledger.comparisons())
    assert [(s, x.id) for s, x, _ in found] == [
        (written[2].sequence, b.id),
        (written[4].sequence, d.id),
        (written[7].sequence, b.id),
    ]
    until = written[4].sequence
    answers = [c.answers[0] for *_, c in ledger.comparisons(until=until)]
    assert answers == [a.id, b.id, written[4].comparison.better]
    assert [s for s, *_ in ledger.pairs()] == [
        written[3].sequence,
        written[6].sequence,
    ]
    assert ledger.counts() == {"decisions": 4, "outcomes": 2, "pending": 2}


def test_the_same_once_and_another_refused(agent, ledger):
    a, b = two(agent, ledger)
    assert ledger.record_comparison(of(a, b)) is not None
    last = ledger.last_sequence()
    assert ledger.record_comparison(of(a, b)) is None
    for other in (of(b, a), of(a, b, strength=0.5)):
        with pytest.raises(ValueError, match="Call retract_comparison first"):
            ledger.record_comparison(other)
    c = agent.recommend("another", excluded=[a.braid.id])
    ledger.record_decision(c)
    with pytest.raises(ValueError, match="different tasks"):
        ledger.record_comparison(of(a, c))
    with pytest.raises(KeyError, match="unknown decision"):
        ledger.record_comparison(of(a, replace(b, id="nobody")))
    with pytest.raises(KeyError, match="no comparison with key"):
        ledger.retract_comparison("nothing")
    assert ledger.last_sequence() == last
    key = of(a, b).key
    assert ledger.retract_comparison(key) is not None
    assert ledger.retract_comparison(key) is None
    again = ledger.record_comparison(of(b, a))
    assert again is not None
    assert again.sequence > last + 1


def test_numbers_are_never_used_twice(agent, ledger):
    """Whatever is purged, a position stays a position."""
    _, written = history(agent, ledger)
    later = datetime.now(timezone.utc) + timedelta(seconds=1)
    assert ledger.purge(later, records=True) == 4
    assert list(ledger.events()) == list(ledger.comparisons()) == []
    a, b = two(agent, ledger)
    assert ledger.record_comparison(of(a, b)).sequence > written[-1].sequence


def make_old(url, monkeypatch, encoder):
    """A ledger as the version before comparisons left it, with today's encoder."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "REVISION", "2")
        engine = Database(url).engine
    data = sa.MetaData()
    data.reflect(engine)
    with engine.begin() as connection:
        for table, rows in json.loads(OLD.read_text()).items():
            for row in rows:
                if table == "decisions":
                    body, task = json.loads(row["body"]), row["text"]
                    body["x"] = encoder.features([task])[0].tolist()
                    body["encoder_hash"] = encoder.projection_hash()
                    row["body"] = json.dumps(body)
                for name in ("scores", "eligible"):
                    if row.get(name) is not None:
                        row[name] = bytes.fromhex(row[name])
            connection.execute(data.tables[table].insert(), rows)
        if engine.dialect.name == "postgresql":  # as if they had been numbered by it
            for name in ("decisions", "outcome_events"):
                connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{name}', 'sequence'), "
                    f"(SELECT MAX(sequence) FROM {name}))"
                )
    engine.dispose()


def test_a_ledger_of_before_is_brought_up_to_date(ledger_url, monkeypatch, agent):
    make_old(ledger_url, monkeypatch, agent.start().encoder_)
    with Ledger(ledger_url) as ledger:
        assert ledger.counts() == {"decisions": 6, "outcomes": 5, "pending": 0}
        events = list(ledger.events())
        assert [event.kind for event in events] == [
            *["outcome"] * 5,
            "revision",
            "retraction",
            "outcome",
        ]
        agent.sync(ledger)
        assert agent.n_updates_ == 5
        known = events[0].decision
        beside = next(i for i in agent.arm_ids_ if i != known.braid.id)
        written = ledger.record_comparison(
            Comparison(beside, known.braid.id, worse_decision=known.id)
        )
        assert written.follows == 8
        assert agent.sync(ledger).feedback_counts_["compared"] == 1
    with Ledger(ledger_url) as ledger:  # nothing is left to do
        assert list(ledger.events())[-1] == written


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_there_and_back(agent, twin, tmp_path, ledger_url, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    file = tmp_path / f"ledger.{suffix}"
    with Ledger(tmp_path / "source.db") as source, Ledger(ledger_url) as ledger:
        _, written = history(agent, source)
        assert export_ledger(source, file) == 4 + len(written)
        assert import_ledger(file, ledger) == 4 + len(written)
        assert import_ledger(file, ledger) == 0
        for one, other in zip(source.events(), ledger.events(), strict=True):
            assert (one.kind, one.outcome) == (other.kind, other.outcome)
            assert one.comparison == other.comparison
        posteriors = [clone(twin).sync(one).posterior_ for one in (source, ledger)]
        assert posteriors[0].mean.tobytes() == posteriors[1].mean.tobytes()


def test_an_export_is_purged_of_comparisons_too(agent, tmp_path):
    file = tmp_path / "ledger.jsonl"
    with Ledger(tmp_path / "l.db") as ledger:
        history(agent, ledger)
        export_ledger(ledger, file)
    later = datetime.now(timezone.utc) + timedelta(seconds=1)
    purge_export(file, later, records=True)
    assert len(file.read_text().splitlines()) == 1


def test_restored_comparisons_are_checked(agent, ledger):
    a, b = two(agent, ledger)
    one = of(a, b)
    assert restore(ledger, [], [("comparison", 0, one)]) == 1
    assert restore(ledger, [], [("comparison", 0, one)]) == 0
    with pytest.raises(ValueError, match="another comparison already"):
        restore(ledger, [], [("comparison", 0, of(b, a))])
    with pytest.raises(ValueError, match="have the number 0"):
        restore(ledger, [], [("comparison", 0, one), ("comparison", 0, of(b, a))])
    unknown = replace(one, worse_decision="nobody")
    with pytest.raises(KeyError, match="nobody"):
        restore(ledger, [], [("comparison", 0, unknown)])


def test_a_recommender_learns_them_in_order(agent, twin, ledger):
    _, written = history(agent, ledger)
    for event in written:
        agent.sync(ledger, event=event)
        assert agent.ledger_position_ == event.sequence
    twin.sync(ledger)
    assert twin.posterior_.mean.tobytes() == agent.posterior_.mean.tobytes()
    assert list(twin.arm_model_.log.compared) == list(agent.arm_model_.log.compared)
    # What is skipped is not learnt, and arms that are unknown are passed over.
    assert not clone(twin).sync(ledger, since=written[-1].sequence).n_updates_


def test_a_comparison_of_an_unknown_arm_is_passed_over(agent, ledger):
    a, _ = two(agent, ledger)
    ledger.record_comparison(Comparison(a.braid.id, "unknown", a.id))
    with pytest.warns(UserWarning, match="1 outcomes or comparisons.*unknown"):
        agent.sync(ledger)
    assert not agent.arm_model_.log.judged
    assert agent.ledger_position_ == ledger.last_sequence()


def test_what_cannot_be_taken_back_is_learnt_anew(agent, twin, ledger):
    a, b = two(agent, ledger)
    c, d = two(agent, ledger, "another")
    ledger.record_comparison(of(a, b))
    ledger.record_comparison(of(c, d))
    ledger.record_outcome(Outcome(a.id, 0.5))
    agent.sync(ledger).retrain(a.braid)
    ledger.retract_comparison(of(a, b).key)
    agent.sync(ledger)
    kept = [
        record.comparison.answers for record in agent.arm_model_.log.compared.values()
    ]
    assert kept in ([], [(c.id, d.id)])
    assert len(agent.arm_model_.log.judged) == 1
    assert agent.settled_ == {a.id: 0.5}


def test_noisy_sources_weigh_less_in_outcomes_too(agent, ledger):
    for i in range(40):
        a, b = two(agent, ledger, f"task {i}")
        for source in ("one", "two", "coin"):
            turned = source == "coin" and i % 2
            ledger.record_comparison(of(*((b, a) if turned else (a, b)), source=source))
    ledger.record_outcome(Outcome(a.id, 0.5, source="coin"))
    ledger.record_outcome(Outcome(b.id, 0.5, source="new"))
    agent.sync(ledger)
    learnt = agent.arm_model_.log.learnt
    assert learnt[b.id].applied == 1.0
    assert learnt[a.id].applied < 0.5
    # It is taken back with the weight that it was learnt with.
    before = agent.posterior_.copy()
    ledger.retract(a.id)
    ledger.record_outcome(Outcome(a.id, 0.5, source="coin"))
    agent.sync(ledger)
    assert agent.posterior_.mean == pytest.approx(before.mean, abs=1e-10)


def test_evaluation_counts_comparisons_and_leaves_them_out(agent, ledger):
    for i in range(60):
        a, b = two(agent, ledger, f"task {i}")
        if i == 0:
            ledger.record_comparison(of(a, b))
            with pytest.raises(ValueError, match="1 comparisons and no outcome"):
                Log.read(ledger)
        ledger.record_outcome(Outcome(a.id, 0.5 + 0.4 * (i % 2)))
    log = Log.read(ledger)
    assert (len(log.rewards), log.n_comparisons) == (60, 1)
    table = compare({"uniform": agent.set_params(policy=None)}, log)
    assert table.left_out == 1
    assert "1 comparisons of two answers are left out" in str(table)
    first = next(ledger.comparisons())[0]
    assert Log.read(ledger, after=first).n_comparisons == 0
