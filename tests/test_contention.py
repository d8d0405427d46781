"""No decision waits for a lock that another thread holds over long work.

How long decisions take beside such work is printed by ``python tests/contention.py``.
"""

import pytest

contention = pytest.importorskip("contention", exc_type=ImportError)


@pytest.mark.parametrize("work", [contention.calibrating, contention.judging])
def test_no_decision_waits_for_a_lock(work):
    found = contention.in_turns(work)
    assert found.quiet.wait < contention.MOST_WAIT
    assert len(found.busy.waits) == contention.CALLS
    assert found.busy.wait < contention.MOST_WAIT


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
