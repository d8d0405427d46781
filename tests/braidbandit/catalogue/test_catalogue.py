import numpy as np
import pandas as pd
import pytest

from braidbandit import Braid, Budget, Catalogue, ModelCard
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
    assert memory[Braid("a").id] == 200
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
