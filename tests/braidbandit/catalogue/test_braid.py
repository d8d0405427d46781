import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Braid, ModelCard
from braidbandit.catalogue.braid import STRATEGIES


def test_id_is_a_content_hash_that_survives_the_recipe():
    braid = Braid("a", ("b",), (0.7, 0.3), ("output", 4, 2, "final"), "router")
    assert braid.fusion_layers == (2, 4, "final", "output")
    assert Braid.from_recipe(braid.recipe()) == braid
    assert len(braid.id) == 16
    assert braid.id != dataclasses.replace(braid, shares=(0.6, 0.4)).id
    assert hash(braid) == hash(Braid.from_recipe(braid.recipe()))


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        (("output",), "output"),
        (("final",), "final"),
        (("output", "final"), "final+output"),
        ((20, 24, 28), "sparse"),
        ((10, 12, 14, 17, 19, 21, 24, 26, 28), "dense"),
        (tuple(range(9)), "custom"),
        ((0, 1, 2), "custom"),
        ((0, 4, 8, 12), "custom"),
        ((1, 2, "final"), "custom"),
    ],
)
def test_layer_set_names(layers, name):
    assert Braid("a", ("b",), (0.5, 0.5), layers, "router").layer_set == name


def test_plain_and_control():
    assert Braid("a").is_single
    assert Braid("a").layer_set == "plain"
    control = Braid("a", fusion_layers=("final",), strategy="learned_weighted")
    assert control.is_control
    assert not control.is_single


@pytest.mark.parametrize(
    "arguments",
    [
        ("",),
        ("a", ("a",), (0.5, 0.5), ("final",), "router"),
        ("a", ("b",), (1.0,), ("final",), "router"),
        ("a", ("b",), (0.5, 0.6), ("final",), "router"),
        ("a", ("b",), (1.0, 0.0), ("final",), "router"),
        ("a", ("b",), (0.5, 0.5), (), None),
        ("a", ("b",), (0.5, 0.5), ("middle",), "router"),
        ("a", ("b",), (0.5, 0.5), (-1,), "router"),
        ("a", ("b",), (0.5, 0.5), (1, 1), "router"),
        ("a", ("b",), (0.5, 0.5), ("final",), "mix"),
        ("a", ("b",), (0.5, 0.5), ("output",), "attention"),
        ("a", (), (1.0,), ("output",), "router"),
        ("a", (), (1.0,), (), "router"),
        ("a", ("b",), (float("nan"), 0.5), ("final",), "router"),
    ],
)
def test_impossible_braids_are_refused(arguments):
    with pytest.raises(
        ValueError, match="received|unknown|needs|has no|layer|attention"
    ):
        Braid(*arguments)


def test_unknown_recipe_key_is_refused():
    with pytest.raises(KeyError, match="layerz"):
        Braid.from_recipe({"anchor": "a", "layerz": []})


def test_card_from_pool_dict():
    card = ModelCard.from_dict({"model_name": "m", "domain": "code"})
    assert (card.name, card.source, card.domain) == ("m", "m", "code")
    with pytest.raises(KeyError, match=r"sise.*parameters"):
        ModelCard.from_dict({"model_name": "m", "sise": 3})
    with pytest.raises(KeyError, match="model_name"):
        ModelCard.from_dict({"domain": "code"})
    with pytest.raises(ValueError, match="layers"):
        ModelCard("m", layers=0)


NAMES = st.text("ab é/", min_size=1, max_size=6)
LAYERS = st.sets(st.integers(0, 60) | st.sampled_from(["final", "output"]), min_size=1)


@st.composite
def any_braid(draw):
    """A braid of any strands, whole parts for shares, any layers and strategy."""
    strands = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    parts = draw(
        st.lists(st.integers(1, 99), min_size=len(strands), max_size=len(strands))
    )
    shares = [part / sum(parts) for part in parts]
    layers = draw(LAYERS | st.just(set()) if len(strands) == 1 else LAYERS)
    if len(strands) == 1:
        layers = layers - {"output"}
    known = [s for s in STRATEGIES if s != "attention" or layers != {"output"}]
    strategy = draw(st.sampled_from(known)) if layers else None
    order = draw(st.permutations(sorted(layers, key=str)))
    return Braid(strands[0], strands[1:], shares, order, strategy)


@given(any_braid())
def test_any_recipe_comes_back_with_its_id(braid):
    """Also by way of JSON, and with the layers and shares written otherwise."""
    recipe = braid.recipe()
    again = Braid.from_recipe(json.loads(json.dumps(recipe)))
    assert again == braid
    assert (again.id, hash(again)) == (braid.id, hash(braid))
    recipe["fusion_layers"].reverse()
    recipe["shares"] = dict(zip(braid.strands[::-1], braid.shares[::-1], strict=True))
    assert Braid.from_recipe(recipe).id == braid.id


@given(any_braid(), any_braid())
def test_braids_are_equal_exactly_where_their_ids_are(one, other):
    assert (one == other) == (one.id == other.id)


@given(any_braid())
def test_a_braid_is_single_or_control_or_has_donors(braid):
    assert [braid.is_single, braid.is_control, bool(braid.donors)].count(True) == 1
    words = [word for word in ("final", "output") if word in braid.fusion_layers]
    assert braid.fusion_layers == (*sorted(braid.mid_layers), *words)
    assert braid.strands == (braid.anchor, *braid.donors)
    assert len(braid.strands) == len(braid.shares)


def test_an_id_is_the_same_in_every_version():
    """Ledgers and saved agents name arms by it: it must never change."""
    braid = Braid("gemma", ("smol",), (0.7, 0.3), ("final", "output"), "router")
    assert Braid("gemma").id == "18e76ef742f4183d"
    assert braid.id == "4a1b9ea8618cc6dd"


def test_a_recipe_that_is_changed_changes_no_braid():
    braid = Braid("a", ("b",), (0.5, 0.5), ("final",), "router")
    before = braid.id
    for recipe in (braid.recipe(), braid.recipe()):
        recipe["donors"].append("c")
        recipe["shares"].clear()
        recipe["fusion_layers"][0] = "output"
    assert braid.recipe()["donors"] == ["b"]
    assert Braid.from_recipe(braid.recipe()).id == before


@pytest.mark.parametrize(
    ("braid", "label"),
    [
        (Braid("a"), "a alone"),
        (
            Braid("a", (), (1,), (3,), "attention"),
            "a fed its own states, attention at 1 layer",
        ),
        (
            Braid("a", ("b", "c"), (0.5, 0.375, 0.125), ("output", 2, 1), "router"),
            "a 50% + b 38% + c 12%, router at 2 layers and at the output",
        ),
        (
            Braid("a", ("b",), (0.9, 0.1), (1, "output", "final"), "learned_weighted"),
            "a 90% + b 10%, learned_weighted at 1 layer and after the final norm and "
            "at the output",
        ),
    ],
)
def test_labels_by_hand(braid, label):
    assert braid.label() == label


PAIR = {
    "anchor": "a",
    "donors": ("b",),
    "shares": (0.5, 0.5),
    "fusion_layers": ("final",),
    "strategy": "router",
}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"donors": "b"}, TypeError, "tuples, not text"),
        ({"fusion_layers": "final"}, TypeError, "tuples, not text"),
        ({"donors": {"b"}}, TypeError, "donors is a set, which has no order"),
        ({"anchor": 3}, ValueError, "strands are named by text, received 3"),
        ({"donors": ("",)}, ValueError, "strands are named by text, received ''"),
        ({"donors": ("a",)}, ValueError, r"must differ, received \['a', 'a'\]; for a"),
        ({"shares": (1.0,)}, ValueError, "received 1 shares for 2 strands"),
        ({"shares": {"a": 0.5, "c": 0.5}}, ValueError, r"missing .*'b'.*unknown .*'c'"),
        ({"shares": (1.5, -0.5)}, ValueError, "each be above 0 and sum to 1"),
        ({"shares": (0.5, 0.5 + 1e-6)}, ValueError, "each be above 0 and sum to 1"),
        ({"shares": (float("inf"), 0.5)}, ValueError, "each be above 0 and sum to 1"),
        ({"fusion_layers": (True,)}, ValueError, "fusion layer True is not"),
        ({"fusion_layers": (1.0,)}, ValueError, "fusion layer 1.0 is not"),
        ({"fusion_layers": ("final",) * 2}, ValueError, "layers must differ"),
        ({"fusion_layers": ()}, ValueError, "with donors needs fusion_layers"),
        ({"strategy": None}, ValueError, "strategy None is unknown; expected one"),
        ({"donors": (), "shares": (1,), "fusion_layers": ()}, ValueError, "no strat"),
        (
            {"donors": (), "shares": (1,), "fusion_layers": ("final", "output")},
            ValueError,
            "needs at least one donor",
        ),
        (
            {"fusion_layers": ("output",), "strategy": "attention"},
            ValueError,
            "attention has nothing to read there",
        ),
        ({"anchr": "a"}, KeyError, r"received unknown keys \['anchr'\]"),
    ],
)
def test_every_refusal_says_what_is_wrong(change, error, says):
    with pytest.raises(error, match=says):
        Braid.from_recipe({**PAIR, **change})


def test_a_recipe_without_an_anchor_is_refused():
    with pytest.raises(KeyError, match="a recipe needs 'anchor'"):
        Braid.from_recipe({"donors": []})


def test_attention_reads_states_beside_the_output():
    """Only "output" alone leaves it nothing to read."""
    recipe = {**PAIR, "strategy": "attention", "fusion_layers": ("output", "final")}
    assert Braid.from_recipe(recipe).layer_set == "final+output"
