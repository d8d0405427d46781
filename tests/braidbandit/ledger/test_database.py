"""Where a ledger is kept: paths and URLs, transactions, threads, memory."""

import errno
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from braidbandit import Ledger, Outcome
from braidbandit.ledger.database import Database
from braidbandit.ledger.ledger import ArmSets
from braidbandit.ledger.transfer import restore


@pytest.fixture
def database(ledger_url):
    opened = Database(ledger_url)
    yield opened
    opened.close()


def arm_set(name):
    return {"hash": name, "arm_ids": "[]"}


def count(database):
    s = database.tables.arm_sets
    with database.engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(s)).scalar()


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_transaction_is_written_whole_or_not_at_all(database, ordered, at_once):
    rows = database.tables.arm_sets
    with database.writing(ordered=ordered, at_once=at_once) as connection:
        connection.execute(rows.insert(), [arm_set("a"), arm_set("b")])
    assert count(database) == 2

    def break_off():
        with database.writing(ordered=ordered, at_once=at_once) as connection:
            connection.execute(rows.insert().values(arm_set("c")))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert count(database) == 2


@pytest.mark.parametrize(
    ("said", "raised"),
    [
        ("database or disk is full", OSError),
        ("could not extend file: No space left on device", OSError),
        ("disk I/O error", sa.exc.OperationalError),
    ],
)
def test_a_full_disk_is_an_os_error_and_nothing_else_is(database, said, raised):
    def fail():
        with database.writing():
            raise sa.exc.OperationalError("INSERT", {}, Exception(said))

    with pytest.raises(raised) as caught:
        fail()
    if raised is OSError:
        assert caught.value.errno == 28
        assert "nothing was written" in str(caught.value)


def test_events_of_two_writers_are_numbered_as_they_commit(database, agent):
    """The second waits for the first one: its number comes later, as its commit."""
    decisions = [agent.recommend(f"task {i}") for i in range(2)]
    url = database.engine.url.render_as_string(hide_password=False)
    with Ledger(url) as ledger, ThreadPoolExecutor(1) as pool:
        for decision in decisions:
            ledger.record_decision(decision)
        with database.writing(ordered=True) as connection:
            later = pool.submit(ledger.record_outcome, Outcome(decisions[1].id, 0.5))
            row = {
                "decision_id": decisions[0].id, "revision": 0, "kind": "retraction",
                "created_at": "", "body": "{}",
            }  # fmt: skip
            connection.execute(database.tables.outcomes.insert().values(row))
            assert not later.done()
        event = later.result(timeout=30)
    assert (event.sequence, event.follows) == (2, 1)


def test_outcomes_are_on_the_disk_when_they_are_acknowledged(agent, tmp_path):
    """Decisions are when the next outcome is: both go into one journal, in order."""
    with Ledger(tmp_path / "l.db") as ledger:
        with ledger.database.engine.connect() as connection:
            read = connection.exec_driver_sql
            assert read("PRAGMA journal_mode").scalar() == "wal"
            assert read("PRAGMA busy_timeout").scalar() > 0
        begun = []

        def note(connection):
            execute = connection.connection.dbapi_connection.execute
            begun.append(execute("PRAGMA synchronous").fetchone()[0])

        sa.event.listen(ledger.database.engine, "commit", note)
        normal, full = 1, 2
        decision = agent.recommend("x")
        ledger.record_decision(decision)
        assert begun[-1] == normal
        for write in (
            lambda: ledger.record_outcome(Outcome(decision.id, 0.5)),
            lambda: ledger.revise(decision.id, 0.6),
            lambda: ledger.retract(decision.id),
        ):
            write()
            assert begun[-1] == full


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "l.db").write_bytes(b"this is not a database, not at all" * 50)
    with pytest.raises(ValueError, match="not a database"):
        Ledger(tmp_path / "l.db")


def test_a_missing_driver_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"braidbandit\[postgres\]"):
        Ledger("postgresql+psycopg://somebody@/somewhere")


NAMES = [
    "run?seed=1", "run?seed=2", "run", "50%25", "50%", "a#b", "a b", "a&b=c", "a+b",
    "x:y", "file:x", "sqlite:", ":memory:", "é", "[a]*", "q'uo\"te",
    "?", "x?mode=memory&uri=true",
]  # fmt: skip


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_no_url(tmp_path, monkeypatch, agent, kind, relative):
    """Each folder has its own file, whatever its name."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(NAMES):
        folder = Path(name) if relative else tmp_path / name
        if kind is str and str(folder).startswith("file:"):
            continue  # a name as SQLite itself has it, see below
        folder.mkdir()
        with Ledger(kind(folder / "l.db")) as ledger:
            assert ledger.path == (tmp_path / name / "l.db")
            assert ledger.counts()["decisions"] == 0
            for _ in range(number):
                ledger.record_decision(agent.recommend("x"))
        assert [f.name for f in folder.iterdir()] == ["l.db"]
        with Ledger(kind(folder / "l.db")) as ledger:
            assert ledger.counts()["decisions"] == number


def test_urls_name_files_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for url in (
        f"sqlite:///{tmp_path}/l.db",
        "sqlite:///~/l.db",
        "~/l.db",
        Path("~/l.db"),
        f"file:{tmp_path}/l.db",
        f"file:{tmp_path}/l.db?cache=private",
        f"sqlite:///file:{tmp_path}/l.db?uri=true",
    ):
        with Ledger(url) as ledger:
            assert ledger.path == tmp_path / "l.db"
    assert [file.name for file in tmp_path.iterdir()] == ["l.db"]


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch, agent):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Ledger("l.db") as ledger:
        monkeypatch.chdir("elsewhere")
        ledger.database.engine.dispose()
        ledger.record_decision(agent.recommend("x"))
    assert not list((tmp_path / "elsewhere").iterdir())


IN_MEMORY = [
    "sqlite://",
    "sqlite:///",
    "sqlite:///:memory:",
    "sqlite+pysqlite:///:memory:",
    ":memory:",
    "file::memory:",
    "file::memory:?cache=shared",
    "file:one?mode=memory",
    "file:one?mode=memory&cache=shared",
    "sqlite:///file::memory:?cache=shared",
    "sqlite:///file::memory:?cache=shared&uri=true",
    "sqlite:///file:one?mode=memory&cache=shared&uri=true",
]


@pytest.mark.parametrize("url", IN_MEMORY)
def test_a_ledger_in_memory_is_one_for_all_threads(url, agent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    decisions = [agent.recommend(f"task {i}") for i in range(48)]
    with Ledger(url) as ledger, ThreadPoolExecutor(8) as pool:
        assert ledger.path is None

        def write(decision):
            assert ledger.record_decision(decision)
            assert ledger.record_outcome(Outcome(decision.id, 0.5))
            assert ledger.revise(decision.id, 0.25)
            assert ledger.decision(decision.id) == decision
            return len(list(ledger.pairs()))

        seen = list(pool.map(write, decisions))
        assert max(seen) == 48
        assert ledger.counts() == {"decisions": 48, "outcomes": 48, "pending": 0}
        assert len(list(ledger.events())) == 96
        assert restore(ledger, [(decisions[0], None)]) == 0
        ledger.arm_sets = ArmSets(ledger.database)
        assert restore(ledger, [(decisions[1], None)]) == 0
        past = datetime.now(timezone.utc)
        assert ledger.purge(past, records=True) == 48
    with Ledger(url) as ledger:
        assert ledger.counts()["decisions"] == 0
    assert not list(tmp_path.iterdir())


def test_two_ledgers_may_share_one_in_memory(agent):
    url = "file:shared?mode=memory&cache=shared"
    decisions = [agent.recommend(f"task {i}") for i in range(40)]
    with Ledger(url) as one, Ledger(url) as other, ThreadPoolExecutor(4) as pool:

        def write(pair):
            ledger, decision = pair
            ledger.record_decision(decision)
            ledger.record_outcome(Outcome(decision.id, 0.5))
            ledger.counts()

        list(pool.map(write, zip([one, other] * 20, decisions, strict=True)))
        for ledger in (one, other):
            assert ledger.counts() == {"decisions": 40, "outcomes": 40, "pending": 0}
        with Ledger("file:another?mode=memory&cache=shared") as third:
            assert third.counts()["decisions"] == 0


# ---- one file ----


@pytest.fixture
def opened(tmp_path):
    database = Database(tmp_path / "one.db")
    yield database
    database.close()


def insert(database, name="a"):
    with database.writing() as connection:
        connection.execute(database.tables.arm_sets.insert(), [arm_set(name)])


def busy_timeout(database):
    with database.engine.connect() as connection:
        return connection.exec_driver_sql("PRAGMA busy_timeout").scalar()


def test_a_database_knows_its_file(opened, tmp_path):
    assert opened.file == tmp_path / "one.db"
    in_memory = Database(":memory:")
    assert in_memory.file is None
    in_memory.wipe()  # there is nothing beside it
    in_memory.close()


def test_a_wiped_file_holds_nothing_of_what_was_deleted(opened, tmp_path):
    """Nor does the journal beside it; what was not deleted is there."""
    for name in ("secret-word", "other-word"):
        insert(opened, name)
    with opened.writing() as connection:
        sets = opened.tables.arm_sets
        connection.execute(sets.delete().where(sets.c.hash == "secret-word"))
    opened.wipe()
    left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"secret-word" not in left
    assert b"other-word" in left
    assert count(opened) == 1


def test_a_wipe_while_somebody_reads_says_so_and_can_be_repeated(
    opened, tmp_path, monkeypatch
):
    """Even by whoever still holds the error."""
    monkeypatch.setattr("braidbandit.ledger.database._BRIEFLY", 0.01)
    insert(opened)
    patience = busy_timeout(opened)
    reader = Database(tmp_path / "one.db")
    with reader.engine.connect() as connection:
        connection.execute(sa.select(reader.tables.arm_sets)).all()
        insert(opened, "b")
        with pytest.raises(OSError, match="one.db-wal still hold copies") as caught:
            opened.wipe()
    assert caught.value.errno == errno.EBUSY
    assert busy_timeout(opened) == patience > 1000
    reader.close()
    opened.wipe()
    assert count(opened) == 2


def test_readers_see_what_was_committed_while_somebody_writes(opened):
    insert(opened)
    with opened.writing() as connection:
        connection.execute(opened.tables.arm_sets.insert(), [arm_set("b")])
        assert count(opened) == 1
    assert count(opened) == 2


def test_writers_of_threads_take_turns(opened):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: insert(opened, str(number)), range(40)))
    assert count(opened) == 40


def test_a_closed_database_may_be_closed_again(opened):
    insert(opened)
    opened.close()
    opened.close()
    assert count(opened) == 1


@pytest.mark.parametrize(
    "url",
    ["mysql://me@there/db", "oracle://there", "mssql://a/b"],
)
def test_other_kinds_of_databases_are_named(url):
    with pytest.raises(
        ValueError, match="kept in sqlite or postgresql, received a URL"
    ):
        Database(url)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_parent_and_child_both_go_on_writing(opened):
    """Each over connections of its own."""
    insert(opened, "before")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            insert(opened, "child")
            code = 0
        finally:
            os._exit(code)
    insert(opened, "parent")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert count(opened) == 3


def test_a_child_keeps_what_is_the_parents_and_does_not_use_it(opened):
    pool = opened.engine.pool
    opened.before_fork()
    opened.after_fork(False)
    assert opened.engine.pool is pool
    opened.after_fork(True)
    assert opened.engine.pool is not pool
    in_memory = Database(":memory:")
    whole = in_memory.engine.pool
    in_memory.after_fork(True)
    assert in_memory.engine.pool is whole
    in_memory.close()
