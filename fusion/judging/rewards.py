"""Judges of what a braid wrote: ``(task, output) -> float`` in [0, 1].

For `MetaBraider.learn_from_feedback`, with what is right put in beforehand:

    agent.learn_from_feedback(task, decision, ExactMatch("42"), output=text)
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .python_text import parses
from .sandbox import MEASURES, Limits, run_python
from .written_code import code_of, codes_of, going_on
from .written_numbers import last_number, same_number

__all__ = ["ExactMatch", "UnitTests", "code_of", "last_number", "normalised"]

# The judged code is a module of this name, and the test goes on in it.
_IMPORT = """__import__('sys').modules['answer'] = __import__('__main__')
__name__ = 'answer'
"""


def normalised(text: str) -> str:
    """Lower case, one space between words, none at the ends.

    Examples
    --------
    >>> normalised("  The\\n Rain ")
    'the rain'
    """
    return " ".join(text.split()).casefold()


@dataclass(frozen=True)
class ExactMatch:
    """1 if ``normalised(extract(output)) = normalised(reference)``, else 0.

    Where both are numbers they are compared as numbers: 29 is $29.00, and 1,000 is 1e3.

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
        same = same_number(answer, right)
        return float(normalised(answer) == normalised(right) if same is None else same)


@dataclass(frozen=True)
class UnitTests:
    """Passed tests divided by all tests; each runs with the code in a sandbox.

    A test passes if it runs to its end, so code that ends the program early fails.
    The code is imported, not run: what it keeps for ``__name__ == "__main__"`` is not
    done. It runs beside the test, so code that means to pass can, by answers that equal
    everything or by reading the test.

    Parameters
    ----------
    tests : sequence of str
        Python code each, such as ``"assert add(1, 2) == 3"``.
    prefix : str
        Put in front of the output: a signature, if the output goes on from one.
    limits : Limits
    measures : tuple of str
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
    measures: tuple[str, ...] = MEASURES

    def __post_init__(self) -> None:
        if isinstance(self.tests, str) or not self.tests:
            raise ValueError(
                f"tests is {self.tests!r}; give a list of at least one piece of code"
            )

    def __call__(self, task: Any, output: str) -> float:
        for code in self._codes(output):
            passed = sum(self._passes(code, test) for test in self.tests)
            # The next reading only where this one is no module.
            if passed or self._passes(code, ""):
                return passed / len(self.tests)
        return 0.0

    def _codes(self, output: str) -> Iterator[str]:
        """The readings of an output, each with the prefix if it goes on from it."""
        body = going_on(self.prefix, output) if self.prefix else ""
        if body:
            yield self.prefix + body
            return
        for code in codes_of(output):
            # A chat model writes the whole function anew where a signature was given.
            whole = self.prefix + code, self.prefix.rstrip() + " pass\n" + code, code
            yield next(filter(parses, whole), whole[0])

    def _passes(self, code: str, test: str) -> bool:
        end = secrets.token_hex(16)  # code does not print it by chance
        # Not by print: the code may have one of its own, or send its output elsewhere.
        last = f"__import__('os').write(1, b'{end}')"
        judged = f"exec(compile({code!r}, 'answer.py', 'exec'))"
        program = f"{_IMPORT}{judged}\n{test}\n{last}\n"
        run = run_python(program, self.limits, self.measures)
        return run.returncode == 0 and end in run.stdout
