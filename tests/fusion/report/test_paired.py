import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.report.paired import Difference, accuracy, mean_of_sets, over_sets, paired


def test_by_hand():
    """Differences 1, 0, -1, 1; with 1 and -1 half each and a 0 added, n is 6."""
    found = paired([1, 1, 0, 1], [0, 1, 1, 0])
    assert found.mean == 0.25
    middle = 1 / 6
    half = 1.96 * math.sqrt(((3 + 1) / 6 - middle**2) / 6)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half))


def test_no_difference_is_not_certain():
    found = paired([1, 0, 1], [1, 0, 1])
    assert found.mean == 0
    assert found.low < -0.3
    assert found.high > 0.3


def test_each_set_counts_the_same():
    mine, other = {"a": [1, 1], "b": [0] * 8}, {"a": [0, 0], "b": [0] * 8}
    assert over_sets(mine, other).mean == 0.5
    assert mean_of_sets(mine) == 0.5
    assert accuracy(mine) == {"a": 1.0, "b": 0.0}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1), st.integers(1, 3))
def test_turned_round_it_is_the_negative(pairs, sets):
    mine = {str(s): [float(a) for a, _ in pairs] for s in range(sets)}
    other = {str(s): [float(b) for _, b in pairs] for s in range(sets)}
    one, two = over_sets(mine, other), over_sets(other, mine)
    assert one.mean == pytest.approx(-two.mean)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low))
    assert one.low < one.high


def test_it_holds_the_truth_19_times_in_20():
    """800 draws of 60 pairs, a mean difference of 0.1: within four standard errors."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(800):
        mine = (generator.random(60) < 0.6).astype(float)
        other = np.where(generator.random(60) < 0.5, mine, generator.random(60) < 0.4)
        found = paired(mine, other)
        held += found.low <= 0.5 * (0.6 - 0.4) <= found.high
    assert abs(held / 800 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 800)


def test_other_questions_are_refused():
    with pytest.raises(ValueError, match="1 and 2 questions of 'a'"):
        over_sets({"a": [1]}, {"a": [1, 0]})


def test_in_points():
    assert Difference(-0.012, -0.03, 0.006).told == "-1.2 [-3.0, +0.6]"
