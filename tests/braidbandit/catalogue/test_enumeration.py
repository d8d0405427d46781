"""Which braids make sense over a pool."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import ModelCard
from braidbandit.catalogue.enumeration import SHARES, braids_of_pool
from braidbandit.catalogue.layer_sets import LAYER_SETS


def cards(n, layers=30):
    return [ModelCard(name, layers=layers) for name in "abcd"[:n]]


def test_a_pool_of_two_by_hand():
    """Alone and fed its own states: 4. At the output, per anchor: three shares
    learned_weighted, one router. At "final" and at "final+output": one per strategy
    of three, and at "final+output" the two other shares of learned_weighted.
    """
    found = braids_of_pool(cards(2))
    assert len(found) == 4 + 2 * ((3 + 1) + 3 + (3 + 1 + 1))
    assert len({braid.id for braid in found}) == len(found)


def test_donors_of_one_share_are_taken_in_one_order_only():
    seen = set()
    for braid in braids_of_pool(cards(4)):
        if braid.donors:
            donors = frozenset(zip(braid.donors, braid.shares[1:], strict=True))
            rest = (braid.shares[0], braid.fusion_layers, braid.strategy)
            key = (braid.anchor, donors, *rest)
            assert key not in seen
            seen.add(key)


@pytest.mark.parametrize(("n", "most"), product((1, 2, 4), (1, 2, 3)))
def test_no_braid_has_more_strands_than_asked(n, most):
    found = braids_of_pool(cards(n), most)
    assert max(len(braid.strands) for braid in found) == min(n, most)


def test_shares_sum_to_one_and_have_every_length():
    assert all(abs(sum(vector) - 1) < 1e-12 for vector in SHARES)
    assert {len(vector) for vector in SHARES} == {2, 3}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_strands": 0}, "at least 1"),
        ({"layer_sets": ["middle"]}, "unknown layer set"),
        ({"layer_sets": "output"}, "unknown layer set"),
        ({"strategies": ["mean"]}, "unknown strategy"),
        ({"max_strands": 4}, "no share vector of length 4"),
        ({"max_strands": 1, "shares": [(0.5, 0.5)]}, "follow no"),
        ({"layer_sets": ["output"], "strategies": ["attention"]}, "nothing to attend"),
    ],
)
def test_settings_that_make_no_sense(settings, says):
    with pytest.raises(ValueError, match=says):
        braids_of_pool(cards(4), **settings)


def test_an_anchor_with_too_few_layers_goes_without():
    shallow = [ModelCard("a", layers=2), ModelCard("b", layers=40)]
    found = braids_of_pool(shallow, layer_sets=("sparse",))
    assert {braid.anchor for braid in found if braid.donors} == {"b"}
    with pytest.raises(ValueError, match="number of layers of 'b'"):
        braids_of_pool([ModelCard("b"), ModelCard("a")], layer_sets=("dense",))


SETTINGS = {
    "max_strands": st.integers(2, 3),
    "layer_sets": st.sets(st.sampled_from(LAYER_SETS), min_size=1).map(sorted),
    "strategies": st.sets(
        st.sampled_from(["router", "learned_weighted"]), min_size=1
    ).map(sorted),
}


@given(st.integers(1, 4), st.integers(1, 60), st.fixed_dictionaries(SETTINGS))
def test_any_pool_gives_distinct_arms_of_valid_shares(n, depth, settings):
    found = braids_of_pool(cards(n, depth), **settings)
    assert len({braid.id for braid in found}) == len(found)
    for braid in found:
        assert sum(braid.shares) == pytest.approx(1.0)
        assert min(braid.shares) > 0
        assert set(braid.strands) <= set("abcd"[:n])
        assert all(layer < depth for layer in braid.mid_layers)
        if braid.donors:
            assert braid.shares in SHARES
            assert braid.layer_set in settings["layer_sets"]
            assert braid.strategy in settings["strategies"]
    singles = [braid.anchor for braid in found if braid.is_single]
    controls = [braid.anchor for braid in found if braid.is_control]
    assert singles == controls == list("abcd"[:n])


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize(
    ("layer_set", "strategy", "pairs", "triples"),
    [
        # Each share vector, the last of three in both orders of its donors.
        ("output", "learned_weighted", 3, 1 + 2),
        ("output", "router", 1, 1),
        ("final", "learned_weighted", 1, 1),
        ("final", "attention", 1, 1),
        ("final+output", "learned_weighted", 3, 3),
        ("sparse", "router", 1, 1),
        ("dense", "attention", 1, 1),
    ],
)
def test_counts_by_hand(n, layer_set, strategy, pairs, triples):
    """n anchors, each with n - 1 donors or with (n - 1)(n - 2) / 2 pairs of them."""
    settings = {"layer_sets": [layer_set], "strategies": [strategy]}
    found = braids_of_pool(cards(n), **settings)
    with_one = n * (n - 1) * pairs
    with_two = n * (n - 1) * (n - 2) // 2 * triples
    assert len(found) == 2 * n + with_one + with_two


def test_shares_of_ones_own():
    """Where fusers are trained, the first vector of each length is their prior."""
    own = [(0.6, 0.4), np.array([0.2, 0.3, 0.5])]
    found = braids_of_pool(cards(3), shares=own, layer_sets=["final"])
    assert {b.shares for b in found if b.donors} == {(0.6, 0.4), (0.2, 0.3, 0.5)}
    assert all(type(share) is float for b in found for share in b.shares)
    # Two donors of unlike share, in both orders, for each of three anchors.
    triples = [b for b in found if len(b.strands) == 3 and b.strategy == "router"]
    assert {(b.anchor, b.donors) for b in triples} == {
        (order[0], order[1:]) for order in permutations("abc")
    }


def test_the_order_of_the_pool_changes_the_order_only():
    for settings in ({"max_strands": 2}, {"layer_sets": ["sparse"], "max_strands": 2}):
        one = braids_of_pool(cards(4), **settings)
        other = braids_of_pool(cards(4)[::-1], **settings)
        assert {braid.id for braid in one} == {braid.id for braid in other}


def test_what_is_named_twice_is_taken_once():
    once = braids_of_pool(cards(2), layer_sets=["final"], strategies=["router"])
    twice = braids_of_pool(
        cards(2), layer_sets=["final"] * 2, strategies=["router"] * 2
    )
    assert twice == once


@pytest.mark.parametrize(
    ("shares", "error", "says"),
    [
        ([(0.5, 0.6)], ValueError, "sum to 1"),
        ([(1.5, -0.5)], ValueError, "above 0"),
        ([0.5, 0.5], TypeError, "the anchor's first, for whatever models"),
        ([{"a": 0.5, "b": 0.5}], TypeError, "a share vector is a tuple"),
        ([(0.25,) * 4], ValueError, "give vectors of 2 to 3 strands"),
        ([(0.5, 0.5)], ValueError, "no share vector of length 3"),
    ],
)
def test_shares_that_make_no_sense(shares, error, says):
    with pytest.raises(error, match=says):
        braids_of_pool(cards(3), shares=shares)


def served(name):
    price = {"input": 0, "output": 0}
    return ModelCard(name, endpoint="http://h/v1", price=price)


def test_servers_are_arms_alone():
    """They add themselves, and neither a control nor a strand to any braid."""
    local = braids_of_pool(cards(2))
    found = braids_of_pool([served("s"), *cards(2), served("t")])
    added = [braid for braid in found if braid not in local]
    assert [braid.label() for braid in added] == ["s alone", "t alone"]
    assert [braid for braid in found if braid not in added] == local


def test_settings_that_no_served_model_follows():
    assert len(braids_of_pool([served("s"), served("t")])) == 2
    with pytest.raises(ValueError, match=r"every model is served.*\['layer_sets'\]"):
        braids_of_pool([served("s")], layer_sets=("final",))
