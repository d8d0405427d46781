"""What two models' answers hold together: the judge finds it where it is there."""

import json

import bench_pooling
import numpy as np
import pytest
from bench_pooling import Bench, Scores, fitted

from fusion.report.questions import Asked

tiny = pytest.importorskip("tiny")

N, OPTIONS = 600, 3


def questions(rng):
    """Of two sets, with the right option of each; every fifth has one option less."""
    there = np.ones((N, OPTIONS), dtype=bool)
    there[::5, -1] = False
    right = rng.integers(0, there.sum(axis=1))
    asked = [
        Asked(i, "ab"[i % 2], "test", "?", ("x",) * int(there[i].sum()), int(right[i]))
        for i in range(N)
    ]
    return asked, there


def scores(asked, there, rng, knows):
    """Scores that are higher for the right option by ``knows`` of their spread."""
    found = rng.standard_normal((N, OPTIONS, 2))
    found[np.arange(N), [q.answer for q in asked], 0] += knows
    return Scores(found, there)


def test_two_that_know_different_things_are_better_together():
    rng = np.random.default_rng(0)
    asked, there = questions(rng)
    pair = [scores(asked, there, rng, 1.0) for _ in range(2)]
    row = Bench(asked, there, 0).together(*pair)
    assert row["both less the better"]["low"] > 3
    assert 50 < row["first"]["mean"] < 70


def test_one_that_knows_nothing_adds_nothing():
    rng = np.random.default_rng(1)
    asked, there = questions(rng)
    row = Bench(asked, there, 0).together(
        scores(asked, there, rng, 1.5), scores(asked, there, rng, 0.0)
    )
    assert row["both less the better"]["mean"] < 1
    assert row["second"]["mean"] == pytest.approx(100 * 0.36, abs=5)


def test_noise_takes_away():
    rng = np.random.default_rng(2)
    asked, there = questions(rng)
    one, bench = scores(asked, there, rng, 1.5), Bench(asked, there, 0)
    plain, noisy = (
        bench.together(one, one, (times, times))["first"]["mean"]
        for times in (0.0, 2.0)
    )
    assert noisy < plain - 5


def test_a_logit_by_hand():
    """One weight, two options of scores 1 and 0, right three times of four.

    Without a prior the odds would be e^w = 3; the prior draws w in.
    """
    x = np.array([[[1.0], [0.0]]] * 4000)
    right = np.array([0, 0, 0, 1] * 1000)
    w = fitted(x, np.ones((4000, 2), dtype=bool), right)
    assert w == pytest.approx([np.log(3)], abs=0.01)


def test_a_run_on_tiny_models(tmp_path, capsys):
    folders = [str(tiny.tiny_folder(f, tmp_path / f)) for f in ("llama", "gemma")]
    file = tmp_path / "questions.jsonl"
    rows = [
        {"set": "s", "split": split, "prompt": f"{i}?", "choices": [" a", " b"]}
        for i, split in enumerate(["test"] * 12 + ["calibration"])
    ]
    lines = [json.dumps({**row, "answer": i % 2}) for i, row in enumerate(rows)]
    file.write_text("\n".join(lines))
    told = ["--tasks", str(file), "--models", *folders, "--dtype", "float32"]
    told += ["--store", str(tmp_path / "store"), "--json"]
    bench_pooling.main(told)
    found = json.loads(capsys.readouterr().out)
    assert found["questions"] == 12
    assert {found["better"], found["other"]} == set(folders)
    assert "learnt from 25 of a set" in bench_pooling.table(found)
    with pytest.raises(SystemExit, match="{'s': 4} test questions"):
        bench_pooling.main([*told, "--per-set", "4"])
