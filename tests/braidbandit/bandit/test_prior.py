import pytest

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
