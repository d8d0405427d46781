"""What braids cost, estimated from their models' cards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Braid, ModelCard
from braidbandit.catalogue.costs import (
    bytes_per_weight,
    costs_per_token,
    memory_of,
    relative,
)

CARDS = {
    "a": ModelCard("a", parameters=1000, layers=10, width=5, vocab_size=40),
    "b": ModelCard("b", parameters=600, layers=4, width=5, vocab_size=20),
}


def pair(*layers, strategy="router"):
    return Braid("a", ("b",), (0.5, 0.5), layers, strategy)


@pytest.mark.parametrize(
    ("braid", "cost"),
    [
        (Braid("a"), 2000.0),
        (pair("output"), 2000.0 + 1200.0),  # with the donor's head
        (pair("final"), 2000.0 + 1000.0),  # without: 2 (600 - 5 x 20)
        (pair(1, 4), 2000.0 + 0.5 * 1000.0),  # down to the 5th of 10 layers
        (pair(1, 4, "final"), 2000.0 + 1000.0),
        (pair(4, "output"), 2000.0 + 1200.0),
    ],
)
def test_operations_by_hand(braid, cost):
    assert costs_per_token([braid], CARDS).tolist() == [cost]


def test_one_model_of_unknown_size_makes_all_count_as_one():
    cards = {**CARDS, "c": ModelCard("c")}
    costs = costs_per_token([Braid("a"), pair("output"), Braid("c")], cards)
    assert costs.tolist() == [1.0, 2.0, 1.0]


def test_memory_by_hand():
    cards = {"a": CARDS["a"], "b": ModelCard("b", parameters=100, quantisation="Q8_0")}
    assert memory_of([Braid("a"), pair("output")], cards).tolist() == [2000.0, 2107.0]
    assert memory_of([Braid("a")], {"a": ModelCard("a")}).tolist() == [0.0]


def test_adapters_share_the_memory_of_their_base():
    def card(name, parameters, adapter=None):
        return ModelCard(name, "base", parameters, adapter=adapter)

    a, b = card("a", 110, "to/a"), card("b", 120, "to/b")
    other = ModelCard("other", parameters=50)
    three = [
        Braid("a"),
        Braid("a", ("b",), (0.5, 0.5), ("output",), "router"),
        Braid("a", ("b", "other"), (0.4, 0.3, 0.3), ("output",), "router"),
    ]
    cards = {c.name: c for c in (a, b, other)}
    # Without a card of the base the larger of the two is all that is known.
    assert memory_of(three, cards).tolist() == [220.0, 240.0, 340.0]
    cards["plain"] = card("plain", 100)
    assert memory_of(three, cards).tolist() == [220.0, 260.0, 360.0]
    beside = Braid("plain", ("a",), (0.5, 0.5), ("output",), "router")
    assert memory_of([beside, Braid("plain")], cards).tolist() == [220.0, 200.0]


@pytest.mark.parametrize(
    ("name", "size"),
    [("iq4_xs", 0.58), ("bf16", 2.0), ("F32", 4.0), ("fp8_e4m3", 1.0), ("", 2.0)],
)
def test_bytes_per_weight(name, size):
    assert bytes_per_weight(name) == size


def test_relative_values():
    assert relative(np.array([3.0, 3.0])).tolist() == [0.0, 0.0]
    found = relative(np.random.default_rng(0).random(50))
    assert (found.min(), found.max()) == (0.0, 1.0)


@given(st.sets(st.integers(0, 9), min_size=1), st.integers(0, 9))
def test_a_deeper_tap_reads_more_of_the_donor(layers, further):
    """Never less than the anchor alone, never more than the donor's body on top."""
    some, more = (
        costs_per_token([pair(*sorted(taps))], CARDS)[0]
        for taps in (layers, layers | {further})
    )
    assert 2000.0 < some <= more <= 2000.0 + 1000.0
    assert (some < more) == (further > max(layers))


@given(st.lists(st.integers(-1000, 1000), min_size=1))
def test_relative_values_keep_their_order(numbers):
    values = np.array(numbers, dtype=float)
    found = relative(values)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.argsort(found, kind="stable") == np.argsort(values, kind="stable")).all()


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("int4", 0.5),
        ("INT4", 0.5),
        ("int8", 1.0),
        ("q4_k_m", 0.58),
        ("Q2_K", 0.36),
        ("iq3_xxs", 0.46),
        ("q5_1", 0.70),
        ("q6_k", 0.82),
        ("q8_0", 1.07),
        ("fp32", 4.0),
        ("fp16", 2.0),
        (None, 2.0),
    ],
)
def test_bytes_of_every_quantisation_that_is_known(name, size):
    assert bytes_per_weight(name) == size


def test_memory_of_three_quantisations_by_hand():
    """A million weights each: half a MB, 0.58 MB and 2 MB; a braid holds the sum."""
    names = {"x": "int4", "y": "q4_k_m", "z": "bf16"}
    cards = {
        name: ModelCard(name, parameters=10**6, quantisation=kind)
        for name, kind in names.items()
    }
    triple = Braid("z", ("x", "y"), (0.5, 0.25, 0.25), ("final",), "attention")
    found = memory_of([Braid("x"), Braid("y"), Braid("z"), triple], cards)
    assert found.tolist() == pytest.approx([500_000, 580_000, 2_000_000, 3_080_000])
    # Operations are the same whatever a weight takes.
    costs = costs_per_token([Braid("x"), Braid("y"), Braid("z")], cards)
    assert costs.tolist() == [2e6] * 3


def test_a_head_larger_than_its_model_leaves_no_body():
    """Sizes may be those of tied weights: no cost is ever below the anchor's."""
    cards = {**CARDS, "b": ModelCard("b", parameters=50, width=10, vocab_size=20)}
    final, output = costs_per_token([pair("final"), pair("output")], cards)
    assert final == 2000.0
    assert output == 2000.0 + 400.0


def test_an_anchor_of_unknown_depth_reads_all_of_the_donor():
    cards = {"a": ModelCard("a", parameters=1000), "b": CARDS["b"]}
    assert costs_per_token([pair(1)], cards).tolist() == [2000.0 + 1000.0]


SIZES = st.integers(1, 10**6)


@given(SIZES, SIZES, SIZES, st.sampled_from(["router", "learned_weighted"]))
def test_a_cost_grows_with_each_strand_and_not_with_the_strategy(a, b, c, strategy):
    cards = {
        name: ModelCard(name, parameters=size)
        for name, size in zip("abc", (a, b, c), strict=True)
    }
    two = Braid("a", ("b",), (0.5, 0.5), ("final",), strategy)
    three = Braid("a", ("b", "c"), (0.5, 0.4, 0.1), ("final",), strategy)
    found = costs_per_token([Braid("a"), two, three], cards)
    np.testing.assert_array_equal(found, 2.0 * np.cumsum([a, b, c]))
    np.testing.assert_array_equal(memory_of([Braid("a"), two, three], cards), found)


@given(
    st.lists(st.integers(-1000, 1000), min_size=2),
    st.integers(1, 8),
    st.integers(-9, 9),
)
def test_a_scale_of_costs_needs_no_unit(numbers, unit, shift):
    values = np.array(numbers, dtype=float)
    np.testing.assert_allclose(
        relative(unit * values + shift), relative(values), atol=1e-12
    )


def served(name, money):
    price = {"input": 0, "output": money}
    return ModelCard(name, endpoint="http://h/v1", price=price)


def test_a_served_model_costs_what_its_price_would_buy():
    """0.15 per million tokens at 1e17 operations: 1.5e10, as 7.5 billion weights."""
    cards = {**CARDS, "s": served("s", 0.15)}
    costs = costs_per_token([Braid("a"), pair("output"), Braid("s")], cards)
    assert costs.tolist() == [2000.0, 3200.0, pytest.approx(1.5e10)]


def test_a_free_model_costs_a_tenth_of_the_cheapest_other():
    cards = {**CARDS, "s": served("s", 0), "t": served("t", 3)}
    costs = costs_per_token([Braid("s"), Braid("t")], cards)
    assert costs.tolist() == [120.0, pytest.approx(3e11)]
    only = {"s": served("s", 0), "t": served("t", 0)}
    assert costs_per_token([Braid("s"), Braid("t")], only).tolist() == [0.1, 0.1]


def test_beside_a_local_model_of_unknown_size_a_served_one_is_one_unit():
    cards = {"a": ModelCard("a"), "s": served("s", 3)}
    assert costs_per_token([Braid("a"), Braid("s")], cards).tolist() == [1.0, 1.0]


def test_the_memory_of_a_served_model_is_not_ours():
    cards = {**CARDS, "s": served("s", 3)}
    assert memory_of([Braid("a"), Braid("s")], cards).tolist() == [2000.0, 0.0]
