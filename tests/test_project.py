"""The project as a whole: its lock, its README, and what it prints."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from models import MISSING
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


def test_the_library_prints_nothing():
    """Its loggers do; only the command line of the report writes to the screen."""
    programs = {"fusion/report/__main__.py"}
    found = []
    for package in ("braidbandit", "fusion"):
        for file in (ROOT / package).rglob("*.py"):
            name = file.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(file.read_text())):
                called = isinstance(node, ast.Call) and getattr(node.func, "id", "")
                if called == "print" and name not in programs:
                    found.append(f"{name}:{node.lineno}")
    assert not found, f"use logging: {found}"


@pytest.mark.skipif(bool(MISSING), reason=f"model packages not installed: {MISSING}")
def test_the_readmes_code_runs_without_a_warning(tmp_path):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (tmp_path / "readme.py").write_text("\n".join(code))
    # Few texts, so that calibration takes seconds.
    folder = tmp_path / "my-agent"
    folder.mkdir()
    texts = [f"def add_{i}(x):\n    return x + {i}\n" for i in range(12)]
    settings = {"dtype": "float32", "texts": texts}
    (folder / "calibration.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-W", "error", "readme.py"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "because" in done.stdout
    assert "arning" not in done.stderr
    assert "Loading" not in done.stderr  # bars of transformers
