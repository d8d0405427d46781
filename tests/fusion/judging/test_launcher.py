import json
import os
import subprocess
import sys

import pytest

from fusion.judging import launcher

linux = pytest.mark.skipif(sys.platform != "linux", reason="these measures are Linux's")


def launch(tmp_path, code="print('ran')", **task):
    """The launcher by itself, with one program; what it printed and what it noted."""
    program = tmp_path / "program.py"
    program.write_text(code)
    with (tmp_path / "notes").open("w+") as notes:
        given = {
            "limits": {},
            "processes": 8,
            "measures": [],
            "required": [],
            "notes": notes.fileno(),
            "program": str(program),
            "own": [str(tmp_path)],
            "needed": [],
            **task,
        }
        done = subprocess.run(
            [sys.executable, "-I", "-S", launcher.__file__, json.dumps(given)],
            pass_fds=[notes.fileno()],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        notes.seek(0)
        return done.stdout, json.loads(notes.read())


def test_every_processor_has_numbers_for_every_kind_of_call():
    assert len({frozenset(calls) for calls in launcher.CALLS.values()}) == 1
    for calls in launcher.CALLS.values():
        plain = [
            n for kind in ("leaves", "modes", "labels", "kept") for n in calls[kind]
        ]
        assert len(plain) == len(set(plain))


def test_without_measures_it_sets_the_limits_and_becomes_the_program(tmp_path):
    code = "import resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE))"
    out, held = launch(tmp_path, code, limits={"RLIMIT_NOFILE": 37})
    assert (out, held) == ("(37, 37)\n", ["RLIMIT_NOFILE"])


def test_a_limit_that_the_system_does_not_know_does_not_hold(tmp_path):
    assert launch(tmp_path, limits={"RLIMIT_OF_ANOTHER": 1}) == ("ran\n", [])


def test_where_what_is_required_does_not_hold_nothing_is_run(tmp_path):
    assert launch(tmp_path, required=["files"]) == ("", [])


@linux
def test_a_filter_alone(tmp_path):
    """It refuses sockets, and says so by an error of its own kind."""
    code = "import socket\ntry:\n    socket.socket()\nexcept PermissionError as e:\n"
    code += "    print(e.errno)"
    out, held = launch(tmp_path, code, measures=["filter"])
    if held != ["filter"]:
        pytest.skip("this kernel allows no filter")
    assert out == "1\n"


@linux
def test_no_more_rights_may_be_gained(tmp_path):
    code = "print([x for x in open('/proc/self/status') if x.startswith('NoNewPrivs')])"
    out, _ = launch(tmp_path, code, measures=["filter"])
    assert out.split("\\t")[1].startswith("1")


@linux
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc")
def test_an_ordinary_program_keeps_none_of_the_capabilities(tmp_path):
    code = "print([x for x in open('/proc/self/status') if x.startswith('CapEff')])"
    out, _ = launch(tmp_path, code, measures=["filter"])
    assert int(out.split("\\t")[1].split("\\n")[0], 16) == 0
