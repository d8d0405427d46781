import pytest

from braidbandit.cli.shell.progress import Progress, in_words


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("watched", "expected"),
    [
        (False, ["work: 3 of 10, 7 s left\n"]),
        (True, ["\rwork: 3 of 10, 7 s left", "\rwork: 4 of 10, 6 s left"]),
    ],
)
def test_nothing_is_said_before_two_seconds(watched, expected):
    clock, said = Clock(), []
    work = Progress("work", 10, clock=clock, write=said.append, watched=watched)
    for second in (0.5, 1.9, 3.0, 4.0):
        clock.now = second
        work.advance()
    assert said == expected


def test_a_file_gets_a_line_every_ten_seconds():
    clock, said = Clock(), []
    work = Progress("work", 100, clock=clock, write=said.append, watched=False)
    for second in range(1, 31):
        clock.now = float(second)
        work.advance()
    assert [line.split(",")[0] for line in said] == [
        "work: 2 of 100",
        "work: 12 of 100",
        "work: 22 of 100",
    ]


def test_the_line_is_taken_away():
    clock, said = Clock(), []
    work = Progress("work", 2, clock=clock, write=said.append, watched=True)
    work.close()
    assert said == []
    clock.now = 5.0
    work.advance()
    work.close()
    assert said[-1] == "\r" + " " * len("work: 1 of 2, 5 s left") + "\r"


@pytest.mark.parametrize(
    ("seconds", "words"), [(59.4, "59 s"), (60, "1 min 0 s"), (3600, "1 h 0 min")]
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words
