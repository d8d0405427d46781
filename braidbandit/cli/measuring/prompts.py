"""Prompts of one's own, and how answers to them are judged: a file of JSON lines."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from braidbandit._checks import check_reward
from braidbandit._files import read_lines
from braidbandit._json import content_hash

_TASK = ("text", "prompt", "type", "complexity", "capabilities", "features")
_JUDGED = ("answer", "contains", "tests", "prefix")
_PASSED_OVER = ("id", "split", "reference")
_LONGEST = 600.0

Judge = Callable[[str], float]
"""``answer -> quality`` in [0, 1]."""


class Prompt(NamedTuple):
    """One prompt, and what is known of good answers.

    Attributes
    ----------
    task : dict
        As an agent takes it.
    judged_by : dict
        "answer", "contains", or "tests" with an optional "prefix"; may be empty.
    """

    task: dict[str, Any]
    judged_by: dict[str, Any]

    @property
    def text(self) -> str:
        """What a model is asked."""
        return str(self.task.get("text", self.task.get("prompt")))


def read_prompts(file: Path, *, judged: bool = False) -> list[Prompt]:
    """Read prompts.

    Parameters
    ----------
    file : Path
        JSON lines with "prompt", optionally "type", "complexity" and "capabilities",
        and one of "answer" (text or number), "contains" (text, or list of texts) and
        "tests" (Python code, or a list of such). Or plain text, one prompt a line, in a
        file that ends in ``.txt``.
    judged : bool
        Refuse a prompt without any of these three: nothing else judges answers to it.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError
        When a line is damaged, has no prompt, a key that is not known, or nothing that
        can judge an answer; it is named.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of prompts {file}")
    if file.suffix == ".txt":
        lines = enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        read = {n: Prompt({"prompt": line}, {}) for n, line in lines if line.strip()}
    else:
        read = {number: _prompt(row, number, file) for number, row in read_lines(file)}
    if not read:
        raise ValueError(f"{file} has no prompt")
    for number, prompt in read.items():
        if judged and not prompt.judged_by:
            raise ValueError(
                f"line {number} of {file}: nothing judges answers to "
                f"{prompt.text[:60]!r}; give it an answer, contains or tests, or "
                "--judge, or --ask to rate by hand"
            )
    return list(read.values())


def judge_of(prompt: Prompt, command: str | None = None) -> Judge | None:
    """Return what judges answers to a prompt; None where only a person can.

    Parameters
    ----------
    prompt : Prompt
    command : str, optional
        A program that gets ``{"prompt": ..., "answer": ...}`` as JSON and prints a
        number from 0 to 1.
    """
    if command is not None:
        return lambda answer: by_command(command, prompt, answer)
    rule = prompt.judged_by
    if "contains" in rule:
        texts = _listed(rule["contains"])
        return lambda answer: share_contained(texts, answer)
    if "answer" in rule or "tests" in rule:
        from braidbandit.agent.judges import exact_match, unit_tests

        if "tests" in rule:
            judge = unit_tests(_listed(rule["tests"]), rule.get("prefix", ""))
        else:
            judge = exact_match(str(rule["answer"]))
        return lambda answer: float(judge(prompt.task, answer))
    return None


def share_contained(texts: list[str], answer: str) -> float:
    """Return how many of some texts an answer has, as a share.

    Examples
    --------
    >>> share_contained(["Paris", "Seine"], "It is paris.")
    0.5
    """
    low = answer.casefold()
    return sum(text.casefold() in low for text in texts) / len(texts)


def by_command(command: str, prompt: Prompt, answer: str) -> float:
    """Return what a program says an answer is worth.

    Raises
    ------
    ValueError
        When it fails, or prints no number from 0 to 1.
    """
    given = json.dumps({**prompt.judged_by, "prompt": prompt.text, "answer": answer})
    try:
        done = subprocess.run(
            shlex.split(command),
            input=given,
            capture_output=True,
            text=True,
            timeout=_LONGEST,
            check=False,
        )
        if done.returncode:
            raise ValueError(done.stderr.strip() or f"exit code {done.returncode}")
        return check_reward(float(done.stdout))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise ValueError(
            f"the judge {command!r} gave no number from 0 to 1: {error}"
        ) from error


def judging_key(command: str | None, tokens: int) -> str:
    """Return what scores have in common that may stand in one file."""
    return content_hash([command, tokens], 12)


def _prompt(row: Any, number: int, file: Path) -> Prompt:
    where = f"line {number} of {file}"
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is no prompt; expected text or an object")
    unknown = sorted(set(row) - {*_TASK, *_JUDGED, *_PASSED_OVER})
    if unknown:
        raise ValueError(
            f"{where} has {unknown}; known keys are {[*_TASK, *_JUDGED]}, and "
            f"{list(_PASSED_OVER)} are passed over"
        )
    text = row.get("prompt", row.get("text"))
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where} has no prompt")
    judged_by = {key: row[key] for key in _JUDGED if row.get(key) is not None}
    _check_rule(judged_by, where)
    task = {key: row[key] for key in _TASK if row.get(key) is not None}
    return Prompt(task, judged_by)


def _listed(given: Any) -> Any:
    """Return one text as a list of one."""
    return [given] if isinstance(given, str) else given


def _check_rule(rule: dict[str, Any], where: str) -> None:
    kinds = [key for key in ("answer", "contains", "tests") if key in rule]
    if "prefix" in rule and "tests" not in rule:
        raise ValueError(f"{where} has a prefix without tests")
    _check_answer(rule.get("answer", 0), where)
    for key in ("contains", "tests"):
        texts = _listed(rule.get(key, "x"))
        whole = isinstance(texts, list) and texts
        if not (whole and all(isinstance(t, str) and t.strip() for t in texts)):
            raise ValueError(
                f"{where}: {key} is a list of texts, received {rule[key]!r}"
            )
    for test in _listed(rule.get("tests", [])):
        _check_python(test, where)
    # Packaged tasks of code and maths have both; tests say more.
    if len(kinds) > 1 and set(kinds) != {"tests", "answer"}:
        raise ValueError(f"{where} has {kinds}; one of them judges answers")


def _check_answer(answer: Any, where: str) -> None:
    if isinstance(answer, str):
        fine = bool(answer.strip())
    else:
        fine = isinstance(answer, int | float) and -math.inf < answer < math.inf
    if not fine:
        raise ValueError(
            f"{where}: answer is text or a number that is finite, received {answer!r}"
        )


def _check_python(code: str, where: str) -> None:
    """Refuse tests that no answer could pass."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings
            compile(code, "tests", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"{where}: tests are Python code, received {code[:60]!r}: {error}"
        ) from error
