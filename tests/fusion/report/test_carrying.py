import json
import math

import pytest
import tiny

from fusion import Strand
from fusion.report.__main__ import main
from fusion.report.carrying import Carrying, carrying, carrying_table

TEXTS = [
    {"domain": "prose", "prompt": "The dog sleeps.", "reference": "It is late."},
    {"domain": "code", "prompt": "def f(x):", "reference": "    return x + 1"},
]


def test_one_tokenizer_carries_without_loss():
    """The same tokens are the same distribution, and no text ends inside one."""
    twins = {
        name: Strand(
            name, tiny.tiny_model("llama", seed=i), tiny.tiny_tokenizer("llama")
        )
        for i, name in enumerate(("a", "b"))
    }
    for row in carrying(twins, ["a", "b"], TEXTS):
        assert row.carried == pytest.approx(row.itself, rel=1e-5)
        assert row.inside == 0
        assert math.isnan(row.inside_carried)


def test_both_ways_by_domain(strands):
    rows = carrying(strands, ["llama", "gemma"], TEXTS)
    assert [(r.donor, r.anchor, r.domain) for r in rows] == [
        ("llama", "gemma", "prose"),
        ("llama", "gemma", "code"),
        ("gemma", "llama", "prose"),
        ("gemma", "llama", "code"),
    ]
    assert all(0 < row.itself < 20 and 0 < row.carried < 20 for row in rows)
    assert all(row.loss == row.carried / row.itself - 1 for row in rows)


def test_the_table_has_the_mean_of_each_pair():
    rows = [
        Carrying("a", "b", "x", 1.0, 1.01, 2, 3.0, 3.5),
        Carrying("a", "b", "y", 1.0, 1.03, 0, math.nan, math.nan),
    ]
    shown = carrying_table(rows)
    assert "a carried by b: mean loss +2.0%" in shown
    assert len(shown.splitlines()) == 4


def test_the_command_prints_it(tmp_path, capsys):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(t) + "\n" for t in tiny.SPLIT_TEXTS))
    models = [str(tiny.tiny_folder(f, tmp_path / f)) for f in ("llama", "gemma")]
    options = ["--models", *models, "--texts", str(file), "--per-domain", "1"]
    main([*options, "--carrying", "--dtype", "float32", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["donor"] for row in rows} == set(models)
    assert rows[0]["loss"] == rows[0]["carried"] / rows[0]["itself"] - 1
