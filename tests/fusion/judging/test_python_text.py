import ast
import warnings

import pytest

from fusion.judging.python_text import (
    is_code,
    longest,
    only_uses,
    parses,
    sets,
    tree_of,
)


@pytest.mark.parametrize(
    ("code", "whether"),
    [
        ("x = 1", True),
        ("    return x", True),
        ("\treturn x", True),
        ("return", True),
        ("def f(x:", False),
        ("x\0", False),
        ("(" * 5000, False),
        ("", True),
    ],
    ids=range(8),
)
def test_what_parses(code, whether):
    assert parses(code) is whether


def test_odd_escapes_warn_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tree_of(r"x = '\d'") is not None


@pytest.mark.parametrize(
    ("statement", "whether"),
    [
        ("Done", False),
        ("Complexity: linear", False),
        ("This is linear", False),
        ("f(x) is None", True),
        ("x: int = 1", True),
        ("print(x)", True),
        ("'a docstring'", True),
        ("import os", True),
    ],
)
def test_words_that_happen_to_be_python_are_no_code(statement, whether):
    [node] = ast.parse(statement).body
    assert is_code(node) is whether


@pytest.mark.parametrize(
    ("code", "uses", "assigns"),
    [
        ("f(1)", True, False),
        ("assert x", True, False),
        ("x = f(1)", True, True),
        ("def f():\n    g()", False, True),
        ("import f\nf.g()", False, False),
        ("class A: pass", False, True),
        ("x + 1", False, False),
        ("no code", False, False),
    ],
)
def test_what_code_does(code, uses, assigns):
    assert only_uses(code) is uses
    assert sets(code) is assigns


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("x = 1\ny = 2\n", 2),
        ("x = 1\nThis adds.\ny = 2\n", 1),
        ("x = 1\nDone\n", 1),
        ("def f(\n", 0),
        ("Sure\n", 0),
        ("# a remark alone\n", 0),
    ],
)
def test_the_longest_beginning_that_is_code(text, count):
    lines = text.splitlines(keepends=True)
    assert longest(lambda end: "".join(lines[:end]), 0, len(lines)) == count


def test_lines_in_front_of_the_first_do_not_count():
    lines = ["    return 1\n", "That is it.\n"]
    found = longest(lambda end: "def f():\n" + "".join(lines[:end]), 1, len(lines))
    assert found == 1
