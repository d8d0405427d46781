import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.braid.configuration import (
    BraidConfig,
    bridge_layer,
    by_hand,
    one_recipe,
)


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


def test_the_name_of_one_donor_is_no_list_of_donors():
    """A text would be taken for the names of its letters."""
    with pytest.raises(TypeError, match="a list of names; received the text 'gemma'"):
        config(donors="gemma")


@pytest.mark.parametrize(
    ("taps", "says"),
    [
        ({"c": {0: 1}}, r"donor_layers names 'c', the donors are \['b'\]"),
        ({"b": {1: 1}}, "feeds layer 1 from layer 1 of 'b'; expected one of"),
        ({"b": {0: 3}}, "feeds layer 0 from layer 3 of 'b'.*from 0 to 2"),
        ({"b": {0: -1}}, "feeds layer 0 from layer -1"),
    ],
)
def test_donor_layers_that_are_not_there_are_refused(taps, says):
    with pytest.raises(ValueError, match=says):
        config(donor_layers=taps).check_donor_layers({"b": 3})


def test_donor_layers_have_numbers_again_after_a_file(tmp_path):
    before = config(donor_layers={"b": {0: 2}})
    before.check_donor_layers({"b": 3})
    before.save_pretrained(tmp_path)
    assert BraidConfig.from_pretrained(tmp_path).donor_layers == {"b": {0: 2}}


BY_HAND = [{"model_name": "a"}, {"model_name": "b"}]


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ((None, None), TypeError, "give a BraidConfig and strands, or model_configs"),
        ((config(), BY_HAND), ValueError, r"received both, \[\] among them"),
        ((config(), None, "router"), ValueError, r"\['fusion_strategy'\] among them"),
        ((config(), None, None, [0]), ValueError, r"\['fusion_layers'\] among"),
        (
            (config(), None, None, None, [0.5, 0.5], "prompt"),
            ValueError,
            r"\['shares', 'fuse'\] among them",
        ),
        ((BraidConfig(), None), ValueError, "names no anchor"),
        ((None, []), ValueError, "model_configs is empty; name at least one model"),
        ((None, [{"source": "here"}]), KeyError, "a model config has 'model_name'"),
        ((None, [{"model_name": "a", "weight": 1}]), KeyError, "received .*'weight'"),
    ],
)
def test_a_recipe_is_said_once_and_in_one_way(given, error, says):
    with pytest.raises(error, match=says):
        one_recipe(*given)


def test_a_configuration_that_says_everything_is_taken_as_it_is():
    mine = config()
    assert one_recipe(mine, None) is mine


@given(parts=st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_shares_by_hand_are_scaled_to_one_and_keep_their_ratios(parts):
    entries = [
        {"model_name": str(i), "share": share, "source": f"folder/{i}"}
        for i, share in enumerate(parts)
    ]
    recipe = by_hand(entries, layers=["final"])
    recipe.check(anchor_layers=1)
    assert recipe.shares == pytest.approx([p / sum(parts) for p in parts])
    assert (recipe.anchor, *recipe.donors) == tuple(map(str, range(len(parts))))
    assert recipe.sources["0"] == "folder/0"


def test_a_recipe_takes_over_what_its_anchor_is(strands):
    recipe, gemma = config(), strands["gemma"]
    recipe.take_over(gemma)
    assert (recipe.vocab_size, recipe.hidden_size) == (gemma.vocab_size, 48)
    assert (recipe.num_hidden_layers, recipe.max_position_embeddings) == (6, 512)
    assert recipe.eos_token_id == gemma.tokenizer.eos_token_id
    assert not recipe.tie_word_embeddings
    recipe.note_sources([gemma, strands["llama"]])
    assert recipe.sources == {"gemma": "gemma", "llama": "llama"}
