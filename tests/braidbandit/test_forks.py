"""Processes that were forked, as web servers do, or that got a copy by pickle."""

import gc
import json
import os
import pickle
import threading

import numpy as np
import pytest

from braidbandit import (
    BraidRecommender,
    Ledger,
    LinearBandit,
    MetaBraider,
    Outcome,
    ThompsonSampling,
    Uniform,
)
from braidbandit._forks import process_id, tell_of_forks

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


def in_child(function):
    """Return what a function returns in a process of its own, through a pipe."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        found = answer.read()
    os.waitpid(pid, 0)
    assert found, "the process died"
    return json.loads(found)


def choices(agent):
    return lambda: [agent.recommend(f"task {i}").braid.id for i in range(12)]


def braids(catalogue, encoder, **settings):
    return BraidRecommender(catalogue, encoder, Uniform(), **settings)


class Listener:
    """Notes what it is told, with its name, in a list that several share."""

    def __init__(self, name, told):
        self.name, self.told = name, told

    def before_fork(self):
        self.told.append(f"{self.name} before")

    def after_fork(self, in_child):
        self.told.append(f"{self.name} in the {'child' if in_child else 'parent'}")


def test_who_asks_to_be_told_last_is_told_last_before_the_fork():
    told = []
    last, first = Listener("last", told), Listener("first", told)
    tell_of_forks(last, last=True)
    tell_of_forks(first)
    in_the_child = in_child(lambda: told)
    assert in_the_child[:2] == told[:2] == ["first before", "last before"]
    assert in_the_child[2:] == ["first in the child", "last in the child"]
    assert told[2:] == ["first in the parent", "last in the parent"]


def test_what_is_gone_is_not_told():
    told = []
    listener = Listener("gone", told)
    tell_of_forks(listener)
    del listener
    gc.collect()
    assert in_child(lambda: told) == []


def test_a_process_has_an_id_of_its_own():
    here = process_id()
    assert in_child(process_id) != here == process_id()


def test_workers_do_not_explore_in_lockstep(catalogue, encoder):
    agent = braids(catalogue, encoder)
    agent.recommend("before the fork")
    found = [in_child(choices(agent)) for _ in range(3)]
    assert len({tuple(chosen) for chosen in found}) == 3
    assert choices(agent)() not in found


def test_a_seed_is_the_same_in_every_process(catalogue, encoder):
    agent = braids(catalogue, encoder, random_state=0)
    agent.recommend("before the fork")
    assert in_child(choices(agent)) == in_child(choices(agent)) == choices(agent)()


@pytest.mark.parametrize("resume", [False, True])
def test_a_loaded_state_is_seeded_afresh_in_every_process_too(
    catalogue, encoder, tmp_path, resume
):
    braids(catalogue, encoder, random_state=0).save(tmp_path)
    agent = BraidRecommender.load(tmp_path, encoder=encoder, resume_rng=resume)
    assert (in_child(choices(agent)) == in_child(choices(agent))) == resume


def test_what_is_explained_in_a_worker_is_what_it_chooses(catalogue, encoder):
    agent = braids(catalogue, encoder)
    agent.recommend("before the fork")

    def both():
        return [
            [agent.explain("x").arm_id, agent.recommend("x").braid.id] for _ in range(9)
        ]

    assert all(said == done for said, done in in_child(both))


@pytest.mark.parametrize("copied", [False, True])
def test_the_numeric_bandit_draws_for_itself_in_every_process(copied, monkeypatch):
    X = np.random.default_rng(0).standard_normal((40, 2))
    bandit = LinearBandit(ThompsonSampling(floor=1.0)).fit(X, [0, 1] * 20)
    if not copied:
        one, two = (in_child(lambda: bandit.recommend(X)[0].tolist()) for _ in "12")
    else:
        kept = pickle.dumps(bandit)
        monkeypatch.setattr("braidbandit._forks._process", "another")
        one, two = (pickle.loads(kept).recommend(X)[0].tolist() for _ in "12")
    assert one != two


def test_a_copy_in_the_same_process_goes_on_as_the_original():
    X = np.random.default_rng(0).standard_normal((40, 2))
    bandit = LinearBandit(ThompsonSampling(floor=1.0), random_state=None)
    bandit.fit(X, [0, 1] * 20).recommend(X)
    copy = pickle.loads(pickle.dumps(bandit))
    assert copy.recommend(X)[0].tolist() == bandit.recommend(X)[0].tolist()


def test_ids_of_decisions_differ(catalogue, encoder):
    agent = braids(catalogue, encoder)
    made = [in_child(lambda: agent.recommend("x").id) for _ in range(3)]
    assert len({*made, agent.recommend("x").id}) == 4


def test_workers_write_to_one_ledger(agent, tmp_path):
    """Each with connections of its own: the parent's are left alone."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.record_decision(agent.recommend("before the fork"))
        parent = ledger.database.engine.pool

        def write():
            for i in range(20):
                decision = agent.recommend(f"task {i}")
                ledger.record_decision(decision)
                ledger.record_outcome(Outcome(decision.id, 0.5))
            return [ledger.database.engine.pool is parent, ledger.counts()["decisions"]]

        assert in_child(write) == [False, 21]
        assert write() == [True, 41]
        assert in_child(write) == [False, 61]
        assert ledger.counts() == {"decisions": 61, "outcomes": 60, "pending": 1}


@pytest.mark.parametrize("url", [":memory:", "file:forked?mode=memory&cache=shared"])
def test_a_ledger_in_memory_is_copied_whole(agent, url):
    """From then on each goes its own way."""
    with Ledger(url) as ledger:
        ledger.record_decision(agent.recommend("before the fork"))

        def write():
            ledger.record_decision(agent.recommend("x"))
            return ledger.counts()["decisions"]

        found = [in_child(write), in_child(write), write(), in_child(write)]
        assert found == [2, 2, 2, 3]
        assert ledger.counts()["decisions"] == 2


def a_braider(agent, folder=None):
    cards = list(agent.catalogue.cards.values())
    return MetaBraider(cards, recommender=agent, folder=folder)


def test_a_lock_that_another_thread_holds_is_free_in_the_worker(agent, tmp_path):
    """A fork waits for the thread: nothing is half changed in the worker."""
    braider = a_braider(agent, tmp_path)
    held, go, lock = threading.Event(), threading.Event(), braider._lock

    class Waits:
        """Lets the thread go on when the fork asks for the lock."""

        def acquire(self):
            go.set()
            return lock.acquire()

        def release(self):
            lock.release()

    def change():
        with lock:
            held.set()
            go.wait()
            agent.recommend("in the thread")

    thread = threading.Thread(target=change)
    thread.start()
    held.wait()
    braider._lock = Waits()

    def work():
        return [len(agent.pending_), braider.forward("in the worker").task_hash]

    assert in_child(work)[0] == 1
    thread.join()
    braider._lock = lock
    braider.forward("in the parent")
    braider.close()


def test_a_worker_that_ends_leaves_the_parent_its_folder(agent):
    braider = a_braider(agent)
    kept = braider.forward("x")

    def end():
        braider.close()
        return braider.folder.exists()

    assert in_child(end)
    assert braider.ledger.decision(kept.id) == kept
    braider.close()
    assert not braider.folder.exists()
