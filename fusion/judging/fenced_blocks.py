"""The fenced blocks of a text in Markdown, as chat models write it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .python_text import is_code, parses, tree_of

PYTHON = {"python", "py", "python3", "py3", "ipython", "ipython3", "python2"}
_OPENS = re.compile(
    r"(?P<quote>[ \t]*>[ \t]?)?(?P<before>.*?)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)"
)
_ONE_LINE = re.compile(r"\s*```(?:python3?|py)?[ \t]*([^`]+)```\s*")
_BULLET = re.compile(r"[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block, in their order.

    Parameters
    ----------
    text : str

    Yields
    ------
    language : str
        In lower case, "" where none is named.
    content : str
        Without the margin of its fence.

    Examples
    --------
    >>> list(blocks("So:\\n```py\\nx = 1\\n```\\nDone."))
    [('py', 'x = 1\\n')]
    """
    lines = text.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        whole = _ONE_LINE.fullmatch(lines[at])
        opened = _OPENS.fullmatch(lines[at].rstrip("\n"))
        if whole is not None:
            yield "", whole[1] + "\n"
        if whole is not None or opened is None:
            at += 1
            continue
        before = "" if opened["info"].strip() else _code_before(lines[:at])
        if before:
            yield "", before
            at += 1
            continue
        content, length = _content(opened, lines[at + 1 :])
        yield _language(opened["info"], content)
        at += 1 + length


def _code_before(lines: list[str]) -> str:
    """The code that stands before a fence if the prompt has opened its block."""
    text = "".join(lines)
    tree = tree_of(text)
    good = tree is not None and tree.body and all(map(is_code, tree.body))
    return text if good and not list(blocks(text)) else ""


def _language(info: str, content: str) -> tuple[str, str]:
    """A block's language, named at its fence or on its first line, and its content."""
    found = re.match(r"[\s{.]*([\w+#-]*)", info)
    name = found[1].lower() if found else ""
    first, *rest = content.split("\n", 1)
    if not name and rest and first.strip().lower() in PYTHON:
        return first.strip().lower(), rest[0]
    return name, content


def _content(opened: re.Match[str], lines: list[str]) -> tuple[str, int]:
    """What is in a block, and how many lines it has, the closing fence included.

    A fence further in than the one that opened is text of the code, as in a docstring.
    One at the margin may be too: it closes if what is before it is Python.
    """
    # Of a fence that ends a sentence there is no margin.
    margin = len(opened["before"]) if _BULLET.fullmatch(opened["before"]) else 0
    if opened["quote"]:
        lines = [re.sub(r"^[ \t]*>[ ]?", "", line) for line in lines]
    fence = opened["fence"]
    closing = re.compile(rf"([ \t]*){re.escape(fence[0])}{{{len(fence)},}}[ \t]*\n?")
    strip = re.compile(rf"^[ \t]{{0,{margin}}}")

    def inside(end: int) -> str:
        return "".join(strip.sub("", line) for line in lines[:end])

    fences = {i: m for i, line in enumerate(lines) if (m := closing.fullmatch(line))}
    outer = [i for i, m in fences.items() if len(m[1].expandtabs()) <= margin]
    for end in (*outer, *fences)[:50]:
        if parses(inside(end)):
            return inside(end), end + 1
    for end, line in enumerate(lines):  # a fence behind the last line of code
        if line.rstrip().endswith(fence) and end not in fences:
            code = inside(end) + line.rstrip()[: -len(fence)] + "\n"
            if parses(code):
                return code, end + 1
    end = next(iter((*outer, *fences, len(lines))))
    return inside(end), end + 1
