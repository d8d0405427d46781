import json
import os
import sys
import tempfile
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from toy_embedder import embed

from braidbandit import BraidRecommender, Catalogue, Ledger, Outcome, TaskEncoder
from braidbandit.ledger.transfer import (
    export_ledger,
    import_ledger,
    is_export,
    purge_export,
    restore,
)


def small_agent():
    return BraidRecommender(
        Catalogue.build(("one", "other"), layer_sets=("output",)),
        TaskEncoder(embedder=embed, n_components=4),
        random_state=0,
    )


def write_history(ledger, agent):
    """Five decisions: late, revised, taken back, said again."""
    decisions = [agent.recommend(f"task {i}") for i in range(5)]
    for number, decision in enumerate(decisions):
        ledger.record_decision(decision, text="a text" if number == 0 else None)
    for number in (2, 0, 3):
        ledger.record_outcome(Outcome(decisions[number].id, 0.5, latency_ms=2.0))
    ledger.revise(decisions[0].id, 0.75, source="judge")
    ledger.retract(decisions[2].id)
    ledger.record_outcome(Outcome(decisions[2].id, 0.25))


@pytest.fixture
def source(agent, tmp_path):
    with Ledger(tmp_path / "source.db") as ledger:
        write_history(ledger, agent)
        yield ledger


def everything(ledger):
    events = [(e.kind, e.decision, e.outcome) for e in ledger.events()]
    return list(ledger.decisions()), events, ledger.counts()


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_there_and_back(source, agent, ledger_url, tmp_path, suffix):
    file = tmp_path / f"ledger.{suffix}"
    assert export_ledger(source, file) == 11
    with Ledger(ledger_url) as ledger:
        assert import_ledger(file, ledger) == 11
        assert everything(ledger) == everything(source)
        fitted = [clone(agent).sync(one).posterior_ for one in (ledger, source)]
        assert fitted[0].mean.tobytes() == fitted[1].mean.tobytes()
        # Once more, and what was said meanwhile is not in the way.
        last = ledger.pending()[0]
        ledger.record_outcome(Outcome(last.id, 1.0))
        assert import_ledger(file, ledger) == 0
        assert ledger.counts()["outcomes"] == 4


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_what_has_expired_is_not_waited_for_again(source, ledger_url, tmp_path, suffix):
    file = tmp_path / f"ledger.{suffix}"
    gone = [decision.id for decision in source.pending()]
    assert source.expire(datetime.now(timezone.utc)) == len(gone) == 2
    export_ledger(source, file)
    with Ledger(ledger_url) as ledger:
        import_ledger(file, ledger)
        assert ledger.counts() == source.counts()
        assert list(ledger.expired()) == list(source.expired()) == gone
        assert ledger.pending() == []
        with pytest.raises(KeyError, match="expired"):
            ledger.record_outcome(Outcome(gone[0], 0.5))


def test_an_expiry_is_added_to_what_was_imported_before(source, tmp_path):
    file = tmp_path / "ledger.jsonl"
    with Ledger(tmp_path / "copy.db") as ledger:
        export_ledger(source, file)
        import_ledger(file, ledger)
        source.expire(datetime.now(timezone.utc))
        export_ledger(source, file)
        import_ledger(file, ledger)
        assert ledger.expired() == source.expired()
        assert ledger.pending() == []


def test_conversations_overrides_and_who_was_asked_go_along(agent, tmp_path):
    asked = {"asked": True, "probability": 0.3, "worth": 0.01, "rate": 0.1}
    path = tmp_path / "export.jsonl"
    with (
        Ledger(tmp_path / "one.sqlite") as ledger,
        Ledger(tmp_path / "other.sqlite") as other,
    ):
        first = agent.recommend("x", conversation="c")
        ledger.record_decision(first)
        export_ledger(ledger, path)
        assert import_ledger(path, other) == 1
        arm = next(a for a in agent.arm_ids_ if a != first.braid.id)
        second = agent.override(first, arm)
        ledger.record_decision(second)
        ledger.record_asked(second, asked)
        ledger.record_asked(first, asked)
        export_ledger(ledger, path)
        assert import_ledger(path, other) == 1
        assert list(other.decisions()) == list(ledger.decisions())
        assert [d.asked for d, _ in other.decisions()] == [asked, asked]
        assert other.expired() == ledger.expired()
        assert [d.instead_of for d in other.pending()] == [first.id]


def test_what_comes_during_an_export_is_left_out(source, agent, tmp_path, monkeypatch):
    """An outcome whose decision came too late for the file could not be read back."""
    real = type(source).decisions

    def decisions(ledger):
        yield from real(ledger)
        late = agent.recommend("late")
        ledger.record_decision(late)
        ledger.record_outcome(Outcome(late.id, 1.0))

    monkeypatch.setattr(type(source), "decisions", decisions)
    assert export_ledger(source, tmp_path / "ledger.jsonl") == 11
    with Ledger(tmp_path / "copy.db") as ledger:
        assert import_ledger(tmp_path / "ledger.jsonl", ledger) == 11


def test_files_of_before_know_no_expiry(source, tmp_path):
    file = tmp_path / "ledger.jsonl"
    export_ledger(source, file)
    header, *lines = file.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        del record["expired_at"]
    file.write_text("\n".join([header, *map(json.dumps, records)]))
    with Ledger(tmp_path / "l.db") as ledger:
        assert import_ledger(file, ledger) == 11
        assert everything(ledger) == everything(source)
    records[0]["expired_at"] = "yesterday"
    file.write_text("\n".join([header, *map(json.dumps, records)]))
    with Ledger(tmp_path / "m.db") as ledger:
        with pytest.raises(ValueError, match="damaged decision"):
            import_ledger(file, ledger)


def test_parquet_is_readable_by_others(source, tmp_path):
    import pyarrow.parquet

    export_ledger(source, tmp_path / "ledger.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "ledger.parquet").to_pylist()
    outcomes = [row["reward"] for row in table if row["record"] == "outcome"]
    assert outcomes == [0.5, 0.5, 0.5, 0.25]
    assert all(0 < r["propensity"] <= 1 for r in table if r["record"] == "decision")


def test_an_import_that_was_broken_off_goes_on(source, tmp_path):
    file = tmp_path / "ledger.jsonl"
    export_ledger(source, file)
    lines = file.read_text().splitlines()
    half = tmp_path / "half.jsonl"
    half.write_text("\n".join([*lines[:7], lines[7][:30]]))
    with Ledger(tmp_path / "l.db") as ledger:
        with pytest.raises(ValueError, match="line 8 of .* is damaged"):
            import_ledger(half, ledger)
        import_ledger(file, ledger)
        assert everything(ledger) == everything(source)


def test_something_else_under_the_same_id_is_refused(source, tmp_path):
    file = tmp_path / "ledger.jsonl"
    export_ledger(source, file)
    before = everything(source)
    lines = [json.loads(line) for line in file.read_text().splitlines()]

    def change(number, **values):
        rows = [dict(line) for line in lines]
        rows[number]["body"] = {**rows[number]["body"], **values}
        file.write_text("\n".join(map(json.dumps, rows)))

    change(1, propensity=0.123)
    with pytest.raises(ValueError, match="another decision"):
        import_ledger(file, source)
    change(6, reward=0.6)
    with pytest.raises(ValueError, match="another outcome"):
        import_ledger(file, source)
    change(6, decision_id="nobody")
    with pytest.raises(KeyError, match="nobody"):
        import_ledger(file, source)
    change(6, colour="green")
    with pytest.raises(ValueError, match="damaged outcome"):
        import_ledger(file, source)
    assert everything(source) == before


def test_files_that_are_no_export(source, tmp_path):
    with pytest.raises(ValueError, match=r"\.jsonl or \.parquet"):
        export_ledger(source, tmp_path / "ledger.csv")
    other = tmp_path / "other.jsonl"
    other.write_text('{"hello": 1}\n')
    with pytest.raises(ValueError, match="no export of a ledger"):
        import_ledger(other, source)
    other.write_text('{"braidbandit ledger": 99}\n')
    with pytest.raises(ValueError, match="upgrade"):
        import_ledger(other, source)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match="damaged"):
        import_ledger(tmp_path / "bad.parquet", source)


def test_missing_pyarrow_is_explained(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"braidbandit\[data\]"):
        export_ledger(source, tmp_path / "ledger.parquet")
    assert list(tmp_path.glob("ledger.parquet*")) == []


@settings(max_examples=10)
@given(
    texts=st.lists(
        st.none() | st.text(st.characters(exclude_categories=["Cs"])), max_size=6
    ),
    rewards=st.lists(st.floats(0, 1), max_size=3),
    suffix=st.sampled_from(["jsonl", "parquet"]),
)
def test_whatever_is_exported_comes_back(texts, rewards, suffix):
    """Line ends, quotes and empty texts too; the first decision is revised again and
    again."""
    agent = small_agent()
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger(":memory:") as one,
        Ledger(":memory:") as other,
    ):
        decisions = [agent.recommend(f"task {i}") for i in range(len(texts))]
        for decision, text in zip(decisions, texts, strict=True):
            one.record_decision(decision, text)
        for decision in decisions[:1]:
            one.record_outcome(Outcome(decision.id, 0.5))
            for reward in rewards:
                one.revise(decision, reward)
                if reward > 0.5:
                    one.retract(decision)
                    one.record_outcome(Outcome(decision.id, reward))
        file = f"{folder}/ledger.{suffix}"
        assert export_ledger(one, file) == import_ledger(file, other)
        assert everything(other) == everything(one)
        assert list(other.events()) == list(one.events())


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_who_may_read_an_export(source, tmp_path, suffix):
    """As any file; and whoever was kept out of it is kept out after a purge."""
    file = tmp_path / f"ledger.{suffix}"
    before = os.umask(0o022)
    try:
        export_ledger(source, file)
        assert file.stat().st_mode & 0o777 == 0o644
        file.chmod(0o600)
        purge_export(file, datetime.now(timezone.utc), records=False)
    finally:
        os.umask(before)
    assert b"a text" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600


def test_an_export_that_fails_leaves_the_one_before(source, tmp_path, monkeypatch):
    file = tmp_path / "ledger.jsonl"
    export_ledger(source, file)
    before = file.read_bytes()

    def break_off(*_):
        raise RuntimeError("half-way")

    with monkeypatch.context() as patch:
        patch.setattr(source, "history", break_off)
        with pytest.raises(RuntimeError, match="half-way"):
            export_ledger(source, file)
    assert file.read_bytes() == before
    assert [name.name for name in tmp_path.glob("*ledger*")] == ["ledger.jsonl"]


SUFFIXES = ("jsonl", "parquet")


@cache
def text_of_an_export():
    with tempfile.TemporaryDirectory() as folder, Ledger(":memory:") as ledger:
        write_history(ledger, small_agent())
        file = Path(folder) / "all.jsonl"
        export_ledger(ledger, file)
        return file.read_text()


@pytest.fixture
def exported():
    """The lines of an export: a header, five decisions and six events."""
    return [json.loads(line) for line in text_of_an_export().splitlines()]


@pytest.fixture
def written(tmp_path):
    """Write lines to a file, and return it."""

    def write(lines):
        file = tmp_path / "written.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)))
        return file

    return write


def changed(lines, number, body=(), **top):
    """The lines, one of which says something else."""
    line = {**lines[number], **top}
    line["body"] = {**line["body"], **dict(body)}
    return [*lines[:number], line, *lines[number + 1 :]]


DECISION, EVENT = 1, 6  # numbers of lines


@pytest.mark.parametrize(
    ("number", "body", "top"),
    [
        (DECISION, {"created_at": 5}, {}),
        (DECISION, {"created_at": "soon"}, {}),
        (DECISION, {"created_at": "2026-01-01T00:00:00"}, {}),
        (DECISION, {"scores": [0.5]}, {}),
        (DECISION, {"eligible": []}, {}),
        (DECISION, {"arm_ids": None}, {}),
        (DECISION, {"x": ["a"]}, {}),
        (DECISION, {"x": [float("nan")]}, {}),
        (DECISION, {"x": [10**400]}, {}),
        (DECISION, {"braid": {"anchor": 5}}, {}),
        (DECISION, {}, {"text": 5}),
        (DECISION, {}, {"expired_at": 5}),
        (DECISION, {}, {"expired_at": "2026-01-01"}),
        (EVENT, {"reward": 1.5}, {}),
        (EVENT, {"reward": 10**400}, {}),
        (EVENT, {"reward": None}, {}),
        (EVENT, {"latency_ms": -1.0}, {}),
        (EVENT, {"latency_ms": 10**400}, {}),
        (EVENT, {"compute": "much"}, {}),
        (EVENT, {"revision": 0.5}, {}),
        (EVENT, {"revision": float("inf")}, {}),
        (EVENT, {"revision": "0"}, {}),
        (EVENT, {"revision": -1}, {}),
        (EVENT, {"revision": True}, {}),
        (EVENT, {"created_at": 5}, {}),
        (EVENT, {"created_at": "soon"}, {}),
        (EVENT, {}, {"record": "rumour"}),
        (EVENT, {}, {"record": None}),
    ],
)
def test_a_damaged_record_names_the_file_and_writes_nothing(
    exported, written, number, body, top
):
    file = written(changed(exported, number, body, **top))
    kind = "decision" if number == DECISION else "outcome"
    with Ledger(":memory:") as ledger:
        with pytest.raises(ValueError, match=f"written.jsonl holds a damaged {kind}"):
            import_ledger(file, ledger)
        assert ledger.counts() == {"decisions": 0, "outcomes": 0, "pending": 0}


@pytest.mark.parametrize("line", [[], 5, None, {"record": "decision"}, {"text": "x"}])
def test_a_line_that_is_no_record_is_named(exported, written, line):
    file = written([*exported[:3], line])
    with Ledger(":memory:") as ledger:
        with pytest.raises(ValueError, match=r"line 4 of .*written\.jsonl is damaged"):
            import_ledger(file, ledger)


@pytest.mark.parametrize(
    "header",
    [
        None,
        [],
        {},
        *({"braidbandit ledger": found} for found in ("1", True, 0, -1, 1.0, None)),
    ],
)
def test_a_file_without_a_header_is_no_export(exported, written, header):
    file = written([header, *exported[1:]])
    with Ledger(":memory:") as ledger:
        with pytest.raises(ValueError, match="no export of a ledger"):
            import_ledger(file, ledger)
        assert ledger.counts()["decisions"] == 0


def test_an_empty_file_is_no_export_either(tmp_path):
    """Somebody's disk was full: nothing was imported, and that is not 0 records."""
    file = tmp_path / "empty.jsonl"
    with Ledger(":memory:") as ledger:
        for content in ("", "\n\n"):
            file.write_text(content)
            with pytest.raises(ValueError, match="no export of a ledger"):
                import_ledger(file, ledger)


def test_blank_lines_are_nothing(exported, tmp_path):
    file = tmp_path / "gaps.jsonl"
    file.write_text("\n" + "\n\n".join(map(json.dumps, exported)) + "\n \n")
    with Ledger(":memory:") as ledger:
        assert import_ledger(file, ledger) == 11


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("batch", [1, 2, 11, 12])
def test_the_size_of_a_batch_changes_nothing(
    source, tmp_path, monkeypatch, suffix, batch
):
    monkeypatch.setattr("braidbandit.ledger.transfer._BATCH", batch)
    file = tmp_path / f"ledger.{suffix}"
    assert export_ledger(source, file) == 11
    with Ledger(":memory:") as ledger:
        assert import_ledger(file, ledger) == 11
        assert everything(ledger) == everything(source)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_of_a_copy_is_the_same_file(source, tmp_path, suffix):
    one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
    export_ledger(source, one)
    with Ledger(":memory:") as copy:
        import_ledger(one, copy)
        export_ledger(copy, two)
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("name", ["l.JSONL", "l.parquet.gz", "l", "l.json"])
def test_the_name_of_a_file_says_what_it_is(source, tmp_path, name):
    for call in (export_ledger, lambda ledger, path: import_ledger(path, ledger)):
        with pytest.raises(ValueError, match=r"named \.jsonl or \.parquet, received"):
            call(source, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_texts_are_redacted_on_their_way_in(source, tmp_path):
    export_ledger(source, tmp_path / "l.jsonl")
    with Ledger(":memory:", redact=lambda text: text.replace("text", "***")) as copy:
        import_ledger(tmp_path / "l.jsonl", copy)
        assert [text for _, text in copy.decisions()] == ["a ***", *[None] * 4]


# ---- many records at once ----


@pytest.fixture
def two():
    """Two decisions that nobody has recorded."""
    agent = small_agent()
    return [agent.recommend(text) for text in ("one", "two")]


def test_restored_events_hold_in_the_order_given(two):
    """Revised and taken back: what holds is the last that was said."""
    first, second = (decision.id for decision in two)
    events = [
        ("outcome", 0, Outcome(first, 0.25)),
        ("outcome", 0, Outcome(second, 0.5)),
        ("revision", 1, Outcome(first, 0.75)),
        ("retraction", 1, Outcome(second, 0.5)),
    ]
    with Ledger(":memory:") as ledger:
        assert restore(ledger, [(d, None) for d in two], events) == 6
        assert [(d.id, o.reward) for _, d, o in ledger.pairs()] == [(first, 0.75)]
        assert [e.kind for e in ledger.events()] == [kind for kind, *_ in events]
        assert restore(ledger, [(two[1], None)], events[::-1]) == 0


def test_what_is_given_twice_is_written_once(two):
    event = ("outcome", 0, Outcome(two[0].id, 0.5))
    with Ledger(":memory:") as ledger:
        assert restore(ledger, [(two[0], None)] * 2, [event] * 3) == 2
        assert ledger.counts() == {"decisions": 1, "outcomes": 1, "pending": 0}


def test_nothing_to_restore_is_nothing_written():
    with Ledger(":memory:") as ledger:
        assert restore(ledger, []) == 0


def contradictions(one, other):
    """What cannot be true together, by name: decisions, events, the complaint."""
    said = Outcome(one.id, 0.5)
    again, elsewhere = replace(said, reward=0.6), Outcome("nobody", 0.5)
    lied = replace(one, propensity=one.propensity / 2)
    return {
        "two decisions, one id": ([one, lied], [], "two decisions have the id"),
        "two outcomes, one number": (
            [one],
            [("outcome", 0, said), ("outcome", 0, again)],
            "have the number 0",
        ),
        "one number, two kinds": (
            [one],
            [("outcome", 1, said), ("revision", 1, said)],
            "have the number 1",
        ),
        "a decision nobody knows": (
            [one, other],
            [("outcome", 0, said), ("outcome", 0, elsewhere)],
            "unknown decisions .'nobody'.*record them first",
        ),
    }


CONTRADICTIONS = (
    "two decisions, one id",
    "two outcomes, one number",
    "one number, two kinds",
    "a decision nobody knows",
)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_refused_and_nothing_is_written(two, ledger_url, name):
    decisions, events, message = contradictions(*two)[name]
    with Ledger(ledger_url) as ledger:
        with pytest.raises((KeyError, ValueError), match=message):
            restore(ledger, [(decision, None) for decision in decisions], events)
        assert ledger.counts() == {"decisions": 0, "outcomes": 0, "pending": 0}


def test_the_first_word_on_when_a_decision_expired_stays(two):
    day = "2026-01-0{}T00:00:00.000000+00:00".format
    given = [(two[0], None)]
    with Ledger(":memory:") as ledger:
        restore(ledger, given)
        for number in (2, 1, 3):
            assert restore(ledger, given, expired={two[0].id: day(number)}) == 0
            assert ledger.expired() == {two[0].id: day(2)}


# ---- deleting from an export ----


@pytest.fixture
def aged():
    """A ledger of three days: one decision each, with text and outcome."""
    agent = small_agent()
    with Ledger(":memory:") as ledger:
        for day in (1, 2, 3):
            made = f"2026-01-0{day}T00:00:00+00:00"
            decision = replace(agent.recommend(f"day {day}"), created_at=made)
            ledger.record_decision(decision, text=f"secret {day}")
            ledger.record_outcome(Outcome(decision.id, day / 10, created_at=made))
        yield ledger


def left_in(file):
    """Texts and rewards that can be read back from a file."""
    with Ledger(":memory:") as ledger:
        import_ledger(file, ledger)
        texts = [text for _, text in ledger.decisions()]
        return texts, [outcome.reward for _, _, outcome in ledger.pairs()]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("records", "texts", "rewards"),
    [
        (False, [None, "secret 2", "secret 3"], [0.1, 0.2, 0.3]),
        (True, ["secret 2", "secret 3"], [0.2, 0.3]),
    ],
)
def test_what_was_decided_before_a_time_is_deleted(
    aged, tmp_path, suffix, records, texts, rewards
):
    """What was decided at that very time stays, in whatever zone one says it."""
    file = tmp_path / f"aged.{suffix}"
    export_ledger(aged, file)
    berne = timezone(timedelta(hours=1))
    purge_export(file, datetime(2026, 1, 2, 1, tzinfo=berne), records=records)
    assert left_in(file) == (texts, rewards)
    assert b"secret 1" not in file.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("records", [False, True])
def test_a_purge_of_an_export_says_what_one_of_the_ledger_does(
    aged, tmp_path, suffix, records
):
    file, before = (
        tmp_path / f"aged.{suffix}",
        datetime(2026, 1, 3, tzinfo=timezone.utc),
    )
    export_ledger(aged, file)
    purge_export(file, before, records=records)
    aged.purge(before, records=records)
    with Ledger(":memory:") as copy:
        import_ledger(file, copy)
        assert list(copy.decisions()) == list(aged.decisions())
        pairs = [[(d, o) for _, d, o in ledger.pairs()] for ledger in (copy, aged)]
        assert pairs[0] == pairs[1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_with_nothing_to_delete_is_only_read(aged, tmp_path, suffix):
    file = tmp_path / f"aged.{suffix}"
    export_ledger(aged, file)
    before = file.stat()
    purge_export(file, datetime(2026, 1, 1, tzinfo=timezone.utc), records=True)
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (
        before.st_mtime_ns,
        before.st_ino,
    )
    purge_export(file, datetime(2027, 1, 1, tzinfo=timezone.utc), records=False)
    once = file.stat().st_ino
    purge_export(file, datetime(2027, 1, 1, tzinfo=timezone.utc), records=False)
    assert file.stat().st_ino == once


def test_a_time_without_a_zone_deletes_nothing(aged, tmp_path):
    file = tmp_path / "aged.jsonl"
    export_ledger(aged, file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="a time with a zone"):
        purge_export(file, datetime(2027, 1, 1), records=True)
    assert file.read_bytes() == before


@pytest.mark.parametrize("records", [False, True])
def test_files_of_before_can_be_purged(exported, written, records):
    """They do not say when a decision expired."""
    for line in exported[1:]:
        del line["expired_at"]
    file = written(exported)
    purge_export(file, datetime.now(timezone.utc), records=records)
    assert b"a text" not in file.read_bytes()
    assert left_in(file)[0] == ([] if records else [None] * 5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_is_told_by_its_content(source, tmp_path, suffix):
    file = tmp_path / f"ledger.{suffix}"
    export_ledger(source, file)
    renamed = file.rename(tmp_path / "ledger.old")
    assert is_export(renamed, renamed.read_bytes()[:100])
    purge_export(renamed, datetime.now(timezone.utc), records=False)
    assert b"a text" not in renamed.read_bytes()


def test_other_files_are_no_exports(tmp_path):
    import pyarrow
    import pyarrow.parquet

    lines, table = tmp_path / "other.jsonl", tmp_path / "other.parquet"
    lines.write_text('{"record": "decision"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), table)
    for file in (lines, table):
        assert not is_export(file, file.read_bytes()[:100])
    with Ledger(":memory:") as ledger:
        with pytest.raises(ValueError, match="no export of a ledger"):
            import_ledger(table, ledger)
