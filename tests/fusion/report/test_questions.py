import json

import pytest
import tiny

from fusion.report.questions import (
    Asked,
    first_line,
    first_of_each_set,
    parted,
    read_questions,
    unwritable,
)

GOOD = {
    "set": "a",
    "split": "test",
    "prompt": "Question: 1?\nAnswer:",
    "choices": [" yes", " no"],
    "answer": 1,
}
WRITTEN = {"set": "b", "split": "calibration", "prompt": "6 * 7 =", "reference": " 42"}


def written(tmp_path, *rows):
    file = tmp_path / "tasks.jsonl"
    file.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
    )
    return file


def test_all_shapes_of_questions(tmp_path):
    code = {
        "set": "c",
        "split": "test",
        "prompt": "def one():\n",
        "tests": ["assert one() == 1"],
        "prefix": "def one():\n",
    }
    number = {**WRITTEN, "extract": "number", "split": "test"}
    other = {**GOOD, "split": "training", "prompt": "passed over"}
    file = written(tmp_path, GOOD, WRITTEN, code, number, other)
    found, refused = read_questions(file)
    assert refused == {}
    assert [q.line for q in found] == [1, 2, 3, 4]
    assert (found[0].choices, found[0].answer) == ((" yes", " no"), 1)
    assert found[0].text == "Question: 1?\nAnswer: no"
    assert found[1].judge("", " 42\n") == 1.0
    assert found[1].judge("", "It is 42.") == 0.0
    assert found[2].judge("", "    return 1\n") == 1.0
    assert found[3].judge("", "It is 42.") == 1.0
    assert len({q.key for q in found}) == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"choices": [" yes"]}, "give at least two"),
        ({"choices": [" yes", " no", " yes"]}, "choices 0 and 2 are equal: ' yes'"),
        ({"choices": [" yes", "  "]}, "choice 1 is empty"),
        ({"choices": [" yes", 3]}, "expected a list of texts"),
        ({"choices": " yes"}, "expected a list of texts"),
        ({"choices": [" yes", "\ud83d"]}, "half a character"),
        ({"prompt": " "}, "'prompt' is empty"),
        ({"prompt": None}, "'prompt' is None"),
        ({"set": ""}, "'set' is empty"),
        ({"answer": 2}, "the answer is 2; give an index from 0 to 1"),
        ({"answer": -1}, "the answer is -1"),
        ({"answer": True}, "'answer' is True"),
        ({"answer": "1"}, "'answer' is '1'"),
        ({"reference": "x"}, "received the keys"),
    ],
)
def test_a_line_that_cannot_be_scored_is_named(tmp_path, change, says):
    calibration = {**GOOD, "split": "calibration"}
    file = written(tmp_path, calibration, GOOD, {**GOOD, **change})
    with pytest.raises(ValueError, match=f"line 3: .*{says}"):
        read_questions(file)
    found, refused = read_questions(file, leave_out=True)
    assert [q.line for q in found] == [1, 2]
    assert list(refused) == [3]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([1], "expected an object"),
        ({"domain": "x", "split": "test", "prompt": "?"}, "'set' is None"),
        ({"set": "x", "split": "test", "prompt": "?"}, 'expected "choices"'),
        ({**WRITTEN, "reference": ""}, "give the answer"),
        ({**WRITTEN, "extract": "word"}, "'extract' is 'word'"),
        ({**WRITTEN, "tests": "assert"}, "'tests' is 'assert'"),
        ({**WRITTEN, "tests": []}, "at least one piece"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, row, says):
    with pytest.raises(ValueError, match=f"line 1: .*{says}"):
        read_questions(written(tmp_path, row))


def test_all_lines_are_named_at_once(tmp_path):
    bad = {**GOOD, "answer": 7}
    with pytest.raises(ValueError, match="2 lines cannot be scored") as caught:
        read_questions(written(tmp_path, GOOD, bad, GOOD, bad))
    assert "line 2:" in str(caught.value)
    assert "line 4:" in str(caught.value)


def test_a_line_that_is_no_json_is_named(tmp_path):
    with pytest.raises(ValueError, match="line 2"):
        read_questions(written(tmp_path, GOOD, "{half"))


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_both_splits_are_needed(tmp_path, split):
    with pytest.raises(ValueError, match="no question with the split") as refused:
        read_questions(written(tmp_path, {**GOOD, "split": split}))
    assert "Passed over" not in str(refused.value)


def test_splits_that_are_passed_over_are_named_where_one_is_missing(tmp_path):
    misspelt = {**GOOD, "split": "tset"}
    file = written(tmp_path, {**GOOD, "split": "calibration"}, misspelt)
    with pytest.raises(ValueError, match=r"split 'test'.*other splits \['tset'\]"):
        read_questions(file)


def test_an_option_that_a_tokenizer_cannot_write(strands):
    """ "e" and an accent apart are one letter to a tokenizer that normalises."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    from fusion import Strand

    backend = tiny.tiny_tokenizer("llama").backend_tokenizer.to_str()
    from tokenizers import Tokenizer

    changed = Tokenizer.from_str(backend)
    changed.normalizer = normalizers.NFC()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=changed, eos_token="<|end|>", pad_token="<|pad|>"
    )
    strand = Strand("nfc", tiny.tiny_model("llama"), tokenizer)
    asked = [
        Asked(4, "a", "test", "Q:", (" a", " cafe\u0301"), 0, " a"),
        Asked(5, "a", "test", "Q:", (" a", " b"), 0, " a"),
        Asked(6, "a", "test", "r", ("e", "x"), 0, "e"),
        Asked(7, "a", "test", "Q:", reference=" cafe\u0301"),
    ]
    found = unwritable(asked, [strands["gemma"], strand])
    assert list(found) == [4, 6, 7]
    assert "'re' is one token" in found[6]
    assert "nfc: " in found[4]
    assert "cannot round-trip" in found[4]


def test_parts_are_the_same_for_every_set():
    asked = [
        Asked(i, "ab"[i % 2], "calibration" if i < 12 else "test", "?")
        for i in range(16)
    ]
    training, picking, test = parted(asked)
    assert (len(training), len(picking), len(test)) == (8, 4, 4)
    assert {q.set for q in picking} == {"a", "b"}
    assert sorted(q.line for q in (*training, *picking, *test)) == list(range(16))
    some = first_of_each_set(asked, 3, 1)
    assert [q.line for q in some] == [0, 1, 2, 3, 4, 5, 12, 13]


@pytest.mark.parametrize(("text", "line"), [("", ""), ("\n a \nb", "a"), ("x", "x")])
def test_the_first_line(text, line):
    assert first_line(text) == line
