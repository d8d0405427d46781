"""Runs code that a model wrote, in a process of its own with limits.

Limits of time, memory, file size and open files hold on every POSIX system. On Linux
a user, process and network namespace is made where the kernel allows one, and a system
call filter refuses sockets and leaving the process group; `Run.held` says what held.

Against mistakes, not against an attacker: the code can read what this user can read.
Run it as a user of its own, or in a container, if its author is not you.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MEASURES = ("namespaces", "filter")

# Runs first in the child and then becomes the program. It limits itself: code between
# fork and exec in a process with threads, as this one is, may deadlock.
_LAUNCHER = r"""
import ctypes, json, os, platform, resource, struct, sys
limits, measures, notes, program = json.loads(sys.argv[1])
held = []
for name, value in limits.items():
    kind = getattr(resource, name, None)
    if kind is not None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard < 0 else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
            held.append(name)
        except (ValueError, OSError):
            pass
libc = ctypes.CDLL(None, use_errno=True)
def follow(child):
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(status if status >= 0 else 128 - status)
def namespaces():
    # CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC
    if libc.unshare(0x10000000 | 0x20000000 | 0x40000000 | 0x08000000):
        return False
    follow(os.fork())
    # The first process of the namespace, with which all others end. It does not heed
    # the signals that would end any other, so the program is a child of it.
    libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
    follow(os.fork())
    return True
def system_calls():
    # socket, io_uring_setup, setsid, setpgid
    known = {"x86_64": (0xC000003E, (41, 425, 112, 109)),
             "aarch64": (0xC00000B7, (198, 425, 157, 154))}
    if platform.machine() not in known:
        return False
    arch, refused = known[platform.machine()]
    n = len(refused)
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, arch), (0x06, 0, 0, 0x80000000),
            (0x20, 0, 0, 0), (0x35, n + 1, 0, 0x40000000)]
    code += [(0x15, n - i, 0, call) for i, call in enumerate(refused)]
    code += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x00050001)]
    data = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
    filters = struct.pack("HxxxxxxP", len(code), ctypes.addressof(data))
    buffer = ctypes.create_string_buffer(filters)
    # PR_SET_NO_NEW_PRIVS, then PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    return not libc.prctl(38, 1, 0, 0, 0) and not libc.prctl(
        22, 2, ctypes.c_void_p(ctypes.addressof(buffer)), 0, 0)
if sys.platform == "linux":
    for name, measure in (("namespaces", namespaces), ("filter", system_calls)):
        if name in measures and measure():
            held.append(name)
with open(notes, "w") as file:  # closed before the program begins
    json.dump(held, file)
os.execv(sys.executable, [sys.executable, "-I", program])
"""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes
    ----------
    seconds : float
        Of wall time; then its whole process group is killed. The processor's time is
        limited to the same, rounded up.
    memory_mb : int
        Of address space, per process.
    file_mb : int
        Largest file it may write, what it prints included.
    """

    seconds: float = 10.0
    memory_mb: int = 1024
    file_mb: int = 1

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_mb", "file_mb"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(
                    f"{name} must be above 0 and finite, received {value!r}"
                )


@dataclass(frozen=True)
class Run:
    """What became of a program.

    Attributes
    ----------
    returncode : int or None
        0 for success; None when it was killed for time.
    stdout, stderr : str
    held : tuple of str
        The limits and measures that were in force.
    """

    returncode: int | None
    stdout: str
    stderr: str
    held: tuple[str, ...]


def run_python(
    code: str,
    limits: Limits | None = None,
    measures: tuple[str, ...] = MEASURES,
) -> Run:
    """Run Python code in a process of its own, in an empty folder that is then deleted.

    Parameters
    ----------
    code : str
    limits : Limits, optional
    measures : tuple of str
        Of "namespaces" and "filter", which to try; without either the network is open.

    Raises
    ------
    RuntimeError
        Where there is no POSIX system.

    Examples
    --------
    >>> run_python("print(6 * 7)").stdout
    '42\\n'
    """
    if os.name != "posix":
        raise RuntimeError("run_python needs a POSIX system (Linux, macOS)")
    limits = Limits() if limits is None else limits
    largest = int(limits.file_mb * 2**20)
    numbers = {
        "RLIMIT_CPU": math.ceil(limits.seconds),
        "RLIMIT_AS": int(limits.memory_mb * 2**20),
        "RLIMIT_FSIZE": largest,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }
    with _folder() as outer:
        place, program = Path(outer) / "empty", Path(outer) / "program.py"
        place.mkdir()
        # Half a surrogate pair is a mistake of the code: Python refuses to run it.
        program.write_text(code, encoding="utf-8", errors="surrogatepass")
        # Without a name: the program can neither delete them nor put others there.
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            tempfile.TemporaryFile() as notes,
        ):
            task = json.dumps([numbers, measures, notes.fileno(), str(program)])
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, task],
                cwd=place,
                env=_environment(str(place)),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=[notes.fileno()],
                start_new_session=True,
            )
            returncode = _wait(process, limits.seconds)
            stdout, stderr = (_read(file, largest) for file in (out, err))
            held = json.loads(_read(notes, largest) or "[]")
    return Run(returncode, stdout, stderr, tuple(held))


@contextmanager
def _folder() -> Iterator[str]:
    """A temporary folder, deleted whatever the program has put there."""
    folder = tempfile.TemporaryDirectory()
    try:
        yield folder.name
    finally:
        try:
            folder.cleanup()
        except RecursionError:  # folders within folders, a thousand deep
            subprocess.run(["rm", "-rf", "--", folder.name], check=False)


def _environment(home: str) -> dict[str, str]:
    """Nothing of ours: keys and tokens often are in the environment."""
    return {
        "HOME": home,
        "TMPDIR": home,
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # Else glibc reserves 64 MB of address space for each thread.
        "MALLOC_ARENA_MAX": "2",
    }


def _read(file: IO[bytes], largest: int) -> str:
    file.seek(0)
    return file.read(largest).decode(errors="replace")


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait, then kill the whole group, whether it has ended or not."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()
