"""What is counted, and what is told of it."""

import json

from braidbandit.service.live import Answered, Live


def answered(arm="a", finish="stop", written=3):
    return Answered("d", arm, "a alone", "why", 0.0, 0.1, 0.2, 0.3, 5, written,
                    finish, "desk", 0.5)  # fmt: skip


def test_counts():
    live = Live()
    live.note_request("/health", 200)
    live.note_answer(answered())
    live.note_answer(answered(finish="gone", written=0))
    live.note_feedback("reward", "learnt")
    live.note_full()
    live.note_place(taken=True)
    for n in range(100):
        live.note_decision(n / 100)
    told = json.loads(json.dumps(live.summary()))
    assert told["answers"] == {"a stop": 1, "a gone": 1}
    assert told["tokens"] == {"read": 10, "written": 3}
    assert told["requests"] == {"/health 200": 1}
    assert (told["full"], told["in_flight"]) == (1, 1)
    assert told["decision_seconds"] == {"median": 0.49, "p99": 0.98, "count": 100}
    assert list(live.first_seconds) == [0.2]  # of the one that had a word
    assert len(live.newest) == 2


def test_only_the_newest_are_kept():
    live = Live()
    for _ in range(300):
        live.note_answer(answered())
    assert len(live.newest) == 200
    assert live.answers["a", "stop"] == 300
