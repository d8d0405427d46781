"""What is known when one choice is made: masks, reasons, and what costs are worth."""

import numpy as np
import pandas as pd
import pytest
from learnt import TASKS, fingerprint

from braidbandit import BraidRecommender, Budget, Ledger
from braidbandit.catalogue.limits import Limits
from braidbandit.recommender.objectives import Preference
from braidbandit.recommender.scoring import LATENCY, assess, cost_of, cost_terms


@pytest.fixture
def taught(agent):
    """ "big" is better, slower by four and dearer by two."""
    for i, task in enumerate(TASKS):
        arm = agent.catalogue.ids[i % len(agent.catalogue)]
        decision = agent.recommend(task, eligible=[arm])
        big = decision.braid.anchor == "big"
        took = {"latency_ms": 400.0 if big else 100.0, "compute": 2.0 if big else 1.0}
        agent.update(decision, 0.8 if big else 0.4, **took)
    return agent


def situation(agent, price=0.0, dual=0.0, **limits):
    x = agent.encoder_.features(["x"])[0]
    return assess(agent.arm_model_, x, Limits(**limits), price, dual)


@pytest.mark.parametrize(
    "collect", [list, tuple, set, frozenset, dict.fromkeys, np.array, iter]
)
def test_eligible_arms_in_any_collection(agent, collect):
    arm = agent.catalogue.ids[2]
    ids = collect([arm])
    ids = ids.keys() if isinstance(ids, dict) else ids
    assert agent.recommend("x", eligible=ids).braid.id == arm


def test_eligible_arms_as_booleans(agent):
    """In catalogue order, or by name in any order."""
    ids = agent.catalogue.ids
    flags = np.arange(len(ids)) % 3 == 1
    by_name = dict(zip(ids, flags.tolist(), strict=True))
    backwards = dict(reversed(by_name.items()))
    for given in (flags, flags.tolist(), by_name, backwards, pd.Series(backwards)):
        now = situation(agent.start(), eligible=given)
        np.testing.assert_array_equal(now.eligible, flags)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        (lambda ids: [True, False], ValueError, r"boolean of shape \(18,\)"),
        (lambda ids: dict.fromkeys(ids, 1), ValueError, "boolean of shape"),
        (lambda ids: dict.fromkeys(ids[1:], True), ValueError, "missing"),
        (lambda ids: [*ids[:2], ids[0]], ValueError, "names an arm twice"),
        (lambda ids: ["nobody"], KeyError, "nobody"),
        (lambda ids: [list(ids[:2])], TypeError, "arm ids or booleans"),
        (lambda ids: [False] * 18, ValueError, "no arm is left: all that remained"),
        (lambda ids: [], (ValueError, KeyError), "no arm"),
    ],
)
def test_a_refused_mask_leaves_every_bit(agent, given, error, match):
    agent.update(agent.recommend("x"), 0.5)
    before = fingerprint(agent)
    with pytest.raises(error, match=match):
        agent.recommend("x", eligible=given(agent.catalogue.ids))
    assert fingerprint(agent) == before


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"compute_budget": 0.3},
        {"budget": Budget(flops=2500.0)},
        {"budget": Budget(memory=5000)},
        {"budget": Budget(latency_ms=200.0)},
        {"accuracy_target": 0.75},
        {"accuracy_target": 1.0},
        {
            "compute_budget": 0.9,
            "budget": Budget(latency_ms=390.0),
            "accuracy_target": 0.5,
        },
    ],
    ids=str,
)
def test_masks_and_reasons_agree(taught, limits):
    """An arm has a reason exactly where it may not be chosen."""
    gone, given = taught.catalogue.ids[3], np.arange(18) != 5
    for more in ({}, {"excluded": [gone]}, {"eligible": given}):
        now = situation(taught, **limits, **more)
        reasons = now.reasons(taught.catalogue)
        assert [not why for why in reasons] == now.eligible.tolist()
        assert now.eligible.any()
        if more.get("excluded"):
            assert not now.eligible[3]
        if "eligible" in more:
            assert not now.eligible[5]


def test_the_first_reason_counts_and_says_what_was_asked(taught):
    ids = taught.catalogue.ids
    given = dict.fromkeys(ids, True) | {ids[0]: False}
    now = situation(taught, eligible=given, budget=Budget(latency_ms=200.0))
    reasons = now.reasons(taught.catalogue)
    assert reasons[0] == "not among the eligible arms"
    slow = [why for why in reasons[1:] if why]
    assert set(slow) == {"expected to take over 200 ms"}
    assert [ruled.by for ruled in now.masked] == ["eligible", LATENCY]


def test_latency_is_no_limit_until_some_was_measured(agent, taught):
    fresh = BraidRecommender(agent.catalogue, agent.encoder, random_state=0).start()
    now = situation(fresh, budget=Budget(latency_ms=1.0))
    assert now.latency is None
    assert now.eligible.all()
    now = situation(taught, budget=Budget(latency_ms=200.0))
    np.testing.assert_array_equal(now.eligible, now.latency <= 200.0)
    singles = [b.anchor for b in taught.catalogue if b.is_single]
    rows = [taught.catalogue.index(b.id) for b in taught.catalogue if b.is_single]
    took = dict(zip(singles, now.latency[rows], strict=True))
    assert took["small"] < 200.0 < took["big"]
    with pytest.raises(ValueError, match="all that remained are expected to take over"):
        situation(taught, budget=Budget(latency_ms=1.0))


@pytest.mark.parametrize("target", [0.0, 0.5, 0.7, 0.8])
def test_a_target_leaves_what_may_reach_it(taught, target):
    """Mean plus one standard deviation."""
    now = situation(taught, accuracy_target=target)
    reach = now.belief.mean + now.belief.sd
    assert not now.missed_target
    np.testing.assert_array_equal(now.eligible, reach >= target)


def test_a_target_out_of_reach_leaves_the_nearest_of_what_else_allows(taught):
    free = situation(taught, accuracy_target=1.0)
    reach = free.belief.mean + free.belief.sd
    assert free.missed_target
    assert np.flatnonzero(free.eligible).tolist() == [int(reach.argmax())]
    small = situation(taught, accuracy_target=1.0, compute_budget=0.0)
    allowed = taught.catalogue.allowed(Limits(0.0))
    best = int(np.where(allowed, reach, -np.inf).argmax())
    assert np.flatnonzero(small.eligible).tolist() == [best]
    assert "no braid is expected to reach 1" in (
        taught.explain("x", accuracy_target=1.0).sentence
    )


def test_preferences_by_pencil(agent):
    """Estimated costs lie in [0, 1], measured ones are scaled to it: (v - 1) / 3.

    1, 2, 4 becomes 0, 1/3, 1; the pace goes by the estimate whatever is measured.
    """
    model = agent.start().arm_model_
    estimated, values = model.relative_costs, np.tile([1.0, 2.0, 4.0], 6)
    prefers = Preference(latency=0.3, compute=0.6)
    unknown = cost_terms(model, {}, prefers, 0.5)
    np.testing.assert_array_equal(unknown["compute"], -0.6 * estimated)
    assert not unknown["latency"].any()
    np.testing.assert_array_equal(unknown["pacing"], -0.5 * estimated)
    known = cost_terms(model, {"latency": values, "compute": values}, prefers, 0.5)
    scaled = np.tile([0.0, 1 / 3, 1.0], 6)
    np.testing.assert_allclose(known["latency"], -0.3 * scaled)
    np.testing.assert_allclose(known["compute"], -0.6 * scaled)
    np.testing.assert_array_equal(known["pacing"], unknown["pacing"])


@pytest.mark.parametrize("weight", [1.0, 2.0, 0.5])
def test_only_ratios_to_quality_count(taught, weight):
    prefers = {"quality": weight, "latency": 0.2 * weight, "compute": 0.1 * weight}
    now = situation(taught, price=9.0, preference=prefers)  # the price does not count
    one = situation(taught, preference={"latency": 0.2, "compute": 0.1})
    np.testing.assert_allclose(now.cost_term, one.cost_term, rtol=1e-12)
    np.testing.assert_array_equal(
        now.cost_term,
        now.costs["compute"] + now.costs["latency"] + now.costs["pacing"],
    )
    assert -0.3 - 1e-12 <= now.cost_term.min() < now.cost_term.max() <= 0.0


def test_a_price_and_a_dual_are_what_a_choice_without_preference_pays(taught):
    now = situation(taught, price=0.2, dual=0.1)
    np.testing.assert_array_equal(
        now.cost_term, cost_of(taught.arm_model_, now.x, 0.2, 0.1)
    )
    assert not now.costs["latency"].any()
    free = situation(taught)
    assert not free.cost_term.any()


def test_dearer_latency_moves_the_choice_to_the_faster_model(taught):
    worth = [
        taught.explain("x", preference={"latency": price}).rows for price in (0.0, 2.0)
    ]
    best = [max(rows, key=lambda row: row.mean + row.cost).arm_id for rows in worth]
    anchors = [taught.catalogue[arm].anchor for arm in best]
    assert anchors == ["big", "small"]


def test_what_is_refused_leaves_no_trace(catalogue, encoder):
    """The first call makes the posterior, unless it is refused."""
    agent = BraidRecommender(catalogue, encoder, random_state=0)
    with pytest.raises(ValueError, match="no arm is left"):
        agent.recommend("x", eligible=[False] * len(catalogue))
    assert agent.posterior_ is None
    assert agent.pending_ == {}


def test_an_unfit_arm_is_out_with_or_without_limits(agent, catalogue):
    gone = catalogue.ids[1]
    agent.set_params(catalogue=catalogue.with_unfit(gone, "worse than alone"))
    for limits in ({}, {"compute_budget": 0.9}, {"eligible": catalogue.ids[:3]}):
        explanation = agent.explain("x", **limits)
        assert "worse than alone" in explanation.rows[1].reason
        assert not agent.recommend("x", **limits).eligible[1]


def test_a_decision_under_any_limit_can_be_kept(agent, tmp_path):
    decision = agent.recommend(
        {"type": "code", "complexity": np.float32(0.5)},
        budget=Budget(latency_ms=float("inf"), flops=np.float32(1e9)),
        accuracy_target=np.float32(0.1),
    )
    with Ledger(tmp_path / "l.db") as ledger:
        assert ledger.record_decision(decision)
    agent.save(tmp_path / "s")
