import dataclasses

import pytest

from braidbandit import Braid, ModelCard


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
