import inspect
import textwrap
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.judging.answers import code_of, codes_of, going_on, last_number, same_number

FENCE = "`" * 3
ADD = "def add(a, b):\n    return a + b\n"
MINUS = "def add(a, b):\n    return a - b\n"


def block(code=ADD, tag="python", fence=FENCE):
    return f"{fence}{tag}\n{code}{fence}\n"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is $29.00.", "29.00"),
        ("In all 1,234,567.", "1234567"),
        ("12,34,567 rupees", "1234567"),
        ("1.200,50 Euro", "1200.50"),
        ("10\u202f000 km", "10000"),
        ("10 000 km", "10000"),
        ("from 100 200", "200"),
        ("The answer is 1/4.", "1/4"),
        ("1 1/2 cups", "1 1/2"),
        ("1½ cups", "1 1/2"),
        ("a ratio of 3:1", "3:1"),
        ("born 12/05/2020", "12/05/2020"),
        ("born 2020-05-12", "2020-05-12"),
        ("Python 3.11.2", "3.11.2"),
        ("half, or 50%", "50%"),
        ("50 percent", "50%"),
        ("3 \\times 10^{-3}", "3e-3"),
        ("-$5", "-5"),
        ("so \u20135", "-5"),
        ("\\boxed{42}, by 6 steps", "42"),
        ("\\boxed{-\\frac{3}{4}}", "-3/4"),
        ("1\\frac12", "1 1/2"),
        ("\\boxed{no} 7", "7"),
        ("none", ""),
        ("12 345 km", "12345"),
        ("1 234 567,89 kr", "1234567.89"),
        ("7 11 101 103", "103"),
        ("0,125", "0.125"),
        ("5'11", "5'11"),
        ("10\u00b3", "10^3"),
        ("3 \u00d7 10\u207b\u00b3", "3e-3"),
        ("\\frac1{2}", "1/2"),
        ("\\cfrac{3}{-4}", "3/-4"),
        ("{3 \\over 4}", "3/4"),
        ("1 \\frac{1}{2}", "1 1/2"),
        ("3 cm^2", "3"),
        ("3 m/s\u00b2", "3"),
        ("3\\text{ cm}^{2}", "3"),
        ("12 g of CO2", "12"),
        ("12 of PM2.5", "12"),
        ("So the answer is **42**", "42"),
        ("It is *5*, or __5__ in all", "5"),
        ("3 = \\log_2 x_2", "3"),
        ("USD29 or Rs29", "29"),
        ("\u7b54\u6848\u662f-5", "-5"),
        ("2.5 million", "2.5 million"),
        ("10k", "10 thousand"),
        ("$2\\sqrt{3}$", "2\u221a3"),
        ("\\frac{\\pi}{4}", "\u03c0/4"),
        ("so (3, 2).", "3, 2"),
        ("\\boxed{(-1,2)}", "-1, 2"),
        ("\\boxed{5 \\text{ or } 6}", "5, 6"),
        ("5 \\pm 6", "5, 6"),
        ("5-6", "5, 6"),
        ("at (10,000)", "10000"),
    ],
)
def test_a_number_is_read_whole(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("29", "$29.00", True),
        ("4", "4.0", True),
        ("0.5", ".5", True),
        ("1000", "1e3", True),
        ("0.1", "1e-1", True),
        ("3/4", "1/4", False),
        ("6/8", "3/4", True),
        ("3/4", "0.75", True),
        ("1/3", "0.333", False),
        ("1.5", "1 1/2", True),
        ("-1.5", "-1 1/2", True),
        ("-5", "\u22125.", True),
        ("-5", "5", False),
        ("50%", "0.5", True),
        ("50%", "50", True),
        ("50%", "5000%", False),
        ("1024", "2^10", True),
        ("42", "$\\boxed{42}$.", True),
        ("42", "**42**", True),
        ("3:1", "2:1", None),
        ("1000", "10\u00b3", True),
        ("-3/4", "3/-4", True),
        ("10 000", "10 thousand", True),
        ("2.5", "2.5 million", False),
        ("10", "10k", False),
        ("1500 thousand", "1.5M", True),
        ("2.5 billion", "2.5 million", False),
        ("\u20bd12 345,50", "12345.5", True),
        ("90\u00b0", "90^\\circ", True),
        ("`3`", "\\(3\\)", True),
        ("2\u221a3", "3", None),
        ("5, 6", "6", None),
        ("1/0", "1", None),
        ("Paris", "1", None),
        ("1e999999999", "1e999999999", None),
        ("9" * 5000, "9" * 5000, None),
    ],
)
def test_numbers_are_compared_as_numbers(one, other, same):
    assert same_number(one, other) is same
    assert same_number(other, one) is same


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_every_fraction_is_itself(a, b):
    assert same_number(str(a), str(b)) is (a == b)
    assert last_number(f"so it is {a}.") == str(a)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_every_way_to_write_a_number_is_that_number(number):
    ways = [f"{number:,}", f"${number:.5f}.", f"{number:e}", f"\\boxed{{{number}}}"]
    for way in ways:
        assert same_number(way, str(number)), way
        assert same_number(last_number(f"it is {way}"), str(Fraction(number))), way


CHATS = {
    "alone": ADD,
    "a block": block(),
    "Windows": f"So:\n{block()}Done.".replace("\n", "\r\n"),
    "how to install": block("pip install x\n", "bash") + block(),
    "how to install, untagged": block("pip install x\n", "") + block(tag=""),
    "thoughts": f"<think>\n{block(MINUS)}</think>\n{block()}",
    "thoughts unfenced": f"<think>\n{MINUS}</think>\n{ADD}",
    "thoughts begun in the prompt": f"Maybe\n{block(MINUS)}</think>\n\n{block()}",
    "thoughts without an end": f"<think>\nSo:\n{block()}",
    "tildes": block(fence="~~~"),
    "py": block(tag="py"),
    "python3": block(tag="python3"),
    "Python": block(tag="Python"),
    "braces": block(tag="{.python}"),
    "a file's name": block(tag='python title="add.py"'),
    "the language on its own line": block(f"python\n{ADD}", ""),
    "four backticks": block(fence="````"),
    "blocks within a block": block(f"So:\n{block()}", "markdown", "````"),
    "quoted": textwrap.indent(f"So:\n{block()}", "> "),
    "in a list": f"1. So:\n\n{textwrap.indent(block(), '   ')}2. Done.",
    "behind a bullet": "1. " + textwrap.indent(block(), "   ").lstrip(),
    "behind a sentence": f"So: {block()}",
    "on one line": f"{FENCE}python add = lambda a, b: a + b{FENCE}",
    "fence behind the code": f"{FENCE}python\n{ADD.rstrip()}{FENCE}\nDone.",
    "without a closing fence": f"So:\n{FENCE}python\n{ADD}",
    "cut off": f"{FENCE}python\n{ADD}\nprint(add(1,",
    "without an opening fence": f"{ADD}{FENCE}\nThis adds.",
    "console": block(
        ">>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3\n"
    ),
    "console unfenced": ">>> def add(a, b):\n...     return a + b\n...\n"
    ">>> add(1, 2)\n3",
    "IPython": block("In [1]: def add(a, b):\n   ...:     return a + b\n", "ipython"),
    "code and console": block(f"{ADD}\n>>> add(1, 2)\n3\n"),
    "a magic": block(f"!pip install x\n%matplotlib inline\n{ADD}"),
    "two blocks": block("def h(a, b):\n    return a + b\n")
    + block("def add(a, b):\n    return h(a, b)\n"),
    "a constant later": block("def add(a, b):\n    return a + b + NONE\n")
    + block("NONE = 0\n"),
    "corrected": f"Wrong:\n{block(MINUS)}Right:\n{block()}",
    "usage that fails": block() + block("print(add('a', 1))\n"),
    "usage that reads": block() + block("x = int(input())\nprint(add(x, 1))\n"),
    "output": block(f"{ADD}print(add(1, 2))\n") + block("3\n", ""),
    "a line of it": block() + block("    return a + b\n"),
    "another language": block("function add(a, b) {}\n", "javascript") + block(),
    "another tag": block(tag="tool_code"),
    "fence in a docstring": block(
        f'def add(a, b):\n    """x\n\n    {FENCE}\n    add(1, 2)\n    {FENCE}\n'
        '    """\n    return a + b\n'
    ),
    "fence at the margin": block(f'"""\n{FENCE}\nadd(1, 2)\n{FENCE}\n"""\n{ADD}'),
    "prose": f"Here it is:\n\n{ADD}\nThis adds. It's simple.",
    "words that are Python": f"Sure\n\n{ADD}\nDone",
    "prose between": "First\n\ndef h(a, b):\n    return a + b\n\nThen use it:\n\n"
    "def add(a, b):\n    return h(a, b)\n",
    "indented code": f"Here it is:\n\n{textwrap.indent(ADD, '    ')}\nDone.",
    "marks around": f"[BEGIN]\n{ADD}[DONE]",
    "end of text": f"{ADD.rstrip()}<|im_end|>",
    "no-break spaces": block(ADD.replace("    ", "\u00a0" * 4)),
    "no-break spaces within": block(ADD.replace(" ", "\u00a0")),
    "words that are an annotation": f"{ADD}\nComplexity: O(1)",
    "next turn": f"{ADD}\n\nHuman: thanks\n",
    "words that compare": f"This is it\n\n{ADD}\nThis is linear",
    "quotes for a fence": f"'''python\n{ADD}'''\nDone.",
    "quotes alone": f'"""python\n{ADD}"""',
    "a span": "Use `add = lambda a, b: a + b` for it.",
    "a span alone": "``def add(a, b): return a + b``",
    "a tag in a string": f"{ADD}x = '<think>' + '</think>'\n",
}


@pytest.mark.parametrize("output", CHATS.values(), ids=CHATS)
def test_code_is_found(output):
    names = {}
    exec(code_of(output), names)
    assert names["add"](1, 2) == 3


def test_other_readings_come_later():
    """The tests that a model adds may ask for what is not there."""
    tests = "from solution import add\nassert add(1, 2) == 3\n"
    first, *others = codes_of(block() + block(tests))
    assert first == f"{ADD}\n{tests}"
    assert ADD in others


@pytest.mark.parametrize(
    "output", ["", "def add(a, b:", "I cannot do that.", "Call `add(1, 2)` or `x`."]
)
def test_what_is_no_code_stays_as_it_is(output):
    assert code_of(output) == output


def test_a_body_goes_on_from_its_prefix():
    prefix, body = "def add(a, b):\n", "    return a + b\n"
    for rest in ("", "\nThis adds.", f"{FENCE}\nDone", "\ndef test("):
        assert going_on(prefix, body + rest).strip() == body.strip()
    assert going_on(prefix, ADD) == ""


@pytest.mark.parametrize("change", [("def ", "def ("), ("):", "]:"), ("\n", "\n[\n")])
def test_long_broken_code_is_read_in_time(change):
    text = inspect.getsource(textwrap)
    assert list(codes_of(text.replace(*change)))
