"""Limits its own process and then becomes the program: a script that `sandbox` runs.

Nothing of this is done between fork and exec in the process that judges: code there
may deadlock where other threads are, and torch starts some.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # this script runs before every test of code, and typing is slow
    from collections.abc import Sequence
    from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

_EPERM, _ENOSYS = 1, 38
_READ_ALL = 1 << 2  # CAP_DAC_READ_SEARCH
_MOST = 2**22  # processes that a Linux system can have
_DEVICE = "/dev/null"  # may be written to
_SHARED = "/dev/shm"  # semaphores of multiprocessing are files here

# System calls by number: the mark of the processor, then what is refused and why.
CALLS: dict[str, dict[str, Any]] = {
    "x86_64": {
        "mark": 0xC000003E,
        # socket, io_uring_setup, setsid, setpgid; the kernel's keys of this session:
        # add_key, request_key, keyctl
        "leaves": [41, 425, 112, 109, 248, 249, 250],
        # Forms of chmod, chown and utime; extended attributes, file_setattr.
        "modes": [90, 91, 92, 93, 94, 132, 235, 260, 261, 268, 280, 452],
        "labels": [188, 189, 190, 197, 198, 199, 463, 466, 469],
        "truncate": [76],
        "open": [(2, 1), (257, 2)],  # open, openat, and which argument has the flags
        "openat2": [437],
        # rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal
        "others": [129, 297, 424],
        # Shared memory, semaphores and message queues, which outlive who made them:
        # shmget, shmctl, semget, semctl, msgget, msgctl, mq_open, mq_unlink
        "kept": [29, 31, 64, 66, 68, 71, 240, 241],
        "to one": [62, 200, 234, 302],  # kill, tkill, tgkill, prlimit64
        "fork": [57, 58],
        "clone": [56],
        "clone3": [435],
    },
    "aarch64": {
        "mark": 0xC00000B7,
        "leaves": [198, 425, 157, 154, 217, 218, 219],
        "modes": [52, 53, 54, 55, 88, 452],
        "labels": [5, 6, 7, 14, 15, 16, 463, 466, 469],
        "truncate": [45],
        "open": [(56, 2)],
        "openat2": [437],
        "others": [138, 240, 424],
        "kept": [194, 195, 190, 191, 186, 187, 180, 181],
        "to one": [129, 130, 131, 261],
        "fork": [],
        "clone": [220],
        "clone3": [435],
    },
}


def _rule(
    call: int,
    error: int = _EPERM,
    argument: int = 0,
    mask: int = 0,
    allowed: Sequence[int] = (),
) -> list[tuple[int, int, int, int]]:
    """Refuse a system call, but with ``argument & mask`` among ``allowed``."""
    body = [(0x20, 0, 0, 16 + 8 * argument), (0x54, 0, 0, mask)]  # load, and
    n = len(allowed)
    body += [(0x15, n - i, 0, value) for i, value in enumerate(allowed)]
    body += [(0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7FFF0000)]
    return [(0x15, 0, len(body), call), *body]


def _rules(calls: dict[str, Any], kinds: set[str]) -> list[tuple[int, int, int, int]]:
    """What refuses system calls of these kinds, one rule behind the other."""
    rules = []
    for kind in kinds:
        rules += [_rule(call) for call in calls[kind]]
    if "truncate" in kinds:
        # To open for reading with O_TRUNC empties a file too.
        rules += [_rule(call, _ENOSYS) for call in calls["openat2"]]
        # So does to open it with O_TRUNC for neither reading nor writing, which is 3.
        flags = (0, 1, 2, 3, 0x201, 0x202)
        for call, argument in calls["open"]:
            rules.append(_rule(call, _EPERM, argument, 0x203, flags))
    if "others" in kinds:
        mine = (0, os.getpid())
        rules += [_rule(call, _EPERM, 0, 2**32 - 1, mine) for call in calls["to one"]]
    if "fork" in kinds:
        thread = 0x10000  # CLONE_THREAD
        rules += [_rule(call, _EPERM, 0, thread, (thread,)) for call in calls["clone"]]
        # Its flags are out of the filter's reach; the C library then uses clone.
        rules += [_rule(call, _ENOSYS) for call in calls["clone3"]]
    return [line for rule in rules for line in rule]


def _filter(kinds: set[str]) -> bool:
    """Refuse system calls of these kinds; they then raise OSError.

    Written out, as bindings of libseccomp would need that library on every system, and
    time to import them before every test.
    """
    calls = CALLS.get(os.uname().machine)
    if calls is None or struct.calcsize("P") != 8:
        return False
    code = [
        # Other instruction sets of the processor have other numbers.
        *((0x20, 0, 0, 4), (0x15, 1, 0, calls["mark"]), (0x06, 0, 0, 0x80000000)),
        *((0x20, 0, 0, 0), (0x35, 0, 1, 0x40000000), (0x06, 0, 0, 0x50000 | _EPERM)),
        *_rules(calls, kinds),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    data = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *c) for c in code))
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(data))
    buffer = ctypes.create_string_buffer(program)
    # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    return not _libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(buffer)), 0, 0)


def _capabilities(kept: int) -> None:
    """Keep these of the process's capabilities, through exec too."""
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(struct.pack("6I", kept, kept, kept, 0, 0, 0))
    _libc.capset(header, data)
    if kept:
        _libc.prctl(47, 2, kept.bit_length() - 1, 0, 0)  # PR_CAP_AMBIENT_RAISE


def _become(user: int, kept: int) -> None:
    _libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _capabilities(kept)


def _can_read(user: int, kept: int, paths: Sequence[str]) -> bool:
    """Whether a process of this user with these capabilities can read all of these.

    It is tried, in a process that ends at once: `os.access` asks for the real user.
    """
    child = os.fork()
    if not child:
        try:
            _become(user, kept)
            for path in paths:
                os.listdir(path) if os.path.isdir(path) else open(path).close()
            os._exit(0)
        finally:
            os._exit(1)
    return not os.waitpid(child, 0)[1]


def _own_user(own: Sequence[str], needed: Sequence[str]) -> tuple[int, int] | None:
    """For root: a user that nobody else is, and what it must keep to read Python.

    Only such a user has few processes, and no files but its own.
    """
    if os.geteuid():
        return None
    # The second range is what containers have and services are given at their start.
    for low, high in ((2**30, 2**31 - 2), (61184, 65519)):
        user = low + int.from_bytes(os.urandom(4), "little") % (high - low)
        try:
            for path in own:
                os.chown(path, user, user)
        except OSError:
            continue
        for kept in (0, _READ_ALL):
            if _can_read(user, kept, [*own, *needed]):
                return user, kept
    for path in own:
        os.chown(path, 0, 0)
    return None


def _map_user(user: int, group: int) -> None:
    """Let the user keep its number in a new namespace of users.

    Without one it could make no file in a file system of its own.
    """
    for name, line in (
        ("uid_map", f"{user} {user} 1"),
        ("setgroups", "deny"),
        ("gid_map", f"{group} {group} 1"),
    ):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
        except OSError:  # it then has no /dev/shm
            pass


def _namespaces(new_user: bool) -> bool:
    """No network, none of the user's processes, and mounts of its own."""
    # CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC; CLONE_NEWUSER
    flags = 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(flags | (0x10000000 if new_user else 0)):
        return False
    if new_user:
        _map_user(user, group)
    return True


def _read_only(place: str) -> bool:
    """All files can only be read, but in ``place`` and in a new /dev/shm."""

    def mount(source: str, target: str, kind: str, flags: int, options: str) -> bool:
        words = (source.encode(), target.encode(), kind.encode())
        return not _libc.mount(*words, ctypes.c_ulong(flags), options.encode())

    def attributes(path: str, recursive: int, more: int, less: int) -> bool:
        data = ctypes.create_string_buffer(struct.pack("4Q", more, less, 0, 0))
        # mount_setattr, AT_FDCWD, AT_RECURSIVE
        return not _libc.syscall(
            442, -100, path.encode(), recursive, data, ctypes.c_size_t(32)
        )

    # MS_REC | MS_PRIVATE: what is mounted here is not mounted elsewhere.
    if not mount("none", "/", "", 0x4000 | 0x40000, ""):
        return False
    shared = os.path.isdir(_SHARED) and mount(
        "tmpfs", _SHARED, "tmpfs", 2 | 4, "size=16m,mode=1777"
    )  # MS_NOSUID | MS_NODEV
    if not mount(place, place, "", 0x1000, ""):  # MS_BIND
        return False
    if not attributes("/", 0x8000, 1, 0):  # MOUNT_ATTR_RDONLY
        return False
    writable = [place, _SHARED] if shared else [place]
    return all(attributes(path, 0, 0, 1) for path in writable)


def _landlock(writable: Sequence[str]) -> int:
    """Allow writing beneath these folders only; the version of what did it, or 0."""
    version = _libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return 0
    # All kinds of writing but to known files, links across folders, truncation.
    to_file = 1 << 1 | (1 << 14 if version >= 3 else 0)
    rights = to_file | 0b1_1111_1111 << 4 | (1 << 13 if version >= 2 else 0)
    # Devices may be written to by other ways; signals, and sockets without a file.
    handled = rights | (1 << 15 if version >= 5 else 0)
    scopes = 0b11 if version >= 6 else 0
    data = ctypes.create_string_buffer(struct.pack("3Q", handled, 0, scopes))
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _libc.syscall(444, data, ctypes.c_size_t(size), 0)
    if rules < 0:
        return 0
    for path, allowed in [*((path, rights) for path in writable), (_DEVICE, to_file)]:
        folder = os.open(path, os.O_PATH)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", allowed, folder))
        done = _libc.syscall(445, rules, 1, rule, 0)
        os.close(folder)
        if done:
            return 0
    done = _libc.syscall(446, rules, 0)
    os.close(rules)
    return 0 if done else int(version)


def _follow(child: int) -> None:
    """In the parent, wait and end as the child did."""
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os._exit(status if status >= 0 else 128 - status)


def _may_fork(limit: int) -> bool:
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, hard))
    try:
        child = os.fork()
    except OSError:
        return False
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return True


def _bound_processes(more: int) -> bool:
    """Let this user have so many more processes and threads than it has.

    The kernel does not say how many it counts (other containers may have some of the
    same number), so it is found by trying.
    """
    if not hasattr(resource, "RLIMIT_NPROC") or _may_fork(0):
        return False  # root is not bound by it
    low, high = 0, 1
    while high < _MOST and not _may_fork(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _may_fork(middle) else (middle, high)
    return _limit("RLIMIT_NPROC", high - 1 + more)


def _limit(name: str, value: int) -> bool:
    kind = getattr(resource, name, None)
    if kind is None:
        return False
    hard = resource.getrlimit(kind)[1]
    value = value if hard < 0 else min(value, hard)
    try:
        resource.setrlimit(kind, (value, value))
    except (ValueError, OSError):
        return False
    return True


def _refused(
    measures: set[str],
    *,
    writes: bool,
    truncates: bool,
    others: bool,
    forks: bool,
    own_user: bool,
) -> set[str]:
    """Kinds of system calls to refuse, where nothing else stands in their way."""
    kinds = {"leaves"} if "filter" in measures else set()
    if writes:
        kinds |= {"labels"} | (set() if own_user else {"modes"})
        kinds |= {"truncate"} if truncates else set()
    if others:
        kinds |= {"kept"} | (set() if own_user else {"others"})
    if forks:
        kinds.add("fork")
    return kinds


def _confine(task: dict[str, Any]) -> list[str]:
    """Do what can be done of what is asked for; names of what then holds."""
    measures, place = set(task["measures"]), task["own"][0]
    files, processes = "files" in measures, "processes" in measures
    held, user, read_only = [], None, False
    if files or processes:
        user = _own_user(task["own"], task["needed"])
    if "namespaces" in measures and _namespaces(new_user=user is None):
        held.append("namespaces")
        read_only = files and _read_only(place)
        os.chdir(place)  # else it is still in the folder beneath
        _follow(os.fork())
        # The first process of the namespace, with which all others end. It does not
        # heed the signals that would end any other, so the program is a child of it.
        _libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
        _follow(os.fork())
    if user is not None:
        _become(*user)
        held.append("user")
    _libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    bounded = processes and _bound_processes(task["processes"])
    version = 0
    if files:
        shared = [_SHARED] if read_only and os.access(_SHARED, os.W_OK) else []
        version = _landlock([place, *shared])
    if user is None:
        _capabilities(0)
    held += [name for name, value in task["limits"].items() if _limit(name, value)]
    kinds = _refused(
        measures,
        writes=files and not read_only,
        truncates=version < 3,
        others=(files or processes) and "namespaces" not in held,
        forks=processes and not bounded,
        own_user=user is not None,
    )
    filtered = _filter(kinds)
    if filtered and "filter" in measures:
        held.append("filter")
    # Mounts alone would leave root's devices open to root.
    if version and (filtered or read_only) or (read_only and os.geteuid()):
        held.append("files")
    if bounded or (processes and filtered):
        held.append("processes")
    return held


def main() -> None:
    task = json.loads(sys.argv[1])
    if sys.platform == "linux" and task["measures"]:
        held = _confine(task)
    else:
        held = [name for name, value in task["limits"].items() if _limit(name, value)]
    with open(task["notes"], "w") as file:  # closed before the program begins
        json.dump(held, file)
    if not set(task["required"]) <= set(held):
        return
    os.execv(sys.executable, [sys.executable, "-I", task["program"]])


if __name__ == "__main__":
    main()
