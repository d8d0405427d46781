"""The loop on two tiny real models: choose, build, write, learn, crash, resume."""

import io
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pandas as pd
import pytest
import torch
from toy_embedder import embed

from braidbandit import (
    Braid,
    BraidRecommender,
    Catalogue,
    Decision,
    Ledger,
    MetaBraider,
    Outcome,
    TaskEncoder,
)
from braidbandit.tasks import load_tasks, without_answer

tiny = pytest.importorskip("tiny")

TASK = {"type": "code", "complexity": 0.7}
TEXTS = [
    f"The {colour} dog sleeps, then the {colour} fox jumps over {number} strands."
    for colour in ("brown", "quick", "lazy", "grey")
    for number in ("two", "three", "nine")
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [
        {
            "model_name": family,
            "domain": domain,
            "source": str(tiny.tiny_folder(family, folder / family)),
        }
        for family, domain in (("llama", "code"), ("gemma", "general"))
    ]


@pytest.fixture
def make(models):
    """Open agents on these models; every one is closed in the end."""
    opened = []

    def open_agent(folder=None, **options):
        options.setdefault("encoder", TaskEncoder(embedder=embed, n_components=4))
        agent = MetaBraider(
            models,
            folder=folder,
            calibration_texts=TEXTS,
            strategies=("learned_weighted",),
            shares=((0.75, 0.25),),
            random_state=0,
            **options,
        )
        opened.append(agent)
        return agent

    yield open_agent
    for agent in opened:
        agent.close()


def state_of(agent):
    """Everything that learning may change, as bytes and plain data."""
    posterior = agent.recommender.posterior_
    return (
        None if posterior is None else posterior.mean.tobytes(),
        None if posterior is None else posterior.factor.tobytes(),
        str(agent.recommender.rng_.bit_generator.state),
        list(agent.recommender.pending_),
        dict(agent.recommender.settled_),
        agent.ledger.counts(),
        dict(agent.catalogue.unfit),
    )


def test_cards_are_filled_from_the_models(make):
    cards = make().catalogue.cards
    assert (cards["llama"].layers, cards["llama"].width) == (4, 32)
    assert (cards["gemma"].layers, cards["gemma"].width) == (6, 48)
    assert cards["llama"].parameters > 10_000
    assert cards["llama"].domain == "code"


def test_the_walk(make):
    agent = make()
    decision = agent.forward(TASK)
    assert isinstance(decision, Decision)
    # In the ledger before it is returned, and no model was loaded for it.
    assert agent.ledger.decision(decision.id) == decision
    assert agent.strands.loaded == ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # random strands may be unfit
        braided = agent.create_braided_model(decision)
    text = braided.generate("The dog", max_new_tokens=4)
    assert isinstance(text, str)
    assert agent.learn_from_feedback(TASK, decision, 4 / 5) is agent
    assert agent.recommender.settled_ == {decision.id: 0.8}
    assert (agent.folder / "policy" / "manifest.json").exists()


def test_every_braid_can_be_built_and_strands_are_shared(make, tmp_path):
    agent = make(tmp_path)
    for braid in agent.catalogue:
        report = agent.calibrate(braid)
        assert (report is None) == braid.is_single
    fit = [b for b in agent.catalogue if b.id not in agent.catalogue.unfit]
    built = [agent.create_braided_model(braid) for braid in fit]
    anchors = {model.config.anchor: model.anchor for model in built}
    assert all(model.anchor is anchors[model.config.anchor] for model in built)
    assert any((tmp_path / "store").iterdir())


@pytest.fixture
def all_unfit(monkeypatch):
    """The real calibration, with the one verdict that cannot be forced by data."""
    import fusion

    real = fusion.calibrate
    monkeypatch.setattr(
        fusion, "calibrate", lambda *a, **k: replace(real(*a, **k), fit=False)
    )


def test_an_unfit_braid_is_masked_and_its_anchor_serves(make, tmp_path, all_unfit):
    agent = make(tmp_path)
    braid = next(b for b in agent.catalogue if b.donors)
    with pytest.warns(UserWarning, match="alone answers instead"):
        served = agent.create_braided_model(braid)
    assert served.config.donors == []
    assert not served.config.fusion_layers
    assert "bits per byte" in agent.catalogue.unfit[braid.id]
    assert not agent.catalogue.mask()[agent.catalogue.index(braid.id)]
    agent.close()
    again = make(tmp_path)
    assert again.catalogue.unfit == agent.catalogue.unfit
    row = again.explain(TASK).rows[again.catalogue.index(braid.id)]
    assert row.reason.startswith("unfit")


def test_what_the_anchor_earned_is_not_said_of_an_unfit_braid(
    make, tmp_path, all_unfit
):
    """The braid was never shown: nothing is learnt of it, also not from the ledger.
    What was known of it before stays, and can be taken back."""
    agent = make(tmp_path)
    braid = next(b for b in agent.catalogue if b.donors)
    shown, never, other = (agent.forward(TASK, eligible=[braid.id]) for _ in range(3))
    agent.learn_from_feedback(TASK, shown, 0.75)
    with pytest.warns(UserWarning, match="alone answers instead"):
        agent.create_braided_model(never)
    mean = agent.recommender.posterior_.mean.copy()
    agent.learn_from_feedback(TASK, shown, 0.75)  # once more
    for decision in (never, other, never):
        with pytest.warns(UserWarning, match=r"not learnt.*was not shown"):
            assert agent.learn_from_feedback(TASK, decision, 0.5) is agent
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        agent.learn_from_feedback(TASK, never, 7.0)
    np.testing.assert_array_equal(agent.recommender.posterior_.mean, mean)
    counts = {"decisions": 3, "outcomes": 1, "pending": 2}
    assert agent.ledger.counts() == counts
    agent.close()
    again = make(tmp_path)
    assert again.recommender.settled_ == {shown.id: 0.75}
    assert again.revise(shown, 0.25).retract(shown).recommender.n_updates_ == 0


def test_resume_after_a_crash_between_ledger_and_state(make, tmp_path):
    """The crashed agent wrote the outcome but saved no policy; nothing is lost."""
    agent = make(tmp_path / "a")
    for number in range(5):
        agent.learn_from_feedback(TASK, agent.forward(TASK), number / 5)
    decision = agent.forward("sort a list")
    agent.ledger.record_outcome(Outcome(decision.id, 0.9))
    agent.close()

    resumed = make(tmp_path / "a")
    assert resumed.recommender.n_updates_ == 6
    assert resumed.recommender.settled_[decision.id] == 0.9
    fresh = BraidRecommender(resumed.catalogue, resumed.recommender.encoder_)
    fresh.sync(resumed.ledger)
    np.testing.assert_array_equal(
        resumed.recommender.posterior_.mean, fresh.posterior_.mean
    )
    np.testing.assert_array_equal(
        resumed.recommender.posterior_.factor, fresh.posterior_.factor
    )


def test_the_policy_is_saved_now_and_then_and_in_the_end(make, tmp_path):
    def position():
        manifest = json.loads((tmp_path / "policy" / "manifest.json").read_text())
        return manifest["ledger_position"]

    agent, saved = make(tmp_path), []
    for _ in range(21):
        agent.learn_from_feedback(TASK, agent.forward(TASK), 0.5)
        saved.append(position())
    assert saved == [0] * 19 + [20, 20]
    agent.close()
    assert position() == 21
    with make(tmp_path) as again:
        assert again.recommender.n_updates_ == 21
    agent.close()  # once more: nothing is written over what came after
    assert position() == 21


def test_the_ledger_alone_is_enough(make, tmp_path):
    """A policy that was lost is learnt again from the ledger."""
    agent = make(tmp_path)
    for reward in (0.2, 0.8):
        agent.learn_from_feedback(TASK, agent.forward(TASK), reward)
    mean = agent.recommender.posterior_.mean.copy()
    agent.close()
    for file in (tmp_path / "policy").iterdir():
        file.unlink()
    np.testing.assert_array_equal(make(tmp_path).recommender.posterior_.mean, mean)


def test_a_resumed_agent_continues_its_random_sequence(make, tmp_path):
    def choose(agent, times):
        arms = []
        for _ in range(times):
            decision = agent.forward(TASK)
            arms.append(decision.braid.id)
            agent.learn_from_feedback(TASK, decision, 0.5)
        return arms

    straight = choose(make(tmp_path / "straight"), 8)
    first = make(tmp_path / "halves")
    halves = choose(first, 4)
    first.close()
    assert halves + choose(make(tmp_path / "halves"), 4) == straight


def test_what_waits_and_the_random_sequence_outlive_a_process(make, tmp_path):
    """No outcome came between two saves; and nothing at all is saved in a crash."""
    agent = make(tmp_path)
    first = [agent.forward(TASK) for _ in range(3)]
    agent.close()
    resumed = make(tmp_path)
    before = state_of(agent)[2:4]
    assert state_of(resumed)[2:4] == before
    assert list(resumed.recommender.pending_) == [d.id for d in first]
    lost = resumed.forward(TASK)
    foreign = replace(lost, id="foreign", encoder_hash="other", x=(1.0,))
    resumed.ledger.record_decision(foreign)
    again = make(tmp_path)  # the one before was not closed
    assert list(again.recommender.pending_) == [d.id for d in [*first, lost]]
    again.learn_from_feedback(TASK, lost, 0.5)
    assert lost.id not in make(tmp_path).recommender.pending_


def test_a_folder_brings_its_settings(make, models, tmp_path):
    first = make(tmp_path, price=0.2, dtype="bfloat16", layer_sets=("output",))
    first.close()
    encoder = TaskEncoder(embedder=embed, n_components=4)
    with MetaBraider(models, folder=tmp_path, encoder=encoder) as again:
        assert again.catalogue == first.catalogue
        assert again.recommender.price == 0.2
        assert json.loads((tmp_path / "calibration.json").read_text())["texts"] == TEXTS
        strand = again.create_braided_model(Braid("llama")).anchor
        assert strand.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dtype"):
        make(tmp_path, dtype="int3")


def test_what_was_spent_before_a_crash_is_counted_once(make, tmp_path):
    agent = make(tmp_path)
    agent.recommender.set_params(mean_cost=0.1)
    agent.save()
    for i in range(6):
        decision = agent.forward(TASK)
        if i % 2:
            agent.learn_from_feedback(TASK, decision, 0.5)
    spent = agent.recommender.pacer_
    assert spent.price > 0
    crashed = make(tmp_path)
    assert crashed.recommender.pacer_ == spent
    crashed.close()
    assert make(tmp_path).recommender.pacer_ == spent


def test_a_decision_that_is_not_recorded_leaves_no_trace(make, monkeypatch):
    """Not on the generator, the pacer, what is waited for, or what is written."""
    agent = make()
    agent.recommender.set_params(mean_cost=0.1)
    agent.forward(TASK)

    def trace():
        recommender, pacer = agent.recommender, agent.recommender.pacer_
        return (
            str(recommender.rng_.bit_generator.state),
            (pacer.price, pacer.overspent, recommender.n_decisions_),
            list(recommender.pending_),
            agent.ledger.counts(),
            state_of(agent),
        )

    before, would = trace(), agent.explain(TASK).arm_id
    for error in (OSError("disk full"), ZeroDivisionError(), KeyboardInterrupt()):
        with monkeypatch.context() as patch:

            def refuse(*_, error=error):
                raise error

            patch.setattr(Ledger, "record_decision", refuse)
            with pytest.raises(type(error)):
                agent.forward(TASK)
        assert trace() == before
    assert agent.forward(TASK).braid.id == would


class Screen(io.StringIO):
    """Standard error that may be a terminal."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize(
    ("screen", "shown"), [(Screen(True), True), (Screen(False), False), (None, False)]
)
def test_a_calibration_shows_its_progress_to_who_waits(
    make, monkeypatch, screen, shown
):
    """On a terminal only; ``calibrate`` shows it where it is asked to."""
    agent, seen = make(), []
    braid = next(b for b in agent.catalogue if not b.is_single)

    def calibrate(model, texts, *, store, progress):
        seen.append(progress)
        raise InterruptedError

    monkeypatch.setattr("fusion.calibrate", calibrate)
    monkeypatch.setattr("sys.stderr", screen)
    with pytest.raises(InterruptedError):
        agent.create_braided_model(braid)
    for asked in (True, False):
        with pytest.raises(InterruptedError):
            agent.calibrate(braid, progress=asked)
    assert seen == [shown, True, False]


def test_a_folder_brings_its_encoder(models, tmp_path, monkeypatch):
    """Also where the default has other features by now."""
    monkeypatch.setattr("braidbandit.tasks.embedder.load_model", lambda model: embed)
    encoder = TaskEncoder(n_components=3)
    with MetaBraider(models, folder=tmp_path, encoder=encoder) as first:
        decision = first.forward(TASK)
    with MetaBraider(models, folder=tmp_path) as again:
        again.learn_from_feedback(TASK, decision, 1.0)
        assert again.recommender.encoder_.n_components == 3
        again.forward("a new text")
    assert (tmp_path / "embeddings").exists()


def fitted_on(*prompts):
    """Hash of an encoder that knows the packaged tasks and these prompts."""
    tasks = [without_answer(task) for task in load_tasks("train")]
    encoder = TaskEncoder(embedder=embed, n_components=4)
    return encoder.fit([*tasks, *prompts]).projection_hash()


def test_the_encoder_is_fitted_on_texts_that_were_given_too(models):
    encoder = TaskEncoder(embedder=embed, n_components=4)
    rows = [{"prompt": p, "reference": "x"} for p in ("one", " ", "two")]
    for given, prompts in (
        (None, ()),
        (["a whole text"], ["a whole text"]),
        (rows, ["one", "two"]),
        ([f"text {i}" for i in range(700)], [f"text {i}" for i in range(0, 700, 3)]),
        ([{"prompt": "", "reference": "x"}], ()),
    ):
        with MetaBraider(models, calibration_texts=given, encoder=encoder) as agent:
            assert agent.recommender.encoder_hash_ == fitted_on(*prompts)
    assert not encoder.__sklearn_is_fitted__()


PROBES = ["Sort a list of numbers.", "Sing of the sea.", "What is a fever?"]
TABLE = np.array([[0.9, 0.1], [0.2, 0.6], [0.5, 0.5]])


def singles(agent):
    return [braid.id for braid in agent.catalogue if braid.is_single]


def test_a_warm_start_fits_the_encoder_on_its_tasks_too(make, tmp_path):
    agent = make(tmp_path)
    assert agent.warm_start(PROBES, singles(agent), TABLE) is agent
    assert agent.recommender.encoder_hash_ == fitted_on(*TEXTS, *PROBES)
    encoder = agent.recommender.encoder_
    alone = BraidRecommender(agent.catalogue, encoder, price=agent.recommender.price)
    alone.warm_start(PROBES, singles(agent), TABLE)
    assert np.array_equal(
        agent.recommender.decision_function(PROBES), alone.decision_function(PROBES)
    )
    decision = agent.forward(PROBES[0])
    agent.learn_from_feedback(None, decision, 0.7)
    agent.close()
    # Another process goes on, and may start anew from a larger table.
    again = make(tmp_path)
    kept = again.recommender.encoder_hash_
    assert kept == decision.encoder_hash
    again.warm_start([*PROBES, "Once more."], singles(again), [*TABLE, [0.3, 0.4]])
    assert again.recommender.encoder_hash_ == kept
    assert again.recommender.settled_ == {decision.id: 0.7}


def test_a_warm_start_keeps_an_encoder_that_was_given_fitted(models):
    encoder = TaskEncoder(embedder=embed, n_components=4).fit(["one", "two", "three"])
    with MetaBraider(models, encoder=encoder) as agent:
        agent.warm_start(PROBES, singles(agent), TABLE)
        assert agent.recommender.encoder_ is encoder


def test_arms_that_were_trained_anew_stay_so_after_a_warm_start(make):
    agent = make()
    agent.warm_start(PROBES, singles(agent), TABLE)
    arm = singles(agent)[0]
    only = [braid.id == arm for braid in agent.catalogue]
    old = agent.forward(TASK, eligible=only)
    agent.recommender.retrain(arm, 0.9)
    new = agent.forward(TASK, eligible=only)
    agent.learn_from_feedback(TASK, old, 0.9)
    agent.learn_from_feedback(TASK, new, 0.3)
    agent.recommender.sync(agent.ledger, anew=True)
    before = agent.recommender.decision_function([TASK])
    agent.warm_start(PROBES, singles(agent), TABLE)
    after = agent.recommender.decision_function([TASK])
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert agent.forward(TASK, eligible=only).version == new.version == 1


def test_a_warm_start_that_is_refused_changes_nothing(make):
    agent = make()
    before, policy = state_of(agent), agent.recommender
    with pytest.raises(ValueError, match="shape"):
        agent.warm_start(PROBES, singles(agent), TABLE[:2])
    assert agent.recommender is policy
    assert state_of(agent) == before


def test_a_late_reward_may_come_by_id_to_another_process(make, tmp_path):
    first = make(tmp_path)
    decision = first.forward(TASK)
    first.close()
    second = make(tmp_path)
    second.learn_from_feedback(TASK, decision.id, True)
    assert second.recommender.settled_ == {decision.id: 1.0}


def test_the_same_feedback_twice_counts_once(make):
    agent = make()
    decision = agent.forward(TASK)
    agent.learn_from_feedback(TASK, decision, 0.6)
    before = state_of(agent)
    agent.learn_from_feedback(TASK, decision, 0.6)
    assert state_of(agent) == before


def test_a_task_may_no_longer_be_at_hand(make):
    agent = make()
    decision = agent.forward(TASK)
    with pytest.raises(ValueError, match="give both"):
        agent.learn_from_feedback(None, decision, lambda task, text: 1.0, output="x")
    agent.learn_from_feedback(None, decision.id, 0.5)
    assert agent.recommender.settled_ == {decision.id: 0.5}


def test_feedback_is_revised_and_taken_back(make, tmp_path):
    agent = make(tmp_path)
    decisions = [agent.forward(TASK) for _ in range(3)]
    for decision in decisions:
        agent.learn_from_feedback(TASK, decision, 0.5)
    assert agent.revise(decisions[0], 0.9) is agent
    agent.revise(decisions[0].id, 0.9)  # the same again
    agent.retract(decisions[1]).retract(decisions[1].id)
    assert agent.recommender.settled_ == {decisions[0].id: 0.9, decisions[2].id: 0.5}
    assert [e.kind for e in agent.ledger.events()][3:] == ["revision", "retraction"]
    agent.close()
    again = make(tmp_path)
    fresh = BraidRecommender(again.catalogue, again.recommender.encoder_)
    fresh.sync(again.ledger)
    np.testing.assert_array_equal(
        again.recommender.posterior_.mean, fresh.posterior_.mean
    )
    before = state_of(again)
    with pytest.raises(KeyError, match="no outcome"):
        again.revise(decisions[1], 0.5)
    with pytest.raises(ValueError, match="lies in"):
        again.revise(decisions[0], 1.5)
    with pytest.raises(KeyError, match="unknown decision"):
        again.retract("no such decision")
    assert state_of(again) == before
    again.learn_from_feedback(TASK, decisions[1], 0.1)  # it waited again
    assert again.recommender.settled_[decisions[1].id] == 0.1


def test_a_removed_arm_takes_late_feedback(make):
    agent = make()
    decision, other = agent.forward(TASK), agent.forward("sort a list")
    agent.recommender.remove_arms({decision.braid.id})
    agent.learn_from_feedback(TASK, decision, 0.5)
    assert agent.recommender.settled_ == {decision.id: 0.5}
    agent.revise(decision, 0.75)
    assert agent.recommender.settled_ == {decision.id: 0.75}
    agent.retract(decision)
    assert agent.recommender.settled_ == {}
    assert agent.recommender.n_updates_ == 0
    unknown = replace(other, id="unknown", braid=Braid("elsewhere"))
    agent.ledger.record_decision(unknown)
    with pytest.raises(KeyError, match="unknown arm"):
        agent.learn_from_feedback("sort a list", unknown, 0.5)


def test_an_expired_decision_takes_no_feedback(make):
    agent = make()
    decision = agent.forward(TASK)
    assert agent.expire(datetime.now(timezone.utc)) == 1
    with pytest.raises(KeyError, match="expired"):
        agent.learn_from_feedback(TASK, decision, 0.5)
    assert agent.recommender.pending_ == {}


@pytest.mark.parametrize("keep_text", [False, True])
def test_text_is_kept_only_if_asked(make, tmp_path, keep_text):
    agent = make(tmp_path, keep_text=keep_text)
    tasks = [
        "a secret",
        {"text": None, "prompt": "a secret", "type": "code"},
        {"messages": [{"role": "user", "content": "a secret"}]},
        TASK,
    ]
    for task in tasks:
        agent.forward(task)
    texts = [text for _, text in agent.ledger.decisions()]
    assert texts == ([*["a secret"] * 3, None] if keep_text else [None] * 4)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    found = any(b"a secret" in file.read_bytes() for file in files)
    assert found == keep_text


def test_eight_threads_share_an_agent(make):
    agent = make()

    def serve(thread):
        for number in range(4):
            decision = agent.forward(TASK)
            agent.learn_from_feedback(TASK, decision, (thread + number) / 20)
            if number == 0:
                agent.revise(decision, 0.9)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(serve, range(8)))
    assert agent.ledger.counts() == {"decisions": 32, "outcomes": 32, "pending": 0}
    assert agent.recommender.n_updates_ == 32
    fresh = BraidRecommender(agent.catalogue, agent.recommender.encoder_)
    fresh.sync(agent.ledger)
    np.testing.assert_array_equal(
        agent.recommender.posterior_.mean, fresh.posterior_.mean
    )


def test_a_conversation_outlives_a_crash(make, tmp_path):
    agent = make(tmp_path)
    said = [agent.forward(f"turn {i}", conversation="c") for i in range(3)]
    assert [d.conversation["number"] for d in said] == [1, 2, 3]
    known = agent.recommender.conversations_
    again = make(tmp_path)  # the first one was not closed: nothing was saved
    assert again.recommender.conversations_ == known
    turn = again.forward("turn 3", conversation="c").conversation
    assert (turn["number"], turn["held"]) == (4, said[-1].braid.id)
    assert again.explain("turn 4", conversation="c").probability > 0
    before = state_of(again)
    for bad, error in (("", ValueError), (3, TypeError), (2**20 * "c", ValueError)):
        with pytest.raises(error, match="conversation"):
            again.forward("x", conversation=bad)
    assert state_of(again) == before


def test_a_person_overrides_a_decision(make, tmp_path):
    agent = make(tmp_path, keep_text=True)
    first = agent.forward("a task")
    arm = next(a for a in agent.catalogue.ids if a != first.braid.id)
    before = state_of(agent)
    with pytest.raises(KeyError, match="unknown arm"):
        agent.override(first, "nope")
    with pytest.raises(KeyError, match="unknown decision"):
        agent.override("nope", arm)
    with pytest.raises(TypeError, match="id of a decision"):
        agent.override(7, arm)
    assert state_of(agent) == before
    second = agent.override(first.id, arm)
    assert agent.ledger.decision(second.id) == second
    assert agent.ledger.text(second.id) == "a task"
    assert agent.ledger.counts()["pending"] == 1
    with pytest.raises(KeyError, match="a person chose another arm"):
        agent.learn_from_feedback("a task", first, 0.5)
    agent.learn_from_feedback("a task", second, 0.5)
    again = make(tmp_path)
    assert again.recommender.settled_ == {second.id: 0.5}
    with pytest.raises(ValueError, match="overridden already"):
        again.override(first, arm)
    with pytest.raises(ValueError, match="has a reward"):
        again.override(second, first.braid)


def test_a_person_overrides_a_decision_of_another_agent_on_the_ledger(make):
    agent = make()
    other = make(ledger=agent.ledger)
    for given in (lambda decision: decision, lambda decision: decision.id):
        first = agent.forward("a task")
        arm = next(a for a in agent.catalogue.ids if a != first.braid.id)
        second = other.override(given(first), arm)
        waiting = {decision.id for decision in agent.ledger.pending()}
        assert (second.id in waiting, first.id in waiting) == (True, False)
        with pytest.raises(KeyError, match="a person chose another arm"):
            agent.learn_from_feedback(None, first, 0.5)
        agent.learn_from_feedback(None, second, 0.5)
    gone = agent.forward("a task")
    agent.expire(gone)
    before = state_of(other)
    with pytest.raises(KeyError):
        other.override(gone, next(a for a in other.catalogue.ids if a != gone.braid.id))
    assert state_of(other) == before


def test_an_override_that_is_not_recorded_leaves_no_trace(make, monkeypatch):
    agent = make()
    first = agent.forward(TASK)
    arm = next(a for a in agent.catalogue.ids if a != first.braid.id)
    before = state_of(agent)

    def full(decision, text=None):
        raise OSError("the disk is full")

    monkeypatch.setattr(agent.ledger, "record_decision", full)
    with pytest.raises(OSError, match="full"):
        agent.override(first, arm)
    assert state_of(agent) == before


def test_who_was_asked_is_in_the_ledger(make, tmp_path):
    agent = make(tmp_path)
    said = {}
    for i in range(12):
        decision = agent.forward(f"task {i}")
        said[decision.id] = agent.ask(decision, 0.5)
    assert 0 < sum(said.values()) < 12
    kept = {d.id: d.asked["asked"] for d, _ in agent.ledger.decisions()}
    assert kept == said
    again = make(tmp_path)
    assert {name: again.ask(name, 1.0) for name in said} == said
    with pytest.raises(KeyError, match="unknown decision"):
        again.ask("unknown")
    agent.learn_from_feedback("task 0", next(iter(said)), 0.5)
    assert agent.ask(next(iter(said))) is False


def test_another_agent_on_the_ledger_asks_about_a_decision(make):
    agent = make()
    other = make(ledger=agent.ledger)
    one, two = (agent.forward(f"task {i}") for i in range(2))
    for i, decision in enumerate((one, two.id)):
        said = other.ask(decision, 0.5)
        assert other.ask(decision, 1.0) == other.ask(decision, 0.0) == said
        assert other.recommender.asking_.n == i + 1


def test_a_callable_judges_the_output(make):
    agent = make()
    decision = agent.forward(TASK)
    agent.learn_from_feedback(
        TASK, decision, lambda task, output: "return" in output, output="return 1"
    )
    assert agent.recommender.settled_[decision.id] == 1.0


@pytest.mark.parametrize(
    ("performance", "error"),
    [
        (float("nan"), ValueError),
        (1.5, ValueError),
        (-0.1, ValueError),
        (4, ValueError),
        ("good", TypeError),
        (None, TypeError),
        (lambda task, output: 1.0, ValueError),  # a callable without an output
    ],
)
def test_bad_performance_changes_nothing(make, performance, error):
    agent = make()
    agent.learn_from_feedback(TASK, agent.forward(TASK), 0.5)
    decision = agent.forward(TASK)
    before = state_of(agent)
    with pytest.raises(error):
        agent.learn_from_feedback(TASK, decision, performance)
    assert state_of(agent) == before
    agent.learn_from_feedback(TASK, decision, 0.5)  # and the right one still works


def test_bad_decisions_change_nothing(make):
    agent, other = make(), make()
    decision = agent.forward(TASK)
    agent.learn_from_feedback(TASK, decision, 0.5)
    foreign = other.forward(TASK)
    before = state_of(agent)
    with pytest.raises(KeyError, match="unknown decision .* not in this ledger"):
        agent.learn_from_feedback(TASK, "no such decision", 0.5)
    for no_id in (TASK, None, 7):
        with pytest.raises(TypeError, match="the id of a decision, which is text"):
            agent.learn_from_feedback(TASK, no_id, 0.5)
    with pytest.raises(KeyError, match="unknown decision"):
        agent.learn_from_feedback(TASK, foreign, 0.5)
    with pytest.raises(ValueError, match="another task"):
        agent.learn_from_feedback("another task", decision, 0.5)
    with pytest.raises(ValueError, match="has an outcome already"):
        agent.learn_from_feedback(TASK, decision, 0.9)
    with pytest.raises(TypeError, match="arm id"):
        agent.create_braided_model(3)
    with pytest.raises(KeyError, match="unknown arm"):
        agent.create_braided_model(Braid("another"))
    assert state_of(agent) == before


@pytest.mark.parametrize("task", ["", "   ", {"prompt": ""}, {}, {"type": "cooking"}])
def test_bad_tasks_change_nothing(make, task):
    agent = make()
    before = state_of(agent)
    with pytest.raises(ValueError, match="task"):
        agent.forward(task)
    with pytest.raises(ValueError, match="task"):
        agent.explain(task)
    assert state_of(agent) == before


def test_a_budget_no_arm_meets_is_refused(make):
    from braidbandit import Budget

    agent = make()
    before = state_of(agent)
    with pytest.raises(ValueError, match="no arm is left"):
        agent.forward(TASK, budget=Budget(flops=1.0))
    with pytest.raises(ValueError, match="compute_budget"):
        agent.forward(TASK, compute_budget=1.5)
    assert state_of(agent) == before
    cheap = agent.forward(TASK, compute_budget=0.0)
    assert cheap.relative_cost == 0.0


def test_an_unknown_source_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="unknown model source"):
        MetaBraider([{"model_name": "no-such-model", "domain": "code"}])
    with pytest.raises(TypeError, match="pool holds"):
        MetaBraider([3])


def test_a_folder_of_another_pool_is_refused(make, models, tmp_path):
    agent = make(tmp_path)
    agent.close()
    with pytest.raises(ValueError, match="another folder"):
        MetaBraider(
            models[:1],
            folder=tmp_path,
            encoder=TaskEncoder(embedder=embed, n_components=4),
        )


def test_a_given_recommender_and_ledger_are_used(models, tmp_path):
    catalogue = Catalogue.build(["llama", "gemma"], layer_sets=("output",))
    recommender = BraidRecommender(
        catalogue, TaskEncoder(embedder=embed, n_components=4), random_state=0
    )
    with Ledger(tmp_path / "mine.sqlite") as ledger:
        with MetaBraider(models, recommender=recommender, ledger=ledger) as agent:
            assert agent.catalogue is catalogue
            agent.learn_from_feedback(TASK, agent.forward(TASK), 0.5)
            folder = agent.folder
        assert not folder.exists()  # it was temporary
        assert ledger.counts()["outcomes"] == 1  # the ledger is its owner's
    with pytest.raises(ValueError, match="not both"):
        MetaBraider(models, recommender=recommender, catalogue=catalogue)
    with pytest.raises(ValueError, match="not in the model pool"):
        MetaBraider(models[:1], catalogue=catalogue)


@pytest.mark.parametrize(
    "option",
    [
        {"price": 0.1},
        {"encoder": TaskEncoder(embedder=embed)},
        {"random_state": 0},
        {"strategies": ("router",)},
        {"layer_sets": ("output",)},
        {"shares": ((0.5, 0.5),)},
    ],
    ids=lambda option: next(iter(option)),
)
def test_a_recommender_goes_with_nothing_that_it_brings(models, option, tmp_path):
    catalogue = Catalogue.build(["llama", "gemma"], layer_sets=("output",))
    recommender = BraidRecommender(catalogue, TaskEncoder(embedder=embed))
    name, folder = next(iter(option)), tmp_path / "agent"
    with pytest.raises(ValueError, match=rf"\['{name}'\] would be ignored"):
        MetaBraider(models, recommender=recommender, folder=folder, **option)
    if name in ("strategies", "layer_sets", "shares"):
        with pytest.raises(ValueError, match=rf"\['{name}'\] would be ignored"):
            MetaBraider(models, catalogue=catalogue, folder=folder, **option)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"dtype": "int3"}, ValueError),
        ({"random_state": "seed"}, TypeError),
        ({"ledger": "ledger.sqlite"}, TypeError),
        ({"calibration_texts": []}, ValueError),
        ({"calibration_texts": "a text"}, TypeError),
        ({"calibration_texts": pd.DataFrame({"text": TEXTS})}, TypeError),
        ({"calibration_texts": [{"prompt": "half"}]}, TypeError),
        ({"calibration_texts": ["", *TEXTS]}, TypeError),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    models, option, error, tmp_path
):
    with pytest.raises(error):
        MetaBraider(models, folder=tmp_path / "agent", **option)
    assert not (tmp_path / "agent").exists()


def test_calibration_texts_may_be_a_column(models, tmp_path):
    encoder = TaskEncoder(embedder=embed, n_components=4)
    texts = pd.Series(TEXTS)
    with MetaBraider(models, encoder=encoder, calibration_texts=texts) as agent:
        kept = json.loads((agent.folder / "calibration.json").read_text())
        assert kept["texts"] == list(TEXTS)


def test_braids_that_a_resumed_folder_does_not_have_are_warned_of(make, tmp_path):
    first = make(tmp_path, layer_sets=("output",))
    first.close()
    make(tmp_path, layer_sets=("output",)).close()
    with pytest.warns(UserWarning, match="layer_sets.* have no effect"):
        again = make(tmp_path, layer_sets=("final",))
    assert again.catalogue == first.catalogue


def test_another_seed_begins_another_sequence(models, tmp_path):
    def begun(seed):
        encoder = TaskEncoder(embedder=embed, n_components=4)
        with MetaBraider(
            models, folder=tmp_path, encoder=encoder, random_state=seed
        ) as agent:
            before = agent.recommender.rng_.bit_generator.state
            agent.forward(TASK)
            after = agent.recommender.rng_.bit_generator.state
        return before, after

    fresh = [np.random.default_rng(seed).bit_generator.state for seed in (0, 5)]
    first = begun(0)
    assert first[0] == fresh[0]
    assert begun(0)[0] == first[1]
    assert begun(5)[0] == fresh[1]
    assert begun(None)[0] not in fresh


def test_the_better_of_two_answers_is_learnt(make):
    """Asked for again: in the ledger first, then learnt, and taken back."""
    agent = make()
    first = agent.forward(TASK)
    again = agent.forward(TASK, excluded=[first.braid.id])
    assert agent.prefer(again, first, source="judge") is agent
    [event] = agent.ledger.events()
    assert event.comparison.answers == (again.id, first.id)
    assert agent.recommender.ledger_position_ == event.sequence
    agent.prefer(again.id, first.id, source="judge")
    assert len(list(agent.ledger.events())) == 1
    with pytest.raises(ValueError, match="retract_comparison first"):
        agent.prefer(first, again, source="judge")
    with pytest.raises(KeyError, match="unknown decision"):
        agent.prefer(first, "nobody")
    with pytest.raises(ValueError, match="names who judged"):
        agent.learn_from_feedback(TASK, first, 0.5, source="")
    beside = next(i for i in agent.catalogue.ids if i != first.braid.id)
    agent.prefer(first, beside)
    agent.retract_comparison(first, again, source="judge")
    kinds = [e.kind for e in agent.ledger.events()]
    assert kinds == ["comparison", "comparison", "retraction"]
    assert len(agent.recommender.arm_model_.log.compared) == 1


def test_an_answer_that_was_not_shown_is_not_compared(make):
    agent = make()
    first = agent.forward(TASK)
    again = agent.forward(TASK, excluded=[first.braid.id])
    unfit = agent.catalogue.with_unfit(again.braid.id, "no better")
    agent.recommender.set_params(catalogue=unfit).start()
    with pytest.warns(UserWarning, match="is unfit .*was not shown"):
        agent.prefer(again, first)
    assert not list(agent.ledger.events())


def test_comparisons_survive_the_agent(make, tmp_path):
    with make(tmp_path) as agent:
        first = agent.forward(TASK)
        again = agent.forward(TASK, excluded=[first.braid.id])
        agent.prefer(again, first)
        before = agent.recommender.posterior_.mean
    with make(tmp_path) as agent:
        np.testing.assert_array_equal(agent.recommender.posterior_.mean, before)
        agent.retract_comparison(first.id, again.id)
