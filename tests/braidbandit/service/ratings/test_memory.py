"""What is remembered of answers is found again, also after a restart."""

import pytest

from braidbandit.service.ratings.memory import Memory, Remembered


@pytest.fixture
def memory(tmp_path):
    memory = Memory(tmp_path / "m.sqlite")
    yield memory
    memory.close()


def test_answers_are_found_by_message_and_text(memory, tmp_path):
    memory.note_answer("d1", fingerprint="f", chat="c", message="m", latency_ms=5.0)
    memory.note_answer("d2", fingerprint="f", chat="c", message="m")
    memory.note_answer("d3", fingerprint="g", compute=0.5)
    again = Memory(tmp_path / "m.sqlite")
    for one in (memory, again):
        assert one.of_message("c", "m") == "d1"  # the first
        assert one.of_message("c", "x") is None
        assert one.of_text("g") == "d3"
        assert one.of_text("f") is None  # two wrote it
        assert one.of_text("h") is None
        assert one.answer("d1") == Remembered("d1", 5.0, None)
        assert one.answer("d3") == Remembered("d3", None, 0.5)
        assert one.answer("d4") is None
    again.close()


def test_signals_and_changes_are_counted(memory):
    assert memory.said("s") is None
    memory.note_signal("s", None, "1")
    memory.note_signal("t", "d", "0")
    assert memory.unmatched() == 1
    memory.note_signal("s", "d", "1")
    assert (memory.said("s"), memory.unmatched()) == ("1", 0)
    assert memory.changes("d") == 0
    memory.note_change("d")
    memory.note_change("d")
    assert memory.changes("d") == 2


def test_the_oldest_answers_make_room(memory, monkeypatch):
    monkeypatch.setattr("braidbandit.service.ratings.memory._MOST_ANSWERS", 10)
    for n in range(1000):
        memory.note_answer(f"d{n}")
    kept = [n for n in range(1000) if memory.answer(f"d{n}")]
    assert len(kept) <= 12
    assert kept[-1] == 999
