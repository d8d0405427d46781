"""Every command has a help text, --json, and completion."""

import pytest
import typer
from programs import invoke, process

from braidbandit.cli.commands import app

COMMAND = typer.main.get_command(app)
NAMES = [
    *([name] for name in COMMAND.commands if name != "state"),
    *(["state", name] for name in COMMAND.commands["state"].commands),
]


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_help(names):
    done = invoke(*names, "--help")
    assert done.exit_code == 0
    assert "--json" in done.output
    found = COMMAND
    for name in names:
        found = found.commands[name]
    assert len(found.help) > 40
    for parameter in found.params:
        if parameter.name not in ("json", "port", "help"):
            assert getattr(parameter, "help", ""), (names, parameter.name)


def test_all_commands_are_there():
    assert {" ".join(names) for names in NAMES} == {
        "init",
        "serve",
        "probe",
        "recommend",
        "explain",
        "feedback",
        "table",
        "replay",
        "compare",
        "doctor",
        "state export",
        "state import",
        "state inspect",
    }


def test_completion(tmp_path):
    # The shell is told by the process that called, which under tests is none.
    shown = process(
        "--show-completion",
        "bash",
        where=tmp_path,
        HOME=str(tmp_path),
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )
    assert "complete" in shown.stdout or "braidbandit" in shown.stdout
    done = process(
        where=tmp_path,
        _BRAIDBANDIT_COMPLETE="complete_bash",
        COMP_WORDS="braidbandit re",
        COMP_CWORD="1",
    )
    assert set(done.stdout.split()) == {"recommend", "replay"}


def test_verbose_tells_what_is_opened(settings):
    done = process("-v", "recommend", "x", where=settings.parent)
    assert "0 rewards learnt" in done.stderr
