"""What braids cost, estimated from their models' cards."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Braid, ModelCard, Profile
from braidbandit.catalogue.costs import (
    are_measured,
    bytes_per_weight,
    costs_per_token,
    memory_of,
    relative,
    seconds_per_token,
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
    assert memory_of([Braid("a"), pair("output")], cards).tolist() == [4000.0, 4107.0]
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
    assert memory_of(three, cards).tolist() == [440.0, 480.0, 680.0]
    cards["plain"] = card("plain", 100)
    assert memory_of(three, cards).tolist() == [440.0, 520.0, 720.0]
    beside = Braid("plain", ("a",), (0.5, 0.5), ("output",), "router")
    assert memory_of([beside, Braid("plain")], cards).tolist() == [440.0, 400.0]


@pytest.mark.parametrize(
    ("name", "size"),
    [("iq4_xs", 0.58), ("bf16", 2.0), ("F32", 4.0), ("fp8_e4m3", 1.0), ("", 4.0)],
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
        (None, 4.0),
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
    np.testing.assert_array_equal(memory_of([Braid("a"), two, three], cards), 2 * found)


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
    assert memory_of([Braid("a"), Braid("s")], cards).tolist() == [4000.0, 0.0]


def timed(name, body, head, memory=7, **changes):
    """A card with a profile of round numbers, and what `CARDS` say of the model."""
    measured = Profile("transformers", "float32", 10, body, head, 0.5, 0.25, 1, memory)
    known = CARDS.get(name, ModelCard(name, parameters=400))
    return replace(known, profile=replace(measured, **changes))


MEASURED = {"a": timed("a", 4.0, 2.0, 100), "b": timed("b", 1.0, 8.0, 10)}
CONTROL = Braid("a", (), (1.0,), ("final",), "router")


@pytest.mark.parametrize(
    ("braid", "seconds"),
    [
        (Braid("a"), 6.0),  # body and head
        (CONTROL, 6.0 + 0.5),  # the fixed cost of fusing once
        (pair("final"), 6.0 + 1.0 + 2 * 0.5),  # and the donor's body, no head
        (pair("output"), 6.0 + 1.0 + 2 * 0.5 + 8.0 + 2 * 0.25),
        (pair("final", "output"), 6.0 + 1.0 + 2 * 0.5 + 8.0 + 2 * 0.25),
        (pair(1, 4), 6.0 + 0.5 * 1.0 + 2 * 0.5),  # down to the 5th of 10 layers
        (pair(4, "final"), 6.0 + 1.0 + 2 * 0.5),
    ],
)
def test_seconds_by_hand(braid, seconds):
    assert seconds_per_token([braid], MEASURED).tolist() == [seconds]


def test_a_braid_at_layers_is_predicted_by_the_strand_that_shows_them():
    other = Profile("transformers", "float32", 10, 40.0, 20.0, 0.5, 0.25, 1, 900)
    cards = {
        name: timed(name, 4.0, 2.0, engine="llama.cpp", layered=other) for name in "ab"
    }
    braids = [Braid("a"), pair(4), pair("final")]
    assert seconds_per_token(braids, cards).tolist() == [6.0, 81.0, 11.0]
    trained = memory_of([pair(4), pair("final")], {**CARDS, "b": CARDS["b"]})
    trained = trained - 4.0 * 1600
    found = memory_of(braids, cards) - [0.0, *trained]
    assert found.tolist() == [7.0, 1800.0, 14.0]


def test_a_served_model_beside_measured_ones_takes_what_its_operations_would():
    """3200 operations in 15 seconds; 0.15 per million tokens buys 1.5e10 of them."""
    cards = {**MEASURED, "s": served("s", 0.15)}
    assert are_measured(cards.values())
    found = seconds_per_token([Braid("a"), Braid("s")], cards)
    assert found.tolist() == [6.0, pytest.approx(1.5e10 * 15 / 3200)]


def test_costs_are_measured_where_every_local_model_is():
    a, b = MEASURED.values()
    assert are_measured([a, b])
    assert not are_measured([a, CARDS["b"]])
    assert not are_measured([served("s", 1)])
    unsized = replace(a, parameters=None)
    assert are_measured([unsized])
    assert not are_measured([unsized, served("s", 1)])


def test_what_is_known_of_memory_goes_before_what_is_estimated():
    """What was measured, what the card says, four bytes a weight; in this order."""
    card = ModelCard("a", parameters=100, quantisation="q4_k_m")
    said, measured = replace(card, memory=90), timed("x", 1.0, 1.0, 33)
    for found, size in ((card, 58.0), (said, 90.0), (measured, 33.0)):
        assert memory_of([Braid("a")], {"a": found}).tolist() == [pytest.approx(size)]
    both = replace(said, profile=measured.profile)
    assert memory_of([Braid("a")], {"a": both}).tolist() == [33.0]


def test_a_gguf_file_is_expanded_where_its_layers_are_fused():
    cards = {
        name: ModelCard(name, parameters=100, layers=9, quantisation=kind, memory=60)
        for name, kind in (("a", "gguf"), ("b", "Q4_K_M"))
    }
    assert memory_of([pair("final"), pair(4)], cards).tolist() == [120.0, 800.0]


def test_trained_parts_by_hand():
    """Width 5 and 5: bridge 30, its weights 5, the anchor's own adapter 30.

    Where outputs are mixed, a map of the donor's 20 tokens too, 100 numbers for each.
    """
    strands = memory_of([Braid("a"), Braid("b")], CARDS).sum()
    found = memory_of(
        [
            pair("final", strategy="learned_weighted"),
            pair("final"),  # with a route of 11
            pair(4, strategy="learned_weighted"),  # without the own adapter
            pair("output", strategy="learned_weighted"),  # the donor's adapter
            pair("output"),  # its route of 11 and a gate of 8 times 2
        ],
        CARDS,
    )
    assert ((found - strands) / 4).tolist() == [65.0, 76.0, 35.0, 2065.0, 2092.0]


def test_a_base_that_was_measured_again_counts_once():
    """The base alone took 540 MB, and 600 with an adapter of a hundredth of it."""

    def card(name, parameters, memory, adapter=None):
        profile = Profile(
            "transformers", "float32", 9.0, 1.0, 1.0, 0.0, 0.0, 1.0, memory
        )
        return ModelCard(name, "base", parameters, adapter=adapter, profile=profile)

    cards = [card("plain", 100, 540), card("tuned", 101, 606, "folder")]
    held = memory_of(
        [Braid("plain", ("tuned",), (0.5, 0.5), ("output",), "router")],
        {c.name: c for c in cards},
    )
    assert held.tolist() == [606]


def test_an_adapter_on_a_base_that_llama_cpp_runs_brings_the_base_once_more():
    """The base in its file takes 30; for adapters it is expanded, once."""
    base = ModelCard("plain", "base", 100, quantisation="gguf", memory=30)
    tuned = [
        ModelCard(n, "base", size, adapter=n, quantisation="gguf", memory=4 * size)
        for n, size in (("a", 110), ("b", 120))
    ]
    cards = {card.name: card for card in (base, *tuned)}
    shares = (0.4, 0.3, 0.3)
    three = Braid("plain", ("a", "b"), shares, ("output",), "router")
    assert memory_of([three], cards).tolist() == [30.0 + 400 + 40 + 80]


@given(st.lists(st.floats(0.001, 10), min_size=4, max_size=4))
def test_more_work_never_takes_less(numbers):
    cards = {"a": timed("a", *numbers[:2]), "b": timed("b", *numbers[2:])}
    braids = [Braid("a"), CONTROL, pair("final"), pair("final", "output")]
    assert (np.diff(seconds_per_token(braids, cards)) > 0).all()
