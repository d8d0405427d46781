import numpy as np
import pytest

from braidbandit import BraidRecommender, Budget, LinUCB, Uniform
from braidbandit.recommender.objectives import (
    CostModel,
    Pacer,
    Preference,
    as_quality,
    check_measurement,
    quality_from_bits,
    quality_from_stars,
    utility,
)

TYPES = ("code", "medical", "creative")
TASKS = [{"text": f"task {i}", "type": TYPES[i % 3]} for i in range(60)]


def test_preferences():
    assert Preference.read(None, 0.3) == Preference(0.0, 0.3)
    read = Preference.read({"quality": 2, "latency": 1, "compute": 0.5})
    assert read == Preference(0.5, 0.25)
    assert Preference.read({"latency": 0.1}) == Preference(0.1, 0.0)
    with pytest.raises(KeyError, match="speed"):
        Preference.read({"speed": 1})
    tiny = {"quality": 1e-310, "compute": 1.0}
    huge = {"latency": 10**400}
    wrong = ({"latency": -1.0}, {"compute": float("nan")}, {"quality": 0.0})
    for bad in (*wrong, tiny, huge):
        with pytest.raises(ValueError, match=r"weight"):
            Preference.read(bad)


def test_measurements_are_above_zero():
    assert check_measurement("compute", 2) == 2.0
    assert check_measurement("latency_ms", None) is None
    for value in (float("inf"), 10**400):
        with pytest.raises(ValueError, match="latency_ms"):
            check_measurement("latency_ms", value)


def test_the_pacer_saves_nothing_up_and_stays_finite():
    pacer = Pacer()
    for _ in range(5000):
        pacer.spend(0.0, 0.5)
    assert (pacer.price, pacer.overspent) == (0.0, 0.0)
    for _ in range(5000):
        pacer.spend(1.0, 0.5)
    assert (pacer.price, pacer.overspent) == (10.0, 200.0)


def test_a_measured_arm_leaves_its_estimate():
    """Arm b is slower than its size says: learnt, and arm a is not dragged along."""
    model = CostModel(["bias"], 1, 2)
    Z, one, size = np.ones((2, 1)), np.ones(1), np.array([10.0, 20.0])
    assert model.n == 0
    for _ in range(50):
        model.learn(0, Z[0], one, 100.0, 10.0)
        model.learn(1, Z[1], one, 600.0, 20.0)
    np.testing.assert_allclose(model.expected(Z, one, size), [100, 600], rtol=0.05)
    for _ in range(50):
        model.unlearn(1, Z[1], one, 600.0, 20.0)
    ratio = model.expected(Z, one, size)
    assert ratio[1] / ratio[0] == pytest.approx(2.0, rel=0.05)


def teach(agent, catalogue, rounds=2):
    """Braids on "small" answer in 50 ms, others in 200 ms; quality is the same."""
    agent.set_params(policy=Uniform())
    for task in TASKS * rounds:
        decision = agent.recommend(task)
        fast = decision.braid.anchor == "small"
        agent.update(decision, 0.6, latency_ms=50.0 if fast else 200.0)
    return agent.set_params(policy=LinUCB(0.0, floor=0.0), price=0.0)


def test_preferences_at_call_time(agent, catalogue):
    teach(agent, catalogue)
    before = agent.posterior_.mean.tobytes()
    hurried = agent.recommend("x", preference={"quality": 1, "latency": 0.9})
    assert hurried.braid.anchor == "small"
    assert 40 < hurried.expected_latency_ms < 65
    assert hurried.budget["preference"] == {"quality": 1, "latency": 0.9}
    thrifty = agent.recommend("x", preference={"quality": 1, "compute": 0.9})
    assert thrifty.relative_cost == 0.0
    assert agent.posterior_.mean.tobytes() == before
    explanation = agent.explain("x", preference={"latency": 0.2, "compute": 0.1})
    assert explanation.costs["latency"] <= 0
    assert sum(explanation.costs.values()) == pytest.approx(explanation.chosen.cost)


def test_latency_budget(agent, catalogue):
    limit = Budget(latency_ms=100.0)
    assert agent.recommend("x", budget=limit).expected_latency_ms is None
    agent.arm_model_.log.pending.clear()
    teach(agent, catalogue)
    assert {agent.recommend(t, budget=limit).braid.anchor for t in TASKS} == {"small"}
    masked = [r for r in agent.explain("x", budget=limit).rows if r.reason]
    assert masked
    assert all("over 100 ms" in row.reason for row in masked)
    with pytest.raises(ValueError, match="no arm is left"):
        agent.recommend("x", budget=Budget(latency_ms=1.0))
    with pytest.raises(ValueError, match="latency_ms"):
        Budget(latency_ms=0.0)


def test_measured_compute_replaces_the_estimate(agent, catalogue):
    """The models of "small" turn out to be the dear ones."""
    agent.set_params(policy=Uniform())
    for task in TASKS * 2:
        decision = agent.recommend(task)
        small = decision.braid.anchor == "small"
        agent.update(decision, 0.6, compute=9.0 if small else 1.0)
    agent.set_params(policy=LinUCB(0.0, floor=0.0), price=0.9)
    assert agent.recommend("x").braid.anchor == "big"


def test_accuracy_target(agent, catalogue):
    """With a target the price decides among the arms that reach it."""
    agent.set_params(policy=Uniform())
    for task in TASKS * 3:
        decision = agent.recommend(task)
        big = decision.braid.anchor == "big"
        agent.update(decision, 0.8 if big else 0.4)
    agent.set_params(policy=LinUCB(0.0, floor=0.0), price=1.0)
    assert agent.recommend("x").braid.anchor == "small"
    reached = agent.recommend("x", accuracy_target=0.75)
    assert reached.braid.anchor == "big"
    assert reached.budget["accuracy_target"] == 0.75
    best = agent.recommend("x", accuracy_target=1.0)
    assert "no braid is expected to reach 1" in best.sentence
    assert sum(best.eligible) == 1
    reasons = [r.reason for r in agent.explain("x", accuracy_target=0.75).rows]
    assert any("not expected to reach 0.75" in reason for reason in reasons)


@pytest.mark.parametrize("mean_cost", [0.2, 0.5])
def test_the_pacer_holds_the_mean_cost(catalogue, encoder, mean_cost):
    """1,000 decisions, one in ten is rated; dearer braids are better.

    Without the pacer the mean is far above; with it within 2 %.
    """
    rng = np.random.default_rng(0)
    costs = catalogue.relative_costs()

    def run(target, rounds):
        agent = BraidRecommender(
            catalogue, encoder, price=0.0, mean_cost=target, random_state=0
        )
        spent = []
        for i in range(rounds):
            decision = agent.recommend(TASKS[i % 60])
            cost = costs[catalogue.index(decision.braid.id)]
            spent.append(cost)
            if i % 10 == 0:
                quality = 0.3 + 0.5 * cost + 0.05 * rng.standard_normal()
                agent.update(decision, float(np.clip(quality, 0, 1)))
        return np.mean(spent)

    assert run(mean_cost, 1000) == pytest.approx(mean_cost, rel=0.02)
    assert run(None, 200) > 1.2 * mean_cost


def test_bad_mean_cost(agent):
    with pytest.raises(ValueError, match="mean_cost"):
        agent.set_params(mean_cost=1.5).recommend("x")


@pytest.mark.parametrize(
    ("bits", "quality"), [(0.8, 0.5), (0.4, 1.0), (0.1, 1.0), (1.2, 0.0), (0.72, 0.6)]
)
def test_quality_of_bits(bits, quality):
    """clip(1/2 + (0.8 - bits) / 0.8, 0, 1)"""
    assert quality_from_bits(bits, 0.8) == pytest.approx(quality)


def test_stars_and_utility():
    assert [quality_from_stars(n) for n in (1, 5)] == [0.2, 1.0]
    assert utility(0.8, 0.5, 0.1) == pytest.approx(0.75)


def test_feedback_becomes_quality():
    assert as_quality(0.3) == 0.3
    assert as_quality(False) == 0.0
    assert as_quality(lambda task, output: output == task, "x", "x") == 1.0


@pytest.mark.parametrize("bad", ["0.5", b"0.5", None, [0.5]])
def test_a_reward_is_a_number(bad):
    with pytest.raises(TypeError, match="a reward is a number"):
        as_quality(bad)


@pytest.mark.parametrize("bad", [1.2, -0.1, float("nan")])
def test_a_reward_lies_between_0_and_1(bad):
    with pytest.raises(ValueError, match="reward"):
        as_quality(bad)


def test_what_quality_cannot_be_made_of():
    with pytest.raises(TypeError, match="reward"):
        as_quality("good")
    with pytest.raises(ValueError, match="stars"):
        quality_from_stars(0)
    with pytest.raises(ValueError, match="reference"):
        quality_from_bits(1.0, 0.0)
    with pytest.raises(ValueError, match="bits"):
        quality_from_bits(float("nan"), 1.0)
    with pytest.raises(ValueError, match="price"):
        utility(0.5, 0.5, -1.0)
