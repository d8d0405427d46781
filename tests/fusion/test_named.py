"""Numbers by name come into the expected order; those without a name stay in theirs."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion._named import in_order

NUMBERS = st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False), min_size=1)


@given(numbers=NUMBERS, data=st.data())
def test_the_order_of_names_decides(numbers, data):
    names = data.draw(st.permutations(list(numbers)))
    wanted = [numbers[name] for name in names]
    assert in_order(numbers, names, "shares") == wanted
    assert in_order(pd.Series(numbers), names, "shares") == wanted
    assert in_order(wanted, names, "shares") == wanted


def test_labels_that_pandas_gives_are_no_names():
    assert in_order(pd.Series([0.7, 0.3]), ["a", "b"], "shares") == [0.7, 0.3]


def test_a_set_and_other_names_are_refused():
    with pytest.raises(TypeError, match="shares is a set, which has no order"):
        in_order({0.5}, ["a"], "shares")
    with pytest.raises(ValueError, match=r"weights is of \['c'\], expected each of"):
        in_order({"c": 1.0}, ["a"], "weights")
