from dataclasses import replace

import numpy as np
import pytest
from learnt import TASKS, assert_same, decide, fingerprint

from braidbandit import (
    Braid,
    BraidRecommender,
    ConservativePolicy,
    Decision,
    Greedy,
    Ledger,
    Outcome,
    Uniform,
)
from braidbandit.evaluation.log import Log
from braidbandit.recommender.objectives import Pacer


def another(agent, decision, n=0):
    """Another arm than a decision has."""
    return [arm for arm in agent.arm_ids_ if arm != decision.braid.id][n]


def test_a_person_chooses_another_arm(agent, catalogue):
    first = agent.recommend(TASKS[0], compute_budget=0.5)
    arm = another(agent, first)
    second = agent.override(first, arm)
    row = catalogue.index(arm)
    assert second.braid == catalogue.braids[row]
    assert (second.policy, second.propensity, second.propensity_se) == (
        "person",
        1.0,
        0.0,
    )
    assert second.instead_of == first.id != second.id
    assert (second.x, second.task_hash) == (first.x, first.task_hash)
    assert second.arm_ids == first.arm_ids
    assert second.eligible == first.eligible
    assert second.relative_cost == catalogue.relative_costs()[row]
    belief = agent.arm_model_.posterior.belief(agent.Z_, np.array(first.x))
    assert second.expected_quality == pytest.approx(belief.mean[row])
    assert second.sentence.startswith(
        f"a person chose {second.braid.label()} in place of {first.braid.label()}"
    )
    assert Decision.from_dict(second.to_dict()) == second


def test_the_reward_is_of_the_arm_that_was_served(agent, twin):
    first = agent.recommend(TASKS[0])
    arm = another(agent, first)
    agent.update(agent.override(first, arm), 0.9)
    same = twin.recommend(TASKS[0], eligible=[arm])
    assert same.x == first.x
    twin.update(same, 0.9)
    assert_same(agent, twin)


def test_the_first_decision_is_settled_as_not_served(agent):
    first = agent.recommend(TASKS[0])
    second = agent.override(first.id, another(agent, first))
    assert list(agent.pending_) == [second.id]
    assert agent.arm_model_.log.overridden == {first.id: second.id}
    assert agent.feedback_counts_["expired"] == 0
    before = fingerprint(agent)
    for said in (first, first.id):
        with pytest.raises(KeyError, match=f"not served.*{second.id}"):
            agent.update(said, 0.5)
    assert fingerprint(agent) == before


def test_an_override_by_id_has_every_arm(agent, catalogue):
    """What waits is kept without the other arms: they are as they are now."""
    first = agent.recommend(TASKS[0], eligible=catalogue.ids[:2])
    second = agent.override(first.id, another(agent, first))
    assert second.arm_ids == agent.arm_ids_
    assert second.eligible == (True,) * len(second.arm_ids)
    scores = agent.decision_function([TASKS[0]])[0]
    np.testing.assert_allclose(second.scores, scores)


def test_a_person_may_go_beyond_what_is_eligible(agent, catalogue):
    dear = catalogue.ids[int(catalogue.relative_costs().argmax())]
    first = agent.recommend(TASKS[0], compute_budget=0.0, excluded=[dear])
    second = agent.override(first, dear)
    assert second.braid.id == dear
    assert not second.eligible[second.arm_ids.index(dear)]
    agent.update(second, 0.3)
    unfit = catalogue.with_unfit(catalogue.ids[1], "worse than its anchor")
    agent.set_params(catalogue=unfit)
    first = agent.recommend(TASKS[1])
    assert agent.override(first, catalogue.braids[1]).braid.id == catalogue.ids[1]


@pytest.mark.parametrize(
    ("arm", "error", "message"),
    [
        ("nope", KeyError, "unknown arm 'nope'"),
        (Braid("stranger"), KeyError, "unknown arm"),
        (None, ValueError, "no arm"),
        ("", ValueError, "no arm"),
    ],
    ids=str,
)
def test_an_unknown_arm_is_refused(agent, arm, error, message):
    first = agent.recommend(TASKS[0])
    before = fingerprint(agent)
    with pytest.raises(error, match=message):
        agent.override(first, arm)
    assert fingerprint(agent) == before


def test_what_cannot_be_overridden(agent):
    first, rated, gone = decide(agent, 3)
    agent.update(rated, 0.5)
    agent.expire(gone)
    second = agent.override(first, another(agent, first))
    third = another(agent, second, 1)
    before = fingerprint(agent)
    for decision, error, message in (
        (first, ValueError, f"overridden already.*{second.id}"),
        (rated, ValueError, "has a reward"),
        (gone, KeyError, "no longer waited for"),
        ("unknown", KeyError, "unknown"),
        (7, TypeError, "Decision or its id"),
    ):
        with pytest.raises(error, match=message):
            agent.override(decision, third)
    with pytest.raises(ValueError, match="choose another arm"):
        agent.override(second, second.braid)
    assert fingerprint(agent) == before
    # A person may change their mind.
    last = agent.override(second, third)
    assert last.instead_of == second.id
    agent.update(last, 0.5)
    assert list(agent.arm_model_.log.overridden) == [first.id, second.id]


def test_a_decision_of_another_agent_is_overridden(agent, twin):
    """By the Decision, as its reward would be learnt."""
    first = agent.recommend(TASKS[0])
    arm = another(agent, first)
    with pytest.raises(KeyError, match="no pending decision"):
        twin.override(first.id, arm)
    second = twin.override(first, arm)
    assert (second.instead_of, list(twin.pending_)) == (first.id, [second.id])
    with pytest.raises(ValueError, match=f"overridden already.*{second.id}"):
        twin.override(first, arm)
    with pytest.raises(KeyError, match="not served"):
        twin.update(first, 0.5)
    agent.update(agent.override(first, arm), 0.9)
    assert_same(agent, twin.update(second, 0.9))


def test_a_reward_that_came_meanwhile_stands(agent):
    first = agent.recommend(TASKS[0])
    proposal = agent.propose_override(first, another(agent, first))
    agent.update(first, 0.5)
    before = fingerprint(agent)
    with pytest.raises(ValueError, match="has a reward"):
        agent.commit(proposal)
    assert fingerprint(agent) == before


def test_an_override_draws_nothing(agent, twin):
    first, same = agent.recommend(TASKS[0]), twin.recommend(TASKS[0])
    agent.override(first, another(agent, first))
    state = agent.rng_.bit_generator.state
    assert state == twin.rng_.bit_generator.state
    assert same.braid == first.braid


def test_a_revision_and_a_retraction_of_a_persons_choice(agent, twin):
    first = agent.recommend(TASKS[0])
    second = agent.override(first, another(agent, first))
    agent.update(second, 0.9).revise(second, 0.4).retract(second)
    assert list(agent.pending_) == [second.id]
    np.testing.assert_allclose(
        agent.decision_function(TASKS), twin.decision_function(TASKS), atol=1e-9
    )


def test_a_guard_books_neither(catalogue, encoder):
    baseline = catalogue.ids[0]
    guard = ConservativePolicy(Uniform(), share=0.9, baseline=baseline)
    agent = BraidRecommender(catalogue, encoder, guard, random_state=0)
    kept = agent.recommend(TASKS[0])
    assert kept.braid.id == baseline  # nothing is saved yet
    for arm in (catalogue.ids[1], baseline):
        first = agent.recommend(TASKS[1])
        agent.override(first, catalogue.ids[2 if arm == baseline else 1])
    before = agent.savings_
    for decision in list(agent.pending_.values()):
        if decision.instead_of:
            agent.update(decision, 0.0)
    assert agent.savings_ == before
    # An overridden departure is not booked as 0 either, as an expired one is.
    agent.update(kept, 1.0).update(agent.recommend(TASKS[2]), 1.0)
    departs = next(
        d
        for d in (agent.recommend(task) for task in TASKS)
        if d.braid.id != baseline and agent.savings_.amount >= 1
    )
    saved = agent.savings_
    agent.override(departs, another(agent, departs))
    assert agent.savings_ == saved


def test_the_long_run_cost_is_of_what_was_served(catalogue, encoder):
    agent = BraidRecommender(
        catalogue, encoder, Greedy(), mean_cost=0.3, random_state=0
    )
    agent.recommend(TASKS[0])
    agent.pacer_ = Pacer(price=0.5, overspent=5.0)
    first = agent.recommend(TASKS[0])
    dear = catalogue.ids[int(catalogue.relative_costs().argmax())]
    second = agent.override(first, dear)
    assert second.relative_cost > first.relative_cost
    assert agent.pacer_.overspent == pytest.approx(5.0 + second.relative_cost - 0.3)


def test_a_person_moves_a_conversation(agent):
    agent.set_params(policy=Greedy(), switching_cost=9.0)
    agent.recommend(TASKS[0], conversation="c")
    first = agent.recommend(TASKS[1], conversation="c")
    second = agent.override(first, another(agent, first))
    turn = second.conversation
    assert (turn["number"], turn["held"]) == (2, first.braid.id)
    assert (turn["stayed"], turn["why"]) == (False, "a person chose")
    third = agent.recommend(TASKS[2], conversation="c")
    assert third.braid == second.braid
    assert third.conversation["number"] == 3
    # Back to the arm of the turn before: the conversation has stayed after all.
    fourth = agent.override(third, another(agent, third))
    assert agent.override(fourth, third.braid).conversation["stayed"]


def test_a_choice_in_place_of_an_earlier_turn_leaves_the_conversation_where_it_is(
    agent,
):
    agent.set_params(policy=Greedy(), switching_cost=9.0)
    first, _, last = (agent.recommend(task, conversation="c") for task in TASKS[:3])
    agent.override(first, another(agent, last))
    assert agent.recommend(TASKS[3], conversation="c").conversation["held"] == (
        last.braid.id
    )


def test_off_policy_evaluation_leaves_a_persons_choice_out(agent):
    pairs = []
    for i, decision in enumerate(decide(agent, 10)):
        if i % 2:
            decision = agent.override(decision, another(agent, decision))
        pairs.append((decision, Outcome(decision.id, 0.1 * i)))
    log = Log.of(pairs)
    assert log.decision_ids == tuple(d.id for d, _ in pairs[::2])
    assert log.rewards.tolist() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])
    with pytest.raises(ValueError, match="decisions that were drawn"):
        Log.of(pairs[1::2])


def test_the_explanation_tells_a_persons_choice(agent):
    first = agent.recommend(TASKS[0])
    second = agent.override(first, another(agent, first))
    agent.update(second, 0.9)
    said = agent.explain(TASKS[0])
    [known] = said.nearest
    assert known.label == f"{second.braid.label()} (a person's choice)"
    assert "a person's choice" in str(said)


def test_it_is_saved_and_comes_back_from_the_ledger(agent, twin, tmp_path, encoder):
    agent.set_params(mean_cost=0.4)
    twin.set_params(mean_cost=0.4)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        first = agent.recommend(TASKS[0])
        ledger.record_decision(first)
        agent.save(tmp_path / "before")
        second = agent.override(first, another(agent, first))
        ledger.record_decision(second)
        agent.save(tmp_path / "after")
        after = BraidRecommender.load(tmp_path / "after", encoder=encoder)
        assert after.arm_model_.log.overridden == {first.id: second.id}
        before = BraidRecommender.load(tmp_path / "before", encoder=encoder)
        for other in (before, twin):
            other.resume(ledger)
            assert list(other.pending_) == [second.id]
            assert other.arm_model_.log.overridden == {first.id: second.id}
            assert other.pacer_ == agent.pacer_
            with pytest.raises(KeyError, match="not served"):
                other.update(first, 0.5)
        # And when all is learnt anew.
        agent.sync(ledger, anew=True)
        with pytest.raises(KeyError, match="not served"):
            agent.update(first, 0.5)


def test_a_decision_over_other_arms_than_today(agent, catalogue):
    """Of an arm that came since, the record says what is known now."""
    first = agent.recommend(TASKS[0])
    old = replace(first, arm_ids=first.arm_ids[:3], scores=first.scores[:3],
                  eligible=first.eligible[:3])  # fmt: skip
    arm = next(a for a in catalogue.ids[3:] if a != first.braid.id)
    second = agent.override(old, arm)
    assert second.arm_ids == catalogue.ids
    assert arm in second.arm_ids
