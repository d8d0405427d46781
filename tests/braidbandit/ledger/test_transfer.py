import json
import os
import sys
import tempfile
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from toy_embedder import embed

from braidbandit import BraidRecommender, Catalogue, Ledger, Outcome, TaskEncoder
from braidbandit.ledger.transfer import export_ledger, import_ledger, purge_export


@pytest.fixture
def source(agent, tmp_path):
    """Five decisions with a history: late, revised, taken back, said again."""
    with Ledger(tmp_path / "source.db") as ledger:
        decisions = [agent.recommend(f"task {i}") for i in range(5)]
        for number, decision in enumerate(decisions):
            ledger.record_decision(decision, text="a text" if number == 0 else None)
        for number in (2, 0, 3):
            ledger.record_outcome(Outcome(decisions[number].id, 0.5, latency_ms=2.0))
        ledger.revise(decisions[0].id, 0.75, source="judge")
        ledger.retract(decisions[2].id)
        ledger.record_outcome(Outcome(decisions[2].id, 0.25))
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
    agent = BraidRecommender(
        Catalogue.build(("one", "other"), layer_sets=("output",)),
        TaskEncoder(embedder=embed, n_components=4),
        random_state=0,
    )
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
