import sqlite3
from contextlib import closing

import pytest
from programs import run

from braidbandit import Ledger, Outcome
from braidbandit.cli.machine.doctor.ledger_file import LedgerFile, check_ledger
from braidbandit.ledger.schema import REVISION


@pytest.fixture
def file(tmp_path, agent):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        for _ in range(3):
            decision = agent.recommend("x")
            ledger.record_decision(decision)
        ledger.record_outcome(Outcome(decision.id, 0.5))
    return path


def test_a_whole_ledger(file):
    found = check_ledger(file)
    assert found.level == "ok"
    assert "3 decisions, 1 events" in found.found
    assert LedgerFile(file).revision() == REVISION
    assert list(LedgerFile(file).encoders().values()) == [3]


def test_a_ledger_of_a_newer_version(file):
    newer = str(int(REVISION) + 1)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (newer,))
    found = check_ledger(file)
    assert found.level == "error"
    assert (
        f"schema revision {newer}, this version reads up to {REVISION}" in found.found
    )
    assert found.fix == "pip install --upgrade braidbandit"
    with pytest.raises(ValueError, match="upgrade braidbandit"):
        Ledger(file)  # what whoever opens it would be told


def test_an_older_ledger_is_left_as_it_is(file):
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '1'")
    found = check_ledger(file)
    assert found.level == "warning"
    assert "brought up to date" in found.fix
    assert LedgerFile(file).revision() == "1"


def test_a_damaged_ledger(file):
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xff" * 8192 + content[12288:])
    found = check_ledger(file)
    assert found.level == "error"
    assert "damaged" in found.found
    assert "restore a backup" in found.fix


def test_what_is_no_ledger(tmp_path):
    assert check_ledger(tmp_path / "none").level == "ok"
    (tmp_path / "text").write_text("not a database, but long enough to be read" * 20)
    assert "not a database" in check_ledger(tmp_path / "text").found
    with closing(sqlite3.connect(tmp_path / "other")) as connection, connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    assert "not a ledger's" in check_ledger(tmp_path / "other").found
    (tmp_path / "empty").touch()
    assert check_ledger(tmp_path / "empty").found.endswith("empty")
    assert LedgerFile(tmp_path / "empty").encoders() == {}


def test_a_ledger_that_is_being_written_to(file, agent):
    with Ledger(file) as ledger:
        ledger.record_decision(agent.recommend("y"))
        assert "4 decisions" in check_ledger(file).found


def test_nothing_is_written(folder):
    file = folder / "ledger.sqlite"
    before = file.read_bytes()
    check_ledger(file)
    assert file.read_bytes() == before
    assert run("table")["decisions"] == 4
