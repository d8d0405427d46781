"""The program ``braidbandit``, called in this process or in one of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIZE = {"layers": 12, "width": 64, "vocab_size": 1000}
POOL = [
    {"model_name": "general-7b", "domain": "general", "parameters": 10**8, **SIZE},
    {"model_name": "coder-1b", "domain": "code", "parameters": 10**7, **SIZE},
]


def invoke(*arguments, **options):
    """Call the commands in this process; returns what CliRunner does."""
    from typer.testing import CliRunner

    from braidbandit.cli.commands import app

    return CliRunner().invoke(app, list(map(str, arguments)), **options)


def run(*arguments, code=0, **options):
    """Call a command with --json; returns the document, after checking the code."""
    done = invoke(*arguments, "--json", **options)
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def process(*arguments, where, given="", **environment):
    """Call the program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "braidbandit", *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160", **environment},
        check=False,
    )
