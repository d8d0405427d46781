"""Layer sets by name, for anchors of any depth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit.catalogue.layer_sets import (
    LAYER_SETS,
    USUAL_LAYER_SETS,
    layers_of,
    name_of,
)


@given(st.sampled_from(LAYER_SETS), st.integers(1, 200))
def test_a_name_is_found_again(name, depth):
    layers = layers_of(name, depth)
    if layers is not None:
        assert name_of(layers) == name
        numbered = [layer for layer in layers if isinstance(layer, int)]
        assert all(0 <= layer < depth for layer in numbered)


@pytest.mark.parametrize(("name", "depth"), [("dense", 10), ("sparse", 3)])
def test_too_few_layers_for_distinct_places(name, depth):
    assert layers_of(name, depth) is None
    assert layers_of(name, 40) is not None


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        ((), "plain"),
        (("output",), "output"),
        ((0, 1, 2), "custom"),
        ((20, 24, 28), "sparse"),
        ((20, 24, 27), "custom"),
        ((20, 24, 28, "final"), "custom"),
        ((5,), "custom"),
    ],
)
def test_names_by_hand(layers, name):
    assert name_of(layers) == name


def test_the_usual_ones_have_no_decoder_layers():
    assert all(layers_of(name, 0) is not None for name in USUAL_LAYER_SETS)
