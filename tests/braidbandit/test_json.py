"""Canonical JSON: one text for equal values, and the hash of that text."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit._json import (
    canonical_json,
    content_hash,
    known_fields,
    plain,
    unboxed,
)

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@dataclass
class Record:
    name: str
    shares: tuple[float, ...] = ()
    kept: dict[str, int] | None = None


def test_the_text_by_hand():
    text = canonical_json({"b": [1, 2.5, None], "a": {"ä": True}})
    assert text == '{"a":{"\\u00e4":true},"b":[1,2.5,null]}'


def test_the_hash_by_hand():
    digest = hashlib.sha256(b'{"a":1}').hexdigest()
    assert content_hash({"a": 1}) == digest[:16]
    assert content_hash({"a": 1}, 64) == digest


@given(values)
def test_reading_the_text_gives_the_value_back(value):
    assert json.loads(canonical_json(value)) == value


@given(values)
def test_the_text_is_that_of_the_standard_library(value):
    """Hashes that were recorded stay those of their values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    assert canonical_json(value) == text


@given(st.dictionaries(st.text(), values, min_size=2), st.randoms())
def test_the_order_of_keys_does_not_enter(value, random):
    keys = list(value)
    random.shuffle(keys)
    shuffled = {key: value[key] for key in keys}
    assert content_hash(shuffled) == content_hash(value)


@given(values, values)
def test_other_texts_have_other_hashes(one, other):
    same_text = canonical_json(one) == canonical_json(other)
    assert (content_hash(one) == content_hash(other)) == same_text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_json_has_no_word_for_is_refused(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": [number]})


@pytest.mark.parametrize("value", [{1, 2}, b"a", np.float32(1.0), np.arange(2)])
def test_what_is_no_json_is_refused(value):
    with pytest.raises(TypeError, match="not JSON serializable"):
        canonical_json([value])


@pytest.mark.parametrize(
    ("boxed", "bare"),
    [(np.float32(0.5), 0.5), (np.int64(3), 3), (np.bool_(True), True), ("a", "a")],
)
def test_numbers_of_numpy_become_those_of_python(boxed, bare):
    found = unboxed(boxed)
    assert found == bare
    assert type(found) is type(bare)


def test_a_record_becomes_a_dict_of_json_values():
    record = Record("a", (0.5, 0.5), {"x": 1})
    assert plain(record) == {"name": "a", "shares": [0.5, 0.5], "kept": {"x": 1}}
    assert json.loads(canonical_json(plain(record))) == plain(record)


def test_known_fields_are_returned_as_a_dict_of_their_own():
    given = {"name": "a", "kept": None}
    found = known_fields(Record, given)
    assert found == given
    assert found is not given
    assert known_fields(Record, {}) == {}


def test_unknown_fields_are_named_with_the_known_ones():
    with pytest.raises(KeyError) as caught:
        known_fields(Record, {"name": "a", "share": 1, "id": 2})
    message = str(caught.value)
    assert "['id', 'share'] for Record" in message
    assert "['kept', 'name', 'shares']" in message
