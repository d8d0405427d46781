import pytest
from programs import invoke, run

from braidbandit import Ledger
from braidbandit.cli.shell.exits import Exit


def test_export_import_inspect(folder, tmp_path):
    written = run("state", "export", tmp_path / "a.zip")
    assert written["bytes"] > 1000
    made = run("state", "import", tmp_path / "a.zip", "--folder", tmp_path / "b")
    assert made["files"] == written["files"]
    said = invoke("state", "inspect", tmp_path / "b").stdout
    assert "models: general-7b, coder-1b" in said


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_ledger_alone(folder, tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet needs the extra data")
    file = tmp_path / f"ledger.{kind}"
    assert run("state", "export", file)["records"] == 4 + 3
    to = ("--folder", tmp_path / "b")
    assert run("state", "import", file, *to)["records"] == 7
    assert run("state", "import", file, *to)["records"] == 0  # it is there already
    with Ledger(tmp_path / "b" / "ledger.sqlite") as ledger:
        assert ledger.counts()["decisions"] == 4


def test_a_file_is_not_replaced_unasked(folder, tmp_path):
    file = tmp_path / "a.zip"
    file.write_text("mine")
    assert run("state", "export", file, code=Exit.REFUSED)["error"]
    assert file.read_text() == "mine"
    assert run("state", "export", file, "--overwrite")["bytes"]


def test_other_endings_and_missing_files(folder, tmp_path):
    assert invoke("state", "export", tmp_path / "a.tar").exit_code == Exit.USAGE
    missing = run("state", "import", tmp_path / "no.zip", code=Exit.NOT_FOUND)
    assert "there is no" in missing["error"]["message"]
