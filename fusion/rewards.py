"""Judges of what a braid wrote: ``(task, output) -> float`` in [0, 1].

For `MetaBraider.learn_from_feedback`, with what is right put in beforehand:

    agent.learn_from_feedback(task, decision, ExactMatch("42"), output=text)
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .sandbox import Limits, run_python

_FENCE = re.compile(r"(?:^([ \t]+))?```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL | re.M)
# A hyphen between two numbers is no sign; the other minus is the typographic one.
_NUMBER = re.compile(
    r"(?:(?<!\w)[-\u2212])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
)

# The judged code is a module of this name, and the test goes on in it.
_IMPORT = """__import__('sys').modules['answer'] = __import__('__main__')
__name__ = 'answer'
"""


def code_of(output: str) -> str:
    """The first fenced block of a text, or the text itself.

    A block in a list is indented; what its fence is indented by is taken off.

    Examples
    --------
    >>> code_of("Here it is:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1\\n'
    """
    found = _FENCE.search(output)
    if found is None:
        return output
    return re.sub(rf"(?m)^[ \t]{{0,{len(found[1] or '')}}}", "", found[2])


def last_number(output: str) -> str:
    """The last number of a text, without commas, or "" where there is none.

    Examples
    --------
    >>> last_number("5 and 7 make 12, so 1,200.50 in all.")
    '1200.50'
    """
    found = _NUMBER.findall(output)
    return found[-1].replace(",", "").replace("\u2212", "-") if found else ""


def normalised(text: str) -> str:
    """Lower case, one space between words, none at the ends."""
    return " ".join(text.split()).casefold()


@dataclass(frozen=True)
class ExactMatch:
    """1 if ``normalised(extract(output)) = normalised(reference)``, else 0.

    Parameters
    ----------
    reference : str
        The right answer; of one in which ``extract`` finds something, that.
    extract : callable, optional
        What of the output is the answer, such as `last_number`; by default all of it.

    Examples
    --------
    >>> ExactMatch("42", extract=last_number)("6 * 7?", "That makes 42.")
    1.0
    """

    reference: str
    extract: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.reference, str) or not self.reference.strip():
            raise ValueError(f"the reference is {self.reference!r}; give the answer")

    def __call__(self, task: Any, output: str) -> float:
        answer, right = output, self.reference
        if self.extract is not None:
            answer, right = self.extract(output), self.extract(right) or right
        return float(normalised(answer) == normalised(right))


@dataclass(frozen=True)
class UnitTests:
    """Passed tests divided by all tests; each runs with the code in a sandbox.

    A test passes if it runs to its end, so code that ends the program early fails.
    The code is imported, not run: what it keeps for ``__name__ == "__main__"`` is not
    done.

    Parameters
    ----------
    tests : sequence of str
        Python code each, such as ``"assert add(1, 2) == 3"``.
    prefix : str
        Put in front of the output: a signature, if the output goes on from one.
    limits : Limits
        Of each test; see `run_python`.

    Examples
    --------
    >>> judge = UnitTests(["assert add(1, 2) == 3", "assert add(1, 1) == 3"])
    >>> judge("Write add", "def add(a, b):\\n    return a + b\\n")
    0.5
    """

    tests: Sequence[str]
    prefix: str = ""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if isinstance(self.tests, str) or not self.tests:
            raise ValueError(
                f"tests is {self.tests!r}; give a list of at least one piece of code"
            )

    def __call__(self, task: Any, output: str) -> float:
        code = self.prefix + code_of(output)
        return sum(self._passes(code, test) for test in self.tests) / len(self.tests)

    def _passes(self, code: str, test: str) -> bool:
        end = secrets.token_hex(16)  # code does not print it by chance
        # Not by print: the code may have one of its own, or send its output elsewhere.
        last = f"__import__('os').write(1, b'{end}')"
        judged = f"exec(compile({code!r}, 'answer.py', 'exec'))"
        run = run_python(f"{_IMPORT}{judged}\n{test}\n{last}\n", self.limits)
        return run.returncode == 0 and end in run.stdout
