import pytest
from programs import run

from braidbandit.cli.shell.exits import Exit
from braidbandit.cli.state.archive import export_agent
from braidbandit.cli.state.inspecting import inspect
from braidbandit.ledger.schema import REVISION


def test_a_folder_a_policy_and_an_export(folder, tmp_path):
    export_agent(folder, tmp_path / "agent.zip")
    agent = inspect(folder)
    assert agent["policy"]["models"] == ["general-7b", "coder-1b"]
    assert agent["policy"]["encoder"] == "words"
    assert agent["ledger"]["revision"] == REVISION
    assert agent["ledger"]["decisions"] == 4
    assert list(agent["ledger"]["encoders"]) == [agent["policy"]["encoder_hash"]]
    assert inspect(folder / "policy")["policy"] == agent["policy"]
    assert "ledger.sqlite" in inspect(tmp_path / "agent.zip")["files"]


def test_nothing_is_changed(folder):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    inspect(folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_a_damaged_ledger_is_told(folder):
    (folder / "ledger.sqlite").write_bytes(b"x" * 4096)
    assert "not a database" in inspect(folder)["ledger"]["damage"]


def test_what_is_no_agent_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of an agent"):
        inspect(tmp_path)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "manifest.json").write_text("{}")
    assert run("state", "inspect", tmp_path, code=Exit.REFUSED)["error"]
