import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from braidbandit import Braid, Catalogue, ModelCard
from braidbandit.evaluation.reward_table import build_table

CATALOGUE = Catalogue(map(ModelCard, "abc"), map(Braid, "abc"))
TASKS = [{"prompt": f"task {i}"} for i in range(4)]


def score(braid, task):
    return ("abc".index(braid.anchor) + int(task["prompt"][-1])) / 10


EXPECTED = np.add.outer(np.arange(4), np.arange(3)) / 10


class Counting:
    """Scores, and breaks off when it has done enough."""

    def __init__(self, most=100):
        self.cells, self.most = [], most

    def __call__(self, braid, task):
        if len(self.cells) == self.most:
            raise RuntimeError("enough")
        self.cells.append((task["prompt"], braid.anchor))
        return score(braid, task)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_every_braid_on_every_task(tmp_path, n_jobs):
    table = build_table(
        CATALOGUE, TASKS, score, path=tmp_path / "t", n_jobs=n_jobs, progress=False
    )
    np.testing.assert_array_equal(table, EXPECTED)
    assert len((tmp_path / "t").read_text().splitlines()) == 12


def test_it_goes_on_where_it_was(tmp_path):
    path = tmp_path / "new" / "table.jsonl"
    first, second, third = Counting(5), Counting(), Counting()
    with pytest.raises(RuntimeError, match="enough"):
        build_table(CATALOGUE, TASKS, first, path=path, progress=False)
    # Killed in the middle of a line.
    with path.open("a") as file:
        file.write('{"task": "1234", "ar')
    table = build_table(CATALOGUE, TASKS, second, path=path, progress=False)
    np.testing.assert_array_equal(table, EXPECTED)
    assert (len(first.cells), len(second.cells)) == (5, 7)
    assert first.cells[:3] == [("task 0", "a"), ("task 0", "b"), ("task 0", "c")]
    # Other tasks and arms in another order: what is known is known.
    other = Catalogue(map(ModelCard, "abc"), map(Braid, "cab"))
    table = build_table(other, TASKS[2:], third, path=path, progress=False)
    np.testing.assert_array_equal(table, EXPECTED[2:, [2, 0, 1]])
    assert third.cells == []


def test_a_kill_loses_the_running_cell_only(tmp_path):
    """Each cell says when it starts; the one that was killed is measured again."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_reward_table import CATALOGUE, TASKS, score, build_table\n"
        "def slow(braid, task):\n"
        "    print('.', flush=True); time.sleep(0.05); return score(braid, task)\n"
        "build_table(CATALOGUE, TASKS, slow, path=sys.argv[2], progress=False)\n"
    )
    path, folder = tmp_path / "t", __file__.rpartition("/")[0]
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder, str(path)], stdout=subprocess.PIPE
    )
    for _ in range(5):
        process.stdout.readline()
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = len(path.read_bytes().splitlines())
    assert 4 <= kept <= 5
    rest = Counting()
    table = build_table(CATALOGUE, TASKS, rest, path=path, progress=False)
    np.testing.assert_array_equal(table, EXPECTED)
    assert len(rest.cells) == 12 - kept


@pytest.mark.parametrize("bad", [1.5, float("nan"), -0.1])
def test_scores_that_are_none(tmp_path, bad):
    def wrong(braid, task):
        return bad if braid.anchor == "c" else 0.5

    with pytest.raises(ValueError, match=r"lies in \[0, 1\]"):
        build_table(CATALOGUE, TASKS, wrong, path=tmp_path / "t", progress=False)
    assert len((tmp_path / "t").read_text().splitlines()) == 2


def test_bad_input(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="same"):
        build_table(CATALOGUE, ["x", "x"], score, progress=False)
    no_arm = {"task": "1", "arm": None, "score": 0.5}
    for cell in ({"task": "1", "arm": "2"}, no_arm):
        (tmp_path / "t").write_text(json.dumps(cell) + "\n")
        with pytest.raises(ValueError, match="line 1 of .* is damaged"):
            build_table(CATALOGUE, TASKS, score, path=tmp_path / "t", progress=False)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="progress=False"):
        build_table(CATALOGUE, TASKS, score)


def test_the_bar_shows_the_time_left(capsys):
    build_table(CATALOGUE, TASKS, score)
    assert "12/12" in capsys.readouterr().err


@pytest.mark.parametrize("tasks", ["one text", {"text": "one"}])
def test_tasks_are_a_list(tasks):
    with pytest.raises(TypeError, match="give a list of tasks"):
        build_table(CATALOGUE, tasks, score, progress=False)


def test_no_tasks_are_an_empty_table(tmp_path):
    table = build_table(CATALOGUE, [], score, path=tmp_path / "t", progress=False)
    assert table.shape == (0, 3)


@pytest.mark.parametrize("damage", ["[1, 2]", "{not json", '{"task": "1"}'])
def test_a_damaged_file_is_refused_and_stays_as_it_is(tmp_path, damage):
    path = tmp_path / "t"
    build_table(CATALOGUE, TASKS[:1], score, path=path, progress=False)
    content = path.read_bytes() + damage.encode() + b"\n" + b'{"half'
    path.write_bytes(content)
    with pytest.raises(ValueError, match="line 4 of .* is damaged.*delete that line"):
        build_table(CATALOGUE, TASKS, score, path=path, progress=False)
    assert path.read_bytes() == content


def test_a_whole_file_is_only_read(tmp_path):
    path = tmp_path / "t"
    build_table(CATALOGUE, TASKS, score, path=path, progress=False)
    before = path.stat().st_mtime_ns
    build_table(CATALOGUE, TASKS, Counting(0), path=path, progress=False)
    assert path.stat().st_mtime_ns == before


# ---- what is measured, and what is known ----


@pytest.mark.parametrize(
    ("given", "kept"), [(0, 0.0), (1, 1.0), (True, 1.0), (np.float32(0.5), 0.5)]
)
def test_a_score_is_kept_as_a_number(tmp_path, given, kept):
    """What the file says is what the next run reads."""
    path = tmp_path / "t"
    for scorer in (lambda braid, task: given, Counting(0)):
        table = build_table(CATALOGUE, TASKS[:1], scorer, path=path, progress=False)
        assert table.tolist() == [[kept] * 3]
        assert table.dtype == np.float64


@pytest.mark.parametrize(
    ("given", "raised"),
    [
        ("0.5", TypeError),
        (None, TypeError),
        ([0.5], TypeError),
        (np.nextafter(1.0, 2.0), ValueError),
        (10**400, ValueError),
    ],
)
def test_what_is_no_score_is_not_kept(tmp_path, given, raised):
    path = tmp_path / "t"
    with pytest.raises(raised, match=r"a reward (is a number|lies) in \[0, 1\]"):
        build_table(
            CATALOGUE, TASKS, lambda braid, task: given, path=path, progress=False
        )
    assert not path.exists()


@pytest.mark.parametrize(
    "line",
    [
        {"task": "1", "arm": "2", "score": 10**400},
        {"task": "1", "arm": "2", "score": -0.1},
        {"task": "1", "arm": "2", "score": "0.5"},
        {"task": 1, "arm": "2", "score": 0.5},
        {"arm": "2", "score": 0.5},
        None,
        7,
    ],
)
def test_a_line_that_is_no_cell_is_named_before_anything_is_measured(tmp_path, line):
    path = tmp_path / "t"
    path.write_text("\n" + json.dumps(line) + "\n")
    scorer = Counting()
    with pytest.raises(ValueError, match="line 2 of .* is damaged.*delete that line"):
        build_table(CATALOGUE, TASKS, scorer, path=path, progress=False)
    assert scorer.cells == []


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "task 0 "},
        {"prompt": "Task 0"},
        {"prompt": "task 0", "type": "code"},
        {"prompt": "task 0", "answer": 0},
        {"text": "task 0"},
        "task 0",
    ],
)
def test_a_task_that_differs_in_anything_is_measured_anew(tmp_path, other):
    """The scorer may look at all of it."""
    path, half = tmp_path / "t", Counting()
    build_table(CATALOGUE, TASKS[:1], half, path=path, progress=False)
    seen = []

    def scorer(braid, task):
        seen.append(task)
        return 0.25

    table = build_table(CATALOGUE, [other], scorer, path=path, progress=False)
    assert seen == [other] * 3
    assert table.tolist() == [[0.25] * 3]
    assert len(path.read_text().splitlines()) == 6


def test_a_new_arm_is_measured_and_no_other(tmp_path):
    path, scorer = tmp_path / "t", Counting()
    few = Catalogue(map(ModelCard, "ab"), map(Braid, "ab"))
    build_table(few, TASKS, score, path=path, progress=False)
    table = build_table(CATALOGUE, TASKS, scorer, path=path, progress=False)
    np.testing.assert_array_equal(table, EXPECTED)
    assert scorer.cells == [(task["prompt"], "c") for task in TASKS]


def test_each_score_is_in_the_file_before_the_next_is_measured(tmp_path):
    path, lines = tmp_path / "t", []

    def scorer(braid, task):
        lines.append(len(path.read_text().splitlines()) if path.exists() else 0)
        return 0.5

    build_table(CATALOGUE, TASKS, scorer, path=path, progress=False)
    assert lines == list(range(12))


def test_a_path_of_home_in_a_folder_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    build_table(CATALOGUE, TASKS[:1], score, path="~/new/deep/t", progress=False)
    assert len((tmp_path / "new" / "deep" / "t").read_text().splitlines()) == 3


def test_a_data_frame_is_no_list_of_tasks():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match="tasks is a DataFrame; give a list of tasks"):
        build_table(CATALOGUE, pandas.DataFrame(TASKS), score, progress=False)


def test_without_the_bar_nothing_is_shown(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    build_table(CATALOGUE, TASKS, score, progress=False)
    assert capsys.readouterr() == ("", "")
