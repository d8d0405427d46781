"""Installations that are wrong for real: packages as pip leaves them, in a folder."""

import ctypes
from importlib.metadata import requires

import pytest

from braidbandit.cli.machine.doctor.installation import (
    check_packages,
    check_python,
    check_torch,
    cuda_of_torch,
    floor_of,
    has_nvidia_driver,
    requirements,
    version_of,
)


def install(folder, name, version, **files):
    """Leave a package in a folder as pip does."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    for path, text in files.items():
        file = folder / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return [str(folder)]


def test_no_torch(tmp_path):
    found = check_torch([str(tmp_path)])
    assert found.level == "error"
    assert "not installed" in found.found
    assert found.fix == "pip install 'braidbandit[full]'"
    served = check_torch([str(tmp_path)], needed=False)
    assert (served.level, served.fix) == ("ok", "")


def test_torch_that_is_too_old(tmp_path):
    found = check_torch(install(tmp_path, "torch", "2.9.1"))
    assert found.level == "error"
    floor = floor_of("torch", "full")
    assert f"torch 2.9.1 is installed, {floor} or newer" in found.found
    assert found.fix == f"pip install --upgrade 'torch>={floor}'"


@pytest.mark.parametrize("line", ["cuda: Optional[str] = '12.8'", "cuda = '12.8'"])
def test_torch_for_a_driver_that_is_not_there(tmp_path, line):
    if has_nvidia_driver():
        pytest.skip("this machine has the driver")
    files = {"torch__version.py": f"__version__ = '2.13.0+cu128'\n{line}\n"}
    found = check_torch(install(tmp_path, "torch", "2.13.0", **files))
    assert found.level == "warning"
    assert "CUDA 12.8" in found.found
    assert "no driver" in found.found
    assert "download.pytorch.org/whl/cpu" in found.fix


def test_torch_without_cuda_is_well(tmp_path):
    files = {"torch__version.py": "cuda: Optional[str] = None\n"}
    places = install(tmp_path, "torch", "2.13.0+cpu", **files)
    assert cuda_of_torch(places) is None
    assert check_torch(places).level == "ok"


def test_the_driver_is_there_where_it_can_be_loaded():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert not has_nvidia_driver()
    else:
        assert has_nvidia_driver()


def test_packages_that_are_missing_or_old(tmp_path):
    places = install(tmp_path, "openai", "1.99.0")
    old = check_packages("endpoints", places)
    assert old.level == "error"
    assert "too old: openai 1.99.0 (needs 2)" in old.found
    missing = check_packages("adapters", places, needed=False)
    assert missing.level == "warning"
    assert "not installed: peft" in missing.found
    assert missing.fix == "pip install --upgrade 'braidbandit[adapters]'"
    assert check_packages("endpoints", install(tmp_path / "b", "openai", "2.1")).found


def test_what_is_installed_here_is_found():
    assert version_of("numpy")
    assert version_of("no-such-package-at-all") is None
    assert check_packages("cli").level == "ok"


def test_requirements_are_those_of_the_package():
    """Every line of the extra, but for those that name other extras."""
    lines = [line for line in requires("braidbandit") if 'extra == "full"' in line]
    if not lines:
        lines = [line for line in requires("braidbandit") if "'full'" in line]
    assert len(requirements("full")) == len(lines) > 5


def test_python():
    assert check_python().level == "ok"
    old = check_python((3, 9, 1))
    assert (old.level, old.found) == ("error", "Python 3.9.1")
