import json

import pytest
import tiny

from fusion.report.__main__ import main
from fusion.report.answers import Answers
from fusion.report.arms import BRAID, CALIBRATED, MIXTURE, PRODUCT, arms
from fusion.report.questions import Asked
from fusion.report.tasks import PER_SET, Bench, Picked, Plan, report, strands_of_plan
from fusion.report.tasks_table import tasks_table


def rows():
    """Questions of two sets whose answers are words of the texts."""
    words = [" dog", " strand", " party", " rain", " doctor", " braid"]
    for n in range(20):
        text = tiny.CALIBRATION_TEXTS[n % 12]
        for kind in range(2):
            yield {
                "set": ("prose", "other")[kind],
                "split": "calibration",
                "prompt": f"{text[:40]} {n}\nAnswer:",
                "choices": [words[(n + i + kind) % 6] for i in range(2 + kind)],
                "answer": n % 2,
            }
    for n in range(4):
        yield {
            "set": ("prose", "other")[n % 2],
            "split": "test",
            "prompt": f"The other dog {n}\nAnswer:",
            "choices": [words[n], words[n + 1]],
            "answer": 1,
        }


@pytest.fixture
def asked():
    return [
        Asked(
            i, r["set"], r["split"], r["prompt"], tuple(r["choices"]), r["answer"],
            r["choices"][r["answer"]], key=str(i),
        )
        for i, r in enumerate(rows())
    ]  # fmt: skip


@pytest.fixture
def bench(strands, tmp_path):
    names = ("llama", "gemma", "gpt2")
    return Bench(
        {name: strands[name] for name in names},
        [],
        tmp_path,
        Answers(tmp_path / "tasks"),
        0,
        False,
    )


def test_a_report_beside_every_control(bench, asked):
    plan = Plan(["llama", "gemma"], places=["final", "output"], same_cost="gpt2")
    found = report(bench, plan, asked)
    assert json.loads(json.dumps(found)) == found
    assert found["questions"] == {"calibration": 28, "picking": 12, "test": 4}
    against = [row["against"] for row in found["differences"]]
    assert against[:2] == ["llama alone", "gemma alone"]
    assert "calibrated alone" in against[2]
    assert "calibrated alone" in against[3]
    assert against[4] == PER_SET
    assert "output mixture" in against[5]
    assert "product of experts" in against[6]
    assert "(shuffled)" in against[7]
    assert against[8] == "gpt2 alone"
    assert against[9].startswith("gpt2 calibrated alone")
    accuracies = {arm["label"]: arm["test"]["byte"] for arm in found["arms"]}
    mine = accuracies[found["braid"]]
    for row in found["differences"]:
        for name, told in row["sets"].items():
            other = accuracies[
                found["strand of each set"][name]
                if row["against"] == PER_SET
                else row["against"]
            ]
            assert told["mean"] == pytest.approx(mine[name] - other[name])
        means = [told["mean"] for told in row["sets"].values()]
        assert row["mean"]["mean"] == pytest.approx(sum(means) / 2)
        assert row["mean"]["low"] <= row["mean"]["mean"] <= row["mean"]["high"]
    shown = tasks_table(found)
    assert f"{found['braid']} less" in shown
    assert "questions per minute and arm" in shown


def test_a_second_report_scores_nothing_again(bench, asked):
    plan = Plan(["llama", "gemma"], places=["output"], objectives=["text"])
    first = report(bench, plan, asked)
    bench.answers = Answers(bench.answers.folder)
    again = report(bench, plan, asked)
    assert bench.answers.speed.answers == 0
    assert again["differences"] == first["differences"]


def test_picks_are_made_on_calibration_questions_only(bench, asked):
    """Other answers on the test leave them as they are."""
    plan = Plan(["llama", "gemma"], places=["output", "final"], objectives=["text"])
    first = report(bench, plan, asked)
    turned = [
        Asked(
            q.line, q.set, q.split, q.prompt, q.choices, 1 - q.answer,
            q.choices[1 - q.answer], key=f"{q.key}-turned",
        )
        if q.split == "test"
        else q
        for q in asked
    ]  # fmt: skip
    again = report(bench, plan, turned)
    for key in ("braid", "strand of each set"):
        assert again[key] == first[key]
    for one, two in zip(first["arms"], again["arms"], strict=True):
        assert one["picking"] == two["picking"]
        assert two["test"]["byte"] == {
            name: 1 - value for name, value in one["test"]["byte"].items()
        }


def test_the_best_of_each_kind_is_picked():
    known = list(arms(["a", "b"], ["router"], ["output", "final"], ["text"]))
    right = {arm: {"x": [0.0, 0.0], "y": [0.0, 1.0]} for arm in known}
    singles = [arm for arm in known if arm.kind == CALIBRATED]
    braids = [arm for arm in known if arm.kind == BRAID]
    right[singles[1]] = {"x": [1.0, 0.0], "y": [0.0, 0.0]}
    right[braids[2]] = {"x": [1.0, 0.0], "y": [0.0, 1.0]}
    found = Picked.of(right)
    assert found.braid is braids[2]
    assert found.strands == {"x": singles[1], "y": singles[0]}
    assert found.calibrated == singles
    assert [arm.kind for arm in found.pools] == [MIXTURE, PRODUCT]


def test_the_command(tmp_path, capsys):
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    models = [str(tiny.tiny_folder(f, tmp_path / f)) for f in ("llama", "gemma")]
    options = ["--tasks", str(file), "--models", *models, "--dtype", "float32"]
    options += ["--store", str(tmp_path / "store"), "--places", "output"]
    options += ["--strategies", "router", "--objectives", "text"]
    main([*options, "--test-per-set", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["questions"]["test"] == 2
    assert found["refused"] == {}
    main([*options, "--test-per-set", "1", "--rule", "unprompted", "--every-arm"])
    shown = capsys.readouterr().out
    assert "2 test questions, by unprompted" in shown
    lines = file.read_text() + json.dumps({**next(rows()), "answer": 9}) + "\n"
    file.write_text(lines)
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert "line 45: the answer is 9" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*options, "--leave-out", "--models", models[0], "nobody"])
    assert "unknown model source 'nobody'" in capsys.readouterr().err
    main([*options, "--test-per-set", "1", "--leave-out", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["refused"] == {"45": "the answer is 9; give an index from 0 to 1"}


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (Plan(["llama"]), "give at least two"),
        (Plan(["llama", "llama"]), "give at least two"),
        (Plan(["llama", "gemma"], same_cost="llama"), "is among the models"),
    ],
)
def test_plans_that_compare_nothing_are_refused(strands, plan, says):
    with pytest.raises(ValueError, match=says):
        strands_of_plan(strands, plan)


def test_too_few_questions_to_train_on_are_refused(bench, asked):
    some = [q for q in asked if q.split == "test"] + asked[:10]
    with pytest.raises(ValueError, match="to train on"):
        report(bench, Plan(["llama", "gemma"]), some)
