"""Only the newest tasks are at hand."""

from braidbandit.service.ratings.tasks_at_hand import TasksAtHand


def test_the_newest():
    tasks = TasksAtHand()
    for n in range(1500):
        tasks.keep(str(n), {"text": str(n)})
    assert tasks.task("1499") == {"text": "1499"}
    assert tasks.task("400") is None
    tasks.keep("long", {"text": "x" * 30_000})
    assert tasks.task("long") is None
