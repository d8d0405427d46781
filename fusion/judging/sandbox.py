"""Runs code that a model wrote, in a process of its own with limits.

What is stopped, on Linux:

- Files: it cannot write, make, delete, rename, link, truncate or change the mode of
  anything outside an empty folder of its own, ``/dev/null`` excepted (and, where
  namespaces are made, a ``/dev/shm`` of its own). That is Landlock's doing, with a user
  of its own where root judges, with mounts that can only be read where namespaces are
  made, and else with a filter of system calls, under which `os.chmod`, `os.utime` and
  `shutil.copy` fail inside the folder too.
- Processes: no more than `Limits.processes` at once, threads among them. Of a user
  whom no limit of processes binds, code may start threads, but no process.
- Others: it sends other processes no signals, reads nothing of their memory or
  environment, and has no socket, none of the kernel's keys and none of our environment.
  All that it starts ends with it: it cannot leave its process group, nor leave shared
  memory behind.

Without a means for the first two it is not run, unless asked (`run_python`): Linux
5.13 and later on x86-64 and ARM has them unless they were turned off. Limits of time,
memory, file size and open files hold on every POSIX system; `Run.held` says what held.

What is not stopped: it can read what this user can read. It can fill its folder with
many files, and has memory and processor for each of its processes. Errors of the kernel
are open to it. So this is for mistakes, not for an attacker: use a machine of its own
if the author means harm.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import site
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

MEASURES = ("files", "processes", "namespaces", "filter")
_PROMISED = ("files", "processes")
_LAUNCHER = str(Path(__file__).with_name("launcher.py"))


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
    processes : int
        At once, threads included.
    """

    seconds: float = 10.0
    memory_mb: int = 1024
    file_mb: int = 1
    processes: int = 64

    def __post_init__(self) -> None:
        for name in ("seconds", "memory_mb", "file_mb", "processes"):
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

    It changes nothing outside that folder and starts a bounded number of processes. Not
    stopped: reading what this user can read, filling the folder, using memory and
    processor in each process; `help(fusion.judging.sandbox)` says all of it.

    Parameters
    ----------
    code : str
    limits : Limits, optional
        By default ``Limits()``.
    measures : tuple of str
        "files" and "processes" must hold, or the code is not run; "namespaces" and
        "filter" are tried (without either the network is open). To run code where the
        first two cannot hold, leave them out.

    Returns
    -------
    Run
        Also of a program that fails or is killed.

    Raises
    ------
    RuntimeError
        Where there is no POSIX system, or "files" or "processes" do not hold.
    ValueError
        For a measure that is not known.

    Examples
    --------
    >>> run_python("print(6 * 7)").stdout
    '42\\n'
    """
    if os.name != "posix":
        raise RuntimeError("run_python needs a POSIX system (Linux, macOS)")
    unknown = sorted(set(measures) - set(MEASURES))
    if unknown or isinstance(measures, str):
        raise ValueError(f"measures is {measures!r}; expected a tuple of {MEASURES}")
    limits = Limits() if limits is None else limits
    required = [name for name in _PROMISED if name in measures]
    run, noted = _run(code, limits, measures, required)
    if not noted and run.returncode is not None:
        raise RuntimeError(
            f"the code was not run, as its limits could not be set under {limits}: "
            f"{run.stderr.strip()[-500:]}"
        )
    missing = [name for name in required if noted and name not in run.held]
    if missing:
        raise RuntimeError(
            f"the code was not run: this system has no means to hold {missing} (Linux "
            "5.13 or later with Landlock and seccomp has). Judge elsewhere, or leave "
            f"them out of measures={MEASURES} to run it all the same"
        )
    return run


def _run(
    code: str, limits: Limits, measures: tuple[str, ...], required: list[str]
) -> tuple[Run, bool]:
    """What became of a program, and whether the launcher came to note what holds."""
    largest = int(limits.file_mb * 2**20)
    with _folder() as outer, _folder() as beside:
        place, program = Path(outer) / "empty", Path(beside) / "program.py"
        place.mkdir()
        # Half a surrogate pair is a mistake of the code: Python refuses to run it.
        program.write_text(code, encoding="utf-8", errors="surrogatepass")
        task = {
            "limits": _numbers(limits),
            "processes": limits.processes,
            "measures": list(measures),
            "required": required,
            "program": str(program),
            "own": [str(place), outer, beside, str(program)],
            "needed": [sys.executable, os.__file__, *_packages()],
        }
        # Without a name: the program can neither delete them nor put others there.
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            tempfile.TemporaryFile() as notes,
        ):
            process = _launched(task, str(place), out, err, notes)
            returncode = _wait(process, limits.seconds)
            stdout, stderr, noted = (_read(f, largest) for f in (out, err, notes))
    held = tuple(json.loads(noted or "[]"))
    return Run(returncode, stdout, stderr, held), bool(noted)


def _numbers(limits: Limits) -> dict[str, int]:
    """Limits as the kernel counts them, by the names that it gives them."""
    return {
        "RLIMIT_CPU": math.ceil(limits.seconds),
        "RLIMIT_AS": int(limits.memory_mb * 2**20),
        "RLIMIT_FSIZE": int(limits.file_mb * 2**20),
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }


def _launched(
    task: dict[str, Any], place: str, out: IO[bytes], err: IO[bytes], notes: IO[bytes]
) -> subprocess.Popen[bytes]:
    """The launcher, which limits itself, notes what holds and becomes the program."""
    given = json.dumps({**task, "notes": notes.fileno()})
    return subprocess.Popen(
        [sys.executable, "-I", "-S", _LAUNCHER, given],
        cwd=place,
        env=_environment(place),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        pass_fds=[notes.fileno()],
        start_new_session=True,
    )


@cache
def _packages() -> list[str]:
    """Where the program finds installed packages."""
    return [path for path in site.getsitepackages() if os.path.isdir(path)]


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
        "USER": "nobody",  # the number it gets may have no name
        "TMPDIR": home,
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # Else glibc reserves 64 MB of address space for each thread.
        "MALLOC_ARENA_MAX": "2",
    }


def _read(file: IO[bytes], largest: int) -> str:
    """What was written to a file, up to the limit of a program's own files."""
    file.seek(0)
    return file.read(largest).decode(errors="replace")


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Wait, then kill the whole group, whether it has ended or not."""
    try:
        return process.wait(timeout=_slept(process, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()


def _slept(process: subprocess.Popen[bytes], seconds: float) -> float:
    """Sleep until it ends or time is up, and say what is left to wait for.

    Nothing, where the system can tell; `Popen.wait` only looks every now and then.
    """
    try:
        ended = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        return seconds
    try:
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        waiting.poll(min(1000 * seconds, 2**31 - 1))
    finally:
        os.close(ended)
    return 0.0
