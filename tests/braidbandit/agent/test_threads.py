"""One agent, several threads and processes: nothing is lost, none waits for ever."""

import multiprocessing
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from toy_embedder import embed

from braidbandit import Braid, BraidRecommender, MetaBraider, TaskEncoder

tiny = pytest.importorskip("tiny")

TASK = {"type": "code", "complexity": 0.7}
PATIENCE = 30
NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="this cannot fork")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [
        {"model_name": name, "source": str(tiny.tiny_folder(name, folder / name))}
        for name in ("llama", "gemma")
    ]


@pytest.fixture
def make(models):
    opened = []

    def open_agent(folder=None):
        agent = MetaBraider(
            models,
            folder=folder,
            encoder=TaskEncoder(embedder=embed, n_components=4),
            calibration_texts=["The dog sleeps."],
            strategies=("learned_weighted",),
            shares=((0.75, 0.25),),
            random_state=0,
        )
        opened.append(agent)
        return agent

    yield open_agent
    for agent in opened:
        agent.close()


@pytest.fixture
def calibration(monkeypatch):
    """A calibration that takes as long as the test wants, and finds what it wants."""
    import fusion

    state = SimpleNamespace(
        calls=0, fit=True, begun=threading.Event(), go_on=threading.Event()
    )

    def calibrate(model, texts, *, store, progress):
        state.calls += 1
        state.begun.set()
        assert state.go_on.wait(PATIENCE)
        store.mkdir(parents=True, exist_ok=True)
        (store / "part").write_bytes(b"trained")
        return SimpleNamespace(fit=state.fit, bits_before=2.0, bits_after=3.0)

    monkeypatch.setattr(fusion, "calibrate", calibrate)
    return state


def a_braid(agent):
    return next(braid for braid in agent.catalogue if braid.donors)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


def test_who_waits_for_a_braid_gets_what_was_built(make, calibration, pool):
    agent = make()
    braid = a_braid(agent)
    building = [pool.submit(agent.create_braided_model, braid) for _ in range(3)]
    assert calibration.begun.wait(PATIENCE)
    calibration.go_on.set()
    built = [future.result(PATIENCE) for future in building]
    assert calibration.calls == 1
    assert built[0] is built[1] is built[2]


def test_others_decide_and_learn_while_a_braid_is_calibrated(make, calibration, pool):
    agent = make()
    future = pool.submit(agent.calibrate, a_braid(agent))
    assert calibration.begun.wait(PATIENCE)
    decision = agent.forward(TASK)
    agent.learn_from_feedback(TASK, decision, 0.5)
    agent.explain(TASK)
    agent.save()
    long_ago = datetime.now(timezone.utc) - timedelta(days=1)
    assert agent.expire(long_ago) == agent.purge(long_ago) == 0
    assert agent.create_braided_model(Braid("llama")) is not None
    assert not future.done()
    calibration.go_on.set()
    future.result(PATIENCE)


def test_no_thread_gets_a_braid_before_it_is_marked_unfit(
    make, calibration, pool, monkeypatch
):
    """A braid is not to be had before what calibration found of it is known."""
    agent = make()
    braid = a_braid(agent)
    calibration.fit = False
    calibration.go_on.set()
    marked, seen = threading.Event(), []
    real = BraidRecommender.set_params

    def set_params(self, **settings):
        # The other thread has all the time it wants to get at the braid.
        seen.append(pool.submit(agent.create_braided_model, braid))
        marked.wait(1.0)
        return real(self, **settings)

    monkeypatch.setattr(BraidRecommender, "set_params", set_params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert agent.calibrate(braid).fit is False
        assert seen[0].result(PATIENCE).config.donors == []
    assert braid.id in agent.catalogue.unfit


def test_braids_that_are_marked_at_once_are_all_marked(make, calibration, pool):
    agent = make()
    calibration.fit = False
    calibration.go_on.set()
    braids = [braid for braid in agent.catalogue if braid.donors]
    list(pool.map(agent.calibrate, braids))
    assert set(agent.catalogue.unfit) == {braid.id for braid in braids}
    assert agent.forward(TASK).braid not in braids


def test_what_is_closed_while_it_calibrates_leaves_nothing(make, calibration, pool):
    agent = make()
    calibration.fit = False
    future = pool.submit(agent.calibrate, a_braid(agent))
    assert calibration.begun.wait(PATIENCE)
    agent.close()
    assert not agent.folder.exists()
    calibration.go_on.set()
    future.result(PATIENCE)
    assert not agent.folder.exists()


def test_several_threads_close(make, pool, monkeypatch):
    agent = make()
    closing = [pool.submit(agent.close) for _ in range(4)]
    for future in closing:
        future.result(PATIENCE)
    assert not agent.folder.exists()


def test_all_that_several_threads_say_is_learnt(make, tmp_path, pool):
    """Deciding, learning, revising, taking back, saving and explaining at once."""
    agent = make(tmp_path)

    def serve(thread):
        for number in range(4):
            decision = agent.forward(TASK)
            agent.learn_from_feedback(TASK, decision, number / 8)
            if number == 1:
                agent.revise(decision, 1.0)
            if number == 2:
                agent.retract(decision)
            agent.save() if thread % 2 else agent.explain(TASK)

    list(pool.map(serve, range(4)))
    counts = {"decisions": 16, "outcomes": 12, "pending": 4}
    assert agent.ledger.counts() == counts
    fresh = BraidRecommender(
        agent.catalogue, agent.recommender.encoder_, random_state=0
    ).sync(agent.ledger)
    assert fresh.settled_ == agent.recommender.settled_
    assert fresh.feedback_counts_ == agent.recommender.feedback_counts_
    assert (
        fresh.posterior_.mean.tobytes() == agent.recommender.posterior_.mean.tobytes()
    )


def test_the_same_feedback_from_several_threads_counts_once(make, pool):
    agent = make()
    decision = agent.forward(TASK)
    ready = threading.Barrier(4)

    def judge(task, output):
        ready.wait(PATIENCE)  # all of them judge before anyone writes
        return 0.5

    said = [
        pool.submit(agent.learn_from_feedback, TASK, decision, judge, output="text")
        for _ in range(4)
    ]
    for future in said:
        future.result(PATIENCE)
    assert agent.recommender.n_updates_ == 1
    assert agent.ledger.counts()["outcomes"] == 1


@pytest.mark.parametrize("how", ["expire", "purge"])
def test_what_is_gone_while_it_is_judged_is_not_learnt(make, how):
    agent = make()
    decision = agent.forward(TASK)
    now = datetime.now(timezone.utc) + timedelta(seconds=1)

    def judge(task, output):
        agent.expire(now) if how == "expire" else agent.purge(now, records=True)
        return 0.5

    with pytest.raises(KeyError):
        agent.learn_from_feedback(TASK, decision, judge, output="text")
    assert agent.recommender.n_updates_ == 0
    assert agent.recommender.pending_ == {}


def in_a_child(work):
    """Return what a forked process says, which must not wait for ever."""
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and a fork
        child = context.Process(target=lambda: said.put(work()))
        child.start()
    found = said.get(timeout=PATIENCE)
    child.join(PATIENCE)
    return found


@NEEDS_FORK
def test_a_fork_while_another_thread_calibrates(make, tmp_path, calibration, pool):
    agent = make(tmp_path)
    braid = a_braid(agent)
    future = pool.submit(agent.calibrate, braid)
    assert calibration.begun.wait(PATIENCE)

    def work():
        decision = agent.forward(TASK)
        agent.learn_from_feedback(TASK, decision, 0.5)
        calibration.go_on.set()  # of this process
        return agent.calibrate(braid).fit, agent.recommender.n_updates_

    assert in_a_child(work) == (True, 1)
    calibration.go_on.set()
    assert future.result(PATIENCE).fit
    assert agent.forward(TASK).id
    assert agent.ledger.counts()["outcomes"] == 1


@NEEDS_FORK
def test_a_fork_while_another_thread_loads_a_strand(
    make, tmp_path, calibration, pool, monkeypatch
):
    import fusion

    agent = make(tmp_path)
    calibration.go_on.set()
    loading, go_on = threading.Event(), threading.Event()
    real = fusion.Pool._load

    def load(self, name, file):
        if threading.current_thread() is not threading.main_thread():
            loading.set()
            assert go_on.wait(PATIENCE)
        return real(self, name, file)

    monkeypatch.setattr(fusion.Pool, "_load", load)
    strands = [tiny.tiny_strand(name, name) for name in ("llama", "gemma")]
    future = pool.submit(agent.calibrate, a_braid(agent))
    assert loading.wait(PATIENCE)

    def work():
        for strand in strands:  # loading starts threads, which a fork may not
            agent.strands.add(strand)
        return agent.calibrate(a_braid(agent)).fit

    assert in_a_child(work) is True
    go_on.set()
    assert future.result(PATIENCE).fit


@NEEDS_FORK
def test_a_fork_while_an_agent_is_opened(make, tmp_path, pool, monkeypatch):
    """The child knows nothing of it, and what it has itself goes on."""
    agent = make(tmp_path / "one")
    opening, go_on = threading.Event(), threading.Event()
    real = BraidRecommender.start

    def start(self, anew=False):
        if threading.current_thread() is not threading.main_thread():
            opening.set()
            assert go_on.wait(PATIENCE)
        return real(self, anew)

    monkeypatch.setattr(BraidRecommender, "start", start)
    future = pool.submit(make, tmp_path / "two")
    assert opening.wait(PATIENCE)
    assert in_a_child(lambda: len(agent.forward(TASK).id)) == 32
    go_on.set()
    assert future.result(PATIENCE).forward(TASK).id
