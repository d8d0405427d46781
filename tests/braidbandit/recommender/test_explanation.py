"""Explanations reconcile: every sum of parts is the whole."""

import inspect
import json
from datetime import datetime, timezone

import numpy as np
import pytest

from braidbandit import (
    BraidRecommender,
    Budget,
    Catalogue,
    EpsilonGreedy,
    Explanation,
    Greedy,
    LinUCB,
    ModelCard,
    SquareCB,
    TaskEncoder,
    ThompsonSampling,
    Uniform,
)
from braidbandit.ledger.records import dumps

TYPES = ("code", "medical", "creative")
TASKS = [{"text": f"task {i}", "type": TYPES[i % 3]} for i in range(40)]


def teach(agent, n=40):
    rng = np.random.default_rng(0)
    for task in TASKS[:n]:
        decision = agent.recommend(task)
        better = decision.braid.anchor == "big"
        agent.update(decision, float(rng.random() * 0.4 + 0.5 * better))
    return agent


@pytest.mark.parametrize("policy", [ThompsonSampling(), LinUCB(), Greedy()])
def test_terms_add_up_to_the_score(agent, policy):
    teach(agent.set_params(policy=policy))
    call = {"preference": {"quality": 1, "compute": 0.3}, "compute_budget": 0.7}
    explanation = agent.explain(TASKS[0], **call)
    decision = agent.recommend(TASKS[0], **call)
    assert explanation.arm_id == decision.braid.id
    for row, score, allowed in zip(
        explanation.rows, decision.scores, decision.eligible, strict=True
    ):
        assert row.mean + row.exploration + row.cost == score
        assert row.score == score if allowed else row.score == -np.inf
        assert (row.reason == "") == allowed


def test_the_mean_splits_by_known_tasks(agent):
    teach(agent)
    explanation = agent.explain(TASKS[0])
    parts = sum(task.contribution for task in explanation.nearest)
    total = explanation.prior + parts + explanation.rest
    assert total == pytest.approx(explanation.chosen.mean, abs=1e-12)
    near = [task.similarity for task in explanation.nearest]
    assert near == sorted(near, reverse=True)
    assert near[0] == pytest.approx(1.0)
    assert explanation.prior == pytest.approx(agent.posterior_.scales.mean, abs=0.2)


@pytest.mark.parametrize("forgetting", [1.0, 0.98])
def test_every_known_task_together_is_all_there_is(agent, monkeypatch, forgetting):
    """With all 55 tasks quoted nothing is left: prior + contributions = mean."""
    monkeypatch.setattr("braidbandit.recommender.explanation._NEAREST", 100)
    agent.set_params(forgetting=forgetting)
    teach(teach(agent, 15))
    explanation = agent.explain("a new task")
    assert len(explanation.nearest) == 55
    assert explanation.rest == pytest.approx(0.0, abs=1e-9)


def test_the_lead_splits_by_component(agent):
    teach(agent)
    explanation = agent.explain(TASKS[0])
    singles = [r.mean for r in explanation.rows if agent.catalogue[r.arm_id].is_single]
    lead = explanation.chosen.mean - max(singles)
    assert sum(explanation.blocks.values()) == pytest.approx(lead, abs=1e-12)
    known = {"share", "anchor", "pair", "strands", "layers", "strategy", "control"}
    assert set(explanation.blocks) <= known | {"cost", "arm", "gain", "bias"}


def test_confidence_is_the_chance_to_be_best(agent):
    teach(agent.set_params(policy=Greedy(), price=0.0))
    one, other = agent.explain("x"), agent.explain("x")
    assert one.confidence == other.confidence
    assert 1 / len(one.rows) < one.confidence <= 1.0
    alone = agent.explain("x", eligible=[one.arm_id])
    assert alone.confidence == 1.0
    assert alone.counterfactual is None or alone.counterfactual.arm_id != one.arm_id


def test_counterfactual_of_a_limit(agent):
    """ "big" is better; a limit that rules it out is what stands in the way."""
    teach(agent.set_params(policy=Greedy(), price=0.0))
    for call, change in [
        ({"compute_budget": 0.1}, "compute_budget"),
        ({"budget": Budget(flops=2500)}, "flops"),
        ({"budget": Budget(memory=5000)}, "memory"),
    ]:
        found = agent.explain("x", **call).counterfactual
        assert found.change == change
        more = {"compute_budget": 0.1 + found.amount}
        if change != "compute_budget":
            limit = getattr(call["budget"], change)
            more = {"budget": Budget(**{change: limit + found.amount})}
        eligible = agent.recommend("x", **more).eligible
        assert eligible[agent.catalogue.index(found.arm_id)]
        assert "more" in str(found)


def test_counterfactual_of_latency(agent):
    """ "big" is better and slower than the limit: more time is what it needs."""
    for task in TASKS * 2:
        decision = agent.set_params(policy=Uniform()).recommend(task)
        big = decision.braid.anchor == "big"
        agent.update(decision, 0.9 if big else 0.3, latency_ms=400.0 if big else 100.0)
    agent.set_params(policy=Greedy(), price=0.0)
    found = agent.explain("x", budget=Budget(latency_ms=200.0)).counterfactual
    assert found.change == "latency_ms"
    assert agent.catalogue[found.arm_id].anchor == "big"
    assert f"with {found.amount:.3g} ms more: big" in str(found)
    longer = Budget(latency_ms=200.0 + found.amount)
    assert agent.recommend("x", budget=longer).braid.id == found.arm_id


def test_counterfactual_of_the_price(agent):
    teach(agent.set_params(policy=Greedy(), price=0.0))
    explanation = agent.explain("x")
    found = explanation.counterfactual
    assert found.change == "price"
    assert agent.set_params(price=found.amount + 1e-9).predict(["x"])[0] == found.arm_id
    assert agent.set_params(price=found.amount - 1e-9).predict(["x"])[0] == (
        explanation.arm_id
    )


def test_counterfactual_of_the_price_goes_by_measured_compute(agent, catalogue):
    """The smaller model turns out the dearer one: a higher price speaks against it."""
    small, big = sorted(
        (row for row, braid in enumerate(catalogue) if braid.is_single),
        key=lambda row: catalogue.costs()[row],
    )
    arms = [catalogue.ids[small], catalogue.ids[big]]
    for _ in range(30):
        for arm, reward, compute in zip(arms, (0.9, 0.8), (900.0, 100.0), strict=True):
            decision = agent.recommend("x", eligible=[arm])
            agent.update(decision, reward, compute=compute)
    agent.set_params(policy=Greedy(), price=0.02)
    explanation = agent.explain("x", eligible=arms)
    found = explanation.counterfactual
    assert (explanation.arm_id, found.arm_id) == tuple(arms)
    assert found.change == "price"
    for more, arm in ((1e-9, arms[1]), (-1e-9, arms[0])):
        agent.set_params(price=0.02 + found.amount + more)
        assert agent.explain("x", eligible=arms).arm_id == arm


POLICIES_THAT_DRAW = [
    Uniform(),
    EpsilonGreedy(0.9),
    SquareCB(gamma=20.0),
    ThompsonSampling(floor=0.9 / 18),
]


@pytest.mark.parametrize("policy", POLICIES_THAT_DRAW, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_a_random_pick_is_called_one(agent, policy, budget):
    """And only a random pick: a pick has the best score, or another is named."""
    teach(agent.set_params(policy=policy))
    kinds = set()
    for i in range(30):
        explanation = agent.explain(f"new {i}", budget)
        decision = agent.recommend(f"new {i}", budget)
        best = explanation.top(1)[0]
        random = best.score > explanation.chosen.score + 1e-9
        kinds.add(random)
        said = f"picked at random (the best score has {best.label})"
        assert (said in explanation.sentence) == random
        assert (said in decision.sentence) == random
        found, text = explanation.counterfactual, str(explanation)
        assert (found.change == "random") == random
        assert (f"picked at random; {best.label} has the best score" in text) == random
        if random:
            assert found.arm_id == best.arm_id
            assert found.amount == pytest.approx(best.score - explanation.chosen.score)
        assert " 0 better" not in text
        assert Explanation.from_dict(json.loads(dumps(explanation))) == explanation
    assert True in kinds


def test_arms_with_one_score_are_no_random_picks(agent):
    """Nothing is known and nothing costs: every arm has the same score."""
    agent.set_params(policy=Greedy(), price=0.0)
    explanation = agent.explain("x")
    assert len({row.score for row in explanation.rows}) == 1
    assert "at random" not in str(explanation)
    assert str(explanation.counterfactual).endswith(" has the same score")


@pytest.mark.parametrize("policy", POLICIES_THAT_DRAW, ids=lambda p: type(p).__name__)
def test_probabilities_and_costs_add_up(agent, policy):
    agent.set_params(mean_cost=0.2, policy=policy)
    for i, task in enumerate(TASKS[:10]):
        took = {"latency_ms": 5.0 + i, "compute": 2.0 + i % 3}
        agent.update(agent.recommend(task), i / 10, **took)
    prefers = {"quality": 1.0, "latency": 0.3, "compute": 0.1}
    explanation = agent.explain("x", 0.7, preference=prefers)
    chances = [row.probability for row in explanation.rows]
    assert sum(chances) == pytest.approx(1.0)
    assert explanation.probability == explanation.chosen.probability > 0
    for row, chance in zip(explanation.rows, chances, strict=True):
        assert chance == 0.0 or row.mask == 0.0
        assert (row.reason != "") == (row.mask == -np.inf)
    assert set(explanation.costs) == {"compute", "latency", "pacing"}
    assert sum(explanation.costs.values()) == pytest.approx(
        explanation.chosen.cost, abs=1e-15
    )
    assert explanation.costs["latency"] <= 0.0
    assert explanation.costs["pacing"] <= 0.0


def test_text_and_json(agent):
    teach(agent)
    explanation = agent.explain("x", compute_budget=0.8)
    text = str(explanation)
    assert "confidence that it is the best choice" in text
    assert "before anything was learnt" in text
    assert Explanation.from_dict(json.loads(dumps(explanation))) == explanation


def test_plot_says_what_is_missing(agent, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"braidbandit\[plot\]"):
        agent.explain("x").plot()


@pytest.mark.parametrize("policy", [LinUCB(), ThompsonSampling(), SquareCB()])
def test_a_decision_over_many_arms_reconciles_too(policy, encoder):
    """From 512 arms on, what their descriptors have in common is computed once."""
    catalogue = Catalogue.build(
        [f"m{i}" for i in range(6)], layer_sets=("output", "final")
    )
    assert len(catalogue) >= 512
    agent = BraidRecommender(catalogue, encoder, policy, random_state=0)
    for i in range(20):
        agent.update(agent.recommend(f"task {i}"), i / 20)
    explanation, decision = agent.explain("x"), agent.recommend("x")
    assert decision.braid.id == explanation.arm_id
    assert decision.scores == tuple(
        row.mean + row.exploration + row.cost for row in explanation.rows
    )
    x = np.array(decision.x)
    plain = agent.posterior_.belief(agent.Z_, x)
    agent.expire(datetime.now(timezone.utc))
    shared = agent.arm_model_.believe(x)
    np.testing.assert_allclose(shared.mean, plain.mean, rtol=1e-12)
    np.testing.assert_allclose(shared.sd, plain.sd, rtol=3e-6)


def test_arms_cut_off_before_the_last_draws_are_no_better_arms():
    """Their score is the winner's, give or take rounding: it was not chance."""
    sizes = [10**9 * (i + 1) for i in range(5)]
    cards = [ModelCard(f"m{n}", parameters=n, layers=32) for n in sizes]
    catalogue, rng = Catalogue.build(cards), np.random.default_rng(0)
    assert len(catalogue) > 128
    agent = BraidRecommender(
        catalogue,
        TaskEncoder(types=()),
        ThompsonSampling(scale=1.0, floor=0.0),
        random_state=0,
    )
    for x in rng.standard_normal((40, 8)):
        decision = agent.recommend(x)
        assert "at random" not in decision.sentence
        agent.update(decision, float(rng.random()))


def test_explain_takes_what_recommend_takes(agent):
    limits = ("x", 1.0, Budget(flops=1e9), agent.catalogue.ids[:1])
    found = agent.explain(*limits)
    assert found.arm_id == agent.recommend(*limits).braid.id
    names = [
        [*inspect.signature(call).parameters.items()]
        for call in (agent.explain, agent.recommend)
    ]
    assert names[0] == names[1]


def test_explanation_round_trips_exactly(agent):
    gone = agent.catalogue.ids[0]
    explanation = agent.explain("x", compute_budget=0.9, excluded=[gone])
    again = Explanation.from_dict(json.loads(dumps(explanation)))
    assert again == explanation
    assert again.rows[0].score == float("-inf")


def test_table_shows_the_chosen_arm(agent):
    explanation = agent.explain("x")
    text = str(explanation)
    assert explanation.sentence in text
    assert "\n> " in text
    assert explanation.chosen in explanation.rows


def test_plot(agent):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = agent.explain("x").plot()
    assert len(axes.patches) == 15
    plt.close(axes.figure)
