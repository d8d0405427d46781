"""The package as a whole: light to import, floors kept, names exported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import braidbandit

FLOORS = {
    "naming": -1,
    "prior": -1,
    "settings": 0,
    "braid": 0,
    "comparison": 0,
    "crossfit": 0,
    "budget": 0,
    "drift": 0,
    "estimators": 0,
    "information": 0,
    "forking": 0,
    "likelihood": 0,
    "linalg": 0,
    "logged": 0,
    "projection": 0,
    "utility": 0,
    "schema": 0,
    "state": 0,
    "tasks": 0,
    "belief": 1,
    "decision": 1,
    "descriptors": 1,
    "encoding": 1,
    "enumeration": 1,
    "catalogue": 2,
    "explanation": 2,
    "feedback": 2,
    "rows": 2,
    "ledger_reading": 3,
    "ledger_restoring": 4,
    "ledger": 9,  # what it purges of policies that are saved in it is theirs to say
    "exchange": 10,
    "purging": 11,
    "choice": 2,
    "policies": 3,
    "squareroot": 2,
    "posterior": 3,
    "rowbyrow": 4,
    "bandit": 5,
    "guard": 4,
    "inflight": 4,
    "reshape": 4,
    "guarding": 5,
    "objectives": 5,
    "registry": 5,
    "learner": 7,
    "fitted": 8,
    "situation": 8,
    "snapshot": 8,
    "counterfactual": 9,
    "online": 10,
    "explaining": 10,
    "tabular": 9,
    "persistent": 9,
    "recommender": 11,
    "replay": 12,
    "roster": 6,
    "targets": 10,
    "adapters": 11,
    "offpolicy": 11,
    "tabulating": 3,
    "tuning": 11,
}


@pytest.mark.parametrize("used", ["__version__", "BraidRecommender"])
def test_import_is_light(used):
    heavy = "torch transformers sentence_transformers sqlalchemy matplotlib".split()
    if used == "__version__":
        heavy.append("sklearn")
    code = (
        f"import sys, braidbandit; braidbandit.{used}; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FLOORS)
def test_modules_import_only_lower_floors(name):
    folder = Path(braidbandit.__file__).parent
    tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "braidbandit":
                used = [alias.name for alias in node.names]
            elif node.module.startswith("braidbandit."):
                used = [node.module.split(".")[1]]
            else:
                continue
            for other in used:
                assert FLOORS[other] < FLOORS[name], f"{name} imports {other}"


def test_exports():
    for name in braidbandit.__all__:
        assert getattr(braidbandit, name).__doc__
        assert name in dir(braidbandit)
    with pytest.raises(AttributeError, match="nothing"):
        getattr(braidbandit, "nothing")  # noqa: B009
