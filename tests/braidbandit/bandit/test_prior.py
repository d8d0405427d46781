import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidbandit.bandit.prior import GROUPS, PriorScales, parameter_groups


def test_what_has_slopes_and_what_has_none():
    names = ["bias", "share:a", "anchor:a", "pair:a+b", "gain:mean", "layers:final"]
    groups = parameter_groups(names, 3)
    said = [[GROUPS[g] if g >= 0 else None for g in row[:2]] for row in groups]
    assert said == [
        ["intercept", "task"],
        ["braid", "interaction"],
        ["knob", None],
        ["pair", None],
        ["gain", None],
        ["knob", "knob_slope"],
    ]
    assert (groups[:, 2] == groups[:, 1]).all()


@pytest.mark.parametrize("name", ["noise", "gain", "arm_slope"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scales_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        PriorScales(**{name: value})


def test_every_group_is_a_scale():
    assert set(GROUPS) <= set(PriorScales().to_dict())


@settings(max_examples=40)
@given(
    st.lists(
        st.sampled_from(["bias", "share:a", "anchor:b", "cost", "pair:a+b", "size"]),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 5),
)
def test_rows_depend_on_their_name_only(names, k):
    """Each row is that of its column alone, and never has a hole before a slope."""
    groups = parameter_groups(names, k)
    assert groups.shape == (len(names), k)
    for name, row in zip(names, groups, strict=True):
        np.testing.assert_array_equal(row, parameter_groups([name], k)[0])
        assert row[0] >= 0
        assert len(set(row[1:])) <= 1


@pytest.mark.parametrize("name", ["", "bias:x", "Share:a", "share", ":", "size:1:2"])
def test_what_is_before_the_colon_decides(name):
    """A name that is none of the known kinds is a knob, of any spelling."""
    level = GROUPS[parameter_groups([name], 1)[0, 0]]
    known = {"": "knob", "bias:x": "intercept", "share": "braid"}
    assert level == known.get(name, "knob")


def test_scales_are_a_value():
    scales = PriorScales(noise=0.1)
    assert PriorScales(**scales.to_dict()) == scales
    assert hash(PriorScales(**scales.to_dict())) == hash(scales)
    with pytest.raises(FrozenInstanceError):
        scales.noise = 0.2
    assert json.loads(json.dumps(scales.to_dict())) == scales.to_dict()


@pytest.mark.parametrize("mean", [-3.0, 0.0, 1e6])
def test_a_mean_may_be_any_finite_number(mean):
    assert PriorScales(mean=mean).mean == mean
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="prior scale mean .* received"):
            PriorScales(mean=value)
