"""Questions with a right answer: read from a file, and checked line by line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._files import json_lines
from ..judging.choices import NEUTRAL
from ..judging.rewards import ExactMatch, UnitTests, last_number
from ..judging.scoring import scored_bytes
from ..strands.strand import Strand
from .held_out import SPLITS, passed_over

_SHAPES = (
    '"choices" (a list of texts) and "answer" (the index of the right one)',
    '"reference" (the right answer), with "extract" ("all", "line" or "number") or not',
    '"tests" (a list of pieces of code), with "prefix" and "reference" or not',
)


def first_line(text: str) -> str:
    """The first line that is not blank.

    Examples
    --------
    >>> first_line("\\n Paris. \\nQuestion:")
    'Paris.'
    """
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


EXTRACTS: dict[str, Callable[[str], str] | None] = {
    "all": None,
    "line": first_line,
    "number": last_number,
}


@dataclass(frozen=True)
class Asked:
    """One question.

    Attributes
    ----------
    line : int
        Of the file.
    set, split, prompt : str
    choices : tuple of str
        Empty where an answer is to be written.
    answer : int
        Index of the right choice.
    reference : str
        The right answer as text; "" where only tests tell it.
    judge : callable or None
        ``(prompt, output) -> float`` of what is written.
    key : str
        Tells this question from others, wherever it stands.
    """

    line: int
    set: str
    split: str
    prompt: str
    choices: tuple[str, ...] = ()
    answer: int = 0
    reference: str = ""
    judge: Callable[[Any, str], float] | None = None
    key: str = ""

    @property
    def text(self) -> str:
        """The prompt with the right answer."""
        return self.prompt + self.reference


def read_questions(
    path: Path, leave_out: bool = False
) -> tuple[list[Asked], dict[int, str]]:
    """The questions of a JSON-lines file.

    Parameters
    ----------
    path : Path
        Each line has ``set``, ``split`` ("calibration" or "test"; others are passed
        over), ``prompt``, and how it is answered: ``choices`` and ``answer``,
        ``reference``, or ``tests``.
    leave_out : bool
        Pass over lines that cannot be scored, in place of refusing the file.

    Returns
    -------
    questions : list of Asked
    refused : dict of str by line
        Why lines were left out.

    Raises
    ------
    ValueError
        On lines that cannot be scored, all of which the message names, and without
        questions of both splits.
    """
    found: list[Asked] = []
    refused: dict[int, str] = {}
    for line, row in json_lines(path):
        try:
            found.append(_question(line, row))
        except ValueError as error:
            refused[line] = str(error)
    if not leave_out:
        refuse(path, refused)
    questions = [question for question in found if question.split in SPLITS]
    for split in SPLITS:
        if not any(question.split == split for question in questions):
            raise ValueError(
                f"{path} has no question with the split {split!r}; expected some of "
                f"both {SPLITS}: one part to choose by, one to judge by"
                + passed_over(question.split for question in found)
            )
    return questions, refused


def refuse(path: Path, refused: Mapping[int, str]) -> None:
    """Raise ValueError where lines of a file are refused, and name them."""
    if refused:
        told = [f"line {line}: {why}" for line, why in sorted(refused.items())]
        more = "" if len(told) <= 20 else f"\n... and {len(told) - 20} more"
        raise ValueError(
            f"{path}: {len(told)} lines cannot be scored; correct them, or leave them "
            "out with --leave-out\n" + "\n".join(told[:20]) + more
        )


def unwritable(questions: Sequence[Asked], strands: Sequence[Strand]) -> dict[int, str]:
    """Why questions cannot be scored with some strands, by line.

    Parameters
    ----------
    questions : sequence of Asked
    strands : sequence of Strand
    """
    found: dict[int, str] = {}
    for question in questions:
        for strand in strands:
            try:
                why = _unscored(question, strand)
            except ValueError as error:
                why = str(error)
            if why:
                found[question.line] = f"{strand.name}: {why}"
                break
    return found


def _unscored(question: Asked, strand: Strand) -> str:
    """Why nothing is scored; "" where it is. ValueError for what cannot be written."""
    for option in question.choices:
        for prompt in (question.prompt, NEUTRAL):
            if not scored_bytes(strand, prompt, option):
                return f"{prompt + option!r} is one token, which nothing predicts"
    strand.tokens.read_with_ends(question.text)
    return ""


def _question(line: int, row: Any) -> Asked:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, received {row!r}")
    texts = {key: _text(row, key) for key in ("set", "split", "prompt")}
    for key in ("set", "prompt"):
        if not texts[key].strip():
            raise ValueError(f"{key!r} is empty; give some text")
    kinds = [key for key in ("choices", "tests", "reference") if key in row]
    if not kinds or ("choices" in kinds and len(kinds) > 1):
        raise ValueError(
            f"expected {'; or '.join(_SHAPES)}; received the keys {sorted(row)}"
        )
    read = {"choices": _options, "tests": _tests, "reference": _written}[kinds[0]]
    key = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]
    return Asked(line=line, key=key, **texts, **read(row))


def _text(row: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if not isinstance(value, str):
        raise ValueError(
            f"{key!r} is {value!r}, expected text; keys: {sorted(map(str, row))}"
        )
    _check_unicode(value, key)
    return value


def _check_unicode(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} {text!r} has half a character, which no tokenizer can write"
        ) from error


def _options(row: Mapping[str, Any]) -> dict[str, Any]:
    choices, answer = row["choices"], row.get("answer")
    if not isinstance(choices, list) or not all(isinstance(c, str) for c in choices):
        raise ValueError(f"'choices' is {choices!r}, expected a list of texts")
    if len(choices) < 2:
        raise ValueError(f"received choices {choices!r}; give at least two")
    for i, choice in enumerate(choices):
        _check_unicode(choice, "choice")
        if not choice.strip():
            raise ValueError(f"choice {i} is empty")
        if choice in choices[:i]:
            raise ValueError(
                f"choices {choices.index(choice)} and {i} are equal: {choice!r}"
            )
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise ValueError(f"'answer' is {answer!r}, expected the index of a choice")
    if not 0 <= answer < len(choices):
        raise ValueError(
            f"the answer is {answer}; give an index from 0 to {len(choices) - 1}"
        )
    return {
        "choices": tuple(choices),
        "answer": answer,
        "reference": choices[answer],
    }


def _written(row: Mapping[str, Any]) -> dict[str, Any]:
    reference, extract = _text(row, "reference"), _text(row, "extract", "all")
    if extract not in EXTRACTS:
        raise ValueError(f"'extract' is {extract!r}, expected one of {list(EXTRACTS)}")
    return {"reference": reference, "judge": ExactMatch(reference, EXTRACTS[extract])}


def _tests(row: Mapping[str, Any]) -> dict[str, Any]:
    tests = row["tests"]
    if not isinstance(tests, list) or not all(isinstance(t, str) for t in tests):
        raise ValueError(f"'tests' is {tests!r}, expected a list of pieces of code")
    judge = UnitTests(tests, prefix=_text(row, "prefix", ""))
    return {"reference": _text(row, "reference", ""), "judge": judge}


def first_of_each_set(
    questions: Sequence[Asked], calibration: int | None, test: int | None
) -> list[Asked]:
    """At most so many questions of each set and split, the first ones; None for all.

    Examples
    --------
    >>> asked = [Asked(i, "a", "test", "?") for i in range(3)]
    >>> [q.line for q in first_of_each_set(asked, None, 2)]
    [0, 1]
    """
    limits = {"calibration": calibration, "test": test}
    counts: dict[tuple[str, str], int] = {}
    kept = []
    for question in questions:
        key = question.set, question.split
        counts[key] = counts.get(key, 0) + 1
        limit = limits[question.split]
        if limit is None or counts[key] <= limit:
            kept.append(question)
    return kept


PICK_EVERY = 3


def parted(questions: Sequence[Asked]) -> tuple[list[Asked], list[Asked], list[Asked]]:
    """Questions to calibrate with, to pick with, and to judge by.

    Every third calibration question of a set is kept for picking: what was trained
    on a question looks too good there.

    Examples
    --------
    >>> asked = [Asked(i, "a", "calibration", "?") for i in range(4)]
    >>> [[q.line for q in part] for part in parted(asked)]
    [[0, 1, 3], [2], []]
    """
    counts: dict[str, int] = {}
    training, picking = [], []
    for question in questions:
        if question.split == "calibration":
            counts[question.set] = counts.get(question.set, 0) + 1
            pick = counts[question.set] % PICK_EVERY == 0
            (picking if pick else training).append(question)
    return training, picking, [q for q in questions if q.split == "test"]
