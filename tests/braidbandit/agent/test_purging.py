"""After a purge nothing of a task is in any byte of the agent's folder."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial

import numpy as np
import pytest
from toy_embedder import embed

from braidbandit import (
    BraidRecommender,
    Catalogue,
    ConservativePolicy,
    Ledger,
    MetaBraider,
    Outcome,
    TaskEncoder,
    export_ledger,
    import_ledger,
)
from braidbandit._files import LOCK
from braidbandit.agent.purging import purge_folder
from braidbandit.ledger.transfer import restore
from braidbandit.recommender.saving import purged
from braidbandit.tasks.encoder import task_hash

SIZE = {"parameters": 10**8, "layers": 12, "width": 64, "vocab_size": 1000}
POOL = [
    {"model_name": "one", "domain": "general", **SIZE},
    {"model_name": "other", "domain": "code", **SIZE},
]
SECRET, NEW = 'Zoë Ångström\'s diagnosis "x"', "what comes later"


def named(texts):
    return embed(texts)


named.name = "toy"


def open_agent(folder, **options):
    encoder = TaskEncoder(embedder=named, n_components=4, cache_dir=folder / "kept")
    catalogue = Catalogue.build(POOL, layer_sets=("output",))
    return MetaBraider(
        POOL, catalogue=catalogue, encoder=encoder, folder=folder, **options
    )


def traces(x=(), text=SECRET):
    """A task as bytes: text, embedding and features, as files may hold them."""
    found = [text.encode(), json.dumps(text).encode()[1:-1]]
    vector = embed([text])[0]
    for numbers in (vector, np.asarray(x)):
        if len(numbers):
            found += [numbers.astype(kind).tobytes() for kind in ("<f8", "<f4", ">f8")]
            found += [repr(float(number)).encode() for number in numbers[1:5]]
    return found


def holding(folder, found):
    """Names of the files that hold any of it."""
    return sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and any(trace in file.read_bytes() for trace in found)
    )


@pytest.fixture
def used(tmp_path):
    """An agent of which every file knows the secret, and a time to purge before."""
    agent = open_agent(tmp_path / "agent", keep_text=True)
    for number in range(30):  # pages are split and rows move
        agent.forward(f"{number} " * 300)
    waiting = agent.forward(SECRET)
    rated = agent.forward({"text": SECRET, "type": "code"})
    agent.learn_from_feedback({"text": SECRET, "type": "code"}, rated, 0.75)
    agent.save()
    agent.recommender.save(agent.ledger)
    between = datetime.now(timezone.utc)
    agent.recommender.recommend(NEW)
    later = replace(
        agent.forward(NEW),
        id="later",
        created_at=datetime.now(timezone.utc).isoformat(),
    )
    agent.ledger.record_decision(later, text=NEW)
    yield agent, between, waiting, rated
    agent.close()


def copies(agent):
    """What people put into a folder."""
    for name in ("ledger.jsonl", "ledger.parquet"):
        export_ledger(agent.ledger, agent.folder / name)
    shutil.copyfile(agent.folder / "ledger.jsonl", agent.folder / "renamed")
    (agent.folder / "more.jsonl.part").write_bytes(
        (agent.folder / "ledger.jsonl").read_bytes()[:-5]
    )
    shutil.copytree(agent.folder / "policy", agent.folder / "policy-of-monday")
    manifest = (agent.folder / "policy" / "manifest.json").read_bytes()
    (agent.folder / "policy" / ".writing-abc").write_bytes(manifest[:-9])
    (agent.folder / "manifest.bak").write_bytes(manifest)
    (agent.folder / "old copies").mkdir()
    with closing(sqlite3.connect(agent.folder / "old copies" / "l?1.db")) as copy:
        with closing(sqlite3.connect(agent.ledger.path)) as ledger:
            ledger.backup(copy)
        journal = agent.ledger.path.with_name("ledger.sqlite-wal")
        shutil.copyfile(journal, agent.folder / "old copies" / "lost.db-wal")
    (agent.folder / "embeddings").mkdir()
    vector = next((agent.folder / "kept").iterdir())
    shutil.copyfile(vector, agent.folder / "embeddings" / "tmp1234abcd")


def test_texts_are_gone_from_every_file(used):
    agent, between, waiting, rated = used
    copies(agent)
    found = traces()
    before = holding(agent.folder, found)
    assert {"ledger.sqlite-wal", "ledger.jsonl", "renamed"} <= set(before)
    assert any(name.startswith("kept/") for name in before)
    assert agent.purge(between) == 32
    assert holding(agent.folder, found) == []
    # What came later stays, in the copies too, and so do the records.
    assert agent.ledger.text("later") == NEW
    assert agent.ledger.decision(waiting.id) == waiting
    assert agent.ledger.counts()["decisions"] == 34
    for name in ("ledger.jsonl", "ledger.parquet", "old copies/l?1.db"):
        with Ledger(":memory:") as ledger:
            read(agent.folder / name, ledger)
            assert ledger.counts() == agent.ledger.counts()
            assert ledger.text("later") == NEW
            assert ledger.text(rated.id) is None
    assert list(agent.recommender.pending_)[-3] == waiting.id
    assert holding(agent.folder, [task_hash(SECRET).encode()])


def read(file, ledger):
    if file.suffix != ".db":
        return import_ledger(file, ledger)
    with Ledger(file) as copy:
        export_ledger(copy, file.with_suffix(".jsonl"))
    return import_ledger(file.with_suffix(".jsonl"), ledger)


def test_records_are_gone_from_every_file(used):
    agent, between, waiting, rated = used
    copies(agent)
    found = [*traces(waiting.x), *traces(rated.x), task_hash(SECRET).encode()]
    before = set(holding(agent.folder, found))
    assert {"policy/manifest.json", "policy-of-monday/manifest.json"} <= before
    mean = agent.recommender.posterior_.mean.tobytes()
    assert agent.purge(between, records=True) == 32
    assert holding(agent.folder, found) == []
    assert agent.recommender.posterior_.mean.tobytes() == mean
    assert agent.recommender.settled_ == {rated.id: 0.75}
    for name in ("ledger.jsonl", "ledger.parquet", "old copies/l?1.db"):
        with Ledger(":memory:") as ledger:
            read(agent.folder / name, ledger)
            assert ledger.counts() == agent.ledger.counts()
            assert ledger.text("later") == NEW
    for folder in (agent.folder / "policy-of-monday", agent.ledger):
        encoder = TaskEncoder(embedder=named, n_components=4)
        kept = BraidRecommender.load(folder, encoder=encoder)
        assert kept.posterior_.mean.tobytes() == mean
        assert kept.pending_ == {}
        assert kept.arm_model_.log.learnt == {}
    with pytest.raises(KeyError, match="unknown decision"):
        agent.learn_from_feedback(SECRET, waiting, 0.5)
    agent.close()
    assert holding(agent.folder, found) == []
    with open_agent(agent.folder) as again:
        assert again.recommender.posterior_.mean.tobytes() == mean
        assert "later" in again.recommender.pending_
        again.learn_from_feedback(NEW, "later", 0.5)
    assert holding(agent.folder, found) == []


@pytest.mark.parametrize("records", [False, True])
def test_with_a_reader_it_says_what_remains(used, monkeypatch, records):
    agent, between, _, rated = used
    monkeypatch.setattr("braidbandit.ledger.database._BRIEFLY", 0.05)
    found = traces(rated.x if records else ())
    with closing(sqlite3.connect(agent.ledger.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM decisions").fetchone()
        for _ in range(2):
            with pytest.raises(
                OSError, match=r"ledger\.sqlite-wal still hold.*reading"
            ):
                agent.purge(between, records=records)
        # All the rest is done.
        assert set(holding(agent.folder, found)) <= {
            "ledger.sqlite",
            "ledger.sqlite-wal",
        }
        assert holding(agent.folder, found)
        assert agent.forward(NEW).id in agent.recommender.pending_
    agent.purge(between, records=records)
    assert holding(agent.folder, found) == []


def test_a_ledger_without_a_folder_is_wiped_too(agent, tmp_path, monkeypatch):
    monkeypatch.setattr("braidbandit.ledger.database._BRIEFLY", 0.05)
    file = tmp_path / "l.db"
    with Ledger(file) as ledger:
        decision = agent.recommend(SECRET)
        ledger.record_decision(decision, text=SECRET)
        ledger.record_outcome(Outcome(decision.id, 0.5))
        with closing(sqlite3.connect(file, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM decisions").fetchone()
            with pytest.raises(OSError, match=r"l\.db and .*l\.db-wal"):
                ledger.purge(datetime.now(timezone.utc))
            assert ledger.text(decision.id) is None
        assert ledger.purge(datetime.now(timezone.utc)) == 0
        assert holding(tmp_path, traces()) == []


def test_what_was_deleted_without_care_is_gone_too(agent, tmp_path):
    """Pages that another program freed, or that moved, hold what it did not wipe."""
    with Ledger(tmp_path / "l.db") as ledger:
        for number in range(60):
            decision = agent.recommend(f"task {number}")
            ledger.record_decision(decision, text=f"{SECRET} " * (number % 7 + 1) * 9)
    with closing(sqlite3.connect(tmp_path / "l.db")) as other:
        other.execute("PRAGMA secure_delete=OFF")
        other.execute("UPDATE decisions SET text = NULL")
        other.commit()
    assert holding(tmp_path, traces()) == ["l.db"]
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.purge(datetime.now(timezone.utc))
        assert holding(tmp_path, traces()) == []


@pytest.mark.parametrize("records", [False, True])
def test_a_refused_purge_changes_nothing(used, records):
    agent, between, *_ = used
    before = {f: f.read_bytes() for f in agent.folder.rglob("*") if f.is_file()}
    with pytest.raises(ValueError, match="zone"):
        agent.purge(between.replace(tzinfo=None), records=records)
    with pytest.raises(ValueError, match="zone"):
        agent.recommender.forget_decisions(between.replace(tzinfo=None))
    after = {f: f.read_bytes() for f in agent.folder.rglob("*") if f.is_file()}
    assert after == before
    assert len(agent.recommender.pending_) == 33


def test_what_cannot_be_read_is_named(used):
    agent, between, _, rated = used
    copies(agent)
    whole = (agent.folder / "ledger.jsonl").read_bytes()
    (agent.folder / "cut.jsonl").write_bytes(whole[:-40])
    (agent.folder / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    (agent.folder / "somebody.json").write_text("{}")
    found = traces(rated.x)
    for _ in range(2):
        with pytest.raises(OSError, match=r"cut\.jsonl .*damaged.*cut\.parquet"):
            agent.purge(between, records=True)
        assert holding(agent.folder, found) == ["cut.jsonl"]
    (agent.folder / "cut.jsonl").unlink()
    (agent.folder / "cut.parquet").unlink()
    assert agent.purge(between, records=True) == 0


def test_other_files_are_left_alone(used, tmp_path):
    agent, between, *_ = used
    with closing(sqlite3.connect(agent.folder / "mine.db")) as other:
        other.execute("CREATE TABLE decisions (id TEXT)")
        other.commit()
    (agent.folder / "notes.jsonl").write_text('{"my": "notes"}\n')
    (agent.folder / "manifest.json").write_text('{"kind": "of another program"}')
    before = {
        name: (agent.folder / name).read_bytes()
        for name in ("mine.db", "notes.jsonl", "manifest.json")
    }
    agent.purge(between, records=True)
    for name, content in before.items():
        assert (agent.folder / name).read_bytes() == content
    export_ledger(agent.ledger, agent.folder / "new.jsonl")
    stamp = (agent.folder / "new.jsonl").stat().st_mtime_ns
    agent.purge(between, records=True)
    assert (agent.folder / "new.jsonl").stat().st_mtime_ns == stamp


def test_a_guard_takes_what_is_forgotten_for_nothing_earned(tmp_path, encoder):
    """The same in the agent and in what was saved of it before."""
    catalogue = Catalogue.build(POOL, layer_sets=("output",))
    baseline = catalogue.ids[0]
    policy = ConservativePolicy(share=0.5, baseline=baseline)
    agent = BraidRecommender(catalogue, encoder, policy, random_state=0)
    agent.update(agent.recommend("x"), 0.5, weight=2.0)
    waiting = agent.recommend("y")
    departed = replace(waiting, id="departed", braid=catalogue.braids[1])
    agent.arm_model_.await_reward(departed)
    later = replace(waiting, created_at="2999-01-01T00:00:00+00:00", id="late")
    agent.arm_model_.await_reward(later)
    with Ledger(tmp_path / "l.db") as ledger:
        agent.save(ledger)
        before = datetime.now(timezone.utc) + timedelta(days=1)
        with pytest.raises(ValueError, match="edit_policy"):
            ledger.purge(before, records=True)
        edit = partial(purged, before=before)
        ledger.purge(before, records=True, edit_policy=edit)
        saved = BraidRecommender.load(ledger, encoder=encoder)
    amount = agent.savings_.amount
    assert agent.arm_model_.log.plain
    agent.forget_decisions(before)
    for one in (agent, saved):
        assert list(one.pending_) == ["late"]
        assert one.savings_.amount == amount - 1.0
        assert one.savings_.expired == ("departed",)
        assert not one.arm_model_.log.plain


def test_an_import_is_redacted(agent, tmp_path):
    decision = agent.recommend(SECRET)
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.record_decision(decision, text=SECRET)
        export_ledger(ledger, tmp_path / "l.jsonl")
    with Ledger(":memory:", redact=lambda text: text.replace("Zoë", "[name]")) as other:
        import_ledger(tmp_path / "l.jsonl", other)
        assert other.text(decision.id) == SECRET.replace("Zoë", "[name]")
        other.redact = lambda text: None
        with pytest.raises(TypeError, match="must return text"):
            restore(other, [(replace(decision, id="second"), "x")])
        assert other.counts()["decisions"] == 1


def test_an_array_of_numbers_has_no_text(tmp_path):
    with open_agent(tmp_path, keep_text=True) as agent:
        decision = agent.forward(embed(["x"])[0])
        assert agent.ledger.text(decision.id) is None


TEXTS = {
    "plain": "Anna Kowalska, born 1961, asks about her thyroid",
    "of other letters": "Пациент Иванов, 患者の田中さん, \u200bمريض",
    "with signs": 'O\'Neil \\ "quoted"\tand\nnew {lines} %s; DROP TABLE x; --!',
    "long": "Mr Smith of No. 7 " * 700,  # on pages of its own
    "composed": "Zoe\u0308 in parts is no Zo\u00eb",
}


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_byte_of_any_text_remains(agent, tmp_path, text, records):
    """In a ledger, its copy, exports and embeddings of one folder, by grep."""
    with Ledger(tmp_path / "l.db") as ledger:
        decision = agent.recommend(text)
        ledger.record_decision(decision, text=text)
        for name in ("l.jsonl", "l.parquet"):
            export_ledger(ledger, tmp_path / name)
        with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
            with closing(sqlite3.connect(ledger.path)) as source:
                source.backup(copy)
    encoder = TaskEncoder(embedder=named, cache_dir=tmp_path / "kept")
    encoder.transform([text])
    found = [*traces(text=text), text[:9].encode(), text[-9:].encode()]
    assert len(holding(tmp_path, found)) >= 3
    later = datetime.now(timezone.utc) + timedelta(days=1)
    purge_folder(tmp_path, later, records=records, besides=None)
    assert holding(tmp_path, found) == []
    if records:
        assert holding(tmp_path, traces(decision.x, text)) == []
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.counts()["decisions"] == (0 if records else 1)


def test_what_is_later_than_the_purge_stays_and_besides_is_not_opened(agent, tmp_path):
    for name in ("one.db", "two.db"):
        with Ledger(tmp_path / name) as ledger:
            ledger.record_decision(agent.recommend(SECRET), text=SECRET)
    long_ago = datetime.now(timezone.utc) - timedelta(days=1)
    purge_folder(tmp_path, long_ago, records=True, besides=None)
    assert holding(tmp_path, traces()) == ["one.db", "two.db"]
    spared = (tmp_path / "two.db").read_bytes()
    later = datetime.now(timezone.utc) + timedelta(days=1)
    for _ in range(2):
        purge_folder(tmp_path, later, records=True, besides=tmp_path / "two.db")
        assert holding(tmp_path, traces()) == ["two.db"]
        assert (tmp_path / "two.db").read_bytes() == spared


HEADER = b"SQLite format 3\0"


@pytest.mark.parametrize(
    ("name", "content", "beside", "stays"),
    [
        (".writing-abc", b"half", (), False),
        (".writing-abc", b"half", (LOCK,), True),  # somebody may be writing it
        ("l.jsonl.part", b"half", (), False),
        ("l.parquet.part", b"half", (), False),
        ("l.csv.part", b"mine", (), True),
        ("gone.db-wal", b"\x37\x7f\x06\x82 pages", (), False),
        ("gone.db-wal", b"\x37\x7f\x06\x83 pages", (), False),
        ("gone.db-wal", b"notes of mine", (), True),
        ("mine.db-wal", b"\x37\x7f\x06\x82 pages", ("mine.db",), True),
        ("embeddings/anything", b"of an earlier version", (), False),
        ("deeper/embeddings/mine", b"of another folder", (), True),
        ("notes.txt", b"a diary of 68 letters".ljust(68, b".") + b"BrEm", (), True),
        ("notes.txt", b"", (), True),
        ("notes.json", b'{"version": 1}', (), True),
    ],
)
def test_what_goes_and_what_stays(tmp_path, name, content, beside, stays):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    for other in beside:
        (tmp_path / other).write_bytes(b"")
    file.write_bytes(content)
    later = datetime.now(timezone.utc) + timedelta(days=1)
    purge_folder(tmp_path, later, records=True, besides=None)
    assert file.exists() == stays
    if stays:
        assert file.read_bytes() == content
    assert all((tmp_path / other).exists() for other in beside)


def test_one_file_that_cannot_be_purged_holds_up_no_other(agent, tmp_path):
    """Each that is left is named, with what was wrong; links to nowhere are none."""
    (tmp_path / "a link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a.db").write_bytes(HEADER + b"and then nothing of a database")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and then nothing")
    with Ledger(tmp_path / "z.db") as ledger:
        ledger.record_decision(agent.recommend(SECRET), text=SECRET)
    later = datetime.now(timezone.utc) + timedelta(days=1)
    with pytest.raises(OSError, match=r"a\.db \(.*b\.parquet \(.*or purge again"):
        purge_folder(tmp_path, later, records=False, besides=None)
    assert holding(tmp_path, traces()) == []
