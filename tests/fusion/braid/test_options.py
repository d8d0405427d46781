"""Arguments are handed on, passed over with a word, or refused by name."""

import pytest

from fusion.braid.options import (
    PASSED_OVER,
    REFUSED,
    options_of_anchor,
    refuse_options,
)


def test_the_anchor_gets_what_it_takes():
    given = {"volume": 3, "tokenizer": object(), "seq_idx": None}
    assert options_of_anchor(given, {"volume", "input_ids"}) == {"volume": 3}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_changes_a_result_is_refused_and_its_neutral_value_is_not(name):
    neutral = REFUSED[name]
    assert options_of_anchor({name: neutral}, set()) == {}
    assert options_of_anchor({name: None}, set()) == {}
    with pytest.raises(TypeError, match=f"forward received {name}, which would"):
        options_of_anchor({name: neutral is None or not neutral}, {name})


def test_an_unknown_argument_is_passed_over_and_said_once(caplog):
    for _ in range(2):
        assert options_of_anchor({"volumee": 3}, {"volume"}) == {}
        assert options_of_anchor(dict.fromkeys(PASSED_OVER, 1), set()) == {}
    assert caplog.text.count("'volumee'") == 1
    assert len(caplog.records) == 1


def test_options_that_would_be_ignored_are_refused():
    refuse_options("load", {"adapter_kwargs": {}, "revision": None}, "pool")
    with pytest.raises(TypeError, match=r"load received unknown options \['poool'\]"):
        refuse_options("load", {"poool": 1}, "pool")


def test_what_the_anchor_takes_is_handed_on_as_it_is():
    mine = object()
    found = options_of_anchor({"image": mine, "seq_idx": None}, {"image"})
    assert found["image"] is mine


def test_one_refused_argument_among_good_ones_is_named():
    given = {"image": 1, "output_attentions": True, "tokenizer": object()}
    with pytest.raises(TypeError, match="received output_attentions"):
        options_of_anchor(given, {"image", "output_attentions"})


@pytest.mark.parametrize("value", [0, 1, "no", [], {}])
def test_an_unknown_option_of_any_value_is_refused(value):
    with pytest.raises(TypeError, match=r"\['a', 'b'\]; it takes pool and dtype"):
        refuse_options("load", {"b": value, "a": value}, "pool and dtype")


@pytest.mark.parametrize("value", [None, False])
def test_an_option_that_is_off_is_passed_over(value):
    refuse_options("load", {"force_download": value}, "pool")
