"""requirements.lock holds a version of all that pyproject.toml asks for."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_what_make_installs(python):
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    here = {"python_version": python, "python_full_version": f"{python}.0"}
    locked = {
        found.name: str(found.specifier).removeprefix("==")
        for found in (Requirement(line) for line in lines if line[0] not in "# ")
        if found.marker is None or found.marker.evaluate(here)
    }
    wanted = PROJECT["dependencies"] + EXTRAS["full"] + EXTRAS["demo"] + EXTRAS["test"]
    for line in wanted:
        asked = Requirement(line)
        if asked.name not in ("torch", PROJECT["name"]):
            assert locked[asked.name] in asked.specifier, f"run make lock: {line}"
    # torch is a line of its own; a lock that knew it would choose its build.
    assert "torch" not in locked
    assert not [name for name in locked if name.startswith(("nvidia", "cuda"))]
