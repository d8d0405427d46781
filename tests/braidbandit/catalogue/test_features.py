"""Descriptors: what braids have in common, as columns of numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Braid, Catalogue, ModelCard
from braidbandit.catalogue.costs import costs_per_token
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


def table(braids, cards):
    """Descriptors by the name of their column."""
    Z, names = describe(braids, cards, costs_per_token(braids, cards))
    return {name: Z[:, j] for j, name in enumerate(names)}


THREE = {
    name: ModelCard(name, parameters=size, layers=10)
    for name, size in (("a", 100), ("b", 300), ("c", 200))
}


def test_three_braids_by_pencil():
    """a alone, b alone, and 3/4 a + 1/4 b; costs of 200, 600 and 200 + 600.

    Shares less 1/2; 4 x 3/4 x 1/4 = 3/4 for the pair; the mean log cost is
    log(200 x 600 x 800) / 3. "anchor:b" is what "anchor:a" is not, and every knob
    tells the third braid from the others, as the pair does: all these are left out.
    """
    cards = {name: THREE[name] for name in "ab"}
    mix = Braid("a", ("b",), (0.75, 0.25), (4, "final"), "router")
    found = table([Braid("a"), Braid("b"), mix], cards)
    mean = np.log(200 * 600 * 800) / 3
    want = {
        "bias": [1, 1, 1],
        "share:a": [0.5, -0.5, 0.25],
        "share:b": [-0.5, 0.5, -0.25],
        "anchor:a": [1, 0, 1],
        "pair:a+b": [0, 0, 0.75],
        "cost": np.log([200, 600, 800]) - mean,
    }
    assert list(found) == list(want)
    for name, column in want.items():
        np.testing.assert_allclose(found[name], column, atol=1e-12)


SEVERAL = {
    "a alone": Braid("a"),
    "b alone": Braid("b"),
    "a fed its own": Braid("a", fusion_layers=("final",), strategy="learned_weighted"),
    "even": Braid("a", ("b",), (0.5, 0.5), ("output",), "router"),
    "uneven": Braid("b", ("a",), (0.75, 0.25), ("output",), "router"),
    "of three": Braid("a", ("b", "c"), (0.5, 0.25, 0.25), (4, 9), "attention"),
    "c leads": Braid("c", ("b",), (0.75, 0.25), ("final",), "learned_weighted"),
    "deep": Braid("b", ("c",), (0.9, 0.1), (4, "output"), "router"),
    "both": Braid("c", ("a",), (0.5, 0.5), ("final", "output"), "attention"),
}


@pytest.mark.parametrize(
    ("label", "row"),
    [
        ("a alone", {"share:a": 2 / 3, "share:b": -1 / 3, "strands": -1}),
        ("a fed its own", {"strands": -1, "control": 1, "layers:final": 1}),
        ("even", {"share:a": 1 / 6, "share:b": 1 / 6, "pair:a+b": 1, "strands": 0}),
        ("uneven", {"anchor:b": 1, "anchor:a": 0, "pair:a+b": 0.75}),
        (
            "of three",  # layers 5 and 10 of 10, two of nine
            {
                "strands": 1,
                "pair:a+b": 0.5,
                "pair:a+c": 0.5,
                "pair:b+c": 0.25,
                "layers:mid": 1,
                "layers:density": 2 / 9,
                "layers:depth": 0.75,
                "strategy:attention": 1,
                "strategy:router": 0,
            },
        ),
        ("c leads", {"anchor:c": 1, "share:c": 0.75 - 1 / 3, "control": 0}),
        ("deep", {"layers:depth": 0.5, "layers:output": 1, "pair:b+c": 0.36}),
        ("both", {"layers:final": 1, "layers:output": 1, "layers:mid": 0}),
    ],
)
def test_rows_by_hand(label, row):
    found = table(list(SEVERAL.values()), THREE)
    at = list(SEVERAL).index(label)
    assert {name: found[name][at] for name in row} == pytest.approx(row)


def test_layers_of_an_anchor_of_unknown_depth_end_with_the_last_that_is_tapped():
    cards = {name: ModelCard(name) for name in "ab"}
    taps = [(1,), (1, 3), (0, 1, 2, 3)]
    braids = [Braid("a", ("b",), (0.5, 0.5), tap, "router") for tap in taps]
    depth = table([Braid("a"), *braids], cards)["layers:depth"]
    assert depth.tolist() == [0.0, 1.0, 0.75, 0.625]


def test_costs_may_be_named_by_arm():
    braids = list(SEVERAL.values())
    costs = costs_per_token(braids, THREE)
    named = {b.id: c for b, c in reversed(list(zip(braids, costs, strict=True)))}
    one, other = (describe(braids, THREE, given_)[0] for given_ in (costs, named))
    np.testing.assert_array_equal(one, other)
    named.popitem()
    with pytest.raises(ValueError, match=f"costs .*missing.*{braids[0].id}"):
        describe(braids, THREE, named)


@given(st.floats(1e-3, 1e3))
def test_the_unit_of_costs_does_not_matter(unit):
    braids = list(SEVERAL.values())
    costs = costs_per_token(braids, THREE)
    one, names = describe(braids, THREE, costs)
    other, again = describe(braids, THREE, unit * costs)
    assert again == names
    np.testing.assert_allclose(other, one, atol=1e-9)


SCORES = st.lists(
    st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=6
)


@given(SCORES, st.permutations([0, 1, 2]))
def test_a_gain_is_the_best_strand_less_the_mean(scores, order):
    """Computed arm by arm, whatever the order in which the models are named."""
    braids, models = list(SEVERAL.values()), [*"abc"]
    Z, names = describe(braids, THREE, costs_per_token(braids, THREE))
    scores = np.array(scores, dtype=float) / 4
    shuffled = [models[at] for at in order]
    wide, more = with_gains(Z, names, braids, shuffled, scores[:, order])
    want = []
    for braid in braids:
        own = scores[:, [models.index(strand) for strand in braid.strands]]
        want.append((own.max(axis=1) - own @ np.array(braid.shares)).mean())
    np.testing.assert_array_equal(wide[:, : len(names)], Z)
    if max(want) < 1e-9:
        assert more == names or "gain:mean" not in more
        return
    column = wide[:, more.index("gain:mean")]
    np.testing.assert_allclose(column, np.array(want) / max(want), atol=1e-9)
    # Alone and as a control an arm has one strand, which is its own mean.
    assert np.abs(column[:3]).max() < 1e-9


def test_scores_may_be_named_by_model():
    braids = list(SEVERAL.values())
    Z, names = describe(braids, THREE, costs_per_token(braids, THREE))
    scores = np.random.default_rng(0).random((5, 3))
    one, _ = with_gains(Z, names, braids, [*"abc"], scores)
    named = {"c": scores[:, 2], "a": scores[:, 0], "b": scores[:, 1]}
    other, _ = with_gains(Z, names, braids, [*"abc"], named)
    np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"signatures .*missing.*'b'"):
        with_gains(Z, names, braids, [*"abc"], {"a": scores[:, 0], "c": scores[:, 2]})


def test_products_of_gain_and_knob_are_products():
    braids = list(SEVERAL.values())
    Z, names = describe(braids, THREE, costs_per_token(braids, THREE))
    scores = np.random.default_rng(1).random((8, 3))
    wide, more = with_gains(Z, names, braids, [*"abc"], scores)
    column = {name: wide[:, j] for j, name in enumerate(more)}
    products = [name for name in more if "*" in name]
    assert "gain:mean*strands" in products
    assert any(name.startswith("gain:strands*") for name in products)
    assert len(set(more)) == len(more)
    for name in products:
        gain, _, knob = name.partition("*")
        left = column["strands" if gain == "gain:strands" else gain]
        np.testing.assert_allclose(column[name], left * column[knob], atol=1e-12)


def test_a_newcomer_by_the_formula():
    """Log costs of 0 and 2, centred: -1 and 1. A newcomer of 3 is 3 - 1 = 2.

    The fresh description centres anew, by 5/3; the shift brings that back. "old" is
    nowhere in it and takes the average, (4 + 8) / 2; "new" is 0 for those that are
    there, whose fresh mean of 1/2 is taken off; "gain:mean*strands" is a product of
    the columns that the newcomer has got, and so is "gain:strands*control".
    """
    columns = ["bias", "cost", "old", "strands", "control", "gain:mean"]
    columns += ["gain:mean*strands", "gain:strands*control"]
    Z = np.array([[1.0, -1, 4, -1, 1, 0.5, -0.5, -1], [1.0, 1, 8, 0, 0, 1.5, 0.0, 0.0]])
    fresh = {
        "bias": [1.0, 1.0, 1.0],
        "cost": [-5 / 3, 1 / 3, 4 / 3],
        "strands": [-1.0, 0.0, 3.0],
        "control": [1.0, 0.0, 1.0],
        "new": [0.0, 1.0, 5.0],
    }
    before = Z.copy()
    wide, names = extend_descriptors(
        Z,
        columns,
        [Braid("a"), Braid("b")],
        (np.column_stack(list(fresh.values())), list(fresh)),
        [Braid("c")],
    )
    assert names == (*columns, "new")
    np.testing.assert_array_equal(Z, before)
    np.testing.assert_array_equal(wide[:2, :-1], before)
    np.testing.assert_array_equal(wide[:2, -1], 0)
    # The mean gain, (1/2 + 3/2) / 2 = 1, times 3 strands; 3 times a control.
    want = [1, 2, 6, 3, 1, 1, 3, 3, 4.5]
    np.testing.assert_allclose(wide[2], want)


@pytest.mark.parametrize("probed", [False, True])
def test_no_newcomers_change_nothing(probed):
    braids, models = POOL.braids, [*"abc"]
    scores = np.random.default_rng(0).random((4, 3))
    Z, columns = with_gains(*POOL.descriptors(), braids, models, scores)
    wide, names = extend_descriptors(
        Z, columns, braids, POOL.descriptors(), [], (models, scores) if probed else None
    )
    assert names == tuple(columns)
    np.testing.assert_array_equal(wide, Z)


@given(st.sets(st.sampled_from(POOL.braids[6:]), min_size=1, max_size=6))
def test_newcomers_that_were_there_before_get_their_row_again(chosen):
    """Taken out and added again: every column but a centred one is as it was."""
    newcomers = [braid for braid in POOL if braid in chosen]
    small = POOL.without([braid.id for braid in newcomers])
    Z, columns = small.descriptors()
    large = small.with_braids(newcomers)
    fresh, fresh_names = large.descriptors()
    wide, names = extend_descriptors(
        Z, columns, small.braids, (fresh, fresh_names), newcomers
    )
    for j, name in enumerate(fresh_names):
        if name in columns and name != "cost":
            np.testing.assert_allclose(
                wide[:, names.index(name)], fresh[:, j], atol=1e-9
            )


def test_a_newcomer_of_a_model_that_was_never_probed_has_the_mean_gain():
    small = Catalogue.build([ModelCard("a"), ModelCard("b")], layer_sets=("output",))
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]])
    described = with_gains(*small.descriptors(), small.braids, ["a", "b"], scores)
    newcomer = Braid("c", ("a",), (0.5, 0.5), ("output",), "router")
    large = small.with_braids([newcomer], [ModelCard("c")])
    wide, names = extend_descriptors(
        *described, small.braids, large.descriptors(), [newcomer], (["a", "b"], scores)
    )
    at = names.index("gain:mean")
    assert wide[-1, at] == pytest.approx(wide[:-1, at].mean())
