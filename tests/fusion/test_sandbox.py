import os
import subprocess
import sys
import time

import pytest

from fusion.sandbox import Limits, run_python

SHORT = Limits(seconds=1.0)


def test_what_it_prints_and_how_it_ends():
    run = run_python("import sys\nprint('é')\nsys.stderr.write('oh')\nsys.exit(3)")
    assert (run.returncode, run.stdout, run.stderr) == (3, "é\n", "oh")


def test_an_empty_folder_of_its_own_and_none_of_our_environment(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "x")
    run = run_python(
        "import os\nprint(os.listdir('.'), 'SECRET_KEY' in os.environ, os.getcwd())\n"
        "open('new', 'w').write('x')"
    )
    files, secret, place = run.stdout.split()
    assert (files, secret, run.returncode) == ("[]", "False", 0)
    assert not os.path.exists(place)


def test_time_is_up_for_all_its_processes(tmp_path):
    """The child would write a file a second after its parent was killed."""
    mark = tmp_path / "mark"
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    try:\n        os.setsid()\n    except PermissionError:\n        pass\n"
        f"    time.sleep(1.5)\n    open({str(mark)!r}, 'w')\n"
        "time.sleep(60)"
    )
    started = time.monotonic()
    assert run_python(code, SHORT).returncode is None
    assert time.monotonic() - started < 10
    time.sleep(1.2)
    assert not mark.exists()


def test_children_that_outlive_the_program_are_killed(tmp_path):
    mark = tmp_path / "mark"
    code = (
        f"import os, time\nif os.fork() == 0:\n    time.sleep(0.7)\n"
        f"    open({str(mark)!r}, 'w')"
    )
    assert run_python(code).returncode == 0
    time.sleep(1.0)
    assert not mark.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_memory_and_files_have_limits():
    limits = Limits(memory_mb=256, file_mb=1)
    run = run_python("x = bytearray(300 * 2**20)", limits)
    assert "MemoryError" in run.stderr
    assert {"RLIMIT_AS", "RLIMIT_FSIZE"} <= set(run.held)
    assert run_python("open('f', 'wb').write(bytes(2**21))", limits).returncode != 0
    endless = run_python("while True:\n    print('x' * 1000)", limits)
    assert endless.returncode != 0
    assert len(endless.stdout) <= 2**20


@pytest.mark.skipif(
    sys.platform != "linux", reason="namespaces and filters are Linux's"
)
@pytest.mark.parametrize("measure", ["namespaces", "filter"])
def test_no_network(measure):
    code = (
        "import socket\n"
        "s = socket.socket()\ns.settimeout(2)\n"
        "s.connect(('127.0.0.1', {port}))\nprint('connected')"
    )
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        code = code.format(port=server.getsockname()[1])
        assert run_python(code, measures=()).stdout == "connected\n"
        run = run_python(code, measures=(measure,))
    if measure not in run.held:
        pytest.skip(f"this kernel allows no {measure}")
    assert run.stdout == ""
    assert "OSError" in run.stderr or "PermissionError" in run.stderr


def test_limits_may_be_fractions():
    limits = Limits(seconds=5, memory_mb=512.5, file_mb=0.5)
    run = run_python("print('x')\nopen('f', 'wb').write(bytes(2**20))", limits)
    assert (run.returncode, run.stdout) == (1, "x\n")
    assert "File too large" in run.stderr


def test_a_deep_nest_of_folders_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "import os\nfor _ in range(1500):\n    os.mkdir('d'); os.chdir('d')"
    try:
        assert run_python(code).returncode == 0
        assert not any(tmp_path.iterdir())
    finally:  # pytest could not delete such a nest, in this run or in later ones
        subprocess.run(["rm", "-rf", "--", str(tmp_path)], check=True)


def test_a_program_has_no_say_in_what_held():
    """What it finds beside its folder is no record of ours, nor waited for."""
    code = "import os\nfor name in os.listdir('..'):\n    if name != 'empty':\n"
    run = run_python(code + "        open('../' + name, 'w').write('[\"all\"]')")
    assert run.returncode == 0
    assert "RLIMIT_CPU" in run.held


@pytest.mark.parametrize(
    ("code", "returncode"),
    [("import shutil; shutil.rmtree('..', True); print(1)", 0), ("x = '\ud83d'", 1)],
    ids=["deletes its folder", "half a character"],
)
def test_odd_programs_come_to_an_end(code, returncode):
    run = run_python(code)
    assert run.returncode == returncode
    assert run.stdout == ("1\n" if returncode == 0 else "")


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": 0}, {"memory_mb": -1}, {"file_mb": 0}, {"seconds": float("inf")}],
)
def test_limits_are_above_zero(wrong):
    with pytest.raises(ValueError, match="must be above 0"):
        Limits(**wrong)
