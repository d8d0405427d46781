"""One line per cell, on the disk once it is known."""

import numpy as np
import pytest

from braidbandit.evaluation.score_file import ScoreFile, task_keys


def test_scores_come_back_in_the_order_in_which_they_were_added(tmp_path):
    path = tmp_path / "new" / "scores.jsonl"
    file = ScoreFile(path)
    for i, cell in enumerate([("b", "x"), ("a", "y"), ("a", "x")]):
        file.add(cell, i / 10)
    again = ScoreFile(path)
    assert list(again.scores.items()) == list(file.scores.items())
    assert list(again.scores) == [("b", "x"), ("a", "y"), ("a", "x")]


@pytest.mark.parametrize("bad", [1.5, float("nan"), "0.5", None])
def test_what_is_no_score_is_not_written(tmp_path, bad):
    file = ScoreFile(tmp_path / "t")
    file.add(("a", "x"), 0.5)
    before = (tmp_path / "t").read_bytes()
    with pytest.raises((TypeError, ValueError), match=r"in \[0, 1\]"):
        file.add(("a", "y"), bad)
    assert (tmp_path / "t").read_bytes() == before
    assert file.scores == {("a", "x"): 0.5}


def test_keys_tell_tasks_apart():
    keys = task_keys(["one", {"text": "one", "type": "code"}, np.ones(2), np.zeros(2)])
    assert len(set(keys)) == 4
    with pytest.raises(ValueError, match="give each once"):
        task_keys(["one", "one"])
