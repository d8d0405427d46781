"""Which cells to score next: an order that depends on what is known, and stops."""

import sys

import numpy as np
import pandas as pd
import pytest

from braidbandit import (
    Braid,
    BraidRecommender,
    Catalogue,
    ModelCard,
    TaskEncoder,
    build_table,
    plan_probe,
)
from braidbandit.evaluation.probe_plan import spread

MODELS = list("abcde")
N = 48
RNG = np.random.default_rng(0)
PROMPTS = [f"prompt {i}" for i in range(N)]
POINTS = RNG.standard_normal((N, 6))
# Arms d and e are good where the first number is above 0 and below it; a is never.
QUALITY = (
    0.5 + np.outer(POINTS[:, 0], [0, 0, 0, 0.15, -0.15]) + [-0.3, 0, 0.05, 0.1, 0.1]
)
NOISE = 0.1 * RNG.standard_normal((N, 1)) + 0.1 * RNG.standard_normal((N, 5))
REWARDS = np.clip(QUALITY + NOISE, 0, 1)


def embed(texts):
    return POINTS[[int(text.split()[1]) for text in texts]]


def score(braid, prompt):
    return REWARDS[int(prompt.split()[1]), MODELS.index(braid.anchor)]


def make(path=None, models=MODELS, prompts=PROMPTS, **settings):
    encoder = TaskEncoder(embedder=embed, types=(), n_components=4)
    return plan_probe(models, prompts, encoder=encoder, path=path, **settings)


def measured(plan, most, **settings):
    return plan.measure(score, most=most, progress=False, **settings)


def greedy(plan):
    """True quality of the best arm for every prompt, by what was scored."""
    agent = BraidRecommender(plan.catalogue, plan.encoder, price=0.0)
    agent.warm_start(plan.tasks, plan.arm_ids, plan.table)
    best = agent.decision_function(PROMPTS).argmax(axis=1)
    return QUALITY[np.arange(N), best].mean()


@pytest.fixture(scope="module")
def half():
    return measured(make(), 100)


def test_the_table_holds_what_was_scored(half):
    assert half.n_scored == 100 == (~np.isnan(half.table)).sum()
    columns = [half.catalogue[arm].anchor for arm in half.arm_ids]
    for task, row in zip(half.tasks, half.table, strict=True):
        for model, value in zip(columns, row, strict=True):
            assert np.isnan(value) or value == score(Braid(model), task)
    assert not np.isnan(half.table).all(axis=1).any()


def test_cells_are_spent_on_arms_that_may_be_best(half):
    counts = dict(zip(half.arm_ids, (~np.isnan(half.table)).sum(axis=0), strict=True))
    n = {half.catalogue[arm].anchor: count for arm, count in counts.items()}
    assert n["a"] < 0.75 * min(n["d"], n["e"])
    assert len(half.tasks) > 20  # that whole rows would have had


def test_it_finds_the_specialists(half):
    best = QUALITY.max(axis=1).mean()
    fixed = QUALITY.mean(axis=0).max()
    assert greedy(half) > fixed + 0.7 * (best - fixed)


def test_the_expected_gain_falls_and_no_prompt_is_left_out_for_ever():
    plan = make()
    first = plan.forecast(20)
    assert len(first.cells) == 20
    assert first.gain > 0.03
    assert 0 < first.error < 0.1 * first.gain
    assert {braid.anchor for _, braid in first.cells} == set(MODELS)
    assert plan.n_scored == 0
    measured(plan, 200)
    late = plan.forecast(20)
    assert 0 <= late.gain < 0.1 * first.gain
    measured(plan, 1000)
    assert plan.table.shape == (N, 5)
    assert plan.next_cell() is None
    assert plan.forecast(3).cells == []
    assert plan.forecast(3).gain == 0.0


def test_what_is_stated_is_about_what_is_gained():
    """On average over tables drawn from the model itself, within three errors."""
    stated, realised = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        W = np.column_stack([0.5 + 0.1 * rng.standard_normal(5), np.zeros((5, 3))])
        W[:, 1:] += 0.08 * rng.standard_normal((5, 3))
        points = rng.standard_normal((60, 3))
        quality = np.column_stack([np.ones(60), points]) @ W.T
        noisy = quality + 0.15 * rng.standard_normal((60, 1))
        noisy += 0.15 * rng.standard_normal((60, 5))
        row = {point.tobytes(): i for i, point in enumerate(points)}

        def scorer(braid, task, *, noisy=noisy, row=row):
            value = noisy[row[task.tobytes()], MODELS.index(braid.anchor)]
            return float(np.clip(value, 0, 1))

        encoder = TaskEncoder(types=(), n_components=3).fit(points)
        plan = plan_probe(MODELS, points, encoder=encoder, random_state=seed)
        plan.measure(scorer, most=25, progress=False)
        reached = []
        for most in (25, 75):
            plan.measure(scorer, most=most, progress=False)
            agent = BraidRecommender(plan.catalogue, encoder, price=0.0)
            agent.warm_start(plan.tasks, plan.arm_ids, plan.table)
            best = agent.decision_function(points).argmax(axis=1)
            reached.append(quality[np.arange(60), best].mean())
            if most == 25:
                stated.append(plan.forecast(50).gain)
        realised.append(reached[1] - reached[0])
    away = np.mean(realised) - np.mean(stated)
    assert abs(away) < 3 * np.std(realised, ddof=1) / 6**0.5
    assert np.mean(stated) > 0.005


@pytest.mark.parametrize("stops", [[7, 8, 30], [29, 41]])
def test_whoever_stops_goes_on_as_if_nothing_had_happened(tmp_path, stops):
    whole, path = measured(make(tmp_path / "whole"), 45), tmp_path / "cells"
    for most in [*stops, 45]:
        plan = measured(make(path), most)
    assert path.read_text() == (tmp_path / "whole").read_text()
    np.testing.assert_array_equal(plan.table, whole.table)


def test_the_file_is_that_of_a_whole_table(tmp_path):
    plan, path = make(tmp_path / "t"), tmp_path / "t"
    measured(plan, 30)
    with path.open("a") as file:  # killed in the middle of a line
        file.write('{"task": "12')
    asked = []

    def counting(braid, task):
        asked.append((braid, task))
        return score(braid, task)

    table = build_table(plan.catalogue, PROMPTS, counting, path=path, progress=False)
    np.testing.assert_array_equal(table, REWARDS)
    assert len(asked) == N * 5 - 30
    again = make(path)
    assert again.next_cell() is None
    # Cells of other prompts and arms in the file are no part of a plan.
    fewer = make(path, models=["b", "c"], prompts=PROMPTS[:10])
    assert fewer.n_scored == 20


def test_a_stop_where_the_next_cells_buy_too_little(caplog):
    plan = make()
    with caplog.at_level("INFO"):
        measured(plan, 240, least_gain=0.004, ahead=20)
    assert 20 <= plan.n_scored < 200
    assert plan.n_scored % 20 == 0
    assert plan.forecast(20).gain < 0.004
    assert "the next 20 cells buy" in caplog.text
    assert measured(plan, 240, least_gain=0.004, ahead=20).n_scored == plan.n_scored


def test_a_person_may_score_any_cell():
    plan = make()
    prompt, braid = plan.next_cell()
    plan.record(prompt, braid, True)
    other, another = [p for p in PROMPTS if p != prompt][:2]
    plan.record(other, plan.catalogue.ids[2], 0.5)
    assert plan.n_scored == 2
    assert plan.next_cell() != (prompt, braid)
    before = plan.table.copy()
    for cell, error, match in (
        ((prompt, braid, 0.1), ValueError, "has the score 1.0 already"),
        (("another", braid, 0.1), KeyError, "none of the 48 prompts"),
        ((another, "nobody", 0.1), KeyError, "unknown arm"),
        ((another, braid, 1.1), ValueError, r"lies in \[0, 1\]"),
        ((another, braid, float("nan")), ValueError, r"lies in \[0, 1\]"),
    ):
        with pytest.raises(error, match=match):
            plan.record(*cell)
    np.testing.assert_array_equal(plan.table, before)


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="no prompts"):
        make(prompts=[])
    with pytest.raises(ValueError, match="same"):
        make(prompts=["prompt 1", "prompt 1"])
    with pytest.raises(TypeError, match="a pool is a list of models"):
        make(models="a")
    for settings in ({"most": -1}, {"ahead": 0}):
        with pytest.raises(ValueError, match="at least"):
            make().measure(score, progress=False, **settings)
    with pytest.raises(ValueError, match="at least 1"):
        make().forecast(0)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match="progress=False"):
        make().measure(score, most=3)


def test_arms_that_are_unfit_are_left_out():
    catalogue = Catalogue(map(ModelCard, MODELS), map(Braid, MODELS))
    unfit = catalogue.with_unfit(catalogue.ids[1], "broken")
    plan = measured(make(models=unfit), 40)
    assert catalogue.ids[1] not in plan.arm_ids
    with pytest.raises(KeyError, match="unfit"):
        plan.record("prompt 3", catalogue.ids[1], 0.5)
    for arm_id in catalogue.ids:
        unfit = unfit.with_unfit(arm_id, "broken")
    with pytest.raises(ValueError, match="every arm .* unfit"):
        make(models=unfit)


@pytest.mark.parametrize("prompts", [pd.Series(PROMPTS), tuple(PROMPTS)])
def test_prompts_in_any_collection(prompts):
    plan = measured(make(prompts=prompts), 5)
    assert set(plan.tasks) <= set(PROMPTS)


def test_one_arm_has_nothing_to_gain():
    plan = make(models=["a"])
    assert plan.forecast(5).gain == pytest.approx(0.0, abs=1e-12)
    assert measured(plan, 100, least_gain=1e-9).n_scored == 0
    assert measured(plan, 20).n_scored == 20


def test_braids_are_planned_too():
    """Of 512 arms and 200 prompts, the next cell takes no more than a second."""
    catalogue = Catalogue.build(["a", "b", "c"])
    plan = make(models=catalogue)
    plan.measure(lambda braid, task: 0.5, most=12, progress=False)
    assert plan.n_scored == 12
    assert len(set(plan.arm_ids)) > 3


# ---- the order of prompts ----


def test_every_prefix_has_each_kind_as_often_as_all_have():
    """Three kinds, of 60, 30 and 10 in a hundred."""
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    X = 5.0 * np.eye(3)[kind] + 0.1 * rng.standard_normal((100, 3))
    order = spread(X)
    assert sorted(order) == list(range(100))
    for n in (10, 20, 40):
        counts = np.bincount(kind[order[:n]], minlength=3)
        assert np.abs(counts - n * np.array([0.6, 0.3, 0.1])).max() <= 2.0


def test_prompts_with_the_same_features_are_all_there():
    assert sorted(spread(np.ones((5, 2)))) == list(range(5))
