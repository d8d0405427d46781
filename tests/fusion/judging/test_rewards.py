import contextlib
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.judging import rewards
from fusion.judging.rewards import (
    ExactMatch,
    UnitTests,
    code_of,
    last_number,
    normalised,
)
from fusion.judging.sandbox import Limits, Run

ADD = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    ("output", "wanted"),
    [("Paris", 1.0), ("  paris\n", 1.0), ("Paris is", 0.0), ("", 0.0)],
)
def test_exact_match(output, wanted):
    assert ExactMatch("Paris")("capital?", output) == wanted


def test_exact_match_of_a_part():
    judge = ExactMatch("-1200.5", extract=last_number)
    assert judge("", "from 7 down to -1,200.5 degrees.") == 1.0
    assert judge("", "no number") == 0.0


def test_a_reference_is_read_as_the_output_is():
    assert ExactMatch("1,200", extract=last_number)("", "so 1,200") == 1.0
    assert ExactMatch("none", extract=last_number)("", "so 5") == 0.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("about .5", ".5"),
        ("x = \u22125", "-5"),
        ("pages 12-13", "13"),
        ("(-7)", "-7"),
        ("p = 1e-5.", "1e-5"),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize("reference", ["", "  ", None, 42])
def test_an_answer_must_be_given(reference):
    with pytest.raises(ValueError, match="give the answer"):
        ExactMatch(reference)


def test_code_of_a_block_that_was_cut_off():
    assert code_of("```py\nx = 1\ny = 2") == "x = 1\ny = 2"
    assert code_of("x = 1") == "x = 1"


def test_code_in_a_list_is_indented_as_its_fence():
    text = "1. So:\n\n   ```python\n   if x:\n       y\n   ```\n"
    assert code_of(text) == "if x:\n    y\n"
    assert code_of("```\n    return 1\n```") == "    return 1\n"


def test_share_of_tests_passed():
    tests = ["assert add(1, 2) == 3", "assert add(2, 2) == 5", "assert add('a', 'b')"]
    assert UnitTests(tests)("", ADD) == pytest.approx(2 / 3)
    assert UnitTests(tests[:1])("", f"Sure:\n```python\n{ADD}```") == 1.0
    assert (
        UnitTests(tests[:1], prefix="def add(a, b):\n")("", "    return a + b") == 1.0
    )


@pytest.mark.parametrize(
    "output",
    [
        "def add(a, b:",  # no Python
        "import sys; sys.exit(0)",  # ends before the test
        "import os; os._exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "while True: pass",
        "print('x' * 10**7)",
    ],
)
def test_bad_code_fails_and_harms_nobody(output):
    judge = UnitTests(["assert True"], limits=Limits(seconds=1.0))
    assert judge("", output) == 0.0


@pytest.mark.parametrize(
    "extra", ["def print(*words): pass", "import io, sys\nsys.stdout = io.StringIO()"]
)
def test_code_may_do_with_its_output_what_it_likes(extra):
    assert UnitTests(["assert add(1, 2) == 3"])("", f"{ADD}{extra}") == 1.0
    assert UnitTests(["assert add(1, 2) == 4"])("", f"{ADD}{extra}") == 0.0


def test_code_is_imported():
    guarded = f"{ADD}\nif __name__ == '__main__':\n    add(input(), 1)\n"
    lazily = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    lazily += f"@dataclass\nclass A:\n    x: int\n{ADD}"
    for code in (guarded, lazily):
        assert UnitTests(["assert add(1, 2) == 3"])("", code) == 1.0


def test_code_may_have_threads():
    code = "from concurrent.futures import ThreadPoolExecutor as Pool\nimport time\n"
    code += "with Pool(16) as pool:\n    list(pool.map(time.sleep, [0.02] * 64))"
    assert UnitTests(["assert True"])("", code) == 1.0


@pytest.mark.parametrize("tests", [[], "assert True"])
def test_tests_are_a_list(tests):
    with pytest.raises(ValueError, match="at least one piece of code"):
        UnitTests(tests)


@pytest.mark.parametrize(
    ("right", "said", "wanted"),
    [
        ("29", "So it costs $29.00.", 1.0),
        ("1000", "about 1e3", 1.0),
        ("3/4", "The answer is 1/4.", 0.0),
        ("3/4", "The answer is \\boxed{\\frac{3}{4}}.", 1.0),
        ("0.5", "That is 50 %.", 1.0),
        ("3:1", "in a ratio of 2:1", 0.0),
        ("10", "5\u00d710\u00b3", 0.0),
        ("3", "an area of 3 m^2", 1.0),
        ("4", "\u03c0/4", 0.0),
        ("2\\sqrt{3}", "so $5\\sqrt{3}$", 0.0),
        ("(1, 2)", "It is at (3, 2).", 0.0),
        ("(1,2)", "It is at $(1, 2)$.", 1.0),
        ("6", "\\boxed{5, 6}", 0.0),
        ("12345", "12 345 people", 1.0),
    ],
)
def test_equal_numbers_are_right_and_others_wrong(right, said, wanted):
    assert ExactMatch(right, extract=last_number)("", said) == wanted


def test_numbers_need_no_extract():
    assert ExactMatch("29")("", "$29.00") == 1.0
    assert ExactMatch("29")("", "28") == 0.0


def test_tests_that_the_model_added_do_not_hide_its_code():
    """They import what is not there."""
    tests = "from solution import add\nassert add(1, 2) == 3\n"
    output = f"```python\n{ADD}```\nTests:\n```python\n{tests}```"
    assert UnitTests(["assert add(1, 2) == 3", "assert not add(0, 1)"])("", output) == (
        0.5
    )


@pytest.mark.parametrize(
    "output",
    ["    return a + b\n\nThis adds.", ADD, f"Sure:\n```python\n{ADD}```"],
    ids=["body and prose", "whole function", "fenced"],
)
def test_an_answer_to_a_signature(output):
    judge = UnitTests(["assert add(1, 2) == 3"], prefix="def add(a, b):\n")
    assert judge("", output) == 1.0


def test_where_nothing_confines_code_it_can_be_asked_for():
    judge = UnitTests(["assert add(1, 2) == 3"], measures=())
    assert judge("", ADD) == 1.0


def marker(program):
    """What a program writes at its very end."""
    return re.findall(r"b'([0-9a-f]{32})'", program)[-1]


def passes_in_line(program, limits, measures):
    """What the sandbox would say of a program that can be trusted; no process."""
    out = io.StringIO()
    wanted = marker(program)
    *kept, _ = program.removeprefix(rewards._IMPORT).rstrip("\n").split("\n")
    try:
        with contextlib.redirect_stdout(out):
            exec("\n".join(kept), {"__name__": "answer"})
    except BaseException:
        return Run(1, out.getvalue(), "", ())
    return Run(0, out.getvalue() + wanted, "", ())


TESTS = ["assert f(1) == 1", "assert f(2) == 4", "assert f(3) == 9", "assert f(0) == 0"]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("x * x", 1.0),
        ("x", 0.5),
        ("4", 0.25),
        ("-x", 0.25),
        ("1 / 0", 0.0),
        ("exit()", 0.0),
        ("[][x]", 0.0),
        ("float('nan')", 0.0),
    ],
)
def test_the_reward_is_the_share_of_tests_by_hand(monkeypatch, body, wanted):
    monkeypatch.setattr(rewards, "run_python", passes_in_line)
    code = f"def f(x):\n    return {body}\n"
    for output in (code, f"So:\n```python\n{code}```\nDone."):
        assert UnitTests(TESTS)("", output) == wanted


def test_the_marker_of_the_end_is_another_each_time(monkeypatch):
    """Else code could print the one that it has seen."""
    ends = []

    def noted(program, limits, measures):
        ends.append(marker(program))
        return Run(0, "", "", ())

    monkeypatch.setattr(rewards, "run_python", noted)
    assert UnitTests(TESTS)("", "x = 1") == 0.0
    assert len(set(ends)) == len(ends) >= len(TESTS)


@pytest.mark.parametrize("returncode", [1, None, -9])
def test_a_program_that_did_not_end_well_has_not_passed(monkeypatch, returncode):
    """Though it wrote everything that it should."""
    monkeypatch.setattr(
        rewards, "run_python", lambda program, *_: Run(returncode, program, "", ())
    )
    assert UnitTests(TESTS)("", "x = 1") == 0.0


def test_limits_and_measures_are_handed_on(monkeypatch):
    given, limits = [], Limits(seconds=3.0)

    def noted(program, *rest):
        given.append(rest)
        return Run(1, "", "", ())

    monkeypatch.setattr(rewards, "run_python", noted)
    UnitTests(TESTS, limits=limits, measures=("filter",))("", "x = 1")
    assert set(given) == {(limits, ("filter",))}


@pytest.mark.parametrize(
    ("reference", "said", "wanted"),
    [
        ("1, 2, 3", "\\boxed{1,2,3}", 1.0),
        ("(1, 2)", "the point is (1,2)", 1.0),
        ("1, 2, 3", "\\boxed{1,2,4}", 0.0),
        ("1/3", "0.\\overline{3}", 1.0),
        ("3", "0.\\overline{3}", 0.0),
        ("0x1F", "it prints 31", 1.0),
        ("0x1F", "it prints 0x2A", 0.0),
        ("1/2", "half, 50%", 1.0),
        ("$1,000", "1000 dollars", 1.0),
        ("1.5 million", "1,500,000", 1.0),
        ("1.5 million", "1.5", 0.0),
        ("12:30", "at 12:30", 1.0),
        ("12:30", "at 12:45", 0.0),
        ("\u221a2", "\\sqrt{2}", 1.0),
        ("2\u03c0", "2\\pi", 1.0),
        ("2\u03c0", "\\pi", 0.0),
        ("2020-05-12", "on 2020-05-12.", 1.0),
        ("-5", "(-5)", 1.0),
        ("Paris", "no number", 0.0),
    ],
)
def test_answers_of_every_form_are_right_or_wrong(reference, said, wanted):
    assert ExactMatch(reference, extract=last_number)("", said) == wanted


@given(st.text(max_size=30))
def test_normalised_text_stays_as_it_is(text):
    once = normalised(text)
    assert normalised(once) == once
    assert normalised(f"\n {text}\t") == once
    assert once == once.strip()
