from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.judging.written_numbers import last_number, same_number


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


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("\\boxed{1,2,3}", "1, 2, 3"),
        ("\\boxed{\\{1,2\\}}", "1, 2"),
        ("so (1000,200).", "1000, 200"),
        ("so [4,-5,6]", "4, -5, 6"),
        ("in all (1,234,567)", "1234567"),
        ("in all (12,34,567)", "1234567"),
        ("at (10,000)", "10000"),
        ("{3,4}", "3, 4"),
    ],
)
def test_numbers_in_brackets_are_several_unless_they_are_the_thousands_of_one(
    text, number
):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.\\overline{3}", "1/3"),
        ("0.1\\overline{6}", "1/6"),
        ("-0.\\bar{3}", "-1/3"),
        ("33.\\overline{3}", "100/3"),
        ("\\boxed{0.\\overline{142857}}", "1/7"),
        ("0.\\overline{9}", "1"),
    ],
)
def test_digits_that_recur_are_a_fraction_and_not_a_number_of_their_own(text, number):
    assert last_number(text) == number
    assert same_number(text, number) is True


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("it prints 0x1F", "31"),
        ("it prints 0b101.", "5"),
        ("it prints `0o17`", "15"),
        ("0xFF is 255", "255"),
        ("3.0x10^5", "3.0e5"),
    ],
)
def test_numbers_as_programs_write_them_are_read_to_their_end(text, number):
    """Else 0x1F and 0x2A would both be 0."""
    assert last_number(text) == number


@given(st.integers(0, 2**60), st.sampled_from(["#x", "#b", "#o"]))
def test_every_base_is_the_same_number(number, form):
    assert same_number(format(number, form), str(number)) is True


@given(st.integers(0, 99), st.text("0123456789", max_size=3), st.integers(1, 9998))
def test_a_recurring_decimal_is_the_limit_of_its_digits(whole, once, recurs):
    """Cut off after 60 digits it is that close to the fraction."""
    digits = f"{once}{str(recurs) * 60}"[:60]
    cut = Fraction(int(f"{whole}{digits}"), 10**60)
    found = Fraction(last_number(f"{whole}.{once}\\overline{{{recurs}}}"))
    assert abs(found - cut) <= Fraction(1, 10**59)


# What chat models wrote at the end of an answer, where 42 is right.
RIGHT = [
    "42",
    "42.",
    "**42**",
    "#### 42",
    "The answer is 42.",
    "**Answer:** 42",
    "Final answer: $42$",
    "$$\n42\n$$",
    "\\[\\boxed{42}\\]",
    "\\(\\boxed{42}\\).",
    "\\boxed{x = 42}",
    "\\boxed{42\\text{ cm}}",
    "\\boxed{42\\text{ cm}^2}",
    "\\fbox{42}",
    "<answer>42</answer>",
    "The answer is: 42\n<|im_end|>",
    "6 \u00d7 7 = 42",
    "6 * 7 = 42",
    "40 + 2 = 42 apples",
    "1. Multiply 6 by 7.\n2. That is it.\n\nAnswer: 42",
    "| total | 42 |",
    "- total: 42",
    "> 42",
    "answer=42",
    "x \\approx 42",
    "\u2248 42",
    "\u2192 42 \u2705",
    "42 (forty-two)",
    "It costs $42.00.",
    "42\u20ac",
    "EUR 42",
    "42 km/h",
    "42 m\u00b2",
    "42\u00b0C",
    "42^\\circ",
    "`42`",
    "```\n42\n```",
    "\uff14\uff12",
    "+42",
    "042",
    "4.2 \u00d7 10\u00b9",
    "4.2e1",
    "4.2 \\times 10^{1}",
    "\\frac{84}{2}",
    "84/2",
    "It is 42nd",
]
WRONG = [
    "41",
    "-42",
    "\u221242",
    "x = -42",
    "420",
    "4.2",
    "42.5",
    "42,5",
    "142",
    "42/5",
    "1/42",
    "42:1",
    "42 thousand",
    "42k",
    "42^2",
    "42\u00b2",
    "2\u221a42",
    "\\sqrt{42}",
    "42e3",
    "42, 43",
    "4 2",
    "42 \u00b1 1",
    "0x42",
    "42.\\overline{3}",
    "42\u03c0",
    "42 1/2",
    "CO42",
    "",
    "forty-two",
    "\\boxed{}",
    "\\boxed{42}, no, \\boxed{43}",
]


@pytest.mark.parametrize("output", RIGHT)
def test_the_right_answer_is_right_however_it_is_put(output):
    assert same_number(last_number(output), "42") is True


@pytest.mark.parametrize("output", WRONG)
def test_an_answer_that_only_looks_right_is_wrong(output):
    assert same_number(last_number(output), "42") is not True


@given(st.text("0123456789.,-+/:^%$(){}[]\\ ex\u221a\u00bd\u00b2e", max_size=40))
def test_any_text_is_read_and_read_again_as_the_same(text):
    found = last_number(text)
    assert same_number(found, found) in (True, None)
    assert same_number(text, text) in (True, None)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["boxed", "fbox"]))
def test_what_stands_in_the_last_box_wins_over_all_other_numbers(number, box):
    text = f"7 = \\{box}{{3}}, so \\{box}{{{number:,}}} by 12 steps"
    assert last_number(text) == str(number)
