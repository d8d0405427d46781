import json

import pytest
import tiny

from fusion import controls, report
from fusion.configuration import BraidConfig
from fusion.modeling import BraidedLLM
from fusion.pool import Pool
from fusion.scoring import bits_per_byte

TEXTS = [
    {"domain": d, "split": s, "prompt": f"{t[:9]}{i}\u2028", "reference": t[9:]}
    for d, t in (("prose", tiny.PROSE), ("code", tiny.CODE))
    for i, s in enumerate(["calibration"] * 8 + ["test"] * 2)
]


@pytest.fixture
def pool(strands):
    pool = Pool()
    pool.add(strands["llama"])
    pool.add(strands["gemma"])
    return pool


def test_every_kind_of_braid_beside_its_controls(pool, tmp_path):
    depths = {name: pool[name].n_layers for name in ("llama", "gemma")}
    plans = list(controls.plans(depths, ["router"], controls.PLACES))
    parts = [[t for t in TEXTS if t["split"] == s] for s in ("calibration", "test")]
    rows = report.rows_for(pool, plans, *parts, 2, 10, tmp_path, False)
    assert len(rows) == len(plans)
    for row in rows:
        shuffled = any("shuffled" in d for d in row["donors"])
        own = row["layers"] == ["final"] and not row["donors"]
        assert row["control"] is (own or shuffled)
        assert set(row["bits_per_byte"]) == {"prose", "code"}
        assert row["mean"] == pytest.approx(sum(row["bits_per_byte"].values()) / 2)
        assert row["tokens_per_s"] > 0
        assert row["parity"] is None if shuffled else row["parity"]["same_choice"] == 1
    plain = [row for row in rows if not row["layers"]]
    by_prompt = [row for row in rows if row["strategy"] == controls.BY_PROMPT]
    # Nothing in these is trained, or random.
    assert [row["spread"] for row in (*plain, *by_prompt)] == [0.0] * 4
    own = [row for row in rows if row["control"] and not row["donors"]]
    assert all(c["mean"] < p["mean"] for c, p in zip(own, plain, strict=True))
    assert len(json.loads(json.dumps(rows))) == len(rows)
    shown = report.table(rows)
    assert "best braid" in shown
    assert "calibrated alone (control)" in shown
    report.plot(rows, tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"


def test_scores_at_every_position_are_bits_per_byte(braid, strands):
    braids = [
        BraidedLLM(BraidConfig("gemma"), [strands["gemma"]]),
        braid("gemma", "llama", layers=("final", "output")),
    ]
    texts = [t for t in TEXTS if t["split"] == "test"][:1]
    whole = texts[0]["prompt"] + texts[0]["reference"]  # a line ends between them
    for model, got in zip(braids, report.score(braids, texts, 999, False), strict=True):
        assert got["prose"] == pytest.approx(bits_per_byte(model, "", whole), rel=1e-5)


def test_a_text_of_one_token_is_refused(strands):
    alone = BraidedLLM(BraidConfig("llama"), [strands["llama"]])
    text = {"domain": "prose", "prompt": "\n", "reference": ""}
    with pytest.raises(ValueError, match="one token for llama"):
        report.score([alone], [text], 10, False)


def test_a_file_of_texts(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps(t, ensure_ascii=False) for t in TEXTS))
    calibration, held_out = report.read_texts(file)
    assert (len(calibration), len(held_out)) == (16, 4)
    only = [t for t in TEXTS if t["split"] == "test"]
    file.write_text("\n".join(map(json.dumps, only)))
    with pytest.raises(ValueError, match="0 texts with the split 'calibration'"):
        report.read_texts(file)
    file.write_text('{"domain": "code"}')
    with pytest.raises(ValueError, match="line 1: expected the keys"):
        report.read_texts(file)


@pytest.mark.parametrize("option", ["--seeds", "--positions"])
def test_bad_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        report.main([option, "0"])
    assert "give at least 1" in capsys.readouterr().err


def test_packaged_texts_are_split_by_task():
    calibration, held_out = report.packaged_texts()
    assert {t["domain"] for t in calibration} == {t["domain"] for t in held_out}
    assert not {t["prompt"] for t in calibration} & {t["prompt"] for t in held_out}
