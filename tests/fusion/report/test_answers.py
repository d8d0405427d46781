import json

import pytest
import tiny

from fusion.braid.configuration import BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.judging.choices import score_options
from fusion.report import answers as module
from fusion.report.answers import Answer, Answers, Speed, model_key
from fusion.report.questions import Asked, read_questions

CHOICES = [
    Asked(i, "a", "test", f"{i}: the dog?", (" sleeps", " return x"), 0, " sleeps",
          key=f"key-{i}")
    for i in range(3)
]  # fmt: skip


@pytest.fixture
def models(braid):
    return [
        braid("llama", "gemma", layers=("final", "output")),
        braid("llama", layers=("final",)),
    ]


def test_answers_are_those_of_each_question_alone(models, tmp_path):
    found = Answers(tmp_path).of(models, CHOICES)
    for of_model, i in zip(found, (0, 1), strict=True):
        for answer, asked in zip(of_model, CHOICES, strict=True):
            scores = score_options(models, asked.prompt, asked.choices)[i]
            assert answer.scores.logs == pytest.approx(scores.logs, abs=1e-4)
            assert answer.right(asked, "sum") == float(scores.choice("sum") == 0)


def test_what_is_in_the_folder_is_not_scored_again(models, tmp_path, monkeypatch):
    first = Answers(tmp_path).of(models, CHOICES[:2])
    seen = []
    real = module.option_scores

    def noted(model, question, neutral):
        seen.append((models.index(model), question.prompt))
        return real(model, question, neutral)

    monkeypatch.setattr(module, "option_scores", noted)
    again = Answers(tmp_path)
    found = again.of(models, CHOICES)
    assert seen == [(0, CHOICES[2].prompt), (1, CHOICES[2].prompt)]
    assert [answers[:2] for answers in found] == first
    assert again.speed.answers == 2
    assert again.speed.per_minute > 0
    # Other weights are another model.
    models[0].fusers["final"].bridges[0].weight.data += 1
    again.of(models[:1], CHOICES[:1])
    assert len(seen) == 3


def test_an_interrupted_run_goes_on_with_whole_lines(models, tmp_path, monkeypatch):
    wanted = Answers(tmp_path / "whole").of(models, CHOICES)
    real, count = module.option_scores, []

    def stopped(*given):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(module, "option_scores", stopped)
    with pytest.raises(KeyboardInterrupt):
        Answers(tmp_path / "cut").of(models, CHOICES)
    [first, second] = [
        tmp_path / "cut" / f"answers-{model_key(m, 128)}.jsonl" for m in models
    ]
    assert [len(f.read_text().splitlines()) for f in (first, second)] == [2, 1]
    # And what a power failure leaves: half a line.
    second.write_text(second.read_text() + '{"question": "key-1", "logs": [-1.0')
    found = Answers(tmp_path / "cut").of(models, CHOICES)
    assert found == wanted
    rows = [json.loads(line) for line in second.read_text().splitlines()]
    assert [row["question"] for row in rows] == ["key-0", "key-1", "key-2"]


def test_a_question_that_cannot_be_scored_leaves_nothing(models, tmp_path):
    bad = Asked(9, "a", "test", "", (" a", " b"), 0, " a", key="bad")
    with pytest.raises(ValueError, match="not empty"):
        Answers(tmp_path).of(models, [bad])
    assert not list(tmp_path.glob("*.jsonl"))


def test_what_is_written_is_judged(tmp_path, strands):
    file = tmp_path / "tasks.jsonl"
    row = {"set": "a", "prompt": tiny.PROSE, "reference": "x"}
    file.write_text(
        "\n".join(json.dumps({**row, "split": s}) for s in ("calibration", "test"))
    )
    [_, asked], _ = read_questions(file)
    model = BraidedLLM(BraidConfig("gemma"), [strands["gemma"]])
    output = model.generate(tiny.PROSE, max_new_tokens=5, do_sample=False)
    [[answer]] = Answers(tmp_path / "a", tokens=5).of([model], [asked])
    assert (answer.output, answer.reward, answer.scores) == (output, 0.0, None)
    assert answer.right(asked, "byte") == 0.0
    [[again]] = Answers(tmp_path / "a", tokens=5).of([model], [asked])
    assert again == answer
    assert model_key(model, 5) != model_key(model, 6)


def test_nothing_scored_has_no_speed():
    assert Speed().per_minute == 0.0
    assert Speed(30, 10.0).per_minute == 180.0
    assert Answer(reward=0.5).right(CHOICES[0], "byte") == 0.5
