import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sklearn.base import clone

from braidbandit import Ledger, Outcome
from braidbandit.ledger import schema
from braidbandit.ledger.database import Database
from braidbandit.tasks.encoder import FORMER_SETTINGS

OLD = Path(__file__).parents[2] / "data" / "ledger-0.1.0.json"


def make_old(url, monkeypatch):
    """A ledger as 0.1.0 left it: its tables, its rows, and no word of Alembic."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "REVISION", "1")
        engine = Database(url).engine
    data = sa.MetaData()
    data.reflect(engine)
    with engine.begin() as connection:
        for table, rows in json.loads(OLD.read_text()).items():
            connection.execute(data.tables[table].insert(), rows)
        connection.exec_driver_sql("DROP TABLE alembic_version")
        if engine.dialect.name == "postgresql":  # as if they had been numbered by it
            for name in ("decisions", "outcomes"):
                connection.exec_driver_sql(
                    f"SELECT setval('{name}_sequence_seq', 10, true)"
                )
    engine.dispose()


def test_an_older_ledger_is_brought_up_to_date(ledger_url, monkeypatch, agent):
    make_old(ledger_url, monkeypatch)
    former = {f"encoder__{name}": value for name, value in FORMER_SETTINGS.items()}
    agent = clone(agent).set_params(**former)
    for _ in range(2):  # the second time there is nothing left to do
        with Ledger(ledger_url) as ledger:
            assert ledger.counts() == {"decisions": 4, "outcomes": 3, "pending": 1}
            pairs = list(ledger.pairs())
            assert [o.reward for _, _, o in pairs] == [0.0, 0.25, 0.75]
            assert [s for s, *_ in pairs] == [1, 2, 3]
            assert ledger.text(pairs[0][1].id) == "task 0"
            assert clone(agent).sync(ledger, anew=True).n_updates_ == 3
    with Ledger(ledger_url) as ledger:
        waiting = ledger.pending()[0]
        ledger.record_outcome(Outcome(waiting.id, 1.0))
        ledger.revise(pairs[0][1].id, 0.5)
        new = agent.recommend("x")
        assert ledger.record_decision(new)
        assert not ledger.record_decision(pairs[0][1])
        assert [s for s, *_ in ledger.pairs(after=3)] == [4, 5]
        assert clone(agent).sync(ledger, anew=True).settled_[pairs[0][1].id] == 0.5


def test_the_tables_are_those_of_the_migrations(ledger_url):
    with Ledger(ledger_url) as ledger, ledger.database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.Tables().metadata) == []
        assert context.get_current_revision() == schema.REVISION


def test_a_newer_schema_is_refused_and_left_alone(ledger_url):
    with Ledger(ledger_url) as ledger, ledger.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '99'")
    with pytest.raises(ValueError, match="revision 99, this version.*upgrade"):
        Ledger(ledger_url)
    engine = sa.create_engine(ledger_url)
    with engine.connect() as connection:
        read = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
        assert read.scalar() == "99"
    engine.dispose()


def test_a_newer_ledger_without_alembic_is_refused(tmp_path):
    file = sqlite3.connect(tmp_path / "l.db")
    file.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    file.execute("INSERT INTO meta VALUES ('format', '7')")
    file.commit()
    file.close()
    with pytest.raises(ValueError, match="upgrade"):
        Ledger(tmp_path / "l.db")


def test_somebody_elses_database_is_refused(tmp_path):
    file = sqlite3.connect(tmp_path / "l.db")
    file.execute("CREATE TABLE decisions (id TEXT)")
    file.close()
    with pytest.raises(ValueError, match="not a ledger's"):
        Ledger(tmp_path / "l.db")
    with pytest.raises(ValueError, match="sqlite or postgresql"):
        Ledger("mysql://somewhere/db")


def test_a_migration_that_fails_leaves_everything(ledger_url, monkeypatch):
    make_old(ledger_url, monkeypatch)

    def break_off(*_, **__):
        raise RuntimeError("killed half-way")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.drop_table", break_off)
        with pytest.raises(RuntimeError, match="half-way"):
            Ledger(ledger_url)
    with Ledger(ledger_url) as ledger:
        assert ledger.counts()["outcomes"] == 3


def test_many_may_open_a_new_ledger_at_once(ledger_url):
    code = f"from braidbandit.ledger import Ledger; Ledger({ledger_url!r}).close()"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in started:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error.decode()


@pytest.mark.parametrize("name", ["sqlalchemy", "alembic.operations"])
def test_missing_packages_are_explained(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"braidbandit\[full\]"):
        Ledger(tmp_path / "x.db")


# ---- what a database is found to be ----


def engine_with(*statements):
    """A database in memory after these statements."""
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    return engine


ALEMBIC = "CREATE TABLE alembic_version (version_num TEXT)"
META = "CREATE TABLE meta (key TEXT, value TEXT)"


def by_alembic(revision):
    return [ALEMBIC, f"INSERT INTO alembic_version VALUES ('{revision}')"]


def by_0_1_0(version):
    return [META, f"INSERT INTO meta VALUES ('format', '{version}')"]


@pytest.mark.parametrize(
    ("statements", "current"),
    [
        ([], False),
        (["CREATE TABLE customers (id TEXT)"], False),
        ([META], False),
        (by_0_1_0("1"), False),
        (by_alembic("1"), False),
        (by_alembic(schema.REVISION), True),
        (by_alembic("2"), False),
        ([META, *by_alembic("3")], True),
    ],
)
def test_a_database_is_current_or_can_be_made_so(statements, current):
    assert schema.is_current(engine_with(*statements)) is current


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (by_alembic("4"), "has schema revision 4"),
        (by_alembic("ab1"), "revision ab1"),
        (by_alembic("-1"), "revision -1"),
        (by_0_1_0("4"), "has schema revision 4"),
        (["CREATE TABLE decisions (id TEXT)"], "'decisions' that is not a ledger's"),
    ],
)
def test_what_is_newer_or_not_a_ledgers_is_refused(statements, message):
    engine = engine_with(*statements)
    before = sorted(sa.inspect(engine).get_table_names())
    with pytest.raises(ValueError, match=message):
        schema.is_current(engine)
    with pytest.raises(ValueError, match=message), engine.begin() as connection:
        schema.migrate(connection)
    assert sorted(sa.inspect(engine).get_table_names()) == before


def test_migrating_twice_is_migrating_once():
    engine = engine_with("CREATE TABLE customers (id TEXT)")
    found = []
    for _ in range(2):
        with engine.begin() as connection:
            schema.migrate(connection)
        found.append(sorted(sa.inspect(engine).get_table_names()))
    tables = schema.Tables().metadata.tables
    assert found[0] == found[1] == sorted([*tables, "alembic_version", "customers"])
    assert schema.is_current(engine)


def rows_of(table, **change):
    """A row of each table that fits, with a change."""
    rows = {
        "decisions": {
            "id": "d", "created_at": "", "task_hash": "", "arm_id": "a", "body": "{}",
        },
        "outcome_events": {
            "decision_id": "d", "revision": 0, "kind": "outcome", "created_at": "",
            "body": "{}",
        },
    }  # fmt: skip
    return {**rows[table], **change}


@pytest.fixture
def one_of_each(ledger_url):
    """A database that holds a decision and its outcome."""
    database = Database(ledger_url)
    tables = database.tables
    with database.writing() as connection:
        connection.execute(tables.decisions.insert(), [rows_of("decisions")])
        connection.execute(tables.outcomes.insert(), [rows_of("outcome_events")])
    yield database
    database.close()


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("decisions", {}),
        ("decisions", {"id": None}),
        ("decisions", {"id": "e", "body": None}),
        ("decisions", {"id": "e", "created_at": None}),
        ("outcome_events", {}),
        ("outcome_events", {"revision": None}),
        ("outcome_events", {"revision": 1, "kind": None}),
        ("outcome_events", {"decision_id": "nobody"}),
    ],
)
def test_rows_that_cannot_be_true_are_not_kept(one_of_each, table, change):
    """Twice the same, without what is needed, or about a decision nobody made."""
    tables = one_of_each.tables.metadata.tables

    def write():
        with one_of_each.writing() as connection:
            connection.execute(tables[table].insert(), [rows_of(table, **change)])

    with pytest.raises(sa.exc.IntegrityError):
        write()
    with one_of_each.engine.connect() as connection:
        for name in ("decisions", "outcome_events"):
            kept = sa.select(sa.func.count()).select_from(tables[name])
            assert connection.execute(kept).scalar() == 1


def test_numbers_of_events_are_never_used_again(one_of_each):
    """Otherwise who has read up to 1 would miss what came later."""
    outcomes = one_of_each.tables.outcomes
    with one_of_each.writing() as connection:
        connection.execute(outcomes.delete())
    with one_of_each.writing() as connection:
        connection.execute(outcomes.insert(), [rows_of("outcome_events")])
        [number] = connection.execute(sa.select(outcomes.c.sequence)).scalars()
    assert number == 2
