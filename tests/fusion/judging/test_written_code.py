import inspect
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.judging.written_code import code_of, codes_of, going_on

FENCE = "`" * 3
ADD = "def add(a, b):\n    return a + b\n"
MINUS = "def add(a, b):\n    return a - b\n"


def block(code=ADD, tag="python", fence=FENCE):
    return f"{fence}{tag}\n{code}{fence}\n"


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


MORE_CHATS = {
    "tags": f"<code>\n{ADD}</code>",
    "tags around a block": f"<answer>\n{block()}</answer>",
    "channels": "<|channel|>analysis<|message|>I think<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{block()}<|return|>",
    "types and a docstring": block(
        'def add(a: int, b: int) -> int:\n    """Adds.\n\n    >>> add(1, 2)\n    3\n'
        '    """\n    return a + b\n'
    ),
    "bold headings": f"**Solution**\n\n{block()}\n**Explanation**: it's easy.",
    "tabs": block("def add(a, b):\n\treturn a + b\n"),
    "details": f"<details><summary>x</summary>\n\n{block()}</details>",
    "a class": block(
        "class S:\n    def add(self, a, b):\n        return a + b\nadd = S().add\n"
    ),
    "a main part": block(f"{ADD}\nif __name__ == '__main__':\n    print(add(1, 2))\n"),
    "another language first": block("function add() {}\n", "js") + block(tag="py"),
    "capital thoughts": f"<think>\n{block(MINUS)}\n</think>\n" + block(tag="PYTHON"),
    "on the line of the sentence": f"Sure! {block()} Hope that helps!",
    "square tags": f"[PYTHON]\n{ADD}[/PYTHON]",
    "a form feed": block(f"{ADD}\x0c\n"),
    "a mark of no width": f"\u200b{block()}",
    "a byte order mark": f"\ufeff{ADD}",
    "old line ends": block().replace("\n", "\r"),
    "a decorator": block(
        "import functools\n\n@functools.cache\ndef add(a, b):\n    return a + b\n"
    ),
    "a remark in front": f"# adds two numbers\n{ADD}",
    "an import far above": "First `import math`.\n\n"
    + block("import math\n\ndef add(a, b):\n    return math.fsum([a, b])\n"),
    "numbered steps": f"1. Add.\n2. Return.\n\n{block()}\n3. Done.",
    "a table": f"| a | b |\n|---|---|\n| 1 | 2 |\n\n{block()}",
    "what was printed": block() + "Output:\n" + block("3\n", "text"),
    "a lambda": block("add = lambda a, b: a + b\n"),
    "continued lines": block("def add(a, b):\n    return a \\\n        + b\n"),
    "a mathematical sign in a string": block(f'NOTE = "\u2264 \u201cx\u201d"\n{ADD}'),
    "more thoughts": f"<thinking>\nx\n</thinking>\n<reflection>\n{block(MINUS)}"
    f"</reflection>\n{block()}",
}


@pytest.mark.parametrize("output", MORE_CHATS.values(), ids=MORE_CHATS)
def test_code_is_found_in_more_forms(output):
    names = {"__name__": "answer"}
    exec(code_of(output), names)
    assert names["add"](1, 2) == 3


@pytest.mark.parametrize("output", [*CHATS.values(), *MORE_CHATS.values()])
def test_no_reading_comes_twice_and_the_first_is_the_code(output):
    readings = list(codes_of(output))
    assert readings[0] == code_of(output)
    assert len(set(readings)) == len(readings)


@pytest.mark.parametrize("output", [*CHATS.values(), *MORE_CHATS.values()])
def test_code_that_was_found_is_found_again_as_it_is(output):
    code = code_of(output)
    names = {"__name__": "answer"}
    exec(code_of(code), names)
    assert names["add"](1, 2) == 3


@settings(max_examples=60)
@given(st.text("ab =():\n`~'\"<>#[]/.\\\t\r\u00a0", max_size=60))
def test_any_text_has_a_reading(text):
    readings = list(codes_of(text))
    assert readings
    assert all(isinstance(code, str) for code in readings)


@settings(max_examples=60)
@given(
    st.sampled_from([ADD, MINUS, "x = 1\n", "def f():\n    pass\n", "import os\n"]),
    st.sampled_from(["", "Sure!\n\n", "Here it is:\n", "1. So\n\n"]),
    st.sampled_from(["```", "~~~", "`````"]),
    st.sampled_from(["", "python", "py", "Python3"]),
    st.sampled_from(["", "\nDone.", "\nIt's simple: a + b."]),
)
def test_what_is_fenced_is_read_to_the_letter(code, before, fence, tag, after):
    assert code_of(f"{before}{fence}{tag}\n{code}{fence}{after}") == code


@pytest.mark.parametrize(
    ("prefix", "output", "wanted"),
    [
        ("def f(x):\n", "    return x\n", "    return x\n"),
        ("def f(x):\n", "    y = x\n    return y\nf(1)\n", None),
        ("def f(x):\n", "    return x\nprint 3\n", "    return x\n"),
        ("def f(x):\n", "    return x\r\nThat is all.", "    return x\n"),
        ("def f(x):\n", "\treturn x\n", "\treturn x\n"),
        ("def f(x):\n", "return x\n", ""),
        ("def f(x):\n", "", ""),
        ("def f(x):\n", "    return (\n", ""),
        ("def f(x):\n    x = +x\n", "    return x\n", "    return x\n"),
        ("x = [\n", "    1,\n]\n", "    1,\n]\n"),
    ],
)
def test_as_many_lines_go_on_as_are_code(prefix, output, wanted):
    assert going_on(prefix, output) == (output if wanted is None else wanted)
