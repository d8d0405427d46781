"""A decision does not wait for what another thread does: see `contention`."""

from functools import cache

import pytest

contention = pytest.importorskip("contention", exc_type=ImportError)

not_yet = pytest.mark.xfail(strict=True, raises=AssertionError)


@cache
def measured(work):
    return contention.in_turns(work)


@not_yet
@pytest.mark.parametrize("work", [contention.calibrating, contention.judging])
def test_no_decision_waits_for_a_lock(work):
    found = measured(work)
    assert found.quiet.wait < contention.MOST_WAIT
    assert len(found.busy.waits) == contention.CALLS
    assert found.busy.wait < contention.MOST_WAIT


@not_yet
@pytest.mark.parametrize("work", [contention.calibrating, contention.judging])
def test_decisions_take_about_as_long_as_without_it(work):
    """As long as beside a thread that shares nothing: the machine may be busy."""
    found = measured(work)
    without = max(found.quiet.median, found.beside.median)
    assert found.busy.median < contention.MOST_TIMES * without


def test_waiting_is_measured():
    with contention.an_agent() as agent:
        locks = contention.wrapped_locks(agent)
        assert locks
        held = contention.threading.Event()

        def hold():
            for lock in locks:
                lock.acquire()
            held.set()
            contention.time.sleep(0.2)
            for lock in locks:
                lock.release()

        thread = contention.threading.Thread(target=hold)
        thread.start()
        held.wait()
        found = contention.Measured([], [])
        contention.measure(agent, locks, found)
        thread.join()
    assert len(found.waits) == contention.CALLS // contention.ROUNDS
    assert max(found.waits) > 0.1
    assert max(found.waits) <= max(found.walls)
