import json
import math

import numpy as np
import pytest
import tiny

from fusion.braid.configuration import BraidConfig
from fusion.braid.model import BraidedLLM
from fusion.judging.scoring import bits_per_byte
from fusion.report import scores
from fusion.report.controls import PromptWeighted


@pytest.fixture
def braids(braid, strands):
    return [
        BraidedLLM(BraidConfig("gemma"), [strands["gemma"]]),
        braid("gemma", "llama", layers=("final", "output")),
    ]


def test_scores_at_every_position_are_bits_per_byte(braids, tmp_path):
    texts = [t for t in tiny.SPLIT_TEXTS if t["split"] == "test"][:1]
    whole = texts[0]["prompt"] + texts[0]["reference"]  # a line ends between them
    found = scores.score(braids, texts, 999, tmp_path)
    for model, got in zip(braids, found, strict=True):
        assert got["prose"] == pytest.approx(bits_per_byte(model, "", whole), rel=1e-5)


def test_scoring_goes_on_where_it_was_interrupted(braids, tmp_path, monkeypatch):
    texts = [t for t in tiny.SPLIT_TEXTS if t["split"] == "test"]
    expected = scores.score(braids, texts, 5, tmp_path / "another")
    score_one, asked = scores.bits_of_text, []

    def interrupted(braids, text, *rest):
        asked.append(text["prompt"])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return score_one(braids, text, *rest)

    monkeypatch.setattr(scores, "bits_of_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scores.score(braids, texts, 5, tmp_path)
    [file] = tmp_path.glob("scores-*.jsonl")
    with file.open("a") as kept:
        kept.write("[0.5, 0.")  # killed while it wrote
    assert scores.score(braids, texts, 5, tmp_path) == expected
    assert asked == [t["prompt"] for t in (*texts[:3], *texts[2:])]
    assert not list(tmp_path.glob("scores-*.jsonl"))


def test_other_weights_are_scored_anew(braids, tmp_path):
    texts = [t for t in tiny.SPLIT_TEXTS if t["split"] == "test"]
    key = scores._key(braids, texts, 5)
    assert key == scores._key(braids, texts, 5)
    assert key != scores._key(braids, texts[:1], 5)
    assert key != scores._key(braids, texts, 6)
    next(braids[1].parameters()).data[0] += 1.0
    assert key != scores._key(braids, texts, 5)


def test_a_text_of_one_token_is_refused(strands, tmp_path):
    alone = BraidedLLM(BraidConfig("llama"), [strands["llama"]])
    text = {"domain": "prose", "prompt": "\n", "reference": ""}
    with pytest.raises(ValueError, match="one token for llama"):
        scores.score([alone], [text], 10, tmp_path)


def test_special_tokens_in_a_held_out_text_are_read_as_such(braids, tmp_path):
    text = {
        "domain": "chat",
        "prompt": "<bos>The rain<eos>\n",
        "reference": "It stays.",
    }
    found = scores.score(braids, [text], 999, tmp_path)
    whole = text["prompt"] + text["reference"]
    for model, got in zip(braids, found, strict=True):
        wanted = bits_per_byte(model, "", whole)
        assert got["chat"] == pytest.approx(wanted, rel=1e-5)


def test_a_domain_is_total_bits_over_total_bytes(braids, tmp_path):
    """Texts of 4 and of 40 bytes, say, count one to ten."""
    texts = [
        {"domain": "d", "prompt": "The ", "reference": words}
        for words in ("rain", tiny.PROSE, "dog sleeps")
    ]
    found = scores.score(braids, texts, 10**6, tmp_path)
    for i, model in enumerate(braids):
        bits = n_bytes = 0
        for number, text in enumerate(texts):
            size = len((text["prompt"] + text["reference"]).encode())
            n_bytes += size
            bits += size * scores.bits_of_text([model], text, 10**6, number)[0]
        assert found[i] == {"d": pytest.approx(bits / n_bytes)}


def test_a_sample_of_positions_is_unbiased(braids):
    """The mean over draws comes to the bits at every position: within 4 errors."""
    text = {"domain": "d", "prompt": tiny.PROSE, "reference": tiny.CODE}
    alone, whole = scores.bits_of_text(braids, text, 10**6, 0)
    drawn = [scores.bits_of_text(braids, text, 4, seed) for seed in range(60)]
    assert {row[0] for row in drawn} == {alone}
    bits = np.array([row[1] for row in drawn])
    error = bits.std(ddof=1) / len(bits) ** 0.5
    assert 0 < error
    assert abs(bits.mean() - whole) < 4 * error


def test_a_braid_that_is_there_twice_is_scored_once(braids, tmp_path, monkeypatch):
    texts = [t for t in tiny.SPLIT_TEXTS if t["split"] == "test"][:1]
    score_one, asked = scores.bits_of_text, []

    def counted(braids, *rest):
        asked.append(len(braids))
        return score_one(braids, *rest)

    monkeypatch.setattr(scores, "bits_of_text", counted)
    first, second, again = scores.score([*braids, braids[0]], texts, 5, tmp_path)
    assert asked == [2]
    assert first == again != second


def test_a_mixture_by_the_prompt_reads_each_texts_prompt(strands, tmp_path):
    pair = [strands["gemma"], strands["llama"]]
    config = BraidConfig("gemma", ["llama"], [0.7, 0.3], ["output"], "learned_weighted")
    braid, texts = PromptWeighted(config, pair), tiny.SPLIT_TEXTS[-1:]
    found = scores.score([braid], texts, 999, tmp_path)[0]
    braid.read_prompt(texts[0]["prompt"])
    whole = texts[0]["prompt"] + texts[0]["reference"]
    assert found[texts[0]["domain"]] == pytest.approx(
        bits_per_byte(braid, "", whole), rel=1e-5
    )


DAMAGES = {
    "nothing": b"",
    "zeros": bytes(40),
    "no text": b"\xff\xfe\x80\n",
    "a row too short": b"[0.5]\n",
    "no row": b'{"a": 1}\n',
    "another word": b"null\n",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("whole_rows", [0, 1])
def test_scores_go_on_behind_the_last_whole_line(
    braids, tmp_path, monkeypatch, damage, whole_rows
):
    """Rows that are whole are believed; all from the first that is not come anew."""
    texts = [{"domain": "d", "prompt": "The ", "reference": w} for w in ("rain", "dog")]
    asked = []

    def counted(braids, text, count, number):
        asked.append(number)
        return [1.0 + number, 2.0]

    monkeypatch.setattr(scores, "bits_of_text", counted)
    kept = json.dumps([4.0, 8.0]).encode() + b"\n"
    file = tmp_path / f"scores-{scores._key(braids, texts, 5)}.jsonl"
    file.write_bytes(kept * whole_rows + damage)
    found = scores.score(braids, texts, 5, tmp_path)
    assert asked == list(range(whole_rows, 2))
    # "The rain" has 8 bytes and "The dog" 7: the gap is the space that is there.
    first = 4.0 if whole_rows else 1.0
    assert found[0]["d"] == pytest.approx((8 * first + 7 * 2.0) / 15)
    assert not file.exists()


@pytest.mark.parametrize("positions", [1, 7, 100])
def test_positions_are_shared_out_by_the_bytes_of_a_domain(
    braids, tmp_path, monkeypatch, positions
):
    """Of 5, 10 and 5 bytes in one domain, and 4 of another that are all its own."""
    asked = []
    monkeypatch.setattr(
        scores, "bits_of_text", lambda b, t, count, n: asked.append(count) or [1.0, 1.0]
    )
    texts = [
        {"domain": domain, "prompt": " ", "reference": "x" * (size - 1)}
        for domain, size in (("d", 5), ("d", 10), ("e", 4), ("d", 5))
    ]
    found = scores.score(braids, texts, positions, tmp_path)
    wanted = [math.ceil(positions * share) for share in (0.25, 0.5, 1, 0.25)]
    assert asked == wanted
    assert found == [{"d": 1.0, "e": 1.0}] * 2
