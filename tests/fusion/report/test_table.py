import json

import pytest
import tiny

from fusion import controls, report
from fusion.strands.pool import Pool


@pytest.fixture
def pool(strands):
    pool = Pool()
    pool.add(strands["llama"])
    pool.add(strands["gemma"])
    return pool


def test_every_kind_of_braid_beside_its_controls(pool, tmp_path):
    depths = {name: pool[name].n_layers for name in ("llama", "gemma")}
    plans = list(controls.plans(depths, ["router"], controls.PLACES))
    parts = [
        [text for text in tiny.SPLIT_TEXTS if text["split"] == split]
        for split in ("calibration", "test")
    ]
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


@pytest.mark.parametrize("option", ["--seeds", "--positions", "--per-domain"])
def test_bad_options_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        report.main([option, "0"])
    assert "give at least 1" in capsys.readouterr().err
