"""What of a text is its answer, where that is a number; and whether two are equal."""

from __future__ import annotations

import re
import unicodedata
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
_PART = r"\s*(?:\{([^{}]+)\}|(\d))"
# Marks of LaTeX, and the plain text that means the same.
_MARKS = (
    (r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}", r"\1"),
    (r"\\pi\b", "\u03c0"),
    (r"\\sqrt\s?\{([^{}]+)\}|\\sqrt\s?(\d)", "\u221a\\1\\2"),
    (rf"\s?\\[cdt]?frac{_PART}{_PART}", r" \1\2/\3\4"),
    (r"\{([^{}]+)\\over\b([^{}]+)\}", r" \1/\2"),
    (r"\{,\}", ","),
    (r"\\[,;!]", "\u2009"),
    (r"\\(?:times|cdot)\b", "\u00d7"),
    (r"\\pm\b", "\u00b1"),
    (r"\\([%$])", r"\1"),
    (r"\\[()\[\]]|\\(?:left|right)\b|\^?\{?\\circ\}?|\u00b0", ""),
)
# Several numbers in brackets are put apart, but not the thousands of one.
_IN_BRACKETS = re.compile(r"(?<=[(\[{])-?\d+(?:,-?\d+)+(?=\\?[)\]}])")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+|-?\d{1,2}(?:,\d{2})+,\d{3}")
# A line above digits says that they recur; and programs write numbers to other bases.
_RECURRING = re.compile(r"(\d{1,30})\.(\d{0,30})\\(?:overline|bar)\s?\{(\d{1,30})\}")
_BASED = re.compile(
    r"(?<![\w.,])0(?:[xX][0-9a-fA-F]{1,64}|[bB][01]{1,99}|o[0-7]{1,99})\b"
)
_BETWEEN = re.compile(rf"\s*(?:[{_MINUS},;+*\u00b1]|and|or|to)\s*")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_LARGEST = 400  # exponent, and number of digits that are still compared as a number


def last_number(output: str) -> str:
    """The last number of a text, in plain digits, or "" where there is none.

    In a text with a ``\\\\boxed{...}`` that of the last box. Fractions, ratios, powers,
    roots and percentages are kept whole, and so are several numbers in brackets, in the
    box, or where there is nothing else.

    Parameters
    ----------
    output : str

    Returns
    -------
    str

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

    Parameters
    ----------
    one, other : str

    Returns
    -------
    bool or None

    Examples
    --------
    >>> same_number("$29.00", "29"), same_number("3/4", "1/4"), same_number("a", "1")
    (True, False, None)
    """
    first, second = _value(one), _value(other)
    if first is None or second is None:
        return None
    (a, of_a), (b, of_b) = first, second
    percentage = {of_a, of_b} == {Fraction(1), _FACTORS["%"]}
    return a * of_a == b * of_b or (percentage and a == b)


def _plain(text: str) -> str:
    """Without the marks of LaTeX, and without characters for fractions and powers."""
    for mark, plain in _MARKS:
        text = re.sub(mark, plain, text)
    text = _IN_BRACKETS.sub(_apart, text)
    text = _RECURRING.sub(_as_fraction, text)
    text = _BASED.sub(lambda m: str(int(m[0], 0)), text)
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


def _apart(found: re.Match[str]) -> str:
    """Numbers in brackets with spaces between them, but for the thousands of one."""
    text = found[0]
    return text if _THOUSANDS.fullmatch(text) else text.replace(",", ", ")


def _as_fraction(found: re.Match[str]) -> str:
    """A decimal whose last digits recur: 0.1 and 6 for ever are (16 - 1) / 90 = 1/6."""
    whole, once, recurs = found.groups()
    above = int(whole + once + recurs) - int(whole + once)
    return str(Fraction(above, 10 ** len(once) * (10 ** len(recurs) - 1)))


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
    """A number that was found, in plain digits."""
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
    """With an ASCII hyphen for any sign."""
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
