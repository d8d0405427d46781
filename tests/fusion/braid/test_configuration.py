import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.braid.configuration import BraidConfig, bridge_layer, by_hand


def config(**changes):
    recipe = {
        "anchor": "a",
        "donors": ["b"],
        "shares": [0.7, 0.3],
        "fusion_layers": [0, "final", "output"],
        "strategy": "router",
    }
    return BraidConfig(**{**recipe, **changes})


def test_a_good_recipe_passes():
    config().check(anchor_layers=1)
    config(shares=[1.0, 0.0]).check(1)
    BraidConfig("a").check(1)
    BraidConfig("a", fusion_layers=["final"], strategy="attention").check(1)


@pytest.mark.parametrize(
    "shares",
    [
        {"b": 0.3, "a": 0.7},
        pd.Series({"b": 0.3, "a": 0.7}),
        pd.Series([0.7, 0.3]),
        (0.7, 0.3),
    ],
)
def test_shares_by_name(shares):
    assert config(shares=shares).shares == [0.7, 0.3]
    configs = [{"model_name": "a"}, {"model_name": "b"}]
    assert by_hand(configs, "router", ["final"], shares).shares == [0.7, 0.3]


@pytest.mark.parametrize(
    "shares",
    [
        {"a": 0.7, "c": 0.3},
        {"a": 1.0},
        {"a": 0.5, "b": 0.3, "c": 0.2},
        pd.Series([0.7, 0.3], index=["a", "a"]),
        pd.Series([0.7, 0.3], index=[1, 0]),
    ],
)
def test_shares_of_other_names_are_refused(shares):
    with pytest.raises(ValueError, match=r"expected each of \['a', 'b'\] once"):
        config(shares=shares)


def test_a_share_is_said_once():
    configs = [{"model_name": "a", "share": 1}, {"model_name": "b"}]
    with pytest.raises(ValueError, match="not both"):
        by_hand(configs, "router", ["final"], [0.5, 0.5])


def test_what_is_not_said_by_hand_is_usual():
    usual = by_hand([{"model_name": "a"}, {"model_name": "b"}])
    assert usual.fusion_layers == ["final", "output"]
    assert (usual.strategy, usual.fuse) == ("learned_weighted", "always")
    assert by_hand([{"model_name": "a"}], layers=[]).strategy is None


def test_sets_have_no_order():
    for changes in ({"shares": {0.7, 0.3}}, {"donors": {"b"}}):
        with pytest.raises(TypeError, match="a set, which has no order"):
            config(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"shares": [1.0]}, ValueError, "1 shares for 2 strands"),
        ({"shares": [0.7, 0.7]}, ValueError, "sum to 1"),
        ({"shares": [1.3, -0.3]}, ValueError, ">= 0"),
        ({"shares": [float("nan"), 0.5]}, ValueError, "shares"),
        ({"strategy": "magic"}, ValueError, "unknown strategy 'magic'"),
        ({"strategy": None}, ValueError, "unknown strategy None"),
        ({"fusion_layers": []}, ValueError, "without fusion layers"),
        (
            {"fusion_layers": [], "strategy": None},
            ValueError,
            "at least one fusion layer",
        ),
        ({"fusion_layers": [4]}, ValueError, "layers 0 to 3"),
        ({"fusion_layers": [-1]}, ValueError, "beyond the anchor"),
        ({"fusion_layers": ["first"]}, TypeError, "'first'"),
        ({"fusion_layers": [True]}, TypeError, "True"),
        ({"fusion_layers": [1.0]}, TypeError, "1.0"),
        (
            {"donors": [], "shares": [1.0], "fusion_layers": ["output"]},
            ValueError,
            "need a donor",
        ),
    ],
)
def test_a_bad_recipe_is_refused(changes, error, says):
    with pytest.raises(error, match=says):
        config(**changes).check(anchor_layers=4)


@pytest.mark.parametrize(
    ("layers", "strategy", "lost"),
    [
        (["output"], "router", "output"),
        ([0, "output"], "router", "output"),
        (["final"], "router", "final"),
        ([0, "final"], "learned_weighted", "final"),
        ([3], "router", "3"),
    ],
)
def test_a_prompt_that_would_not_reach_the_text_is_refused(layers, strategy, lost):
    recipe = config(fusion_layers=layers, strategy=strategy, fuse="prompt")
    with pytest.raises(ValueError, match=f"layers .*{lost}.*the first new token only"):
        recipe.check(anchor_layers=4)


@pytest.mark.parametrize(
    ("layers", "strategy"),
    [([0, 2], "router"), (["final"], "attention"), ([3, "final"], "attention")],
)
def test_a_prompt_that_reaches_the_text_passes(layers, strategy):
    config(fusion_layers=layers, strategy=strategy, fuse="prompt").check(4)


def test_an_unknown_fuse_is_refused():
    with pytest.raises(ValueError, match="unknown fuse 'sometimes'"):
        config(fuse="sometimes").check(4)


def test_round_trips_as_a_file(tmp_path):
    before = config(sources={"a": "somewhere/a", "b": "b.gguf"}, fuse="prompt")
    before.save_pretrained(tmp_path)
    after = BraidConfig.from_pretrained(tmp_path)
    keys = ("anchor", "donors", "shares", "fusion_layers", "strategy", "sources")
    for key in (*keys, "fuse"):
        assert getattr(after, key) == getattr(before, key)
    assert after.model_type == "braid"


@given(a=st.integers(1, 80), d=st.integers(1, 80))
def test_bridges_keep_order_and_meet_at_the_top(a, d):
    layers = [bridge_layer(i, a, d) for i in range(a)]
    assert layers == sorted(layers)
    assert layers[0] >= 0
    assert layers[-1] == d - 1


def test_a_recipe_by_hand_names_every_model_once():
    entry = {"model_name": "a", "source": "here"}
    with pytest.raises(ValueError, match="named once"):
        by_hand([entry, {**entry, "source": "there"}], "router", ["final"], None)
    none = [{"model_name": name, "share": 0} for name in "ab"]
    with pytest.raises(ValueError, match="come to nothing"):
        by_hand(none, "router", ["final"], None)
