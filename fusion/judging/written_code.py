"""What of a text is its answer, where that is Python code."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from .fenced_blocks import PYTHON, blocks
from .python_text import is_code, longest, only_uses, parses, sets, tree_of

_TAGS = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad"
_THOUGHT = re.compile(rf"(?ms)^[ \t]*<({_TAGS})>.*?</\1>")
# Where a chat's template began the thinking, the text has its end only.
_THOUGHT_END = re.compile(rf"(?ms)\A.*^[^\n'\"`]*</(?:{_TAGS})>")
_THOUGHT_START = re.compile(rf"(?m)^[ \t]*<(?:{_TAGS})>")
_END_OF_TEXT = re.compile(r"(?:(?:<\|\w+\|>|</s>|<eos>|<end_of_turn>)\s*)+\Z")
# Quotes where a fence should be.
_QUOTED = re.compile(r"(?ms)^('''|\"\"\")(?:python|py)\n(.*?)^\1[ \t]*$")
_SPAN = re.compile(r"(`{1,2})([^`]+)\1")
_CONSOLE = {"pycon", "python-repl", "python-console", "doctest", "repl"}
_SHELL = {"bash", "sh", "shell", "zsh", "console", "shell-session", "text", "output"}
_PROMPT = re.compile(r"[ \t]*(?:(?:>>>|\.\.\.)(?: |$)|(?:In ?\[\d*\]|[ ]+\.\.\.): ?)")
_BEGINS = re.compile(
    r"(?:def|class|import|from|async|for|while|if|try|with|assert|print)\b|@\w"
    r"|[A-Za-z_][\w.]*(?:\[.*\])?\s*(?::\s*[\w\[\], .|]+)?=[^=]|\"\"\"|'''"
)


def code_of(output: str) -> str:
    """The Python code of what a chat model wrote, or the text itself.

    Fenced blocks are joined, but for those in other languages and those after the
    definitions that only use them. What a model thinks aloud is left out; of a console
    session the input is kept. Where nothing is fenced, the lines around the code are
    left out.

    Parameters
    ----------
    output : str

    Returns
    -------
    str

    Examples
    --------
    >>> code_of("Here it is:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1\\n'
    """
    return next(codes_of(output))


def codes_of(output: str) -> Iterator[str]:
    """`code_of`, then other readings: all blocks, and each of them alone.

    Parameters
    ----------
    output : str

    Yields
    ------
    str
        No reading twice.
    """
    text = _cleaned(output)
    tree = tree_of(text)
    if parses(text) and (tree is None or all(map(is_code, tree.body))):
        yield text
        return
    said = _THOUGHT_END.sub("", _THOUGHT.sub("", text))
    answer = _THOUGHT_START.split(said)[0]
    found = _python_blocks(answer) or _python_blocks(said)
    if not found:
        yield (
            _among_prose(answer)
            or _among_prose(said)
            or _spans(answer)
            or (answer if answer.strip() else text)
        )
        return
    used = [
        block
        for i, block in enumerate(found)
        if not only_uses(block) or all(map(only_uses, found[:i]))
    ]
    readings = (used, found, *([block] for block in found))
    yield from dict.fromkeys("\n".join(reading) for reading in readings)


def _cleaned(output: str) -> str:
    """With plain line ends, fences and margins, and without marks of the text's end."""
    text = output.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    text = _QUOTED.sub(r"```python\n\2```", _END_OF_TEXT.sub("", text))
    # No-break spaces come from web pages, and are no indentation.
    return re.sub("(?m)^[ \t\u00a0]+", lambda m: m[0].replace("\u00a0", " "), text)


def _spans(text: str) -> str:
    """The code between backticks that defines or assigns something."""
    return "\n".join(span for _, span in _SPAN.findall(text) if sets(span))


def going_on(prefix: str, output: str) -> str:
    """As many lines of an output as go on from a prefix.

    Parameters
    ----------
    prefix : str
        The beginning of some Python code, such as the signature of a function.
    output : str

    Returns
    -------
    str
        "" where the output does not go on from it.

    Examples
    --------
    >>> going_on("def f(x):\\n", "    return x\\n\\nThat is all, folks.")
    '    return x\\n\\n'
    """
    lines = output.replace("\r\n", "\n").splitlines(keepends=True)
    if not lines or not lines[0][:1].isspace():
        return ""
    count = prefix.count("\n")
    end = longest(lambda end: prefix + "".join(lines[:end]), count, len(lines))
    return "".join(lines[:end])


def _python_blocks(text: str) -> list[str]:
    """The fenced blocks that are Python, or may be."""
    fenced = list(blocks(text))
    for kinds in (PYTHON | _CONSOLE, {""}):
        found = [_mended(code) for language, code in fenced if language in kinds]
        # A block without a language may be output, or how to install something.
        if kinds == {""} and any(map(parses, found)):
            found = [code for code in found if parses(code)]
        if any(code.strip() for code in found):
            good = [code for code in found if parses(code)]
            return good or found
    for language, code in fenced:
        if language in {"markdown", "md"} and "```" in code:
            return _python_blocks(code)
    return [code for name, code in fenced if name not in _SHELL and parses(code)]


def _mended(code: str) -> str:
    """Of a console session its input, of a mixture the code."""
    if parses(code):
        return code
    code = code.replace("\u00a0", " ")
    if parses(code):
        return code
    lines = code.splitlines(keepends=True)
    typed = _typed(lines)
    if typed:
        first = next(i for i, line in enumerate(lines) if _PROMPT.match(line))
        for before in ("".join(lines[:first]), ""):
            if parses(before + typed):
                return before + typed
    kept = "".join(x for x in lines if not x.lstrip().startswith(("!", "%", "$ ")))
    return kept if parses(kept) else _among_prose(code) or code


def _among_prose(text: str) -> str:
    """The lines of a text that are Python, or "" where there are none."""
    lines = text.splitlines(keepends=True)
    typed = _typed(lines)
    if typed and parses(typed):
        return typed
    margins = [
        len(line) - len(line.lstrip()) if line.strip() else len(line) for line in lines
    ]
    found, at, failed = [], 0, 0
    while at < len(lines) and failed < 100:  # each is read to its end
        run = 0
        if _BEGINS.match(lines[at].lstrip()):

            def code(end: int, at: int = at) -> str:
                return textwrap.dedent("".join(lines[at : at + end]))

            inside = [i for i in range(at, len(lines)) if margins[i] < margins[at]]
            run = longest(code, 0, (inside or [len(lines)])[0] - at)
            if run:
                found.append((margins[at], code(run)))
            failed += not run
        at += run or 1
    # Code further in is a part of what could not be read, if there is other code.
    least = min((margin for margin, _ in found), default=0)
    return "".join(code for margin, code in found if margin == least)


def _typed(lines: list[str]) -> str:
    """The input of a console session."""
    return "".join(_PROMPT.sub("", line) for line in lines if _PROMPT.match(line))
