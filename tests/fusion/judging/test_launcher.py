import ctypes
import errno
import json
import os
import resource
import struct
import subprocess
import sys
from types import SimpleNamespace

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


# Numbers of system calls, by the headers of the kernel and not by the launcher.
X86 = {
    "socket": 41, "setsid": 112, "setpgid": 109, "io_uring_setup": 425, "keyctl": 250,
    "chmod": 90, "fchmodat": 268, "fchmodat2": 452, "fchownat": 260, "utimensat": 280,
    "setxattr": 188, "fremovexattr": 199, "truncate": 76, "openat": 257,
    "openat2": 437, "open": 2, "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240,
    "kill": 62, "tkill": 200, "tgkill": 234, "prlimit64": 302, "rt_sigqueueinfo": 129,
    "pidfd_send_signal": 424, "fork": 57, "vfork": 58, "clone": 56, "clone3": 435,
    "read": 0, "ftruncate": 77, "mmap": 9, "execve": 59, "getpid": 39,
    "exit_group": 231,
}  # fmt: skip
ARM = {
    "socket": 198, "setsid": 157, "setpgid": 154, "io_uring_setup": 425, "keyctl": 219,
    "fchmodat": 53, "fchmodat2": 452, "fchownat": 54, "utimensat": 88, "setxattr": 5,
    "fremovexattr": 16, "truncate": 45, "openat": 56, "openat2": 437, "shmget": 194,
    "semget": 190, "msgget": 186, "mq_open": 180, "kill": 129, "tkill": 130,
    "tgkill": 131, "prlimit64": 261, "rt_sigqueueinfo": 138, "pidfd_send_signal": 424,
    "clone": 220, "clone3": 435, "read": 63, "ftruncate": 46, "mmap": 222,
    "execve": 221, "getpid": 172, "exit_group": 93,
}  # fmt: skip
PROCESSORS = {"x86_64": (X86, 0xC000003E), "aarch64": (ARM, 0xC00000B7)}
PLAIN = ("read", "ftruncate", "mmap", "execve", "getpid", "exit_group")
REFUSED = {
    "leaves": ("socket", "setsid", "setpgid", "io_uring_setup", "keyctl"),
    "modes": ("chmod", "fchmodat", "fchmodat2", "fchownat", "utimensat"),
    "labels": ("setxattr", "fremovexattr"),
    "truncate": ("truncate",),
    "others": ("rt_sigqueueinfo", "pidfd_send_signal"),
    "kept": ("shmget", "semget", "msgget", "mq_open"),
    "fork": ("fork", "vfork"),
}
ALLOWED, KILLED = 0x7FFF0000, 0x80000000


def error(number):
    return 0x50000 | number


def verdict(code, call, arguments=(), mark=0):
    """What the kernel would say: the filter is read as its documentation has it."""
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", call, mark, 0, *given)
    at, value = 0, 0
    for _ in range(len(code)):  # it only jumps forward
        kind, yes, no, operand = code[at]
        at += 1
        if kind == 0x20:
            [value] = struct.unpack_from("=I", data, operand)
        elif kind == 0x54:
            value &= operand
        elif kind == 0x15:
            at += yes if value == operand else no
        elif kind == 0x35:
            at += yes if value >= operand else no
        else:
            assert kind == 0x06
            return operand
    raise AssertionError("a filter that does not end")


@pytest.fixture(params=PROCESSORS)
def processor(request, monkeypatch):
    """A processor's numbers, and `decide(kinds, name, *arguments)` of its filter."""
    numbers, mark = PROCESSORS[request.param]
    programs = []

    def prctl(option, mode, program, *rest):
        assert (option, mode) == (22, 2)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        count, address = struct.unpack("HxxxxxxP", ctypes.string_at(program.value, 16))
        raw = ctypes.string_at(address, 8 * count)
        programs.append(list(struct.iter_unpack("HBBI", raw)))
        return 0

    monkeypatch.setattr(launcher, "_libc", SimpleNamespace(prctl=prctl))
    machine = SimpleNamespace(machine=request.param)
    monkeypatch.setattr(launcher.os, "uname", lambda: machine)

    def decide(kinds, name, *arguments, mark=mark, flag=0):
        assert launcher._filter(set(kinds))
        return verdict(programs[-1], numbers[name] | flag, arguments, mark)

    return numbers, decide


@pytest.mark.parametrize("kind", REFUSED)
def test_each_kind_of_call_is_refused_when_it_is_asked_for_and_only_then(
    processor, kind
):
    numbers, decide = processor
    others = [other for other in REFUSED if other != kind]
    for name in REFUSED[kind]:
        if name in numbers:
            assert decide([kind], name) == error(errno.EPERM), name
            assert decide(others, name) == ALLOWED, name
    for name in PLAIN:
        assert decide([kind], name) == ALLOWED, name


def test_what_every_program_needs_is_allowed_under_all_kinds_together(processor):
    _, decide = processor
    for name in PLAIN:
        assert decide(REFUSED, name) == ALLOWED


def test_another_instruction_set_is_killed_and_its_numbers_are_not_believed(processor):
    _, decide = processor
    assert decide([], "read", mark=0x40000003) == KILLED  # i386


def test_numbers_of_the_x32_interface_are_refused(processor):
    _, decide = processor
    assert decide([], "read", flag=0x40000000) == error(errno.EPERM)


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        (os.O_RDONLY, True),
        (os.O_WRONLY, True),
        (os.O_RDWR | os.O_CREAT, True),
        (os.O_WRONLY | os.O_TRUNC | os.O_CREAT, True),
        (os.O_RDWR | os.O_TRUNC, True),
        (os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY, True),
        (os.O_RDONLY | os.O_TRUNC, False),
        (os.O_RDONLY | os.O_TRUNC | os.O_CLOEXEC, False),
        # Opened neither to read nor to write, it is emptied all the same.
        (os.O_ACCMODE | os.O_TRUNC, False),
    ],
)
def test_a_file_is_not_emptied_by_opening_it_without_the_right_to_write(
    processor, flags, allowed
):
    numbers, decide = processor
    wanted = ALLOWED if allowed else error(errno.EPERM)
    assert decide(["truncate"], "openat", 0, 0, flags) == wanted
    if "open" in numbers:
        assert decide(["truncate"], "open", 0, flags) == wanted
    assert decide(["leaves"], "openat", 0, 0, flags) == ALLOWED
    # Its flags are in memory, out of the filter's sight: as on a kernel without it.
    assert decide(["truncate"], "openat2") == error(errno.ENOSYS)


@pytest.mark.parametrize("name", ["kill", "tkill", "tgkill", "prlimit64"])
def test_signals_and_limits_are_for_the_process_itself_only(processor, name):
    _, decide = processor
    for target, allowed in ((0, True), (os.getpid(), True), (1, False), (-1, False)):
        found = decide(["others"], name, target % 2**32)
        assert found == (ALLOWED if allowed else error(errno.EPERM)), target
    assert decide(["leaves"], name, 1) == ALLOWED


def test_threads_may_start_where_processes_may_not(processor):
    _, decide = processor
    thread = 0x3D0F00  # what pthread_create asks for; CLONE_THREAD is 0x10000 of it
    assert decide(["fork"], "clone", thread) == ALLOWED
    assert decide(["fork"], "clone", 17) == error(errno.EPERM)  # SIGCHLD: a fork
    assert decide(["fork"], "clone3") == error(errno.ENOSYS)
    assert decide(["leaves"], "clone", 17) == ALLOWED


def test_a_processor_without_numbers_has_no_filter(monkeypatch):
    machine = SimpleNamespace(machine="riscv64")
    monkeypatch.setattr(launcher.os, "uname", lambda: machine)
    monkeypatch.setattr(launcher, "_libc", None)  # not so much as asked
    assert launcher._filter({"leaves"}) is False


NOTHING = {"writes": False, "truncates": False, "others": False, "forks": False}


@pytest.mark.parametrize(
    ("measures", "asked", "own_user", "kinds"),
    [
        ({"filter"}, {}, False, {"leaves"}),
        (set(), {}, False, set()),
        (set(), {"writes": True}, False, {"labels", "modes"}),
        (set(), {"writes": True}, True, {"labels"}),
        (set(), {"writes": True, "truncates": True}, True, {"labels", "truncate"}),
        (set(), {"truncates": True}, False, set()),
        (set(), {"others": True}, False, {"kept", "others"}),
        (set(), {"others": True}, True, {"kept"}),
        ({"filter"}, {"forks": True}, True, {"leaves", "fork"}),
    ],
)
def test_a_filter_refuses_what_nothing_else_stops(measures, asked, own_user, kinds):
    found = launcher._refused(measures, **{**NOTHING, **asked}, own_user=own_user)
    assert found == kinds


@pytest.mark.parametrize("running", [0, 1, 2, 37, 1000])
def test_the_bound_is_the_processes_there_are_and_so_many_more(monkeypatch, running):
    """A fork succeeds under limits above the number that runs; that is searched for."""
    asked, limits = [], []

    def may_fork(limit):
        asked.append(limit)
        return limit > running

    monkeypatch.setattr(launcher, "_may_fork", may_fork)
    monkeypatch.setattr(launcher, "_limit", lambda *a: limits.append(a) or True)
    assert launcher._bound_processes(8) is True
    assert limits == [("RLIMIT_NPROC", running + 8)]
    assert len(asked) <= 2 * (running + 1).bit_length() + 2


def test_a_user_whom_no_limit_binds_is_not_said_to_be_bounded(monkeypatch):
    monkeypatch.setattr(launcher, "_may_fork", lambda limit: True)
    monkeypatch.setattr(launcher, "_limit", lambda *a: pytest.fail("nothing to set"))
    assert launcher._bound_processes(8) is False


@pytest.mark.parametrize(
    ("hard", "asked", "set_to"),
    [(100, 37, 37), (20, 37, 20), (resource.RLIM_INFINITY, 37, 37)],
)
def test_a_limit_is_never_raised_above_the_one_there_is(
    monkeypatch, hard, asked, set_to
):
    found = {}
    monkeypatch.setattr(launcher.resource, "getrlimit", lambda kind: (5, hard))
    monkeypatch.setattr(launcher.resource, "setrlimit", found.__setitem__)
    assert launcher._limit("RLIMIT_NOFILE", asked) is True
    assert found == {resource.RLIMIT_NOFILE: (set_to, set_to)}


def test_a_limit_that_the_system_refuses_does_not_hold(monkeypatch):
    def refuse(*_):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(launcher.resource, "setrlimit", refuse)
    assert launcher._limit("RLIMIT_NOFILE", 5) is False


@linux
@pytest.mark.parametrize(
    "code",
    [
        "os.setsid()",
        "os.setpgid(0, 0)",
        "socket.socket()",
        "socket.socket(socket.AF_UNIX)",
    ],
)
def test_a_filtered_program_cannot_leave_its_group_or_reach_a_network(tmp_path, code):
    # Only the leader of its group may not begin a session; so in a child.
    program = f"import os, socket\nif os.fork():\n    os.wait()\nelse:\n    {code}"
    program += "\n    print('left')"
    out, held = launch(tmp_path, program, measures=["filter"])
    if held != ["filter"]:
        pytest.skip("this kernel allows no filter")
    assert out == ""


def test_notes_are_closed_before_the_program_begins(tmp_path):
    """Else it could say itself what held."""
    code = "import os\nprint(sorted(int(x) for x in os.listdir('/dev/fd'))[:3])"
    out, _ = launch(tmp_path, code, limits={"RLIMIT_CORE": 0})
    assert out == "[0, 1, 2]\n"
    code = "import sys\nprint(sys.argv, sys.flags.isolated)"
    assert launch(tmp_path, code)[0] == f"['{tmp_path}/program.py'] 1\n"
