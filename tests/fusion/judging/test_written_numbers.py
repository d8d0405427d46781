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
