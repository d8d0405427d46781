"""Which braids make sense over a pool."""

from itertools import product

import pytest

from braidbandit import ModelCard
from braidbandit.catalogue.enumeration import SHARES, braids_of_pool


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
