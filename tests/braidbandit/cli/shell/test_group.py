import json

import pytest
from programs import invoke, process, run

from braidbandit.cli.shell.exits import Exit


def test_an_error_is_a_line_and_a_code(settings):
    done = invoke("explain", "last")
    assert done.exit_code == Exit.NOT_FOUND
    assert done.stdout == ""
    assert done.stderr.startswith("there is no ledger in")
    assert "Traceback" not in done.output


def test_with_json_it_is_a_document(settings):
    found = run("explain", "last", code=Exit.NOT_FOUND)
    assert list(found) == ["error"]
    assert found["error"]["code"] == "NOT_FOUND"
    assert "no ledger" in found["error"]["message"]


def test_the_place_of_the_option_does_not_matter(settings):
    done = invoke("explain", "--json", "last")
    assert json.loads(done.stdout)["error"]["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recommend", "x", "--complexity", "2"], "--complexity"),
        (["recommend"], "TASK"),
        (["recommend", "x", "--colour"], "--colour"),
        (["nosuch"], "nosuch"),
        (["state", "nosuch"], "nosuch"),
        (["--colour", "table"], "--colour"),
        (["feedback", "last"], "--retract"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_a_document_too(settings, arguments, said):
    found = run(*arguments, code=Exit.USAGE)
    assert found["error"]["code"] == "USAGE"
    assert said in found["error"]["message"]


def test_a_task_that_is_named_like_the_option_is_a_task(settings):
    done = invoke("nosuch", "--", "--json")
    assert (done.exit_code, done.stdout) == (Exit.USAGE, "")
    assert "No such command" in done.stderr


def test_a_traceback_where_one_is_wished_for(settings, monkeypatch):
    monkeypatch.setenv("BRAIDBANDIT_TRACEBACK", "1")
    done = invoke("explain", "last")
    assert isinstance(done.exception, FileNotFoundError)


def test_a_warning_of_the_library_is_a_note(folder):
    # A folder keeps the braids it began with; others have no effect, with a warning.
    settings = folder.parent / "braid.toml"
    settings.write_text(settings.read_text().replace('["output"]', '["final"]'))
    done = process("recommend", "x", "--json", where=folder.parent)
    assert "note: " in done.stderr
    assert "is resumed with its own" in done.stderr
    assert ".py" not in done.stderr
    assert json.loads(done.stdout)["id"]
