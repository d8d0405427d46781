"""Counts how many files one has to read to follow the three walks through the code.

``python tests/walks.py`` runs each walk once under a profile hook and prints a table;
with ``--list`` also the files in the order in which they are entered.

A file is entered when one of its functions is called and the call before, of any
function of the two packages, was in another file. ``files`` is how many different files
are entered, ``changes`` how often one is entered. Helpers that belong to all, which
nobody needs to follow, do not count: files at the top of a package whose name begins
with ``_``, and linear algebra. Every walk is done a few times before it is counted, so
that imports and what is made once do not count either.

Only public names are used: with another tree in PYTHONPATH that tree is counted.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import braidbandit
from braidbandit import MetaBraider, TaskEncoder

ROOT = Path(braidbandit.__file__).parents[1]
PACKAGES = tuple(f"{ROOT / name}/" for name in ("braidbandit", "fusion"))
SIZE = {"parameters": 10**8, "layers": 12, "width": 64, "vocab_size": 1000}
# Beside files at the top with an underscore: the names that those had before folders.
FORMERLY = {"settings", "naming", "forking", "files", "utility", "linalg"}
WARM = 3  # calls before the one that is counted


class Limit(NamedTuple):
    """How many files, and changes of file, a walk may take."""

    files: int
    changes: int


LIMITS = {
    "task to decision": Limit(15, 30),
    "reward to posterior": Limit(12, 30),
    "prompt and one token": Limit(8, 50),
}


def files_entered(walk: Callable[[], object]) -> list[str]:
    """The files of the packages that a call enters, in order, one name per entry."""
    entered: list[str] = []

    def hook(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code.co_name == "<module>":
            return
        if code.co_filename.startswith(PACKAGES):
            file = Path(code.co_filename).relative_to(ROOT)
            if not is_helper(file) and file.as_posix() not in entered[-1:]:
                entered.append(file.as_posix())

    before = sys.getprofile()
    sys.setprofile(hook)
    try:
        walk()
    finally:
        sys.setprofile(before)
    return entered


def is_helper(file: Path) -> bool:
    """Whether a file belongs to all, so that a call of it leads nowhere."""
    if len(file.parts) > 2:
        return file.as_posix() == "braidbandit/bandit/linalg.py"
    shared = file.stem.startswith("_") and file.stem != "__init__"
    return shared or file.stem in FORMERLY


def counted(entered: list[str]) -> Limit:
    """Different files, and changes of file."""
    return Limit(len(set(entered)), len(entered))


def _embed(texts: Iterable[str]) -> list[list[float]]:
    return [[len(t), len(t) % 5, len(t) % 7, 1.0] for t in texts]


def around_a_decision() -> tuple[list[str], list[str]]:
    """Walk from a task to its decision, and from a reward to the posterior."""
    pool = [{"model_name": name, **SIZE} for name in ("general", "coder")]
    with tempfile.TemporaryDirectory() as folder:
        encoder = TaskEncoder(embedder=_embed, n_components=3)
        agent = MetaBraider(pool, folder=folder, encoder=encoder, random_state=0)
        for i in range(WARM + 1):
            task = {"text": "Write a function " + i * "!", "type": "code"}
            made: list[Any] = []
            forward = files_entered(lambda t=task, m=made: m.append(agent.forward(t)))
            learn = files_entered(
                lambda t=task, m=made: agent.learn_from_feedback(t, m[0], 0.8)
            )
        agent.close()
    return forward, learn


def around_a_token() -> list[str]:
    """Walk from a prompt to one token, with every kind of fusion layer in the braid."""
    from tiny import tiny_strand

    from fusion import BraidConfig, BraidedLLM

    strands = [tiny_strand("llama"), tiny_strand("gemma", seed=1)]
    layers = (0, 1, 2, "final", "output")
    config = BraidConfig(
        "llama", ["gemma"], [0.7, 0.3], layers, strategy="learned_weighted"
    )
    braid = BraidedLLM(config, strands)
    for _ in range(WARM):
        braid.generate("The dog sleeps.", max_new_tokens=1)
    return files_entered(lambda: braid.generate("The dog sleeps.", max_new_tokens=1))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="the files, in order")
    listed = parser.parse_args().list
    warnings.simplefilter("ignore")
    logging.disable()
    walks = [*around_a_decision(), around_a_token()]
    print(f"{ROOT}\n{'walk':22} {'files':>5} {'limit':>6} {'changes':>8} {'limit':>6}")
    for (name, limit), entered in zip(LIMITS.items(), walks, strict=True):
        found = counted(entered)
        print(
            f"{name:22} {found.files:5} {limit.files:6} "
            f"{found.changes:8} {limit.changes:6}"
        )
        if listed:
            print("\n".join(f"  {i:3} {f}" for i, f in enumerate(entered, 1)))


if __name__ == "__main__":
    main()
