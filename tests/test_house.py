"""The house: which folder may import which, and that the table is kept."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A folder imports from folders before it only; files at the top, with a name that
# begins with _, belong to all.
FOLDERS = {
    "braidbandit": [
        "tasks",
        "catalogue",
        "bandit",
        "ledger",
        "recommender",
        "evaluation",
        "agent",
    ],
    "fusion": [
        "tokens",
        "strands",
        "braid",
        "calibration",
        "judging",
        "conformance",
        "report",
    ],
}


def imports(file, root=ROOT):
    """Every module of the project that a file names, wherever in it; with its line."""
    parts = file.relative_to(root).with_suffix("").parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found = [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
        else:
            continue
        yield from (pair for pair in found if pair[0].split(".")[0] in FOLDERS)


def breaches(root=ROOT):
    """Every import that the table does not allow."""
    found = []
    for package, folders in FOLDERS.items():
        for file in sorted((root / package).rglob("*.py")):
            place = file.relative_to(root).parts
            if len(place) < 3 or place[1] not in folders:
                continue
            for name, line in imports(file, root):
                other, *rest = name.split(".")
                where = f"{file.relative_to(root)}:{line} imports {name}"
                if other != package:
                    if package == "fusion" or place[1] != "agent":
                        found.append(where)
                elif rest and rest[0] in folders:
                    if folders.index(rest[0]) > folders.index(place[1]):
                        found.append(where)
    return found


def test_folders_import_downwards_only():
    assert not breaches()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("braidbandit/bandit/x.py", "from braidbandit.ledger.ledger import Ledger"),
        ("braidbandit/tasks/x.py", "import braidbandit.agent.meta_braider"),
        ("fusion/strands/x.py", "from ..braid.model import BraidedLLM"),
        ("fusion/braid/x.py", "from braidbandit import Catalogue"),
        ("braidbandit/ledger/x.py", "def f():\n    import fusion"),
    ],
)
def test_a_breach_is_found(tmp_path, file, line):
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(line + "\n")
    assert len(breaches(tmp_path)) == 1


@pytest.mark.parametrize("package", FOLDERS)
def test_former_modules_are_found_where_they_were(package):
    for file in (ROOT / package / "_former").glob("*.py"):
        module = import_module(f"{package}.{file.stem}")
        assert [name for name in vars(module) if not name.startswith("_")]
