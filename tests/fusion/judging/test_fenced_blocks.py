import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.judging.fenced_blocks import blocks

FENCE = "`" * 3
CODE = "if x:\n    y = 1\n"


@pytest.mark.parametrize(
    ("info", "language"),
    [
        ("", ""),
        ("python", "python"),
        ("Python", "python"),
        ("{.python}", "python"),
        (' python title="a.py"', "python"),
        ("c++", "c++"),
        ("objective-c", "objective-c"),
    ],
)
def test_the_language_is_the_first_word(info, language):
    assert list(blocks(f"{FENCE}{info}\n{CODE}{FENCE}\n")) == [(language, CODE)]


def test_or_the_first_line_of_the_block():
    assert list(blocks(f"{FENCE}\npython\n{CODE}{FENCE}")) == [("python", CODE)]
    assert list(blocks(f"{FENCE}\nruby\n{CODE}{FENCE}")) == [("", f"ruby\n{CODE}")]


@pytest.mark.parametrize("margin", ["", "  ", "      "])
@pytest.mark.parametrize("fence", ["```", "~~~", "`````"])
def test_the_margin_is_that_of_the_fence(margin, fence):
    text = textwrap.indent(f"{fence}py\n{CODE}{fence}\n", margin)
    assert list(blocks(f"So:\n\n{text}Done.")) == [("py", CODE)]


def test_every_block_in_its_order():
    text = f"a\n{FENCE}sh\nls\n{FENCE}\nb\n{FENCE}py\nx\n{FENCE}\n{FENCE}y = 1{FENCE}\n"
    assert list(blocks(text)) == [("sh", "ls\n"), ("py", "x\n"), ("", "y = 1\n")]


def test_a_longer_fence_holds_a_shorter_one():
    inner = f"{FENCE}py\n{CODE}{FENCE}\n"
    assert list(blocks(f"````md\n{inner}````\n")) == [("md", inner)]


def test_a_block_that_nothing_closes_goes_to_the_end():
    assert list(blocks(f"{FENCE}py\nx = (\n")) == [("py", "x = (\n")]


def test_a_fence_that_closes_what_the_prompt_opened():
    assert list(blocks(f"{CODE}{FENCE}\nThis sets y.")) == [("", CODE)]


@given(st.lists(st.sampled_from(["x = 1", "a b", "  c", FENCE, "```py", "~~~", "> d"])))
def test_any_text_comes_to_an_end(lines):
    text = "\n".join(lines)
    for _, content in blocks(text):
        assert len(content) <= len(text) + 1
