import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learnt import TASKS, decide, fingerprint

from braidbandit import (
    Braid,
    BraidRecommender,
    Budget,
    Catalogue,
    ConservativePolicy,
    DeclineToDefault,
    EpsilonGreedy,
    Greedy,
    Ledger,
    LinUCB,
    ModelCard,
    SquareCB,
    TaskEncoder,
    ThompsonSampling,
    Uniform,
)
from braidbandit.bandit.belief import Belief
from braidbandit.bandit.guard import Savings
from braidbandit.bandit.policies import Choice
from braidbandit.recommender.conversations import (
    MOST_KNOWN,
    Conversations,
    Talk,
    Turn,
    reading_share,
    stay,
)
from braidbandit.recommender.feedback_log import Learnt

POLICIES = [
    ThompsonSampling(floor=0.2),
    LinUCB(floor=0.2),
    SquareCB(gamma=20, floor=0.2),
    SquareCB(gamma=20),
    EpsilonGreedy(0.3),
    Greedy(),
    Uniform(),
]
EVERY = [True, True, True, True]


def made(catalogue, encoder, **options):
    return BraidRecommender(catalogue, encoder, random_state=0, **options)


def by_name(policy):
    return str(policy)


@pytest.fixture
def taught(agent):
    for i, decision in enumerate(decide(agent)):
        agent.update(decision, 0.1 * (i % 9))
    return agent


# ---- which arm is served, and with which probability ----


@pytest.mark.parametrize("eligible", [EVERY, [True, True, True, False]], ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=by_name)
def test_arms_are_served_as_often_as_the_propensity_says(policy, eligible):
    rng, mask = np.random.default_rng(0), np.array(eligible)
    belief = Belief(np.eye(4), np.array([0.5, 0.52, 0.4, 0.51]), np.eye(4) * 0.2)
    away = np.array([False, True, True, False]) & mask
    n, served, said = 4000, np.zeros(4), np.zeros(4)
    for _ in range(n):
        choice = policy.select(belief, np.zeros(4), mask, rng)
        kept = stay(choice, 0, away, mask, policy, rng)
        assert kept.propensity == kept.probabilities[kept.arm] > 0
        assert kept.probabilities.sum() == pytest.approx(1.0)
        least = np.minimum(choice.probabilities, policy.floor / mask.sum())
        assert (kept.probabilities >= least * (1 - 1e-12)).all()
        assert not kept.probabilities[~mask].any()
        served[kept.arm] += 1
        said += kept.probabilities
    error = np.sqrt(np.maximum(said / n * (1 - said / n), 1e-12) / n)
    assert (np.abs(served - said) / n <= 4 * error).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.integers(0), st.data())
def test_what_is_kept_back_goes_to_the_held_arm(shares, seed, data):
    p = np.array(shares) / sum(shares)
    held = data.draw(st.integers(0, len(p) - 1))
    away = np.array(data.draw(st.lists(st.booleans(), min_size=6)))[: len(p)]
    away[held] = False
    rng = np.random.default_rng(seed)
    arm = int(rng.choice(len(p), p=p))
    choice = Choice(arm, float(p[arm]), 0.0, np.zeros(len(p)), p)
    floor = EpsilonGreedy(0.1)
    kept = stay(choice, held, away, np.ones(len(p), dtype=bool), floor, rng)
    least = np.minimum(p, 0.1 / len(p))
    by_hand = np.where(away, least, p)
    by_hand[held] += (p - least)[away].sum()
    np.testing.assert_allclose(kept.probabilities, by_hand, atol=1e-12)
    assert kept.arm == held or not away[kept.arm] or kept.propensity <= 0.1


def test_the_error_of_a_stay_is_that_of_all_the_draws_that_lead_to_it():
    belief = Belief(np.eye(2), np.zeros(2), np.eye(2))
    policy, mask = ThompsonSampling(n_draws=100, floor=0.0), np.ones(2, bool)
    rng, away = np.random.default_rng(0), np.array([False, True])
    kept = stay(
        policy.select(belief, np.zeros(2), mask, rng), 0, away, mask, policy, rng
    )
    assert (kept.arm, kept.propensity) == (0, 1.0)
    share = 101 / 102
    assert kept.propensity_se == pytest.approx(math.sqrt(share * (1 - share) / 100))


def test_a_guard_that_lets_the_policy_choose_leaves_its_error():
    belief = Belief(np.eye(3), np.array([0.5, 0.52, 0.51]), np.eye(3) * 0.1)
    every, away = np.ones(3, bool), np.array([False, True, True])
    inner, rich = ThompsonSampling(scale=1.0, floor=0.1), Savings("a", amount=99.0)
    guard = DeclineToDefault(inner).at(0, rich, 0)
    for seed in range(4):
        one, other = (
            stay(
                policy.select(belief, np.zeros(3), every, np.random.default_rng(seed)),
                0, away, every, policy, np.random.default_rng(seed),
            )
            for policy in (inner, guard)
        )  # fmt: skip
        assert (one.arm, one.propensity) == (other.arm, other.propensity)
        assert one.propensity_se == other.propensity_se


@pytest.mark.parametrize("policy", POLICIES, ids=by_name)
def test_recommend_records_the_probability_of_the_stay(catalogue, encoder, policy):
    agent = made(catalogue, encoder, policy=policy, switching_cost=0.02)
    for i, task in enumerate(TASKS[:30]):
        again = agent.explain(task, conversation="c")
        decision = agent.recommend(task, conversation="c")
        assert decision.braid.id == again.arm_id
        assert decision.propensity == again.probability == again.chosen.probability
        assert 0 < decision.propensity <= 1
        assert sum(row.probability for row in again.rows) == pytest.approx(1.0)
        agent.update(decision, (i % 5) / 4)


# ---- the rule ----


def test_a_first_turn_is_chosen_as_if_the_task_stood_alone(agent, twin):
    for i, task in enumerate(TASKS):
        alone, first = agent.recommend(task), twin.recommend(task, conversation=str(i))
        same = replace(first, id=alone.id, created_at=alone.created_at)
        assert replace(same, conversation=None) == alone
        turn = Turn.from_dict(first.conversation)
        assert (turn.number, turn.held, turn.stayed) == (1, None, False)
        assert turn.why == "the first turn"


def test_an_arm_is_kept_unless_moving_is_worth_it(catalogue, encoder):
    held = [set(), set()]
    for n, cost in enumerate((0.0, 50.0)):
        agent = made(catalogue, encoder, policy=Greedy(), switching_cost=cost)
        for i, task in enumerate(TASKS[:30]):
            decision = agent.recommend(task, conversation="c")
            turn = Turn.from_dict(decision.conversation)
            held[n].add(decision.braid.id)
            if turn.held is not None:
                worth = turn.expected_gain > turn.switching_cost
                assert turn.stayed == (decision.braid.id == turn.held) == (not worth)
                assert turn.switching_cost == cost
            agent.update(decision, (i % 2) / 2)
    assert len(held[0]) > len(held[1]) == 1


def test_the_gain_is_of_this_turn_and_the_rest_by_hand(taught):
    taught.set_params(policy=Greedy(), switching_cost=0.01)
    taught.recommend(TASKS[0], conversation="a")
    for _ in range(3):
        taught.recommend(TASKS[1], conversation="b")
    decision = taught.recommend(TASKS[2], conversation="a")
    turn = Turn.from_dict(decision.conversation)
    # One other conversation got to its second turn and had two from there; one of two
    # turns counts beforehand.
    assert turn.expected_rest == pytest.approx((2 + 2) / 2)
    # This turn is half its task, half the mean so far; the rest is like that mean.
    # Costs do not depend on the task here.
    new, old = taught.decision_function([TASKS[2], TASKS[0]])
    mean = (new + old) / 2
    scores = (new + mean) / 2 + (turn.expected_rest - 1) * mean
    ids = list(taught.arm_ids_)
    gains = scores - scores[ids.index(turn.held)]
    assert turn.expected_gain == pytest.approx(gains[ids.index(turn.other)])
    others = [g for arm, g in zip(ids, gains, strict=True) if arm != turn.held]
    assert turn.expected_gain == pytest.approx(max(others))


def test_the_length_of_conversations_is_learnt():
    known = {f"c{i}": Talk("a", n, (1.0,), "") for i, n in enumerate((3, 5, 7))}
    talks = Conversations(known)
    # At turn 4: 2 and 4 turns are left of two conversations, beside the 2 beforehand.
    assert talks.expected_rest("new", 4) == pytest.approx((2 + 4 + 2) / 3)
    assert talks.expected_rest("new", 1) == pytest.approx((3 + 5 + 7 + 2) / 4)
    assert talks.expected_rest("new", 9) == 2.0
    # A conversation says nothing of itself.
    assert talks.expected_rest("c2", 6) == 2.0
    many = Conversations({f"c{i}": Talk("a", 6, (1.0,), "") for i in range(100)})
    assert many.expected_rest("new", 2) == pytest.approx(5, abs=0.05)


def test_switching_costs_an_answer_until_it_is_measured(taught, catalogue):
    taught.set_params(policy=Greedy(), price=0.2)
    taught.recommend(TASKS[0], conversation="c")
    turn = taught.recommend(TASKS[1], conversation="c").conversation
    costs = catalogue.costs() / catalogue.costs().max()
    assert turn["switching_cost"] == pytest.approx(
        0.2 * costs[catalogue.index(turn["other"])]
    )
    free = taught.recommend(TASKS[2], conversation="c", preference={"quality": 1})
    assert free.conversation["switching_cost"] == 0.0


def test_latency_is_priced_in_a_switch(taught):
    taught.set_params(policy=Greedy())
    for decision in decide(taught, 10):
        taught.update(decision, 0.5, latency_ms=200.0)
    given = {"conversation": "c", "preference": {"quality": 1, "latency": 0.3}}
    taught.recommend(TASKS[0], **given)
    decision = taught.recommend(TASKS[1], **given)
    x, turn = np.array(decision.x), decision.conversation
    latency = taught.arm_model_.expected("latency", x)
    other = taught.arm_ids_.index(turn["other"])
    assert turn["switching_cost"] == pytest.approx(0.3 * latency[other] / latency.max())


def test_what_reading_anew_takes_is_measured(agent):
    decision = replace(agent.recommend("x"), expected_latency_ms=100.0)

    def answers(n, stayed, ms, held="a"):
        turn = Turn("c", 2, held, stayed).to_dict()
        record = Learnt(replace(decision, conversation=turn), 0.5, latency_ms=ms)
        return n * [record]

    assert reading_share([]) == pytest.approx(1.0)
    assert reading_share([Learnt(decision, 0.5, latency_ms=5.0)]) == pytest.approx(1.0)
    both = answers(400, True, 110.0) + answers(400, False, 330.0)
    assert reading_share(both) == pytest.approx(2.0, rel=0.02)
    # First turns read nothing anew, and nothing is measured of one kind alone.
    alone = answers(9, False, 330.0, None) + answers(9, True, 110.0)
    assert reading_share(alone) == pytest.approx(1.0)
    faster = answers(400, True, 330.0) + answers(400, False, 110.0)
    assert reading_share(faster) == 0.0


def test_an_answer_that_was_timed_is_told_from_its_decision(taught):
    taught.set_params(policy=EpsilonGreedy(1.0), switching_cost=0.0)
    for task in TASKS:
        decision = taught.recommend(task, conversation="c")
        turn = decision.conversation
        moved = turn["held"] is not None and not turn["stayed"]
        taught.update(decision, 0.5, latency_ms=300.0 if moved else 100.0)
    assert reading_share(taught.arm_model_.log.learnt.values()) > 1.05


# ---- a pool that changes ----


def test_a_conversation_moves_from_an_arm_that_was_removed(taught):
    first = taught.recommend(TASKS[0], conversation="c")
    taught.remove_arms([first.braid])
    moved = taught.recommend(TASKS[1], conversation="c")
    turn = Turn.from_dict(moved.conversation)
    assert moved.braid != first.braid
    assert (turn.held, turn.stayed, turn.expected_gain) == (first.braid.id, False, None)
    assert "was removed" in turn.why
    assert "was removed" in moved.sentence
    assert taught.recommend(TASKS[2], conversation="c").conversation["number"] == 3


@pytest.mark.parametrize("why", ["excluded", "eligible", "budget", "flops"])
def test_a_conversation_moves_from_an_arm_that_is_masked(catalogue, encoder, why):
    agent = made(catalogue, encoder, policy=Greedy(), switching_cost=9.0, price=0.0)
    big = catalogue.braids[int(catalogue.relative_costs().argmax())]
    agent.recommend(TASKS[0], conversation="c", eligible=[big.id])
    others = [arm for arm in catalogue.ids if arm != big.id]
    masks = {
        "excluded": {"excluded": {big.id: "a licence that ended"}},
        "eligible": {"eligible": others},
        "budget": {"compute_budget": 0.5},
        "flops": {"budget": Budget(flops=2000)},
    }
    moved = agent.recommend(TASKS[1], conversation="c", **masks[why])
    turn = Turn.from_dict(moved.conversation)
    assert moved.braid != big
    assert (turn.held, turn.stayed, turn.other) == (big.id, False, moved.braid.id)
    assert big.label() in turn.why
    if why == "excluded":
        assert "a licence that ended" in moved.sentence


def test_a_conversation_moves_from_an_arm_that_is_unfit(taught):
    first = taught.recommend(TASKS[0], conversation="c")
    unfit = taught.catalogue.with_unfit(first.braid.id, "worse than its anchor")
    taught.set_params(catalogue=unfit)
    moved = taught.recommend(TASKS[1], conversation="c")
    assert moved.braid != first.braid
    assert "worse than its anchor" in moved.conversation["why"]


def test_the_only_arm_is_kept(encoder):
    alone = made(Catalogue([ModelCard("a")], [Braid("a")]), encoder)
    alone.recommend("x", conversation="c")
    turn = alone.recommend("y", conversation="c").conversation
    assert (turn["stayed"], turn["other"], turn["expected_gain"]) == (True, None, None)
    explanation = alone.explain("z", conversation="c")
    assert "no other arm" in explanation.sentence
    assert explanation.counterfactual is None


def test_a_guard_is_not_overruled_by_a_stay(catalogue, encoder):
    baseline = catalogue.braids[0].id
    guard = ConservativePolicy(Greedy(), share=0.5, baseline=baseline)
    agent = made(catalogue, encoder, policy=guard, switching_cost=9.0)
    other = catalogue.ids[1]
    agent.recommend(TASKS[0], conversation="c", eligible=[other])
    assert agent.savings_.amount < 1
    back = agent.recommend(TASKS[1], conversation="c")
    assert (back.braid.id, back.propensity) == (baseline, 1.0)
    assert back.conversation["why"] == "the guard falls back on it"


# ---- bad input ----


@pytest.mark.parametrize(
    ("conversation", "error", "message"),
    [
        ("", ValueError, "blank"),
        (" \n", ValueError, "blank"),
        (7, TypeError, "text, received int"),
        (b"c", TypeError, "text, received bytes"),
        (["c"], TypeError, "text"),
        (2**20 * "c", ValueError, "up to 200 characters, received 1048576"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_bad_id_is_refused_and_changes_nothing(taught, conversation, error, message):
    taught.recommend(TASKS[0], conversation="c")
    before, talks = fingerprint(taught), taught.conversations_.to_list()
    for call in (taught.recommend, taught.propose, taught.explain):
        with pytest.raises(error, match=message) as said:
            call(TASKS[0], conversation=conversation)
        assert len(str(said.value)) < 300
    assert fingerprint(taught) == before
    assert taught.conversations_.to_list() == talks


@pytest.mark.parametrize("cost", [-0.1, math.nan, math.inf])
def test_a_bad_switching_cost_is_refused(catalogue, encoder, cost):
    with pytest.raises(ValueError, match="switching_cost"):
        made(catalogue, encoder, switching_cost=cost).recommend("x")


def test_a_proposal_changes_no_conversation(taught):
    proposal = taught.propose(TASKS[0], conversation="c")
    assert not taught.conversations_.known
    taught.commit(proposal)
    assert taught.conversations_.known["c"].turns == 1


def test_ids_of_any_script_are_kept(taught, tmp_path, encoder):
    for name in ("会话", "a\x00b", "\ud800"):
        taught.recommend(TASKS[0], conversation=name)
    taught.save(tmp_path)
    again = BraidRecommender.load(tmp_path, encoder=encoder)
    assert list(again.conversations_.known) == ["会话", "a\x00b", "\ud800"]


# ---- keeping ----


def test_only_the_newest_are_known(agent):
    decision = agent.recommend("x")
    talks = Conversations()
    for i in range(MOST_KNOWN + 5):
        turn = Turn(f"c{i}", 1).to_dict()
        talks.note(replace(decision, conversation=turn))
        if i == 500:  # spoken in again: it is among the newest
            talks.note(replace(decision, conversation=Turn("c0", 2).to_dict()))
    assert len(talks.known) == MOST_KNOWN
    assert "c0" in talks.known
    assert "c1" not in talks.known


def test_a_turn_counts_once(taught):
    decision = taught.recommend(TASKS[0], conversation="c")
    known = taught.conversations_.to_list()
    taught.conversations_.note(decision)
    taught.conversations_.note(taught.recommend(TASKS[1]))
    assert taught.conversations_.to_list() == known


def test_the_turns_so_far_count_half_by_hand(taught):
    said = [taught.recommend(task, conversation="c") for task in TASKS[:3]]
    one, two, three = taught.encoder_.features(TASKS[:3])
    np.testing.assert_allclose(said[0].x, one)
    np.testing.assert_allclose(said[1].x, two / 2 + (one + two) / 4)
    np.testing.assert_allclose(said[2].x, three / 2 + (one + two + three) / 6)
    talk = taught.conversations_.known["c"]
    assert (talk.turns, talk.arm_id) == (3, said[2].braid.id)
    np.testing.assert_allclose(talk.mean, (one + two + three) / 3)
    # Features of another number: what is known of it begins anew.
    np.testing.assert_array_equal(taught.conversations_.features("c", one[:2]), one[:2])


def test_conversations_are_saved_with_the_agent(taught, tmp_path, encoder):
    taught.set_params(switching_cost=0.03)
    for i in range(7):
        taught.recommend(TASKS[i], conversation=f"c{i % 3}")
    taught.save(tmp_path)
    again = BraidRecommender.load(tmp_path, encoder=encoder, resume_rng=True)
    assert again.switching_cost == 0.03
    assert again.conversations_ == taught.conversations_
    one, other = (a.recommend(TASKS[9], conversation="c1") for a in (taught, again))
    assert one.conversation == other.conversation
    assert (one.braid, one.propensity) == (other.braid, other.propensity)


def test_conversations_come_back_from_the_ledger(taught, twin, tmp_path, encoder):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with ledger:
        for i in range(9):
            if i == 4:
                taught.save(tmp_path / "state")
            decision = taught.recommend(TASKS[i], conversation=f"c{i % 2}")
            ledger.record_decision(decision)
        saved = BraidRecommender.load(tmp_path / "state", encoder=encoder)
        assert saved.conversations_ != taught.conversations_
        assert saved.resume(ledger).conversations_ == taught.conversations_
        assert twin.resume(ledger).conversations_ == taught.conversations_
        # Once more changes nothing.
        assert twin.resume(ledger).conversations_ == taught.conversations_


def test_conversations_are_purged(taught):
    taught.recommend(TASKS[0], conversation="old")
    between = datetime.now(timezone.utc) + timedelta(microseconds=1)
    new = taught.recommend(TASKS[0], conversation="new")
    later = replace(new, created_at=(between + timedelta(seconds=9)).isoformat())
    taught.conversations_.note(
        replace(later, conversation={**new.conversation, "number": 2})
    )
    taught.forget_decisions(between + timedelta(seconds=1))
    assert list(taught.conversations_.known) == ["new"]


def test_another_encoder_forgets_them(catalogue, encoder):
    agent = made(catalogue, encoder)
    agent.recommend("x", conversation="c")
    agent.warm_start(TASKS[:8], catalogue.ids[:2], np.eye(8)[:, :2])
    assert not agent.conversations_.known
    assert agent.recommend("x", conversation="c").conversation["number"] == 1


def test_plain_decisions_are_the_same_beside_conversations(agent, twin):
    """The generator of a plain decision advances as ever."""
    for task in TASKS:
        one, other = agent.recommend(task), twin.recommend(task)
        assert (one.braid, one.propensity, one.scores) == (
            other.braid,
            other.propensity,
            other.scores,
        )
        assert one.conversation is None
        twin.explain(task, conversation="c")


# ---- explaining ----


def test_the_explanation_says_that_the_arm_is_kept(catalogue, encoder):
    agent = made(catalogue, encoder, policy=Greedy(), switching_cost=9.0)
    first = agent.recommend(TASKS[0], conversation="c")
    agent.update(first, 0.0)
    agent.update(agent.recommend(TASKS[3], eligible=[catalogue.ids[3]]), 1.0)
    said = agent.explain(TASKS[3], conversation="c")
    decision = agent.recommend(TASKS[3], conversation="c")
    assert decision.sentence == said.sentence
    assert said.arm_id == first.braid.id
    assert "kept in this conversation" in said.sentence
    assert "9.000" in said.sentence
    assert "picked at random" not in said.sentence
    change = said.counterfactual
    turn = decision.conversation
    assert (change.change, change.arm_id) == ("moving", turn["other"])
    assert change.amount == pytest.approx(9.0 - turn["expected_gain"])
    assert "more, or cost less" in str(said)
    assert type(said).from_dict(said.to_dict()) == said


def test_the_explanation_says_that_it_moves(catalogue, encoder):
    agent = made(catalogue, encoder, policy=Greedy(), switching_cost=0.0)
    first = agent.recommend(TASKS[0], conversation="c")
    for _ in range(3):
        agent.update(agent.recommend(TASKS[0], eligible=[first.braid.id]), 0.0)
    moved = agent.recommend(TASKS[0], conversation="c")
    assert not moved.conversation["stayed"]
    assert f"moves from {first.braid.label()}" in moved.sentence
    assert "worth its cost" in moved.sentence
    change = agent.explain(TASKS[0]).counterfactual
    assert change is None or change.change != "moving"


def test_a_conversation_of_a_task_encoder_that_is_fitted(catalogue):
    encoder = TaskEncoder(types=()).fit(np.random.default_rng(0).random((50, 6)))
    agent = made(catalogue, encoder)
    rows = np.random.default_rng(1).random((4, 6))
    numbers = [
        agent.recommend(row, conversation="c").conversation["number"] for row in rows
    ]
    assert numbers == [1, 2, 3, 4]
