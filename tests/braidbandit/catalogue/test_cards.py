"""What is known about a model before it is loaded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Catalogue, ModelCard
from braidbandit.catalogue.addresses import Price
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


@pytest.mark.parametrize("key", ["source", "quantisation", "adapter"])
def test_text_that_is_no_text_is_refused_where_it_is_given(key):
    """Not later, by the sum of memory or the hash of a catalogue."""
    with pytest.raises(TypeError, match=f"{key} of 'a' is text or None, received 4"):
        ModelCard("a", **{key: 4})


def test_a_folder_may_be_a_path(tmp_path):
    card = ModelCard("a", source=tmp_path / "model")
    assert card.source == str(tmp_path / "model")
    assert json.loads(json.dumps(card.to_dict()))["source"] == card.source


def test_a_card_may_name_an_adapter(tmp_path):
    given = {"model_name": "legal", "source": "base", "adapter": tmp_path / "legal"}
    card = ModelCard.from_dict(given)
    assert card.adapter == str(tmp_path / "legal")
    assert ModelCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card
    # Those without one are told, and hashed, as they were before there were any.
    assert "adapter" not in ModelCard("a").to_dict()
    assert (
        Catalogue.build([card]).hash
        != Catalogue.build([ModelCard("legal", "base")]).hash
    )


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="legal"):
        Catalogue.build(as_cards([{"name": "legal", "adapter": a} for a in "ab"]))


WHOLE = st.none() | st.integers(1, 10**12)
TEXT = st.none() | st.text(max_size=8)


@given(
    st.fixed_dictionaries(
        {"name": st.text(min_size=1).filter(str.strip)},
        optional={
            **dict.fromkeys(("parameters", "layers", "width", "vocab_size"), WHOLE),
            **dict.fromkeys(
                ("source", "role", "quantisation", "licence", "adapter"), TEXT
            ),
            "domain": st.text(min_size=1),
            "recency": TEXT | st.integers(2000, 2100),
        },
    )
)
def test_any_card_comes_back_by_way_of_json(values):
    before = dict(values)
    card = ModelCard.from_dict(values)
    assert ModelCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card
    assert values == before
    renamed = {"model_name": before.pop("name"), **before}
    assert ModelCard.from_dict(renamed) == card
    if values.get("source") is None:
        assert card.source == card.name


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "7", float("nan")])
@pytest.mark.parametrize("key", ["parameters", "layers", "width", "vocab_size"])
def test_sizes_are_whole_numbers_above_zero(key, value):
    says = f"{key} of 'a' must be a whole number above 0 or None, received"
    with pytest.raises(ValueError, match=says):
        ModelCard("a", **{key: value})


@pytest.mark.parametrize("name", ["", " \n", None, 3])
def test_a_name_is_text(name):
    with pytest.raises(ValueError, match="a model card needs a name, received"):
        ModelCard(name)


def test_a_pool_may_be_any_iterable():
    names = ["a", "b"]
    for pool in (names, tuple(names), iter(names), dict.fromkeys(names).keys()):
        assert [card.name for card in as_cards(pool)] == names
    assert as_cards([]) == []


URL = "http://127.0.0.1:11434/v1"
FREE = {"input": 0, "output": 0}


def test_a_served_card_comes_back_by_way_of_json():
    card = ModelCard.from_dict(
        {"model_name": "m", "endpoint": URL + "/", "price": {"input": 1, "output": 2}}
    )
    assert (card.endpoint, card.price, card.source) == (URL, Price(1, 2), "m")
    assert card.is_served
    assert card.is_sized
    data = json.loads(json.dumps(card.to_dict()))
    assert data["price"] == {"input": 1.0, "output": 2.0}
    assert "api_key_env" not in data
    again = ModelCard.from_dict(data)
    assert again == card
    assert (again.endpoint, hash(again)) == (URL, hash(card))


def test_a_local_card_says_nothing_of_servers():
    """So that hashes of catalogues stay what they were."""
    assert not {"endpoint", "price", "api_key_env"} & set(ModelCard("a").to_dict())
    assert not ModelCard("a").is_served
    assert not ModelCard("a").is_sized
    assert ModelCard("a", parameters=1).is_sized


def test_where_a_model_is_served_is_no_part_of_what_it_is():
    here = ModelCard("m", endpoint=URL, price=FREE)
    there = ModelCard("m", endpoint="https://h/v1", price=FREE, api_key_env="KEY")
    assert here == there
    assert here != ModelCard("m", endpoint=URL, price={"input": 0, "output": 1})
    assert here != ModelCard("m")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"price": FREE}, r"'m' has \['price'\] but no endpoint; give one"),
        ({"api_key_env": "KEY"}, r"'m' has \['api_key_env'\] but no endpoint"),
        ({"endpoint": URL}, "'m' is served, and needs a price"),
        (
            {"endpoint": URL, "price": FREE, "layers": 3},
            r"\['layers'\] would be ignored",
        ),
        ({"endpoint": URL, "price": FREE, "api_key_env": "sk-1"}, "in capitals"),
        ({"endpoint": "ftp://h", "price": FREE}, "no http or https URL: ftp://h"),
    ],
)
def test_served_cards_that_make_no_sense(given, says):
    with pytest.raises(ValueError, match=says):
        ModelCard("m", **given)


@pytest.mark.parametrize(
    "card",
    [
        {"endpoint": "http://me:s3cret@h/v1"},
        {"model_name": "m", "endpoint": "http://me:s3cret@h/v1", "price": FREE},
        {"model_name": "m", "endpoint": URL, "price": FREE, "api_key": "s3cret"},
        {"model_name": "m", "endpoint": URL, "price": FREE, "api_key_env": "s3cret"},
        {"model_name": "m", "source": "http://me:s3cret@h/v1"},
    ],
)
def test_no_secret_of_a_card_is_shown(card):
    with pytest.raises((ValueError, KeyError)) as caught:
        ModelCard.from_dict(card)
    assert "s3cret" not in str(caught.value)
