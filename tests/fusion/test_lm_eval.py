"""A braid in the harness that others use: the same options, the same likelihoods."""

import json

import pytest
import tiny

from fusion.judging.choices import score_options

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm_eval")

QUESTIONS = [
    {
        "prompt": f"Question: {text}\nAnswer:",
        "choices": [" the dog sleeps", " return x", " 你好", " the"][: 2 + i % 3],
        "answer": i % 2,
    }
    for i, text in enumerate([tiny.PROSE, tiny.CODE, tiny.EMOJI, tiny.CJK] * 2)
]


@pytest.mark.filterwarnings("ignore")  # those of the harness and of its packages
@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (("llama", "gemma"), ("final", "output")),
        (("gemma", "llama"), ("output",)),
        (("gpt2", "llama", "gemma"), ("final",)),
    ],
)
def test_it_picks_the_option_that_our_command_picks(braid, tmp_path, names, layers):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    task = {
        "task": "questions",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(file)},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    model = braid(*names, layers=layers)
    harness = HFLM(pretrained=model, tokenizer=model.tokenizer, batch_size=1)
    found = simple_evaluate(
        harness, tasks=[task], log_samples=True, bootstrap_iters=0, verbosity="ERROR"
    )
    samples = found["samples"]["questions"]
    assert len(samples) == len(QUESTIONS)
    right = 0
    for sample in samples:
        doc = sample["doc"]
        [ours] = score_options([model], doc["prompt"], doc["choices"])
        theirs = [float(log) for log, _ in sample["filtered_resps"]]
        assert theirs == pytest.approx(ours.logs, abs=1e-3)
        chosen = max(range(len(theirs)), key=theirs.__getitem__)
        assert chosen == ours.choice("sum")
        right += chosen == doc["answer"]
    accuracy = found["results"]["questions"]["acc,none"]
    assert accuracy == pytest.approx(right / len(QUESTIONS))
