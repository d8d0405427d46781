"""Is what is needed installed, new enough, and made for this machine?

Versions are read from what pip wrote down: nothing is imported.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distributions
from pathlib import Path

from braidbandit.cli.machine.doctor.finding import Finding, error, ok, warning

Places = Sequence[str] | None
"""Folders that packages are in; None for those that Python looks in."""

NAME = "braidbandit"
CPU = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cpu"
_FULL = "pip install 'braidbandit[full]'"
_OLDEST = (3, 10)
_NUMBER = re.compile(r"\d+")


def check_python(version: Sequence[int] = sys.version_info[:3]) -> Finding:
    """Check the version of Python."""
    found = f"Python {'.'.join(map(str, version[:3]))}"
    if tuple(version[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return error("python", found, f"install Python {oldest} or newer")
    return ok("python", found)


def check_torch(places: Places = None, *, needed: bool = True) -> Finding:
    """Check that torch is there, new enough, and has the driver it was built for.

    Parameters
    ----------
    places : sequence of str, optional
    needed : bool
        Whether the pool has a model that is loaded here.
    """
    version = version_of("torch", places)
    if version is None:
        missing = "torch is not installed"
        if not needed:
            return ok("torch", f"{missing}; models behind URLs need none")
        return error("torch", f"{missing}, and models are loaded by it", _FULL)
    floor = floor_of("torch", "full")
    if floor and _numbers(version) < _numbers(floor):
        return error(
            "torch",
            f"torch {version} is installed, {floor} or newer is needed",
            f"pip install --upgrade 'torch>={floor}'",
        )
    cuda = cuda_of_torch(places)
    if cuda and not has_nvidia_driver():
        return warning(
            "torch",
            f"torch {version} is built for CUDA {cuda}, and no driver of NVIDIA is "
            "found: it computes on the processor, and takes gigabytes for nothing",
            f"install the driver, or the build without CUDA: {CPU}",
        )
    return ok("torch", f"torch {version}" + (f" with CUDA {cuda}" if cuda else ""))


def check_packages(
    extra: str, places: Places = None, *, needed: bool = True
) -> Finding:
    """Check that the packages of an extra are there and new enough; torch apart.

    Parameters
    ----------
    extra : str
    places : sequence of str, optional
    needed : bool
        Whether the agent can do without.
    """
    name, missing, old = f"packages [{extra}]", list[str](), list[str]()
    for package, floor in requirements(extra):
        version = version_of(package, places)
        if package == "torch":
            continue
        if version is None:
            missing.append(package)
        elif floor and _numbers(version) < _numbers(floor):
            old.append(f"{package} {version} (needs {floor})")
    if not missing and not old:
        return ok(name, "all installed")
    said = [f"not installed: {', '.join(missing)}"] if missing else []
    said += [f"too old: {', '.join(old)}"] if old else []
    fix = f"pip install --upgrade 'braidbandit[{extra}]'"
    return (error if needed else warning)(name, "; ".join(said), fix)


def requirements(extra: str) -> list[tuple[str, str]]:
    """Return name and oldest version of what an extra asks for.

    Examples
    --------
    >>> dict(requirements("full"))["torch"]
    '2.10'
    """
    found = list[tuple[str, str]]()
    try:
        lines = _distribution(NAME, None).requires or []
    except PackageNotFoundError:
        return []  # it runs from its source, and nothing says what it needs
    for line in lines:
        what, _, condition = line.partition(";")
        if _is_for_older(condition):
            continue
        if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", condition):
            name = re.match(r"[\w.-]+", what)
            floor = re.search(r">=\s*([\w.]+)", what)
            if name is not None and name[0] != NAME:
                found.append((name[0], "" if floor is None else floor[1]))
    return found


def floor_of(package: str, extra: str) -> str:
    """Return the oldest version of a package that an extra takes; "" for any."""
    return dict(requirements(extra)).get(package, "")


def version_of(package: str, places: Places = None) -> str | None:
    """Return the version of a package, None where it is not installed."""
    try:
        return _distribution(package, places).version
    except PackageNotFoundError:
        return None


def cuda_of_torch(places: Places = None) -> str | None:
    """Return the version of CUDA that torch was built for, None for none."""
    for place in sys.path if places is None else places:
        file = Path(place) / "torch" / "version.py"
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace")
            found = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.M)
            return None if found is None else found[1]
    return None


def has_nvidia_driver() -> bool:
    """Whether the driver of NVIDIA's processors can be loaded."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _distribution(package: str, places: Places) -> Distribution:
    looked_in = sys.path if places is None else list(places)
    for found in distributions(name=package, path=looked_in):
        return found
    raise PackageNotFoundError(package)


def _is_for_older(condition: str) -> bool:
    """Whether a requirement is for a Python that is older than this one."""
    below = re.search(r"python_version\s*<\s*['\"](\d+)\.(\d+)", condition)
    return below is not None and sys.version_info[:2] >= tuple(map(int, below.groups()))


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, without what is behind a plus."""
    return tuple(map(int, _NUMBER.findall(version.partition("+")[0])))[:3]
