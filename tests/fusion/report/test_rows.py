import json

import pytest
import tiny

from fusion.report import controls
from fusion.report import rows as rows_module
from fusion.report.plot import plot
from fusion.report.rows import memory, rows_for, speed
from fusion.report.table import table
from fusion.strands.pool import Pool


@pytest.fixture
def pool(strands):
    pool = Pool()
    pool.add(strands["llama"])
    pool.add(strands["gemma"])
    return pool


@pytest.fixture
def texts():
    return [
        [text for text in tiny.SPLIT_TEXTS if text["split"] == split]
        for split in ("calibration", "test")
    ]


def test_every_kind_of_braid_beside_its_controls(pool, texts, tmp_path):
    depths = {name: pool[name].n_layers for name in ("llama", "gemma")}
    plans = list(controls.plans(depths, ["router"], controls.PLACES))
    rows = rows_for(pool, plans, *texts, 2, 10, tmp_path, False)
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
    assert json.loads(json.dumps(rows)) == rows
    assert "best braid" in table(rows)
    plot(rows, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 0


def test_one_seed_has_no_spread(pool, texts, tmp_path):
    plans = [p for p in controls.plans({"llama": 3}) if not p.trained]
    [row] = rows_for(pool, plans, *texts, 1, 10, tmp_path, False)
    assert row["spread"] is None
    assert row["control"] is False


def test_every_strand_weighs_once(strands, braid):
    """Four bytes for each float of both strands and of the fuser."""
    model = braid("llama", "gemma")
    parts = [model, strands["llama"].model, strands["gemma"].model]
    floats = sum(
        tensor.numel()
        for part in parts
        for tensor in (*part.parameters(), *part.buffers())
    )
    assert memory(model) == pytest.approx(4 * floats / 1e6)


def test_speed_is_of_as_many_tokens_as_asked(braid, monkeypatch):
    model, asked = braid("llama", "gemma"), []
    write = model.generate

    def noted(*given, **options):
        asked.append(options["max_new_tokens"])
        return write(*given, **options)

    monkeypatch.setattr(model, "generate", noted)
    assert speed(model, tokens=3) > 0
    assert set(asked) == {3}


@pytest.mark.parametrize(
    ("bits", "mean", "spread"),
    [
        ([{"a": 1.0, "b": 3.0}], 2.0, None),
        ([{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 4.0}], 2.5, 0.5**0.5),
        ([{"a": 1.0}, {"a": 2.0}, {"a": 3.0}], 2.0, 1.0),
    ],
)
def test_mean_and_spread_over_seeds_by_hand(
    pool, tmp_path, monkeypatch, bits, mean, spread
):
    """Means over domains of 2 and 3 differ by 1: a deviation of sqrt(1 / 2)."""
    monkeypatch.setattr(rows_module, "score", lambda *a: bits)
    monkeypatch.setattr(rows_module, "speed", lambda braid: 7.0)
    plans = [p for p in controls.plans({"llama": 3}) if not p.trained]
    [row] = rows_for(pool, plans, [], [], len(bits), 10, tmp_path, False)
    assert row["mean"] == pytest.approx(mean)
    assert row["spread"] == (spread if spread is None else pytest.approx(spread))
    domains = {d: sum(x[d] for x in bits) / len(bits) for d in bits[0]}
    assert row["bits_per_byte"] == pytest.approx(domains)
    assert row["tokens_per_s"] == 7.0
