"""Descriptors: what braids have in common, as columns of numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Braid, Catalogue, ModelCard
from braidbandit.catalogue.features import (
    block_of,
    describe,
    extend_descriptors,
    with_gains,
)


def test_columns_of_a_pair(catalogue):
    Z, names = catalogue.descriptors()
    assert Z.shape == (len(catalogue), len(names))
    assert Z.dtype == np.float64
    column = {name: Z[:, j] for j, name in enumerate(names)}
    assert (column["bias"] == 1).all()
    even = next(i for i, b in enumerate(catalogue) if b.shares == (0.5, 0.5))
    assert column["share:big"][even] == 0
    assert column["pair:big+small"][even] == 1
    assert abs(column["cost"].mean()) < 1e-12
    assert {block_of(n) for n in names} >= {"bias", "share", "anchor", "pair"}


def test_columns_that_say_nothing_are_left_out():
    catalogue = Catalogue.build(["a"], max_strands=1)
    _, names = catalogue.descriptors()
    assert not [name for name in names if name.startswith(("share", "strands", "cost"))]


POOL = Catalogue.build(
    [ModelCard(name, parameters=100 * n, layers=12) for n, name in enumerate("abc", 1)],
    layer_sets=("output", "final", "sparse"),
)
SOME = st.lists(st.sampled_from(POOL.braids), min_size=2, max_size=12, unique=True)


@given(SOME)
def test_every_column_says_something_and_once(braids):
    Z, names = Catalogue(POOL.cards.values(), braids).descriptors()
    assert len(set(names)) == len(names) == Z.shape[1]
    assert np.isfinite(Z).all()
    assert names[0] == "bias"
    assert (np.ptp(Z[:, 1:], axis=0) > 0).all()
    knobs = [j for j, n in enumerate(names) if block_of(n) in ("strategy", "layers")]
    for at, one in enumerate(knobs):
        for other in knobs[:at]:
            alike = np.corrcoef(Z[:, one], Z[:, other])[0, 1]
            assert abs(alike) < 1 - 1e-9


@given(SOME, st.randoms())
def test_a_row_is_of_its_braid_wherever_that_stands(braids, random):
    shuffled = list(braids)
    random.shuffle(shuffled)
    Z, names = Catalogue(POOL.cards.values(), braids).descriptors()
    again, names_again = Catalogue(POOL.cards.values(), shuffled).descriptors()
    assert names_again == names
    for row, braid in enumerate(braids):
        np.testing.assert_allclose(again[shuffled.index(braid)], Z[row], atol=1e-12)


def test_gains_by_hand():
    """Two of three tasks, one model each, are had by a pair; shares say how far.

    On tasks scored (1, 0), (0, 1) and (1, 1), the best strand minus the mean by share
    is 1/4, 3/4 and 0 for three quarters of the first model, and 1/2, 1/2 and 0 for an
    even mix: means of 1/3 both, the largest, which the columns are divided by.
    """
    cards = {name: ModelCard(name) for name in ("a", "b")}
    braids = [
        Braid("a"),
        Braid("a", ("b",), (0.75, 0.25), ("output",), "router"),
        Braid("a", ("b",), (0.5, 0.5), ("output",), "router"),
    ]
    Z, names = describe(braids, cards, np.ones(3))
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    wide, more = with_gains(Z, names, braids, list(cards), scores)
    np.testing.assert_array_equal(wide[:, : len(names)], Z)
    np.testing.assert_allclose(wide[:, more.index("gain:mean")], [0, 1, 1])
    pattern = wide[:, more.index("gain:pattern0")]
    assert abs(pattern[1] - pattern[2]) > 0.1
    same, names_again = with_gains(Z, names, braids, list(cards), np.ones((3, 2)))
    assert names_again == names  # all models alike: nothing to gain
    assert same is Z


def test_old_arms_keep_their_numbers():
    cards = [ModelCard("a", parameters=100), ModelCard("b", parameters=900)]
    small = Catalogue.build(cards, layer_sets=("output",))
    Z, columns = small.descriptors()
    newcomers = [Braid("c"), Braid("c", ("a",), (0.5, 0.5), ("output",), "router")]
    large = small.with_braids(newcomers, [ModelCard("c", parameters=10**6)])
    wide, names = extend_descriptors(
        Z, columns, small.braids, large.descriptors(), newcomers
    )
    assert names[: len(columns)] == tuple(columns)
    assert wide[: len(small), : len(columns)].tolist() == Z.tolist()
    assert not wide[: len(small), len(columns) :].any()
    share = names.index("share:c")
    assert wide[-2, share] - wide[0, share] == pytest.approx(1.0)
    cost = names.index("cost")
    ratio = np.log(large.costs()[-2] / large.costs()[0])
    assert wide[-2, cost] - wide[0, cost] == pytest.approx(ratio)


def test_the_gains_of_newcomers_are_those_of_arms_like_them():
    """A newcomer equal to an arm in its strands and shares gets its gain columns."""
    cards = [ModelCard(name, parameters=100) for name in "abc"]
    small = Catalogue.build(cards, layer_sets=("output",), strategies=("router",))
    models = [card.name for card in cards]
    scores = np.random.default_rng(0).random((6, 3))
    described = small.descriptors()
    Z, columns = with_gains(*described, small.braids, models, scores)
    pair = next(braid for braid in small if len(braid.strands) == 2)
    twin = Braid(pair.anchor, pair.donors, pair.shares, ("final",), "router")
    large = small.with_braids([twin])
    wide, names = extend_descriptors(
        Z, columns, small.braids, large.descriptors(), [twin], (models, scores)
    )
    row = small.index(pair.id)
    for name in ("gain:mean", "gain:pattern0", "gain:pattern1"):
        at = names.index(name)
        assert wide[-1, at] == pytest.approx(Z[row, columns.index(name)])
    # Of a model that was not probed nothing is known: the average of the others.
    stranger = Braid("d", ("a",), (0.5, 0.5), ("output",), "router")
    large = small.with_braids([stranger], [ModelCard("d", parameters=100)])
    wide, names = extend_descriptors(
        Z, columns, small.braids, large.descriptors(), [stranger], (models, scores)
    )
    at = names.index("gain:mean")
    assert wide[-1, at] == pytest.approx(Z[:, columns.index("gain:mean")].mean())
