import json

import pytest
import tiny

from fusion.report import held_out


def test_a_file_of_texts(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text(
        "\n".join(json.dumps(t, ensure_ascii=False) for t in tiny.SPLIT_TEXTS)
    )
    calibration, tests = held_out.read_texts(file)
    assert (len(calibration), len(tests)) == (16, 4)
    only = [t for t in tiny.SPLIT_TEXTS if t["split"] == "test"]
    file.write_text("\n".join(map(json.dumps, only)))
    with pytest.raises(ValueError, match="0 texts with the split 'calibration'"):
        held_out.read_texts(file)
    file.write_text('{"domain": "code"}')
    with pytest.raises(ValueError, match="line 1: expected the keys"):
        held_out.read_texts(file)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{no json}", "line 22: Expecting property name"),
        ("null", "line 22: expected the keys .* received None"),
        ({"domain": 7}, "line 22: 'domain' is 7, expected text"),
        ({"prompt": None}, "line 22: 'prompt' is None, expected text"),
    ],
)
def test_an_odd_line_of_a_file_is_named(tmp_path, line, says):
    file = tmp_path / "texts.jsonl"
    # As an editor may save it: with a mark of the byte order, and blank lines.
    text = "".join(json.dumps(t) + "\n" for t in tiny.SPLIT_TEXTS) + "\n"
    file.write_text(text, encoding="utf-8-sig")
    assert sum(map(len, held_out.read_texts(file))) == 20
    if isinstance(line, dict):
        line = json.dumps({**tiny.SPLIT_TEXTS[0], **line})
    file.write_text(text + line + "\n")
    with pytest.raises(ValueError, match=says):
        held_out.read_texts(file)


def test_packaged_texts_are_split_by_task():
    calibration, tests = held_out.packaged_texts()
    assert {t["domain"] for t in calibration} == {t["domain"] for t in tests}
    assert not {t["prompt"] for t in calibration} & {t["prompt"] for t in tests}


@pytest.mark.parametrize("per_domain", [0, 1, 2, 5, None])
def test_the_first_of_each_domain(per_domain):
    texts = [{"domain": d, "n": i} for i, d in enumerate("abacab")]
    found = held_out.first_of_each(texts, per_domain)
    wanted = [
        text
        for i, text in enumerate(texts)
        if per_domain is None
        or [other["domain"] for other in texts[:i]].count(text["domain"]) < per_domain
    ]
    assert found == wanted


@pytest.mark.parametrize("prompt", ["a", "a\n", "a ", ""])
def test_prompt_and_reference_are_kept_apart_by_one_gap(prompt):
    whole = held_out.whole({"prompt": prompt, "reference": "b"})
    assert whole.split() == [*prompt.split(), "b"]
    assert len(whole) <= len(prompt) + 2


@pytest.mark.parametrize("missing", ["domain", "prompt", "reference", "split"])
@pytest.mark.parametrize("number", [1, 5])
def test_every_key_is_needed_on_every_line(tmp_path, missing, number):
    rows = [dict(text) for text in tiny.SPLIT_TEXTS]
    del rows[number - 1][missing]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=rf"line {number}: expected the keys"):
        held_out.read_texts(file)


def test_a_line_in_another_encoding_is_named(tmp_path):
    row = json.dumps({**tiny.SPLIT_TEXTS[0], "prompt": "caf\u00e9"}, ensure_ascii=False)
    file = tmp_path / "texts.jsonl"
    file.write_bytes(b"\n" + row.encode("latin-1"))
    with pytest.raises(ValueError, match=r"texts\.jsonl, line 2: 'utf-8' codec"):
        held_out.read_texts(file)


def test_splits_of_another_name_are_passed_over(tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [*tiny.SPLIT_TEXTS, {**tiny.SPLIT_TEXTS[0], "split": "validation"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sum(map(len, held_out.read_texts(file))) == len(tiny.SPLIT_TEXTS)
    file.write_text(json.dumps(rows[-1]) + "\n")
    with pytest.raises(ValueError, match=r"other splits \['validation'\]"):
        held_out.read_texts(file)
