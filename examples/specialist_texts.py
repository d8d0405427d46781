"""Text of three kinds that every machine with this library has, cut into tasks.

Python is code of its standard library (PSF licence), C++ the headers that come with
torch (BSD-3-Clause), and manual what SciPy and scikit-learn (BSD-3-Clause) say of their
own functions. A whole file is in one part only: what is tested is from files that no
model was trained on, each text from a file of its own. A passage that was read before
in another file is left out.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# How many texts of a kind, and how many of them from one file.
PARTS = {"test": 24, "online": 16, "probe": 8, "calibration": 20, "adapter": 120}
OF_A_FILE = {"test": 1, "online": 2, "probe": 2, "calibration": 3, "adapter": 4}
SHORTEST, LONGEST = 400, 700  # letters of a text
SEEN = 0.2  # share of a passage's groups of five words that may have been read before


def specialist_texts() -> list[dict[str, str]]:
    """Return all texts: "id", "kind", "part", "prompt" and "reference"."""
    return [
        *_texts_of("python", _folder("stdlib"), "*.py", _definitions),
        *_texts_of("manual", _folder("scipy", "sklearn"), "*.py", _docstrings),
        *_texts_of("c++", _folder("torch"), "*.h", _passages),
    ]


def _folder(*names: str) -> list[Path]:
    if names == ("stdlib",):
        return [Path(sysconfig.get_path("stdlib"))]
    found = [find_spec(name) for name in names]
    return [Path(str(spec.origin)).parent for spec in found if spec is not None]


def _definitions(code: str) -> list[str]:
    """Functions and classes at the top level."""
    return re.split(r"\n\n\n(?=def |class |@)", code)[1:]


def _docstrings(code: str) -> list[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    told = [
        ast.get_docstring(n) for n in ast.walk(ast.parse(code)) if isinstance(n, kinds)
    ]
    return [passage for text in told if text for passage in _passages(text)]


def _passages(text: str) -> list[str]:
    return re.split(r"\n\s*\n", text)


def _texts_of(
    kind: str, roots: list[Path], pattern: str, cut: Any
) -> Iterator[dict[str, str]]:
    """Fill the parts one after the other, with files in an order of their own."""
    left, read = dict(PARTS), set[tuple[str, ...]]()
    # Tests, other packages, and what a generator wrote.
    passed = re.compile(r"/(tests?/|site-packages|dist-packages|idlelib|ATen/ops)")
    files = {
        f"/{file.relative_to(root).as_posix()}": file
        for root in roots
        for file in root.rglob(pattern)
    }
    for name in sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if passed.search(name):
            continue
        part = next((part for part, n in left.items() if n), None)
        if part is None:
            return
        passages = cut(files[name].read_text("utf-8", "replace"))
        for text in [*joined(passages, read)][: min(OF_A_FILE[part], left[part])]:
            left[part] -= 1
            prompt, reference = _halves(text)
            yield {
                "id": hashlib.sha256(text.encode()).hexdigest()[:16],
                "kind": kind,
                "part": part,
                "prompt": prompt,
                "reference": reference,
            }


def joined(passages: list[str], read: set[tuple[str, ...]]) -> Iterator[str]:
    """Texts of neighbouring passages, none of which was read before."""
    text = ""
    for passage in passages:
        here = groups(passage)
        new = len(here & read) <= SEEN * len(here)
        read |= here
        text = f"{text}\n\n{passage}".strip("\n") if new else ""
        if len(text) >= SHORTEST:
            yield text if len(text) <= LONGEST else text[:LONGEST].rsplit("\n", 1)[0]
            text = ""


def groups(text: str) -> set[tuple[str, ...]]:
    """Every five words that follow each other."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def _halves(text: str) -> tuple[str, str]:
    """Cut a text at the end of a line, after a third of it."""
    at = text.find("\n", len(text) // 3)
    at = at if 0 < at < len(text) - 100 else len(text) // 3
    return text[:at], text[at:].lstrip("\n")
