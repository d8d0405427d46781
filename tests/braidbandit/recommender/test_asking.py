import math
from dataclasses import replace

import numpy as np
import pytest
from learnt import TASKS, decide, fingerprint

from braidbandit import Braid, BraidRecommender, Ledger, Outcome
from braidbandit.evaluation.log import Log
from braidbandit.recommender.asking import AskingPace, drawn_from, worth_of_rating


def worth(agent, task, arm):
    x = agent.encoder_.features([task])[0]
    row = agent.arm_ids_.index(arm)
    return worth_of_rating(agent.arm_model_, x, row, np.zeros(len(agent.arm_ids_)))


def test_the_worth_of_a_rating_by_simulation(agent):
    """The mean best score after one more reward, less the best score before."""
    for i, decision in enumerate(decide(agent, 12)):
        agent.update(decision, (i % 4) / 3)
    model, arm = agent.arm_model_, 2
    x = agent.encoder_.features([TASKS[0]])[0]
    belief = model.posterior.belief(agent.Z_, x)
    rng, noise = np.random.default_rng(0), model.posterior.scales.noise
    best = []
    for draw in belief.draw(4000, rng)[:, arm] + noise * rng.standard_normal(4000):
        after = model.posterior.copy()
        after.update(arm, agent.Z_[arm], x, float(draw))
        best.append(after.means(agent.Z_, x[None, :])[0].max())
    said = worth_of_rating(model, x, arm, np.zeros(len(agent.arm_ids_)))
    error = np.std(best) / math.sqrt(len(best))
    assert said == pytest.approx(np.mean(best) - belief.mean.max(), abs=4 * error)
    assert said > 10 * error / 4


def test_a_rating_is_worth_less_of_what_is_known(agent):
    first = agent.recommend(TASKS[0])
    at_first = worth(agent, TASKS[0], first.braid.id)
    for i in range(30):
        agent.update(agent.recommend(TASKS[0], eligible=[first.braid.id]), i % 2)
    assert 0 <= worth(agent, TASKS[0], first.braid.id) < at_first / 3


def test_one_arm_has_nothing_to_be_chosen(agent, catalogue):
    only = catalogue.ids[0]
    agent.remove_arms(catalogue.ids[1:])
    agent.recommend(TASKS[0])
    assert worth(agent, TASKS[0], only) == pytest.approx(0.0, abs=1e-9)


def test_the_rate_is_held_and_what_is_worth_more_is_asked_more(agent):
    asked = []
    for i in range(300):
        decision = agent.recommend(TASKS[i % 40])
        said = agent.ask(decision, rate=0.2)
        record = agent.pending_[decision.id].asked
        assert (
            record["asked"] == said == (drawn_from(decision.id) < record["probability"])
        )
        assert 0.05 <= record["probability"] <= 1.0
        asked.append((said, record["probability"], record["worth"]))
        if i % 3 == 0:
            agent.update(decision, (i % 5) / 4)
    said, probability, value = np.array(asked, dtype=float).T
    assert probability.mean() == pytest.approx(0.2, abs=0.02)
    sure = 4 * math.sqrt(0.2 * 0.8 / 300)
    assert said.mean() == pytest.approx(probability.mean(), abs=sure)
    late = slice(100, None)
    assert np.corrcoef(probability[late], value[late])[0, 1] > 0.5


def test_pace_by_hand():
    pace = AskingPace()
    assert pace.probability(0.3, 0.1) == pytest.approx(0.1)
    pace = pace.after({"worth": 0.1, "rate": 0.1, "probability": 0.1})
    pace = pace.after({"worth": 0.3, "rate": 0.1, "probability": 0.1})
    assert (pace.n, pace.worth, pace.behind) == (2, pytest.approx(0.2), 0.0)
    assert pace.probability(0.4, 0.1) == pytest.approx(0.1 * (0.25 + 0.75 * 2))
    assert pace.probability(0.0, 0.1) == pytest.approx(0.025)
    assert pace.probability(90.0, 0.1) == 1.0
    assert pace.probability(90.0, 0.0) == 0.0
    less = pace.after({"worth": 0.2, "rate": 0.1, "probability": 0.6})
    assert less.behind == pytest.approx(-0.5)
    assert less.probability(0.2, 0.1) == pytest.approx(0.1 - 0.5 / 50)


def test_draws_are_uniform():
    draws = np.array([drawn_from(f"d{i}") for i in range(4000)])
    assert np.histogram(draws, bins=4, range=(0, 1))[0] == pytest.approx(1000, abs=110)


def test_the_same_decision_gets_the_same_reply(agent):
    decision = agent.recommend(TASKS[0])
    said, pace = agent.ask(decision), agent.asking_
    assert [agent.ask(decision.id, rate) for rate in (0.0, 1.0)] == [said, said]
    assert agent.asking_ == pace
    agent.update(decision, 0.5)
    assert agent.ask(decision, 1.0) is False  # its rating is there


def test_asking_decides_nothing(agent, twin):
    for task in TASKS:
        one, other = agent.recommend(task), twin.recommend(task)
        agent.ask(one, 0.5)
        assert (one.braid, one.propensity) == (other.braid, other.propensity)
        agent.update(one, 0.5)
        twin.update(other, 0.5)


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, 10**400])
def test_a_bad_rate_is_refused(agent, rate):
    decision = agent.recommend(TASKS[0])
    before = fingerprint(agent)
    with pytest.raises(ValueError, match="rate is the share"):
        agent.ask(decision, rate)
    assert (fingerprint(agent), agent.asking_) == (before, AskingPace())


def test_what_cannot_be_asked_about(agent):
    first, gone = decide(agent, 2)
    agent.expire(gone)
    agent.override(first, next(a for a in agent.arm_ids_ if a != first.braid.id))
    with pytest.raises(KeyError, match="not served"):
        agent.ask(first)
    for late in (gone, gone.id):
        with pytest.raises(KeyError, match="expired"):
            agent.ask(late)
    assert agent.asking_ == AskingPace()
    with pytest.raises(KeyError, match="no pending decision"):
        agent.ask("unknown")
    with pytest.raises(TypeError, match="Decision or its id"):
        agent.ask(7)


def test_what_the_ledger_says_was_asked_counts_once(agent, twin):
    """A decision of another agent, which does not wait here."""
    decision = agent.recommend(TASKS[0])
    asked = twin.propose_ask(decision, 0.5)
    twin.commit_ask(decision, asked)
    noted = replace(decision, asked=asked)
    for rate in (0.0, 1.0):
        assert twin.ask(noted, rate) == asked["asked"]
    assert twin.asking_.n == 1


def test_an_answer_of_an_arm_that_was_removed_may_be_asked_about(agent):
    """Its reward would be learnt; it changes nothing of what may be chosen."""
    decision = agent.recommend(TASKS[0])
    agent.remove_arms([decision.braid])
    asked = agent.propose_ask(decision, 0.4)
    assert (asked["worth"], asked["rate"]) == (0.0, 0.4)
    assert agent.ask(decision.id, 0.4) == agent.ask(decision, 1.0) == asked["asked"]
    assert agent.asking_.n == 1
    agent.update(decision, 0.5)
    stranger = replace(agent.recommend(TASKS[0]), id="other", braid=Braid("stranger"))
    with pytest.raises(KeyError, match="unknown arm"):
        agent.ask(stranger)


def test_asking_is_saved_and_comes_back_from_the_ledger(agent, twin, tmp_path, encoder):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for decision in decide(agent, 6):
            ledger.record_decision(decision)
            asked = agent.propose_ask(decision, 0.5)
            agent.commit_ask(decision, ledger.record_asked(decision, asked))
        agent.save(tmp_path / "state")
        again = BraidRecommender.load(tmp_path / "state", encoder=encoder)
        twin.resume(ledger)
        for other in (again, twin):
            assert other.asking_ == agent.asking_
            kept = {name: d.asked for name, d in other.pending_.items()}
            assert kept == {name: d.asked for name, d in agent.pending_.items()}
            for name, known in kept.items():
                assert other.ask(name, 1.0) == known["asked"]


def test_a_log_says_who_was_asked(agent):
    pairs = []
    for decision in decide(agent, 20):
        asked = agent.propose_ask(decision, 0.5)
        pairs.append((replace(decision, asked=asked), Outcome(decision.id, 0.5)))
    unasked = agent.recommend("y")
    full = [(d, o) for d, o in pairs if d.asked["asked"]]
    log = Log.of([(d, o) for d, o in pairs] + [(unasked, Outcome(unasked.id, 0.5))])
    assert 0 < len(full) < 20
    said = [d.asked["probability"] if d.asked["asked"] else np.nan for d, _ in pairs]
    np.testing.assert_array_equal(log.asked, [*said, np.nan])


def test_a_mean_over_those_asked_is_of_all_with_the_probability_of_being_asked():
    """Answers that are asked about more are worse here: the plain mean is too low."""
    rng = np.random.default_rng(0)
    quality = rng.random(40_000)
    probability = 0.05 + 0.3 * (1 - quality)
    asked = rng.random(len(quality)) < probability
    plain = quality[asked].mean()
    weights = 1 / probability[asked]
    weighed = (weights * quality[asked]).sum() / weights.sum()
    assert plain < 0.45
    assert weighed == pytest.approx(0.5, abs=0.01)
