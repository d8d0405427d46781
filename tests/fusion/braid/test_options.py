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
