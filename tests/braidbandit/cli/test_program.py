"""A whole session by the program itself, and what happens without its extra."""

import json
import subprocess
import sys
import time

import pytest
from programs import ROOT, process

from braidbandit import Ledger, __version__
from braidbandit.cli.program import main
from braidbandit.cli.shell.exits import Exit

# A finder that knows no such package, as where the extra is not installed.
_HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from braidbandit.cli.program import main
sys.exit(main({arguments!r}))
"""


def without(*hidden, arguments, where):
    """Run the program where some packages are not installed."""
    code = _HIDE.format(hidden=set(hidden), arguments=list(arguments))
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=where,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        timeout=60,
        check=False,
    )


def test_a_whole_session(settings):
    """init --yes is tested with models; here: recommend, feedback, explain, table."""
    where = settings.parent

    def call(*arguments):
        done = process(*arguments, where=where)
        assert done.returncode == 0, done.stderr
        assert "arning" not in done.stderr
        return done.stdout

    chosen = json.loads(call("recommend", "Sort a list", "--type", "code", "--json"))
    assert "because" in chosen["reason"]
    assert "learnt" in call("feedback", chosen["id"][:8], "4/5")
    assert "repeated" in call("feedback", "last", "4/5")
    explained = call("explain", chosen["id"])
    assert chosen["reason"] in explained
    assert "feedback: 0.8" in explained
    assert "before anything was learnt" in explained
    shown = call("table")
    assert chosen["label"] in shown
    assert "1 decisions, 1 rated, 0 waiting for feedback" in shown
    with Ledger(where / "braid" / "ledger.sqlite") as ledger:
        assert [o.reward for _, _, o in ledger.pairs()] == [0.8]


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "last"),
        ("feedback", "last", "0.5"),
        ("table",),
        ("state", "inspect"),
        ("doctor",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_needs_no_model_starts_fast_and_without_torch(folder, arguments):
    code = (
        "import sys, json\nfrom braidbandit.cli.program import main\n"
        f"code = main({list(arguments)!r})\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers'}\n"
        "loaded = heavy & set(sys.modules)\n"
        "sys.stderr.write(f'{sorted(loaded)} {code}')"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=folder.parent,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": "/nowhere"},
        check=True,
    )
    seconds = time.perf_counter() - started
    assert done.stderr.startswith("[]"), done.stderr + done.stdout
    # Alone some 1.5 s; other tests run beside this one.
    assert seconds < 20


def test_without_its_extra_it_says_how_to_get_it(tmp_path):
    done = without("typer", arguments=["--help"], where=tmp_path)
    assert done.returncode == Exit.NO_PACKAGE
    assert done.stderr == (
        "the command line needs typer: pip install 'braidbandit[cli]'\n"
    )


def test_without_the_ledgers_packages_it_says_how_to_get_them(folder):
    done = without("sqlalchemy", arguments=["table"], where=folder.parent)
    assert done.returncode == Exit.NO_PACKAGE
    assert "braidbandit[full]" in done.stderr


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"braidbandit {__version__}\n"
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for command in ("init", "serve", "probe", "recommend", "explain", "feedback"):
        assert command in said
    assert "Exit codes" in said


def test_a_wrong_option_is_told_apart(capsys):
    assert main(["table", "--colour"]) == Exit.USAGE
    assert "--colour" in capsys.readouterr().err
