import json
import sys

import pytest

from braidbandit.cli.measuring.prompts import (
    Prompt,
    by_command,
    judge_of,
    judging_key,
    read_prompts,
    share_contained,
)


def written(tmp_path, *rows):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_plain_text_is_one_prompt_a_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("Sort a list\n\nA poem\n")
    assert [p.text for p in read_prompts(file)] == ["Sort a list", "A poem"]


def test_prompts_with_what_judges_them(tmp_path):
    file = written(
        tmp_path,
        "only text",
        {"prompt": "6 * 7?", "type": "maths", "answer": 42, "id": "x"},
        {"text": "Capital?", "contains": "Paris"},
    )
    first, second, third = read_prompts(file)
    assert (first.task, first.judged_by) == ({"prompt": "only text"}, {})
    assert second.task == {"prompt": "6 * 7?", "type": "maths"}
    assert second.judged_by == {"answer": 42}
    assert third.text == "Capital?"


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": " "}, "no prompt"),
        ({"type": "code"}, "no prompt"),
        (3, "is no prompt"),
        ({"prompt": "a", "colour": 1}, "colour"),
        ({"prompt": "a", "answer": [1]}, "text or a number"),
        ({"prompt": "a", "answer": " "}, "text or a number"),
        ({"prompt": "a", "answer": float("nan")}, "finite, received nan"),
        ({"prompt": "a", "tests": 3}, "list of texts"),
        ({"prompt": "a", "tests": "assert f(2) ="}, "received 'assert f"),
        ({"prompt": "a", "tests": ["assert f()", "return"]}, "received 'return'"),
        ({"prompt": "a", "tests": []}, "list of texts"),
        ({"prompt": "a", "contains": [""]}, "list of texts"),
        ({"prompt": "a", "prefix": "def f():"}, "prefix without tests"),
        ({"prompt": "a", "answer": "b", "contains": "c"}, "one of them"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(tmp_path, row, what):
    with pytest.raises(ValueError, match=what) as told:
        read_prompts(written(tmp_path, "fine", row))
    assert "line 2" in str(told.value)


@pytest.mark.parametrize("row", ["b", {"prompt": "b", "answer": None}])
def test_a_prompt_that_nothing_judges_is_named(tmp_path, row):
    file = written(tmp_path, {"prompt": "a", "answer": 1}, row)
    assert len(read_prompts(file)) == 2
    with pytest.raises(ValueError, match="line 2 of .*: nothing judges answers to 'b'"):
        read_prompts(file, judged=True)
    plain = tmp_path / "prompts.txt"
    plain.write_text("\nSort a list\n")
    with pytest.raises(ValueError, match="line 2 of .*--ask"):
        read_prompts(plain, judged=True)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_prompts(tmp_path / "no.jsonl")
    with pytest.raises(ValueError, match="has no prompt"):
        read_prompts(written(tmp_path))


def test_the_packaged_tasks_are_prompts(tmp_path):
    from braidbandit.tasks.packaged import load_tasks

    prompts = read_prompts(written(tmp_path, *load_tasks("test")))
    assert len(prompts) == 42
    assert any("tests" in p.judged_by for p in prompts)


def test_what_is_contained():
    assert share_contained(["a", "B", "c"], "ab") == 2 / 3
    judge = judge_of(Prompt({"prompt": "x"}, {"contains": "Paris"}))
    assert (judge("PARIS!"), judge("Rome")) == (1.0, 0.0)
    assert judge_of(Prompt({"prompt": "x"}, {})) is None


def test_answers_and_tests_are_judged_by_fusion():
    pytest.importorskip("fusion", exc_type=ImportError)
    number = judge_of(Prompt({"prompt": "6 * 7?"}, {"answer": 42}))
    assert (number("It is 41, no: 42."), number("43")) == (1.0, 0.0)
    text = judge_of(Prompt({"prompt": "Capital?"}, {"answer": "Paris"}))
    assert (text(" paris "), text("Paris, France")) == (1.0, 0.0)
    rule = {"tests": ["assert add(1, 2) == 3", "assert add(1, 1) == 3"]}
    code = judge_of(Prompt({"prompt": "add"}, rule))
    assert code("def add(a, b):\n    return a + b\n") == 0.5


def test_a_number_beyond_all_floats_is_an_answer(tmp_path):
    (prompt,) = read_prompts(written(tmp_path, {"prompt": "a", "answer": 10**400}))
    assert prompt.judged_by == {"answer": 10**400}


def test_a_program_judges():
    prompt = Prompt({"prompt": "x"}, {"answer": "four"})
    code = "import json,sys; d=json.load(sys.stdin); print(len(d['answer'])/10)"
    command = f'{sys.executable} -c "{code}"'
    assert by_command(command, prompt, "abc") == 0.3
    assert judge_of(prompt, command)("abcd") == 0.4


@pytest.mark.parametrize("code", ["print(2)", "print('x')", "raise SystemExit(3)"])
def test_a_program_that_gives_no_number(code):
    command = f'{sys.executable} -c "{code}"'
    with pytest.raises(ValueError, match="gave no number from 0 to 1"):
        by_command(command, Prompt({"prompt": "x"}, {}), "abc")
    with pytest.raises(ValueError, match="gave no number"):
        by_command("no-such-program-at-all", Prompt({"prompt": "x"}, {}), "abc")


def test_scores_of_other_judges_are_in_other_files():
    assert len({judging_key(None, 1), judging_key(None, 2), judging_key("a", 1)}) == 3
