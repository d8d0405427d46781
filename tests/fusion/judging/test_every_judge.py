"""What every judge must satisfy. A new judge is a row."""

import pickle

import pytest

from fusion import ExactMatch, UnitTests
from fusion.judging.rewards import last_number

ADD = "def add(a, b):\n    return a + b\n"
# Each with an output that deserves everything, and one that deserves nothing.
JUDGES = {
    "exact match": (ExactMatch("Paris"), "paris", "Rome"),
    "a number": (ExactMatch("42", extract=last_number), "So it is 42.", "So it is 41."),
    "unit tests": (
        UnitTests(["assert add(1, 2) == 3"]),
        ADD,
        ADD.replace("+", "-"),
    ),
}
TASK = {"text": "What is it?", "type": "code"}


@pytest.mark.parametrize(("judge", "right", "wrong"), JUDGES.values(), ids=JUDGES)
class TestEveryJudge:
    def test_right_is_one_and_wrong_is_nothing(self, judge, right, wrong):
        assert judge(TASK, right) == 1.0
        assert judge(TASK, wrong) == 0.0

    def test_a_reward_is_a_plain_number(self, judge, right, wrong):
        for output in (right, wrong, "", "\x00 ?!", "```\n" * 50, "é 🎉"):
            reward = judge(TASK, output)
            assert type(reward) is float
            assert 0 <= reward <= 1

    def test_nothing_written_earns_nothing(self, judge, right, wrong):
        assert judge(TASK, "") == 0.0

    def test_the_same_output_earns_the_same_twice(self, judge, right, wrong):
        assert judge(TASK, right) == judge("another form of task", right)

    def test_it_is_data(self, judge, right, wrong):
        """Frozen, comparable, and the same in another process."""
        again = pickle.loads(pickle.dumps(judge))
        assert again == judge
        assert again(TASK, right) == 1.0
        with pytest.raises(AttributeError):
            judge.anything = 1
