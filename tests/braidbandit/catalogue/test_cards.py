"""What is known about a model before it is loaded."""

import pytest

from braidbandit import ModelCard
from braidbandit.catalogue.cards import as_cards


def test_a_pool_of_cards_dicts_and_names():
    card = ModelCard("a", parameters=5)
    found = as_cards([card, {"model_name": "b", "domain": "code"}, "c"])
    assert found == [card, ModelCard("b", domain="code"), ModelCard("c")]
    assert [one.source for one in found] == ["a", "b", "c"]


@pytest.mark.parametrize("pool", ["a", {"model_name": "a"}, ModelCard("a")])
def test_one_model_is_no_pool(pool):
    with pytest.raises(TypeError, match="wrap it"):
        as_cards(pool)


def test_what_is_no_model():
    with pytest.raises(TypeError, match="received int"):
        as_cards([3])


def test_a_card_comes_back_from_its_dict():
    card = ModelCard("a", "hub/a", 5, 2, 3, 7, "code", "reasoning", "q8_0", "2026")
    assert ModelCard.from_dict(card.to_dict()) == card


@pytest.mark.parametrize(
    ("card", "error", "says"),
    [
        ({"name": "a", "model_name": "a"}, KeyError, "not both"),
        ({"domain": "code"}, KeyError, "needs 'model_name'"),
        ({"name": "a", "size": 3}, KeyError, "unknown model card keys"),
        ({"name": " "}, ValueError, "needs a name"),
        ({"name": "a", "domain": ""}, ValueError, "domain of 'a'"),
        ({"name": "a", "parameters": 0}, ValueError, "parameters of 'a'"),
        ({"name": "a", "layers": True}, ValueError, "layers of 'a'"),
        ({"name": "a", "width": 2.5}, ValueError, "width of 'a'"),
    ],
)
def test_cards_that_make_no_sense(card, error, says):
    with pytest.raises(error, match=says):
        ModelCard.from_dict(card)
