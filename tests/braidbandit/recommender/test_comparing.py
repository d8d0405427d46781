"""Comparisons of two answers: learnt, counted once, taken back, refused."""

import copy
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from learnt import TASKS, assert_same, fingerprint
from toy_embedder import embed

from braidbandit import Braid, BraidRecommender, Ledger, TaskEncoder
from braidbandit.recommender.comparing import key_of
from braidbandit.recommender.feedback_log import Compared, NotReversible


def two(agent, task):
    """Two decisions on a task, of different arms."""
    one = agent.recommend(task)
    return one, agent.recommend(task, excluded=[one.braid.id])


def beliefs(agent, task=TASKS[0]):
    x = agent.encoder_.features([task])[0]
    belief = agent.posterior_.belief(agent.Z_, x)
    return np.array([belief.mean, belief.sd])


@pytest.fixture
def pair(agent):
    return two(agent, TASKS[0])


@pytest.fixture
def learnt(agent):
    """Sixty comparisons, and a reward now and then."""
    for i, task in enumerate(TASKS * 2):
        one, other = two(agent, task)
        agent.prefer(one, other, source=("user", "judge")[i % 2])
        if i % 4 == 0:
            agent.update(one, 0.5)
    return agent


def test_the_better_one_gains_and_the_other_loses(agent, pair):
    better, worse = pair
    rows = [agent.arm_ids_.index(d.braid.id) for d in pair]
    before = beliefs(agent)[0][rows]
    assert agent.prefer(better, worse) is agent
    after = beliefs(agent)[0][rows]
    assert after[0] > before[0]
    assert after[1] < before[1]
    assert agent.n_updates_ == 0
    assert list(agent.pending_) == [better.id, worse.id]
    assert agent.feedback_counts_["compared"] == 1


def test_answers_are_given_in_many_ways(agent, twin, pair):
    """A decision, its id, a braid shown beside it, or the id of that."""
    better, worse = pair
    agent.prefer(better.id, worse.id)
    for beside in (worse.braid, worse.braid.id):
        other = BraidRecommender(twin.catalogue, twin.encoder, random_state=0)
        other.prefer(better, beside)
        np.testing.assert_array_equal(beliefs(other), beliefs(agent))
    other = BraidRecommender(twin.catalogue, twin.encoder, random_state=0)
    other.prefer(better.braid, worse)
    np.testing.assert_array_equal(beliefs(other), beliefs(agent))


def test_what_two_answers_have_in_common_cancels(agent, pair):
    """The level of all arms is as uncertain as before."""
    better, worse = pair
    row = agent.arm_ids_.index(better.braid.id)
    agent.prefer(better, worse)
    sd = beliefs(agent)[1][row]
    agent.update(better, 0.9)
    assert beliefs(agent)[1][row] < 0.9 * sd


def test_the_same_comparison_twice_counts_once(agent, pair):
    agent.prefer(*pair)
    before = beliefs(agent)
    agent.prefer(*pair)
    np.testing.assert_array_equal(beliefs(agent), before)
    assert agent.feedback_counts_["repeated"] == 1
    # Another source is another judgement.
    agent.prefer(*pair, source="judge")
    assert (beliefs(agent) != before).any()


def test_a_less_sure_statement_moves_less(agent, twin):
    gains = []
    for recommender, strength in ((agent, 1.0), (twin, 0.25)):
        pair = two(recommender, TASKS[0])
        row = recommender.arm_ids_.index(pair[0].braid.id)
        before = beliefs(recommender)[0][row]
        recommender.prefer(*pair, strength)
        gains.append(beliefs(recommender)[0][row] - before)
    assert 0.2 < gains[1] / gains[0] < 0.5


def test_preferences_in_a_circle_are_averaged(agent):
    """a over b, b over c, c over a, from thirty people: all are about alike."""
    task = TASKS[0]
    a, b = two(agent, task)
    c = agent.recommend(task, excluded=[a.braid.id, b.braid.id])
    for person in range(10):
        for better, worse in ((a, b), (b, c), (c, a)):
            agent.prefer(better, worse, source=f"person {person}")
    rows = [agent.arm_ids_.index(d.braid.id) for d in (a, b, c)]
    Z, x = agent.Z_, np.array(a.x)
    for one, other in ((0, 1), (1, 2), (2, 0)):
        pair = rows[one], rows[other]
        mean, variance = agent.posterior_.difference(pair, (Z[pair[0]], Z[pair[1]]), x)
        assert abs(mean) < 2 * variance**0.5


WRONG = [
    "another task",
    "another encoder",
    "itself",
    "one arm",
    "two arms",
    "unknown decision",
    "unknown arm",
    "no answer",
    "NaN",
    "a tie",
    "too strong",
    "text",
    "no source",
    "None",
    "said otherwise",
    "said weaker",
]


def wrong_inputs(agent):
    (a, b), (c, _) = two(agent, TASKS[0]), two(agent, TASKS[1])
    again = agent.recommend(TASKS[0], eligible=[a.braid.id])
    other = BraidRecommender(
        agent.catalogue, TaskEncoder(embedder=embed, n_components=2)
    )
    foreign = other.recommend(TASKS[0], excluded=[b.braid.id])
    gone = Braid("nobody")
    agent.prefer(a, b)
    return {
        "another task": ((a, c), {}, ValueError, "different tasks"),
        "another encoder": ((foreign, b.braid), {}, ValueError, "encoder"),
        "itself": ((a, a), {}, ValueError, "give two answers"),
        "one arm": ((a, again), {}, ValueError, "says nothing about arms"),
        "two arms": ((a.braid, b.braid), {}, ValueError, "at least one Decision"),
        "unknown decision": ((a, "d" * 32), {}, KeyError, "no pending decision"),
        "unknown arm": ((a, gone), {}, KeyError, gone.id),
        "no answer": ((a, 3), {}, TypeError, "received int"),
        "NaN": ((a, b), {"strength": np.nan}, ValueError, "strength lies between"),
        "a tie": ((a, b), {"strength": 0.0}, ValueError, "leave it out"),
        "too strong": ((a, b), {"strength": 2.0}, ValueError, "strength lies between"),
        "text": ((a, b), {"strength": "1"}, TypeError, "strength is a number"),
        "no source": ((a, b), {"source": " "}, ValueError, "source names who judged"),
        "None": ((a, b), {"source": None}, TypeError, "source names who judged"),
        "said otherwise": ((b, a), {}, ValueError, "retract_comparison first"),
        "said weaker": ((a, b), {"strength": 0.5}, ValueError, "retract_comparison"),
    }


@pytest.mark.parametrize("what", WRONG)
def test_a_refused_comparison_changes_nothing(agent, what):
    answers, given, error, message = wrong_inputs(agent)[what]
    before = fingerprint(agent)
    with pytest.raises(error, match=message):
        agent.prefer(*answers, **given)
    assert fingerprint(agent) == before


def test_a_comparison_is_taken_back_exactly(learnt):
    """After others have come, rewards as well: as if its part had never been there."""
    before = beliefs(learnt)
    pair = two(learnt, TASKS[3])
    learnt.prefer(*pair)
    record = learnt.arm_model_.log.compared[key_of(*pair, "user")]
    more = [two(learnt, task) for task in TASKS[4:9]]
    for one, other in more:
        learnt.prefer(other, one)
    learnt.update(pair[0], 0.3)
    for one, other in more[::-1]:
        learnt.retract_comparison(one, other)
    learnt.retract_comparison(*pair[::-1])
    learnt.retract(pair[0])
    np.testing.assert_allclose(beliefs(learnt), before, atol=1e-10)
    assert record.value > 0
    # Then the same source may say something else.
    learnt.prefer(*pair[::-1])


def test_what_was_never_compared_cannot_be_taken_back(learnt):
    pair = two(learnt, TASKS[0])
    before = fingerprint(learnt)
    with pytest.raises(NotReversible, match="cannot be taken back"):
        learnt.retract_comparison(*pair)
    with pytest.raises(TypeError, match="received int"):
        learnt.retract_comparison(pair[0], 3)
    assert fingerprint(learnt) == before


def test_forgetting_takes_the_same_share_of_comparisons(agent):
    agent.set_params(forgetting=0.98)
    first = two(agent, TASKS[0])
    agent.prefer(*first)
    for i in range(60):
        agent.prefer(*two(agent, f"other {i}"))
    assert agent.arm_model_.quality.faded == pytest.approx(50 * np.log(0.98))
    before = beliefs(agent)
    agent.retract_comparison(*first)
    agent.prefer(*first)
    assert (beliefs(agent) != before).any()


def test_an_answer_of_an_arm_that_was_retrained_counts_less(agent, twin):
    moved = []
    for recommender in (agent, twin):
        pair = two(recommender, TASKS[0])
        if recommender is twin:
            recommender.retrain(pair[0].braid, 0.9)
        row = recommender.arm_ids_.index(pair[1].braid.id)
        before = beliefs(recommender)[0][row]
        recommender.prefer(*pair)
        moved.append(before - beliefs(recommender)[0][row])
    assert 0 < moved[1] < moved[0]
    # Its comparisons of before can no longer be told apart.
    agent.retrain(agent.arm_ids_[0])
    recent = agent.arm_model_.log.compared.values()
    assert agent.arm_ids_[0] not in {r.comparison.better for r in recent}


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)])
def test_an_arm_that_was_removed_informs_its_relatives(learnt, which):
    pair = two(learnt, TASKS[0])
    learnt.remove_arms([pair[i].braid for i in which])
    before, shape = beliefs(learnt), learnt.posterior_.factor.shape
    learnt.prefer(*pair)
    after = beliefs(learnt)
    assert (after[0] != before[0]).any()
    assert learnt.posterior_.factor.shape == shape or which != (0, 1)
    learnt.prefer(*pair)
    np.testing.assert_array_equal(beliefs(learnt), after)
    with pytest.raises(NotReversible, match="retrained or removed"):
        learnt.retract_comparison(*pair)


def test_a_saved_recommender_goes_on(learnt, encoder, tmp_path):
    learnt.save(tmp_path)
    again = BraidRecommender.load(tmp_path, encoder=encoder, resume_rng=True)
    assert fingerprint(again) == fingerprint(learnt)
    key, record = next(iter(learnt.arm_model_.log.compared.items()))
    assert again.arm_model_.log.compared[key] == record
    assert Compared.from_dict(record.to_dict()) == record
    answers = record.comparison.answers
    for recommender in (learnt, again):
        recommender.retract_comparison(*answers, source=record.comparison.source)
        recommender.prefer(*two(recommender, "another"))
    np.testing.assert_array_equal(beliefs(again), beliefs(learnt))


def test_a_state_without_comparisons_says_nothing_of_them(agent, tmp_path):
    agent.update(agent.recommend("x"), 0.5)
    agent.save(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    assert not any(word in text for word in ("compared", "judged", "repeats"))


def test_a_purge_drops_comparisons_with_their_features(learnt):
    assert learnt.arm_model_.log.compared
    learnt.forget_decisions(datetime.now(timezone.utc) + timedelta(seconds=1))
    assert not learnt.arm_model_.log.compared


def test_a_ledger_learnt_anew_gives_the_same(agent, twin, tmp_path):
    with Ledger(tmp_path / "ledger.db") as ledger:
        for task in TASKS:
            one, other = two(agent, task)
            for decision in (one, other):
                ledger.record_decision(decision)
            agent.prefer(one, other)
            record = agent.arm_model_.log.compared[key_of(one, other, "user")]
            ledger.record_comparison(record.comparison)
        twin.sync(ledger)
        assert_same(agent, twin, 1e-12)
        agent.sync(ledger)  # all is known
        assert agent.feedback_counts_["repeated"] == len(TASKS)
        ledger.retract_comparison(record.comparison.key)
        twin.sync(ledger)
        agent.retract_comparison(one, other)
        np.testing.assert_array_equal(beliefs(twin), beliefs(agent))
        # The last one: nothing was weighed in its presence.
        anew = twin.replica().sync(ledger, anew=True)
        assert_same(anew, twin, 1e-10)
        assert anew.ledger_position_ == ledger.last_sequence()


def test_warm_start_comes_before_any_comparison(learnt):
    with pytest.raises(ValueError, match="before any update"):
        learnt.warm_start(["x"], learnt.arm_ids_[:1], [[0.5]])


def test_a_noisy_source_counts_less(agent):
    """Two judges agree with each other, a third one tosses a coin."""
    rng, moved = np.random.default_rng(0), {}
    for i in range(60):
        one, other = two(agent, f"task {i}")
        for source in ("a", "b", "coin"):
            turned = source == "coin" and rng.random() < 0.5
            agent.prefer(*((other, one) if turned else (one, other)), source=source)
    one, other = two(agent, "one more")
    for source in ("a", "coin"):
        alone = copy.deepcopy(agent)
        alone.prefer(one, other, source=source)
        record = alone.arm_model_.log.compared[key_of(one, other, source)]
        moved[source] = record.applied
    assert moved["coin"] < 0.3 * moved["a"]
    assert agent.arm_model_.log.repeats["a"]["b"] == (60, 0)
