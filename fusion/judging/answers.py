"""What of a text is its answer: a number, or Python code."""

from __future__ import annotations

import ast
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from fractions import Fraction

_MINUS = "-\u2212\u2013\uff0d"
_CURRENCY = "$\u00a2\u00a3\u00a5\u0e3f\u20a0-\u20cf\uff04\uffe1\uffe5"
_SPACES = "\u00a0\u2009\u202f"  # that keep the digits of one number together
_INTEGER = rf"[{_MINUS}+]?\d+"
# Digits with what is put between them; spaces too where it is no row of numbers, but
# "100 200" is two.
_DIGITS = (
    r"(?:(?<!\d[ ])(?:\d{1,2}[ ]\d{3}|\d{3}(?:[ ]\d{3})*[ ]000|\d{3}[ ]\d{3}[ ]\d{3})"
    r"(?:[ ]\d{3})*(?:[.,]\d+)?(?![ ]?\d)"
    rf"|\d+(?:[.,'\u2019_{_SPACES}]\d+)*|\.\d+)"
)
# What an answer that is given as a percentage, or in thousands, is a multiple of.
_FACTORS = {
    "%": Fraction(1, 100),
    "hundred": Fraction(100),
    "thousand": Fraction(10**3),
    "million": Fraction(10**6),
    "billion": Fraction(10**9),
    "trillion": Fraction(10**12),
}
_SHORT = {"k": "thousand", "m": "million", "b": "billion"}
# A hyphen between two numbers is no sign, and what stands behind a letter, as in CO2,
# no number, but for money: USD29. Fractions, ratios, times, powers, roots and multiples
# of pi are one number, or 1/4 would pass for 3/4.
_NUMBER = re.compile(
    rf"""
    (?:(?<![A-Za-z\d])(?P<sign>[{_MINUS}])(?:[{_CURRENCY}]\s?)?)?
    (?<!\d)(?<!\d[.,])(?:(?<![A-Za-z])|(?<=\bRs)|(?<=\bkr)|(?<=\b[A-Z]{{3}}))(?<![A-Za-z]/)
    (?:(?P<root>
      (?:{_DIGITS}[ ]?)?[\u221a\u03c0](?:[\u221a\u03c0]|{_DIGITS})*(?:/{_DIGITS})?)
    |(?P<date>\d{{4}}-\d{{2}}-\d{{2}})
    |(?:(?P<whole>\d+)[ ](?=\d+/\d))?
    (?P<digits>{_DIGITS})
    (?:[eE](?P<exponent>{_INTEGER})
      |\s?[x*\u00d7\u00b7]\s?10\s?(?:\^|\*\*)\s?\{{?(?P<ten>{_INTEGER})\}}?
      |(?:\^|\*\*)\{{?(?P<power>{_INTEGER})\}}?)?
    (?P<rest>(?:(?:[ ]?/[ ]?[{_MINUS}]?|:){_DIGITS})*)
    (?P<factor>[ {_SPACES}]?[%\uff05]|[ ]per[ ]?cent\b|[kKMB]\b
      |[ -](?:hundred|thousand|million|billion|trillion)\b)?)
    """,
    re.VERBOSE,
)
_BETWEEN = re.compile(rf"\s*(?:[{_MINUS},;+*\u00b1]|and|or|to)\s*")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_LARGEST = 400  # exponent, and number of digits that are still compared as a number


def last_number(output: str) -> str:
    """The last number of a text, in plain digits, or "" where there is none.

    In a text with a ``\\\\boxed{...}`` that of the last box. Fractions, ratios, powers,
    roots and percentages are kept whole, and so are several numbers in brackets, in the
    box, or where there is nothing else.

    Examples
    --------
    >>> last_number("5 and 7 make 12, so 1,200.50 in all.")
    '1200.50'
    >>> last_number("so 3/4 of them")
    '3/4'
    """
    text = _plain(output)
    box = _boxed(text)
    for part in (text if box is None else box, text):
        found = list(_NUMBER.finditer(part))
        if found:
            return _listed(part, found) or _written(found[-1])
    return ""


def _listed(text: str, found: list[re.Match[str]]) -> str:
    """The last numbers of a text if they are all of it, or all of a bracket."""
    first, end = len(found) - 1, found[-1].end()
    while first and _BETWEEN.fullmatch(
        text, found[first - 1].end(), found[first].start()
    ):
        first -= 1
    before, after = text[: found[first].start()].rstrip(" $"), text[end:].strip(" $.")
    alone = before[-1:] in ("", *"([{") and after[:1] in ("", *")]}\\")
    several = alone and first < len(found) - 1
    return ", ".join(map(_written, found[first:])) if several else ""


def same_number(one: str, other: str) -> bool | None:
    """Whether two texts are one number; None where one of them is no number.

    A percentage is its number as well as its hundredth: 50 % is 50, and 0.5.

    Examples
    --------
    >>> same_number("$29.00", "29"), same_number("3/4", "1/4"), same_number("a", "1")
    (True, False, None)
    """
    numbers = [_value(one), _value(other)]
    if None in numbers:
        return None
    (a, of_a), (b, of_b) = numbers  # type: ignore[misc]
    percentage = {of_a, of_b} == {Fraction(1), _FACTORS["%"]}
    return a * of_a == b * of_b or (percentage and a == b)


def _plain(text: str) -> str:
    """Without the marks of LaTeX, and without characters for fractions and powers."""
    part = r"\s*(?:\{([^{}]+)\}|(\d))"
    for mark, plain in (
        (r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}", r"\1"),
        (r"\\pi\b", "\u03c0"),
        (r"\\sqrt\s?\{([^{}]+)\}|\\sqrt\s?(\d)", "\u221a\\1\\2"),
        (rf"\s?\\[cdt]?frac{part}{part}", r" \1\2/\3\4"),
        (r"\{([^{}]+)\\over\b([^{}]+)\}", r" \1/\2"),
        (r"\{,\}", ","),
        (r"\\[,;!]", "\u2009"),
        (r"\\(?:times|cdot)\b", "\u00d7"),
        (r"\\pm\b", "\u00b1"),
        (r"\\([%$])", r"\1"),
        (r"\\[()\[\]]|\\(?:left|right)\b|\^?\{?\\circ\}?|\u00b0", ""),
        # Several numbers in brackets, not the thousands of one.
        (r"(?<=[(\[{])(-?\d+),(-?\d{1,2}|-\d+)(?=[)\]}])", r"\1, \2"),
    ):
        text = re.sub(mark, plain, text)
    text = re.sub(
        "[\u00bc-\u00be\u2150-\u215e]",
        lambda m: " " + unicodedata.normalize("NFKC", m[0]),
        text,
    ).replace("\u2044", "/")
    text = re.sub(
        "[⁺⁻]?[⁰¹²³⁴-⁹]+", lambda m: "^" + m[0].translate(_SUPERSCRIPTS), text
    )
    # Powers of units and letters, and what numbers variables, are no answers.
    text = re.sub(
        rf"(?<=[A-Za-z])\^\{{?{_INTEGER}\}}?"
        r"|(?:(?<=\b[A-Za-z])|(?<=\\log))_\{?\d+\}?",
        "",
        text,
    )
    # The space that keeps 1 and 1/2 apart is none after a sign.
    return re.sub(rf"(?<!\d)([{_MINUS}])[ ](?=\d+/\d)", r"\1", text)


def _boxed(text: str) -> str | None:
    """What is in the last box, as LaTeX marks an answer."""
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    if start < 0:
        return None
    start, depth = text.index("{", start) + 1, 1
    for end, character in enumerate(text[start:], start):
        depth += (character == "{") - (character == "}")
        if not depth:
            return text[start:end]
    return text[start:]


def _digits(text: str) -> str | None:
    """Without separators and with a decimal point; None if it is no one number."""
    bare = re.sub(rf"['\u2019_ {_SPACES}]", "", text)
    if bare != text and not re.match(
        rf"\d{{1,3}}(?:['\u2019_ {_SPACES}]\d{{3}})+(?:[.,]\d+)?\Z", text
    ):
        return None
    thousands = r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|[1-9]\d?(?:,\d{2})+,\d{3}"
    if re.fullmatch(thousands, bare):
        return bare.replace(",", "")
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}", bare):
        return bare.replace(".", "").replace(",", ".")
    if re.fullmatch(r"\d+,\d+", bare):
        return bare.replace(",", ".")
    return bare if re.fullmatch(r"\d+(?:\.\d+)?|\.\d+", bare) else None


def _written(found: re.Match[str]) -> str:
    if found["date"]:
        return found["date"]
    sign = "-" if found["sign"] else ""
    if found["root"]:
        return sign + found["root"].replace(" ", "")
    text = sign + (f"{found['whole']} " if found["whole"] else "")
    text += _digits(found["digits"]) or found["digits"]
    exponent = found["exponent"] or found["ten"]
    if exponent:
        text += "e" + _signed(exponent)
    if found["power"]:
        text += "^" + _signed(found["power"])
    text += _signed(found["rest"].replace(" ", ""))
    name = _factor(found)
    return text + (f" {name}" if name not in ("", "%") else name)


def _factor(found: re.Match[str]) -> str:
    """The name of what the number is a multiple of, or ""."""
    text = (found["factor"] or "").strip(f" -{_SPACES}").lower()
    if text in ("\uff05", "percent", "per cent"):
        return "%"
    return _SHORT.get(text, text)


def _signed(text: str) -> str:
    return re.sub(f"[{_MINUS}]", "-", text)


def _value(text: str) -> tuple[Fraction, Fraction] | None:
    """A number and its factor, mostly 1; None if the whole text is no number."""
    text = _plain(text).strip()
    if re.match(r"\$*\\(?:boxed|fbox)\{", text):
        text = _boxed(text) or ""
    marks = rf"[\s*+`{_CURRENCY}]"
    text = re.sub(
        rf"^([{_MINUS}]?){marks}+|(?:{marks}|\.(?=\s|$|\*|\$))+$", r"\1", text
    )
    found = _NUMBER.fullmatch(text)
    if found is None or not found["digits"] or len(text) > _LARGEST:
        return None
    exponent = int(_signed(found["exponent"] or found["ten"] or "0"))
    power = int(_signed(found["power"] or "1"))
    # A sign may stand below the line of a fraction too.
    parts = _signed(found["digits"] + found["rest"].replace(" ", ""))
    first, *others = [_digits(part) for part in re.split("/-|[/:]", parts)]
    if first is None or None in others or len(others) > 1 or ":" in parts:
        return None
    if max(abs(exponent), abs(power)) > _LARGEST:
        return None
    try:
        number = (Fraction(Decimal(first)) * Fraction(10) ** exponent) ** power
        for other in others:
            number /= Fraction(Decimal(str(other)))
        number += int(found["whole"] or 0)
    except (ZeroDivisionError, InvalidOperation, ValueError):
        return None
    negative = bool(found["sign"]) != ("/-" in parts)
    return (-number if negative else number), _FACTORS.get(_factor(found), Fraction(1))


_TAGS = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad"
_THOUGHT = re.compile(rf"(?ms)^[ \t]*<({_TAGS})>.*?</\1>")
# Where a chat's template began the thinking, the text has its end only.
_THOUGHT_END = re.compile(rf"(?ms)\A.*^[^\n'\"`]*</(?:{_TAGS})>")
_THOUGHT_START = re.compile(rf"(?m)^[ \t]*<(?:{_TAGS})>")
_END_OF_TEXT = re.compile(r"(?:(?:<\|\w+\|>|</s>|<eos>|<end_of_turn>)\s*)+\Z")
# Quotes where a fence should be.
_QUOTED = re.compile(r"(?ms)^('''|\"\"\")(?:python|py)\n(.*?)^\1[ \t]*$")
_SPAN = re.compile(r"(`{1,2})([^`]+)\1")
_OPENS = re.compile(
    r"(?P<quote>[ \t]*>[ \t]?)?(?P<before>.*?)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)"
)
_ONE_LINE = re.compile(r"\s*```(?:python3?|py)?[ \t]*([^`]+)```\s*")
_BULLET = re.compile(r"[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?")
_PYTHON = {"python", "py", "python3", "py3", "ipython", "ipython3", "python2", ""}
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
    session the input is kept. Where nothing is fenced, the lines around the code are.

    Examples
    --------
    >>> code_of("Here it is:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1\\n'
    """
    return next(codes_of(output))


def codes_of(output: str) -> Iterator[str]:
    """`code_of`, then other readings: all blocks, and each of them alone."""
    text = output.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    text = _QUOTED.sub(r"```python\n\2```", _END_OF_TEXT.sub("", text))
    # No-break spaces come from web pages, and are no indentation.
    text = re.sub("(?m)^[ \t\u00a0]+", lambda m: m[0].replace("\u00a0", " "), text)
    tree = _tree(text)
    if parses(text) and (tree is None or all(map(_is_code, tree.body))):
        yield text
        return
    said = _THOUGHT_END.sub("", _THOUGHT.sub("", text))
    answer = _THOUGHT_START.split(said)[0]
    found = _python_blocks(answer) or _python_blocks(said)
    if not found:
        for part in (answer, said):
            code = _among_prose(part)
            if code:
                yield code
                return
        spans = [span for _, span in _SPAN.findall(answer) if _sets(span)]
        yield "\n".join(spans) or (answer if answer.strip() else text)
        return
    seen = set()
    used = [
        block
        for i, block in enumerate(found)
        if not _only_uses(block) or all(map(_only_uses, found[:i]))
    ]
    for blocks in (used, found, *([block] for block in found)):
        code = "\n".join(blocks)
        if code not in seen:
            yield code
        seen.add(code)


def going_on(prefix: str, output: str) -> str:
    """As many lines of an output as go on from a prefix; none may."""
    lines = output.replace("\r\n", "\n").splitlines(keepends=True)
    if not lines or not lines[0][:1].isspace():
        return ""
    count = prefix.count("\n")
    end = _longest(lambda end: prefix + "".join(lines[:end]), count, len(lines))
    return "".join(lines[:end])


def _longest(code: Callable[[int], str], before: int, end: int) -> int:
    """As many lines as are code: up to the one where reading fails, and so on.

    ``before`` lines of ``code(end)`` come before the first that counts.
    """
    while end > 0:
        text = code(end)
        try:
            tree = _parsed(text)
        except SyntaxError as error:
            bad = error.lineno or 1
        except (ValueError, RecursionError, MemoryError):
            return 0
        else:
            prose = [n.lineno for n in tree.body if not _is_code(n)]
            if not prose:
                return end if tree.body else 0
            bad = prose[0]
        end = min(end - 1, bad - before - 1)
    return 0


def parses(code: str) -> bool:
    """Whether this is Python, as it stands or as the body of something."""
    return _tree(code) is not None or (
        code[:1] in " \t" and _tree(f"if 1:\n{code}") is not None
    )


def _parsed(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes in strings
        return ast.parse(code)


def _tree(code: str) -> ast.Module | None:
    try:
        return _parsed(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _only_uses(code: str) -> bool:
    """Whether something is called or asserted here, and nothing defined."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    imports = (ast.Import, ast.ImportFrom)
    nodes = list(ast.walk(_tree(code) or ast.Module([], [])))
    return any(isinstance(node, (ast.Call, ast.Assert)) for node in nodes) and not any(
        isinstance(node, (*kinds, *imports)) for node in nodes
    )


def _sets(code: str) -> bool:
    """Whether something is defined or assigned here."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)
    return any(
        isinstance(node, kinds) for node in (_tree(code) or ast.Module([], [])).body
    )


def _python_blocks(text: str) -> list[str]:
    blocks = list(_blocks(text))
    for kinds in (_PYTHON - {""} | _CONSOLE, {""}):
        found = [_mended(code) for language, code in blocks if language in kinds]
        # A block without a language may be output, or how to install something.
        if kinds == {""} and any(map(parses, found)):
            found = [code for code in found if parses(code)]
        if any(code.strip() for code in found):
            good = [code for code in found if parses(code)]
            return good or found
    for language, code in blocks:
        if language in {"markdown", "md"} and "```" in code:
            return _python_blocks(code)
    return [code for name, code in blocks if name not in _SHELL and parses(code)]


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of each fenced block."""
    lines = text.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        whole = _ONE_LINE.fullmatch(lines[at])
        opened = _OPENS.fullmatch(lines[at].rstrip("\n"))
        if whole is not None or opened is None:
            if whole is not None:
                yield "", whole[1] + "\n"
            at += 1
            continue
        before = _code_before(lines[:at]) if not opened["info"].strip() else ""
        if before and not list(_blocks("".join(lines[:at]))):
            yield "", before  # the prompt has opened this block
            at += 1
            continue
        # Of a fence that ends a sentence there is no margin.
        bullet = _BULLET.fullmatch(opened["before"])
        margin = len(opened["before"]) if bullet else 0
        body = lines[at + 1 :]
        if opened["quote"]:
            body = [re.sub(r"^[ \t]*>[ ]?", "", line) for line in body]
        content, length = _content(body, opened["fence"], margin)
        language = re.match(r"[\s{.]*([\w+#-]*)", opened["info"])
        name = language[1].lower() if language else ""
        first = content.split("\n", 1)
        if not name and len(first) == 2 and first[0].strip().lower() in _PYTHON - {""}:
            name, content = first[0].strip().lower(), first[1]
        yield name, content
        at += 1 + length


def _content(lines: list[str], fence: str, margin: int) -> tuple[str, int]:
    """What is in a block, and how many lines it has, the closing fence included.

    A fence further in than the one that opened is text of the code, as in a docstring.
    One at the margin may be too: it closes if what is before it is Python.
    """
    closing = re.compile(rf"([ \t]*){re.escape(fence[0])}{{{len(fence)},}}[ \t]*\n?")
    ends = [i for i, line in enumerate(lines) if closing.fullmatch(line)]
    strip = re.compile(rf"^[ \t]{{0,{margin}}}") if margin else None

    def inside(end: int) -> str:
        part = lines[:end]
        return "".join(strip.sub("", line) for line in part) if strip else "".join(part)

    outer = [
        end
        for end in ends
        if len(closing.fullmatch(lines[end])[1].expandtabs()) <= margin  # type: ignore[index]
    ]
    for end in (*outer, *ends)[:50]:
        if parses(inside(end)):
            return inside(end), end + 1
    for end, line in enumerate(lines):  # a fence behind the last line of code
        if line.rstrip().endswith(fence) and not closing.fullmatch(line):
            code = inside(end) + line.rstrip()[: -len(fence)] + "\n"
            if parses(code):
                return code, end + 1
    end = (outer or ends or [len(lines)])[0]
    return inside(end), end + 1


def _code_before(lines: list[str]) -> str:
    text = "".join(lines)
    tree = _tree(text)
    good = tree is not None and tree.body and all(map(_is_code, tree.body))
    return text if good else ""


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


def _is_code(statement: ast.stmt) -> bool:
    """Whether it is no word or two of prose that happen to be Python."""
    if isinstance(statement, ast.AnnAssign):  # "Complexity: linear"
        return statement.value is not None
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Compare):
        return any(isinstance(node, ast.Call) for node in ast.walk(statement))
    kinds = (ast.Call, ast.Constant, ast.Await)
    return not isinstance(statement, ast.Expr) or isinstance(statement.value, kinds)


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
            run = _longest(code, 0, (inside or [len(lines)])[0] - at)
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
