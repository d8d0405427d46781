import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from fusion.judging.sandbox import MEASURES, Limits, run_python

SHORT = Limits(seconds=1.0)
linux = pytest.mark.skipif(sys.platform != "linux", reason="these measures are Linux's")

# In a process of another user: only these two files, with a Python it can read.
_AS_ANOTHER = """
import importlib.util, json, sys
from dataclasses import asdict
spec = importlib.util.spec_from_file_location("sandbox", sys.argv[1])
sandbox = sys.modules["sandbox"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sandbox)
code, measures = json.loads(sys.stdin.read())
print(json.dumps(asdict(sandbox.run_python(code, measures=tuple(measures)))))
"""


@pytest.fixture(params=["this user", "an ordinary user"])
def judge(request):
    """Runs code as this user, or as one who is not root where this one is."""
    if request.param == "this user":
        yield lambda code, measures: asdict(run_python(code, measures=measures))
        return
    python = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin")
    if os.geteuid() or python is None:
        pytest.skip("takes root, and a Python that others can read")
    spec = importlib.util.find_spec("fusion.judging.sandbox")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for name in ("sandbox.py", "launcher.py"):
            copy = shutil.copy(Path(spec.origin).with_name(name), folder)
            os.chmod(copy, 0o644)

        def run(code, measures):
            done = subprocess.run(
                [python, "-c", _AS_ANOTHER, f"{folder}/sandbox.py"],
                input=json.dumps([code, measures]),
                capture_output=True,
                text=True,
                user=65534,
                group=65534,
                extra_groups=[],
                cwd="/",
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        yield run


@pytest.fixture(params=["all measures", "no namespaces"])
def measures(request):
    if request.param == "all measures":
        return MEASURES
    return tuple(m for m in MEASURES if m != "namespaces")


@pytest.fixture(params=["/tmp", "/dev/shm"])
def outside(request):
    """A folder of which everybody may change everything."""
    if not os.access(request.param, os.W_OK):
        pytest.skip(f"{request.param} is not there")
    folder = Path(tempfile.mkdtemp(dir=request.param))
    (folder / "d" / "e").mkdir(parents=True)
    (folder / "f").write_text("keep")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def everything_of(folder):
    return {
        str(path): (s.st_mode, s.st_size, s.st_nlink, s.st_uid, os.listxattr(path))
        for path in sorted([folder, *folder.rglob("*")])
        for s in [path.lstat()]
    }


HARM = {
    "write": "open(F, 'w').write('x')",
    "append": "open(F, 'a').write('x')",
    "change": "open(F, 'r+').write('x')",
    "make a file": "open(D + '/new', 'w')",
    "make a folder": "os.mkdir(D + '/new')",
    "make a pipe": "os.mkfifo(D + '/new')",
    "make a link": "os.symlink('/etc/passwd', D + '/new')",
    "write through a link": "os.symlink(F, 's'); open('s', 'w').write('x')",
    "link from": "os.link(F, 'mine'); open('mine', 'w').write('x')",
    "link to": "open('a', 'w').close(); os.link('a', D + '/new')",
    "rename from": "os.rename(F, 'mine')",
    "rename to": "open('a', 'w').close(); os.rename('a', F)",
    "rename within": "os.rename(D + '/d', D + '/g')",
    "delete": "os.remove(F)",
    "delete by descriptor": "os.unlink('f', dir_fd=os.open(D, os.O_RDONLY))",
    "delete a folder": "os.rmdir(D + '/d/e')",
    "delete all": "shutil.rmtree(D)",
    "truncate": "os.truncate(F, 0)",
    "truncate by reading": "os.open(F, os.O_RDONLY | os.O_TRUNC)",
    "change the mode": "os.chmod(F, 0)",
    "by descriptor": "os.fchmod(os.open(F, os.O_RDONLY), 0)",
    "the folder's": "os.chmod(D, 0)",
    "change the owner": "os.chown(F, 12, 12)",
    "label": "os.setxattr(F, 'user.x', b'1')",
    "date": "os.utime(F, (1, 1))",
    "through proc": "open('/proc/self/root' + F, 'w').write('x')",
    "by a shell": "subprocess.run('echo x > ' + F + ' && rm ' + F, shell=True, "
    "check=True, stderr=subprocess.DEVNULL)",
    "mount": "assert not ctypes.CDLL(None).mount(b'none', b'/', b'', "
    "ctypes.c_ulong(0x1020), b'')",
    "beside its folder": "open('../new', 'w')",
    "its own folder": "os.rename('../empty', '../other')",
    "its program": "open(sys.argv[0], 'a')",
    "its Python": "os.chmod(sys.executable, os.stat(sys.executable).st_mode)",
}


@linux
def test_nothing_outside_its_folder_is_changed(judge, measures, outside):
    before = everything_of(outside)
    run = judge(
        "import ctypes, os, shutil, subprocess, sys\n"
        f"D = {str(outside)!r}\nF = D + '/f'\n"
        f"for name, harm in {HARM!r}.items():\n"
        "    try:\n        exec(harm)\n"
        "    except (OSError, AssertionError, subprocess.CalledProcessError):\n"
        "        continue\n"
        "    print('done:', name)\n",
        measures,
    )
    assert everything_of(outside) == before
    assert (run["returncode"], run["stdout"]) == (0, ""), run
    assert {"files", "processes"} <= set(run["held"])


@linux
def test_its_own_folder_is_its_own(judge, measures):
    code = (
        "import os, sqlite3, subprocess, tempfile\n"
        "os.mkdir('d')\nopen('d/a', 'w').write('abc')\nos.rename('d/a', 'b')\n"
        "os.link('b', 'd/c')\nos.symlink('b', 's')\nos.truncate('b', 1)\n"
        "with tempfile.NamedTemporaryFile() as file:\n    file.write(b'x')\n"
        "sqlite3.connect('x.db').execute('create table t (a)')\n"
        "subprocess.run(['ls'], stdout=subprocess.DEVNULL, check=True)\n"
        "print(open('s').read(), sorted(os.listdir()))\n"
    )
    run = judge(code, measures)
    assert run["stdout"] == "a ['b', 'd', 's', 'x.db']\n", run


@linux
def test_processes_are_bounded(judge, measures):
    code = (
        "import os, time\nn = 0\ntry:\n    for _ in range(300):\n"
        "        if os.fork() == 0:\n            time.sleep(60)\n        n += 1\n"
        "except OSError:\n    print(n)"
    )
    run = judge(code, measures)
    assert 0 <= int(run["stdout"]) <= Limits().processes
    assert int(run_python(code, Limits(processes=5)).stdout) <= 5


@linux
def test_limits_are_not_raised_again(judge, measures):
    code = "import resource\nfor kind in (resource.RLIMIT_NPROC, resource.RLIMIT_AS):\n"
    code += "    resource.setrlimit(kind, (10**12, 10**12))"
    assert judge(code, measures)["returncode"] == 1


@linux
def test_other_processes_are_left_alone(judge, measures):
    harms = [
        "os.kill(PID, 9)",
        "signal.pidfd_send_signal(os.pidfd_open(PID), 9)",
        "resource.prlimit(PID, resource.RLIMIT_CPU, (1, 1))",
        "open(f'/proc/{PID}/environ', 'rb').read(1)",
        "open(f'/proc/{PID}/mem', 'r+b')",
        "assert ctypes.CDLL(None).ptrace(16, PID, 0, 0) == 0",
    ]
    user = {} if os.geteuid() else {"user": 65534}
    with subprocess.Popen(["sleep", "60"], **user, env={"KEY": "secret"}) as other:
        run = judge(
            f"import ctypes, os, resource, signal\nPID = {other.pid}\n"
            f"for harm in {harms!r}:\n"
            "    try:\n        exec(harm)\n"
            "    except (OSError, AssertionError):\n        continue\n"
            "    print('done:', harm)\n",
            measures,
        )
        alive = other.poll() is None
        other.kill()
    assert alive
    assert (run["returncode"], run["stdout"]) == (0, ""), run


# Of each processor: shmget, semget, msgget, keyctl.
CALLS = {"x86_64": (29, 64, 68, 250), "aarch64": (194, 190, 186, 219)}


@linux
@pytest.mark.skipif(os.uname().machine not in CALLS, reason="other numbers of calls")
def test_nothing_is_left_in_the_kernel(judge):
    """Shared memory of System V stays there, and keys are those of the session."""
    shmget, semget, msgget, keyctl = CALLS[os.uname().machine]
    run = judge(
        "import ctypes\ncall = ctypes.CDLL(None).syscall\n"
        f"print(call({shmget}, 0, 4096, 0o1600), call({semget}, 0, 1, 0o1600),\n"
        f"      call({msgget}, 0, 0o1600), call({keyctl}, 0, -3, 0))\n",
        tuple(m for m in MEASURES if m != "namespaces"),
    )
    assert run["stdout"] == "-1 -1 -1 -1\n", run
    run = judge(
        f"import ctypes\nprint(ctypes.CDLL(None).syscall({keyctl}, 0, -3, 0))", MEASURES
    )
    assert run["stdout"] == "-1\n", run


@linux
def test_semaphores_of_its_own(judge):
    code = "from concurrent.futures import ProcessPoolExecutor as Pool\n"
    code += "with Pool(2) as pool:\n    print(list(pool.map(abs, [-1, -2])))"
    run = judge(code, MEASURES)
    if "namespaces" not in run["held"] or "fork" in run["stderr"]:
        pytest.skip("takes namespaces")
    assert run["stdout"] == "[1, 2]\n", run


def test_without_a_means_it_is_not_run(monkeypatch, tmp_path):
    """A launcher under which nothing holds stands for another system."""
    launcher = tmp_path / "launcher.py"
    launcher.write_text(
        "import json, sys\ntask = json.loads(sys.argv[1])\n"
        "open(task['notes'], 'w').write('[\"RLIMIT_CPU\"]')\n"
        "if not task['required']:\n    print('ran')\n"
    )
    monkeypatch.setattr("fusion.judging.sandbox._LAUNCHER", str(launcher))
    with pytest.raises(
        RuntimeError, match=r"no means to hold \['files', 'processes'\]"
    ):
        run_python("print('ran')")
    assert run_python("print('ran')", measures=("filter",)).stdout == "ran\n"


def test_limits_that_cannot_be_set_are_no_fault_of_the_code(monkeypatch, tmp_path):
    launcher = tmp_path / "launcher.py"
    launcher.write_text("raise MemoryError")
    monkeypatch.setattr("fusion.judging.sandbox._LAUNCHER", str(launcher))
    with pytest.raises(RuntimeError, match="(?s)not run, as its limits .*MemoryError"):
        run_python("x = 1")


@pytest.mark.parametrize("wrong", [("file",), "files"])
def test_measures_are_known(wrong):
    with pytest.raises(ValueError, match="expected a tuple of"):
        run_python("x = 1", measures=wrong)


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
    [
        {"seconds": 0},
        {"memory_mb": -1},
        {"file_mb": 0},
        {"processes": 0},
        {"seconds": float("inf")},
    ],
)
def test_limits_are_above_zero(wrong):
    with pytest.raises(ValueError, match="must be above 0"):
        Limits(**wrong)
