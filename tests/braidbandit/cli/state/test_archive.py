import json
import zipfile

import pytest
from programs import run

from braidbandit import Ledger
from braidbandit.cli.shell.place import place_of
from braidbandit.cli.state.archive import (
    export_agent,
    header_of,
    import_agent,
    import_records,
)
from braidbandit.ledger.transfer import export_ledger


@pytest.fixture
def file(folder, tmp_path):
    export_agent(folder, tmp_path / "agent.zip")
    return tmp_path / "agent.zip"


def test_an_agent_comes_back_as_it_was(folder, file, tmp_path):
    header = import_agent(file, tmp_path / "again")
    assert header == header_of(file)
    assert not list(tmp_path.glob(".importing-*"))
    one, other = (place_of(f, None) for f in (folder, tmp_path / "again"))
    with Ledger(one.ledger_file) as a, Ledger(other.ledger_file) as b:
        assert list(a.pairs()) == list(b.pairs())
        assert a.pending() == b.pending()
        assert a.last_sequence() == b.last_sequence()
    before, after = one.load_policy(), other.load_policy()
    assert before.settled_ == after.settled_
    task = [{"type": "code"}]
    assert (before.decision_function(task) == after.decision_function(task)).all()
    with other.open_agent() as agent:
        assert agent.recommender.n_updates_ == 3


def test_what_comes_after_the_export_is_learnt_by_the_copy_too(folder, file, tmp_path):
    import_agent(file, tmp_path / "again")
    again = ("--folder", tmp_path / "again")
    assert run("feedback", "last", "1", *again)["change"] == "learnt"
    with place_of(tmp_path / "again", None).open_agent() as agent:
        assert agent.recommender.n_updates_ == 4


def test_a_folder_in_use_is_left_alone(folder, file):
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match="is there already"):
        import_agent(file, folder)
    assert sorted(folder.rglob("*")) == before


def changed(file, target, **files):
    """Copy an archive with some files in it replaced, added, or (None) left out."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if files.get(name, "") is not None:
                new.writestr(name, files.get(name) or old.read(name))
    return target


@pytest.mark.parametrize("name", ["ledger.sqlite", "policy/manifest.json"])
@pytest.mark.parametrize("content", [b"other", None], ids=["other", "gone"])
def test_a_damaged_file_is_refused_and_nothing_is_left(file, tmp_path, name, content):
    wrong = changed(file, tmp_path / "wrong.zip", **{name: content})
    with pytest.raises(ValueError, match="damaged"):
        import_agent(wrong, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert not list(tmp_path.glob(".importing-*"))


@pytest.mark.parametrize("name", ["../evil", "policy/../../evil", "/evil", "store/x"])
def test_only_files_of_an_agent_are_written(file, tmp_path, name):
    header = header_of(file)
    header["files"][name] = "0" * 64
    wrong = changed(file, tmp_path / "w.zip", **{"agent.json": json.dumps(header)})
    with pytest.raises(ValueError, match="which no agent has"):
        import_agent(wrong, tmp_path / "again")
    assert not (tmp_path / "evil").exists()


def test_other_and_newer_files_are_refused(file, tmp_path):
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(ValueError, match="no exported agent"):
        header_of(tmp_path / "text.zip")
    newer = json.dumps({**header_of(file), "format": 99})
    with pytest.raises(ValueError, match="upgrade"):
        header_of(changed(file, tmp_path / "w.zip", **{"agent.json": newer}))
    other = json.dumps({**header_of(file), "kind": "recipe book"})
    with pytest.raises(ValueError, match="recipe book"):
        header_of(changed(file, tmp_path / "w.zip", **{"agent.json": other}))


def test_an_empty_folder_is_no_agent(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no agent"):
        export_agent(tmp_path, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_records_that_are_damaged_make_no_ledger(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "6 * 7?"}\n')
    with pytest.raises(ValueError, match="no export of a ledger"):
        import_records(prompts, tmp_path / "new" / "ledger.sqlite")
    assert not (tmp_path / "new").exists()


def test_a_late_record_that_is_damaged_leaves_a_ledger_as_it_was(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("braidbandit.ledger.transfer._BATCH", 2)
    file, there = tmp_path / "ledger.jsonl", tmp_path / "there.sqlite"
    with Ledger(folder / "ledger.sqlite") as ledger:
        export_ledger(ledger, file)
    whole = file.read_text()
    file.write_text(whole + '{"record": "reward"}\n')
    with Ledger(there):
        pass
    with pytest.raises(ValueError, match="line 9"):
        import_records(file, there)
    with Ledger(there) as ledger:
        assert ledger.counts()["decisions"] == 0
    file.write_text(whole)
    assert import_records(file, there) == 7
    assert import_records(file, there) == 0
