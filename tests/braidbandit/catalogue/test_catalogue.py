import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from braidbandit import Braid, Budget, Catalogue, ModelCard, Profile
from braidbandit.catalogue.layer_sets import LAYER_SETS


def test_every_single_and_control_is_there(catalogue):
    labels = [braid.label() for braid in catalogue]
    assert sum(b.is_single for b in catalogue) == 2
    assert sum(b.is_control for b in catalogue) == 2
    assert len(set(labels)) == len(labels)
    assert {b.anchor for b in catalogue if b.donors} == {"big", "small"}


def test_only_sensible_combinations(cards):
    catalogue = Catalogue.build(cards)
    for braid in catalogue:
        assert (braid.layer_set, braid.strategy) != ("output", "attention")
        if braid.donors and "output" not in braid.fusion_layers:
            assert braid.shares == (0.75, 0.25)
    constant = [
        b.shares
        for b in catalogue
        if b.layer_set == "output" and b.strategy == "learned_weighted"
    ]
    assert set(constant) == {(0.75, 0.25), (0.5, 0.5), (0.9, 0.1)}


def test_sparse_and_dense_positions(cards):
    catalogue = Catalogue.build(cards, layer_sets=("sparse", "dense"))
    of_big = {b.layer_set: b.fusion_layers for b in catalogue if b.anchor == "big"}
    assert of_big["sparse"] == (20, 24, 28)
    assert of_big["dense"][0] == 10
    assert of_big["dense"][-1] == 28
    assert len(of_big["dense"]) == 9
    shallow = [ModelCard("x", layers=4), ModelCard("y", layers=30)]
    deep = Catalogue.build(shallow, layer_sets=LAYER_SETS)
    sets = {b.layer_set for b in deep if b.anchor == "x"}
    assert "dense" not in sets
    with pytest.raises(ValueError, match=r"layers of 'z'"):
        Catalogue.build(["z", "y"], layer_sets=LAYER_SETS)
    # Usual are those that need to know nothing of a model's layers.
    usual = {b.layer_set for b in Catalogue.build(["z", "y"]) if b.donors}
    assert usual == {"output", "final", "final+output"}


def test_unequal_donor_shares_are_tried_in_every_order():
    catalogue = Catalogue.build(
        ["a", "b", "c"],
        layer_sets=("output",),
        strategies=("learned_weighted",),
        shares=((0.5, 0.5), (0.5, 0.25, 0.25), (0.5, 0.4, 0.1)),
    )
    triples = [b for b in catalogue if len(b.strands) == 3]
    assert len(triples) == 3 * (1 + 2)


def test_costs_by_hand(catalogue):
    """big: 2*3000 whole, head 2*1000; small: 2*1000 whole, head 2*200.

    Donors at "final" run their body: big 4000, small 1600. At "output" the head too.
    """
    costs = dict(zip(catalogue.ids, catalogue.costs(), strict=True))
    assert costs[Braid("big").id] == 6000
    assert costs[Braid("small").id] == 2000
    final = Braid("big", ("small",), (0.75, 0.25), ("final",), "router")
    assert costs[final.id] == 6000 + 1600
    output = Braid("small", ("big",), (0.75, 0.25), ("output",), "router")
    assert costs[output.id] == 2000 + 6000
    relative = catalogue.relative_costs()
    assert (relative.min(), relative.max()) == (0.0, 1.0)


def test_donor_is_cut_at_its_deepest_tap(cards):
    catalogue = Catalogue.build(cards, layer_sets=("sparse",))
    braid = next(b for b in catalogue if b.anchor == "big" and b.donors)
    cost = catalogue.costs()[catalogue.index(braid.id)]
    assert cost == pytest.approx(6000 + 1600 * 29 / 30)


def test_unknown_parameters_count_models():
    catalogue = Catalogue.build(["a", "b"], layer_sets=("final",))
    assert set(catalogue.costs()) == {1.0, 2.0}
    assert (catalogue.memory() == 0).all()


def test_memory_follows_quantisation():
    cards = [
        ModelCard("a", parameters=100),
        ModelCard("b", parameters=100, quantisation="q8_0"),
    ]
    catalogue = Catalogue.build(cards, layer_sets=("final",))
    memory = dict(zip(catalogue.ids, catalogue.memory(), strict=True))
    assert memory[Braid("a").id] == 400
    assert memory[Braid("b").id] == pytest.approx(107)


def test_mask(catalogue):
    assert catalogue.mask().all()
    cheapest = catalogue.mask(0.0)
    assert [catalogue.braids[i].anchor for i in np.flatnonzero(cheapest)] == [
        "small",
        "small",
    ]
    gone = catalogue.ids[0]
    assert not catalogue.mask(excluded=[gone])[0]
    unfit = catalogue.with_unfit(gone, "worse than its anchor")
    assert not unfit.mask()[0]
    assert unfit.mask_reasons()[0] == "unfit: worse than its anchor"
    assert catalogue.mask()[0]
    assert catalogue.hash == unfit.hash
    assert catalogue.mask(budget=Budget(flops=2000)).sum() == 2


def test_mask_errors(catalogue):
    for budget in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="compute_budget"):
            catalogue.mask(budget)
    with pytest.raises(ValueError, match=r"small alone.*2000"):
        catalogue.mask(budget=Budget(flops=1.0))
    with pytest.raises(KeyError, match="unknown arm"):
        catalogue.mask(excluded=["nope"])
    with pytest.raises(ValueError, match="flops"):
        Budget(flops=0)


def test_lookup_and_round_trip(catalogue, cards):
    assert catalogue[catalogue.ids[3]] == catalogue.braids[3]
    with pytest.raises(KeyError, match="unknown arm 'x'"):
        catalogue.index("x")
    again = Catalogue.from_dict(catalogue.to_dict())
    assert again == catalogue
    assert again.hash == catalogue.hash
    reordered = Catalogue(cards[::-1], catalogue.braids[::-1])
    assert reordered.hash == catalogue.hash


def test_bad_pools():
    with pytest.raises(ValueError, match="empty"):
        Catalogue.build([])
    with pytest.raises(ValueError, match="differ"):
        Catalogue.build(["a", "a"], layer_sets=("final",))
    with pytest.raises(ValueError, match="layer set"):
        Catalogue.build(["a", "b"], layer_sets=("middle",))
    with pytest.raises(TypeError, match="int"):
        Catalogue.build([3])
    with pytest.raises(ValueError, match="not in the pool"):
        Catalogue([ModelCard("a")], [Braid("b")])
    with pytest.raises(ValueError, match="layers 0 to 2"):
        Catalogue(
            [ModelCard("a", layers=3), ModelCard("b")],
            [Braid("a", ("b",), (0.5, 0.5), (3,), "router")],
        )


def test_a_model_of_unknown_size_must_not_change_the_unit_of_costs(cards):
    sized = Catalogue.build(cards, layer_sets=("output",))
    with pytest.raises(ValueError, match="'third' has no parameters"):
        sized.with_braids([Braid("third")], [ModelCard("third")])
    unsized = Catalogue.build(["a", "b"], layer_sets=("output",))
    more = unsized.with_braids([Braid("third")], [ModelCard("third")])
    assert more.costs()[:-1].tolist() == unsized.costs().tolist()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_strands": 1, "shares": ((0.5, 0.5),)}, r"follow no \['shares'\]"),
        ({"max_strands": 1, "layer_sets": ("final",)}, r"follow no \['layer_sets'\]"),
        ({"max_strands": 1, "strategies": ("router",)}, r"follow no \['strategies'\]"),
        ({"shares": ((1.0,), (0.5, 0.5))}, r"no braid would have .*\(1.0,\)"),
        (
            {"max_strands": 2, "shares": ((0.5, 0.5), (0.4, 0.3, 0.3))},
            r"no braid would have .*\(0.4, 0.3, 0.3\)",
        ),
        (
            {"layer_sets": ("final",), "shares": ((0.5, 0.5), (0.9, 0.1))},
            r"no braid would have .*\(0.9, 0.1\)",
        ),
        (
            {"strategies": ("router",), "shares": ((0.5, 0.5), (0.9, 0.1))},
            r"no braid would have .*\(0.9, 0.1\)",
        ),
        (
            {"layer_sets": ("output",), "strategies": ("attention",)},
            "nothing to attend to",
        ),
    ],
)
def test_settings_that_no_braid_would_follow_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Catalogue.build(["a", "b"], **settings)


def test_what_is_not_set_may_go_unused():
    assert len(Catalogue.build(["a", "b"], max_strands=1)) == 4
    assert len(Catalogue.build(["a"], shares=((0.5, 0.5),), layer_sets=("final",))) == 2


@pytest.mark.parametrize("vector", [{"a": 0.5, "b": 0.5}, pd.Series([0.5, 0.5]), "ab"])
def test_share_vectors_are_for_whatever_models(vector):
    with pytest.raises(TypeError, match="a share vector is a tuple"):
        Catalogue.build(["a", "b"], shares=[vector])


def test_one_card_without_a_size_is_warned_of():
    sized, unsized = ModelCard("a", parameters=1000), ModelCard("b")
    with pytest.warns(UserWarning, match=r"cards of \['b'\] have no parameters"):
        catalogue = Catalogue.build([sized, unsized])
    assert catalogue.costs()[:2].tolist() == [1.0, 1.0]
    Catalogue.build([sized])
    Catalogue.build([unsized])


def test_a_budget_that_would_do_nothing_is_refused(catalogue):
    unsized = Catalogue.build(["a", "b"])
    with pytest.raises(ValueError, match="their memory is unknown"):
        unsized.mask(budget=Budget(memory=10.0))
    with pytest.raises(TypeError, match="a share of the dearest arm is compute_budget"):
        catalogue.mask(budget=0.3)
    with pytest.raises(TypeError, match="give it as budget="):
        catalogue.mask(Budget(flops=10.0))


@pytest.mark.parametrize("pool", ["gemma-3-270m", {"model_name": "a"}, ModelCard("a")])
def test_one_model_is_no_pool(pool):
    with pytest.raises(TypeError, match="a pool is a list of models, received one"):
        Catalogue.build(pool)


BUDGETS = st.none() | st.builds(
    Budget,
    flops=st.none() | st.floats(1000, 13_000),
    memory=st.none() | st.floats(1000, 9000),
)
SIZED = Catalogue.build(
    [
        ModelCard("big", parameters=3000, layers=30, width=10, vocab_size=100),
        ModelCard("small", parameters=1000, layers=18, width=5, vocab_size=40),
    ],
    layer_sets=("output", "final"),
)


@given(
    st.floats(0, 1),
    st.sets(st.sampled_from(SIZED.ids), max_size=5),
    st.dictionaries(st.sampled_from(SIZED.ids), st.text(max_size=3), max_size=4),
    BUDGETS,
)
def test_a_mask_and_its_reasons_agree_for_any_limits(share, excluded, unfit, budget):
    """Against the rules as the documentation says them, arm by arm."""
    catalogue = Catalogue(SIZED.cards.values(), SIZED.braids, unfit)
    reasons = catalogue.mask_reasons(share, excluded, budget)
    most = budget or Budget()
    for row, arm in enumerate(catalogue.ids):
        fits = (
            arm not in unfit
            and arm not in excluded
            and catalogue.relative_costs()[row] <= share
            and (most.flops is None or catalogue.costs()[row] <= most.flops)
            and (most.memory is None or catalogue.memory()[row] <= most.memory)
        )
        assert (reasons[row] == "") == fits
        if arm in unfit:
            assert reasons[row] == f"unfit: {unfit[arm]}"
    open_to = np.array([reason == "" for reason in reasons])
    if open_to.any():
        np.testing.assert_array_equal(catalogue.mask(share, excluded, budget), open_to)
    else:
        with pytest.raises(ValueError, match="no arm is left"):
            catalogue.mask(share, excluded, budget)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_budget_allows_no_fewer_arms(one, other):
    less, more = sorted((one, other))
    assert not (SIZED.mask(less) & ~SIZED.mask(more)).any()


ARRAYS = ["costs", "relative_costs", "memory", "mask"]


@pytest.mark.parametrize("name", [*ARRAYS, "descriptors"])
def test_what_is_returned_may_be_written_to(catalogue, name):
    def read():
        found = getattr(catalogue, name)()
        return found[0] if name == "descriptors" else found

    before = read().copy()
    read()[:] = 0
    np.testing.assert_array_equal(read(), before)


def state(catalogue):
    arrays = [getattr(catalogue, name)().tobytes() for name in ARRAYS]
    return [catalogue.hash, catalogue.to_dict(), catalogue.ids, *arrays]


STRANGE = Braid("nobody")


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda c: c.index("x"), KeyError, r"unknown arm 'x'; this catalogue has 18"),
        (lambda c: c.index(["x"]), KeyError, r"unknown arm \['x'\]"),
        (lambda c: c["x"], KeyError, "Arms are named by Braid.id"),
        (lambda c: c.with_unfit("x", "bad"), KeyError, "unknown arm 'x'"),
        (lambda c: c.without(["x"]), KeyError, "unknown arm 'x'"),
        (
            lambda c: c.without(c.ids[0]),
            TypeError,
            "a collection of arm ids",
        ),
        (lambda c: c.without(c.ids), ValueError, "at least one braid, received none"),
        (lambda c: c.with_braids([STRANGE]), ValueError, r"uses \['nobody'\], not in"),
        (lambda c: c.with_braids([c.braids[0]]), ValueError, "two are equal"),
        (
            lambda c: c.with_braids([], [ModelCard("big", parameters=1)]),
            ValueError,
            "another card named 'big' is there already",
        ),
        (
            lambda c: c.with_braids([STRANGE], [ModelCard("nobody")]),
            ValueError,
            "every cost would change its unit",
        ),
        (lambda c: c.mask(excluded="x"), TypeError, "received text 'x'"),
        (lambda c: c.mask(excluded=c.ids), ValueError, r"no arm is left .*fewer arms"),
        (lambda c: c.mask(budget=Budget(memory=1)), ValueError, r"4000 bytes"),
    ],
)
def test_every_refusal_says_why_and_changes_nothing(catalogue, call, error, says):
    before = state(catalogue)
    with pytest.raises(error, match=says):
        call(catalogue)
    assert state(catalogue) == before


def test_a_pool_with_a_model_twice_is_refused_by_its_name():
    for pool in (["a", "b", "a"], [ModelCard("a"), {"model_name": "a"}]):
        for max_strands in (1, 3):
            with pytest.raises(ValueError, match="received more than one 'a'; give"):
                Catalogue.build(pool, max_strands)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([ModelCard("a")], []), ValueError, "at least one braid, received none"),
        (
            ([ModelCard("a"), ModelCard("a", layers=2)], [Braid("a")]),
            ValueError,
            "model names must differ, received more than one 'a'; give",
        ),
        (([ModelCard("a")], [Braid("a")] * 2), ValueError, "two are equal"),
        (([ModelCard("a")], [Braid("a")], {"x": "no"}), KeyError, "unknown arm 'x'"),
    ],
)
def test_catalogues_that_make_no_sense(arguments, error, says):
    with pytest.raises(error, match=says):
        Catalogue(*arguments)


def test_copies_leave_the_first_catalogue_alone(catalogue):
    before = state(catalogue)
    arm, other = catalogue.ids[:2]
    third = ModelCard("third", parameters=10)
    copy = (
        catalogue.with_unfit(arm, "slow")
        .with_braids([Braid("third")], [third, catalogue.cards["big"]])
        .without([other])
    )
    assert state(catalogue) == before
    assert copy.ids == (arm, *catalogue.ids[2:], Braid("third").id)
    assert copy.unfit == {arm: "slow"}
    assert [*copy.cards] == ["big", "small", "third"]
    assert copy.without([arm]).unfit == {}
    assert copy.with_unfit(arm, "dear").mask_reasons()[0] == "unfit: dear"


def test_removing_arms_changes_the_cost_of_no_other(catalogue):
    """Every card stays, and with it the unit and the size of all models."""
    smaller = catalogue.without([b.id for b in catalogue if "big" in b.strands])
    rows = [catalogue.index(arm) for arm in smaller.ids]
    np.testing.assert_array_equal(smaller.costs(), catalogue.costs()[rows])
    np.testing.assert_array_equal(smaller.memory(), catalogue.memory()[rows])


def test_relative_costs_by_hand():
    """Costs of 2000, 6000 and 8000 (both, the donor with its head): 0, 2/3 and 1."""
    pair = Braid("big", ("small",), (0.5, 0.5), ("output",), "router")
    cards = SIZED.cards.values()
    catalogue = Catalogue(cards, [Braid("small"), Braid("big"), pair])
    np.testing.assert_array_equal(catalogue.relative_costs(), [0.0, 4 / 6, 1.0])
    assert catalogue.mask(0.5).tolist() == [True, False, False]
    assert catalogue.mask_reasons(0.5)[1] == "relative cost 0.67 above 0.5"
    assert catalogue.singles.tolist() == [0, 1]


@given(st.permutations(SIZED.braids), st.booleans())
def test_the_order_of_arms_and_cards_enters_no_number(braids, swapped):
    cards = list(SIZED.cards.values())[:: -1 if swapped else 1]
    other = Catalogue(cards, braids)
    assert other.hash == SIZED.hash
    rows = [other.index(arm) for arm in SIZED.ids]
    for name in ARRAYS:
        np.testing.assert_array_equal(
            getattr(other, name)()[rows], getattr(SIZED, name)()
        )
    assert sorted(other.singles) == sorted(
        other.index(Braid(name).id) for name in SIZED.cards
    )
    assert (other == SIZED) == (other.ids == SIZED.ids)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.without([c.ids[-1]]),
        lambda c: c.with_braids([], [ModelCard("third", parameters=7)]),
        lambda c: Catalogue(
            [replace(card, quantisation="q8_0") for card in c.cards.values()], c.braids
        ),
    ],
)
def test_a_hash_is_of_the_arms_and_the_cards(catalogue, change):
    other = change(catalogue)
    assert other.hash != catalogue.hash
    assert other != catalogue
    again = Catalogue.from_dict(json.loads(json.dumps(other.to_dict())))
    assert (again, again.hash) == (other, other.hash)


def served(name, money=0.0, **more):
    card = {"endpoint": "http://h/v1", "price": {"input": 0, "output": money}, **more}
    return ModelCard(name, **card)


def test_a_served_model_is_never_fused(cards):
    pair = Braid("big", ("s",), (0.5, 0.5), ("output",), "router")
    control = Braid("s", fusion_layers=("final",), strategy="learned_weighted")
    for braid in (pair, control):
        with pytest.raises(ValueError, match=r"uses \['s'\], which a server answers"):
            Catalogue([*cards, served("s")], [braid])
    assert len(Catalogue([*cards, served("s")], [Braid("s")])) == 1


def test_masks_of_a_served_model(cards):
    """Its price is its cost, and its memory is not ours."""
    catalogue = Catalogue.build([*cards, served("s", 15.0)], layer_sets=("output",))
    row = catalogue.index(Braid("s").id)
    assert catalogue.relative_costs()[row] == 1.0
    assert not catalogue.mask(compute_budget=0.5)[row]
    assert catalogue.mask(budget=Budget(memory=1.0)).nonzero()[0].tolist() == [row]
    assert np.isfinite(catalogue.descriptors()[0]).all()


def test_where_a_model_is_served_does_not_change_the_hash(cards):
    def over(*more):
        return Catalogue.build([*cards, *more], layer_sets=("output",))

    there = served("s", endpoint="https://h2/v1", api_key_env="KEY")
    assert over(served("s")) == over(there)
    assert over(served("s")).hash == over(there).hash
    assert over(served("s")).hash != over(served("s", 1.0)).hash
    again = Catalogue.from_dict(json.loads(json.dumps(over(there).to_dict())))
    assert again == over(there)
    assert again.cards["s"].endpoint == "https://h2/v1"


def test_a_served_model_may_come_to_sized_ones(catalogue):
    wider = catalogue.with_braids([Braid("s")], [served("s", 1.0)])
    assert wider.costs()[-1] == pytest.approx(1e11)
    assert wider.costs()[:-1].tolist() == catalogue.costs().tolist()


def profile(body, head, **changes):
    known = {"engine": "transformers", "dtype": "float32", "prompt_tokens_per_s": 9.0}
    rest = {"fusing_seconds": 0.5, "mixing_seconds": 0.25, "load_seconds": 3.0}
    sizes = {"body_seconds": body, "head_seconds": head, "memory": 700}
    return Profile(**{**known, **rest, **sizes, **changes})


PROFILES = {"big": profile(4.0, 2.0), "small": profile(1.0, 1.0, memory=300)}


def test_profiles_make_costs_seconds_and_leave_operations(cards):
    plain = Catalogue.build(cards, layer_sets=("output",))
    timed = Catalogue.build(cards, layer_sets=("output",), profiles=PROFILES)
    assert timed.is_measured
    assert not plain.is_measured
    rows = [timed.index(Braid(name).id) for name in ("big", "small")]
    assert timed.costs()[rows].tolist() == [6.0, 2.0]
    assert timed.memory()[rows].tolist() == [700.0, 300.0]
    assert timed.operations().tolist() == plain.costs().tolist()
    # A budget of operations stays one, whatever the unit of costs.
    budget = Budget(flops=plain.costs().min())
    assert timed.mask(budget=budget).tolist() == plain.mask(budget=budget).tolist()
    assert timed.relative_costs().max() == 1.0
    assert timed.descriptors()[0].shape == plain.descriptors()[0].shape


def test_what_was_measured_is_no_part_of_what_an_arm_is(cards):
    plain = Catalogue.build(cards)
    timed = Catalogue.build(cards, profiles=PROFILES)
    assert timed.hash == plain.hash
    assert timed == plain
    data = json.loads(json.dumps(timed.to_dict()))
    again = Catalogue.from_dict(data)
    assert again.costs().tolist() == timed.costs().tolist()
    assert again.cards["big"].profile == PROFILES["big"]
    assert "profile" not in plain.to_dict()["cards"][0]
    for copy in (
        timed.with_unfit(timed.ids[3], "worse"),
        timed.without([timed.ids[0]]),
        timed.with_braids([]),
    ):
        assert copy.is_measured


@pytest.mark.parametrize("names", [["big"], ["big", "small", "other"], []])
def test_profiles_are_of_the_models_of_the_pool(cards, names):
    given = dict.fromkeys(names, PROFILES["big"])
    with pytest.raises(KeyError, match="measure these"):
        Catalogue.build(cards, profiles=given)


def test_some_profiles_are_not_enough(cards):
    cards[0] = replace(cards[0], profile=PROFILES["big"])
    with pytest.warns(UserWarning, match=r"\['small'\] have no profile"):
        catalogue = Catalogue.build(cards)
    assert catalogue.costs().tolist() == catalogue.operations().tolist()


def test_a_new_model_among_measured_ones_is_measured_too(cards):
    timed = Catalogue.build(cards, profiles=PROFILES)
    new = ModelCard("new", parameters=10)
    with pytest.raises(ValueError, match=r"\['new'\] have no profile"):
        timed.with_braids([Braid("new")], [new])
    grown = timed.with_braids([Braid("new")], [replace(new, profile=profile(9.0, 1.0))])
    assert grown.costs()[-1] == 10.0
    assert grown.costs()[:-1].tolist() == timed.costs().tolist()


def test_decoder_layers_need_a_profile_of_the_strand_that_shows_them(cards):
    native = {n: replace(p, engine="llama.cpp") for n, p in PROFILES.items()}
    with pytest.raises(ValueError, match="profile\\(pool, layers=True\\)"):
        Catalogue.build(cards, layer_sets=("sparse",), profiles=native)
    both = {n: replace(native[n], layered=p) for n, p in PROFILES.items()}
    catalogue = Catalogue.build(cards, layer_sets=("sparse",), profiles=both)
    assert catalogue.is_measured


def test_beside_profiles_no_parameters_are_needed():
    profiles = {"a": PROFILES["big"], "b": PROFILES["small"]}
    catalogue = Catalogue.build(["a", "b"], profiles=profiles)
    assert catalogue.costs()[catalogue.singles].tolist() == [6.0, 2.0]
    assert catalogue.mask(budget=Budget(memory=300)).sum() == 2
