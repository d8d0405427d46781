import json

import pytest
import tiny

from fusion import held_out
from fusion.braid.configuration import BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.judging.scoring import bits_per_byte


@pytest.fixture
def braids(braid, strands):
    return [
        BraidedLLM(BraidConfig("gemma"), [strands["gemma"]]),
        braid("gemma", "llama", layers=("final", "output")),
    ]


def test_scores_at_every_position_are_bits_per_byte(braids, tmp_path):
    texts = [t for t in tiny.SPLIT_TEXTS if t["split"] == "test"][:1]
    whole = texts[0]["prompt"] + texts[0]["reference"]  # a line ends between them
    found = held_out.score(braids, texts, 999, tmp_path)
    for model, got in zip(braids, found, strict=True):
        assert got["prose"] == pytest.approx(bits_per_byte(model, "", whole), rel=1e-5)


def test_scoring_goes_on_where_it_was_interrupted(braids, tmp_path, monkeypatch):
    texts = [t for t in tiny.SPLIT_TEXTS if t["split"] == "test"]
    expected = held_out.score(braids, texts, 5, tmp_path / "another")
    score_one, asked = held_out._bits_per_byte, []

    def interrupted(braids, text, *rest):
        asked.append(text["prompt"])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return score_one(braids, text, *rest)

    monkeypatch.setattr(held_out, "_bits_per_byte", interrupted)
    with pytest.raises(KeyboardInterrupt):
        held_out.score(braids, texts, 5, tmp_path)
    [file] = tmp_path.glob("scores-*.jsonl")
    with file.open("a") as kept:
        kept.write("[0.5, 0.")  # killed while it wrote
    assert held_out.score(braids, texts, 5, tmp_path) == expected
    assert asked == [t["prompt"] for t in (*texts[:3], *texts[2:])]
    assert not list(tmp_path.glob("scores-*.jsonl"))


def test_other_weights_are_scored_anew(braids, tmp_path):
    texts = [t for t in tiny.SPLIT_TEXTS if t["split"] == "test"]
    key = held_out._key(braids, texts, 5)
    assert key == held_out._key(braids, texts, 5)
    assert key != held_out._key(braids, texts[:1], 5)
    assert key != held_out._key(braids, texts, 6)
    next(braids[1].parameters()).data[0] += 1.0
    assert key != held_out._key(braids, texts, 5)


def test_a_text_of_one_token_is_refused(strands, tmp_path):
    alone = BraidedLLM(BraidConfig("llama"), [strands["llama"]])
    text = {"domain": "prose", "prompt": "\n", "reference": ""}
    with pytest.raises(ValueError, match="one token for llama"):
        held_out.score([alone], [text], 10, tmp_path)


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


def test_special_tokens_in_a_held_out_text_are_read_as_such(braids, tmp_path):
    text = {
        "domain": "chat",
        "prompt": "<bos>The rain<eos>\n",
        "reference": "It stays.",
    }
    found = held_out.score(braids, [text], 999, tmp_path)
    whole = text["prompt"] + text["reference"]
    for model, got in zip(braids, found, strict=True):
        wanted = bits_per_byte(model, "", whole)
        assert got["chat"] == pytest.approx(wanted, rel=1e-5)
