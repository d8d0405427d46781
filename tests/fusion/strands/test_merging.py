"""What is refused needs no mergekit; merges themselves run where it is installed."""

import importlib.util
import json

import pandas as pd
import pytest
import tiny
import torch

from fusion.strands.merging import merge
from fusion.strands.pool import Pool

INSTALLED = importlib.util.find_spec("mergekit") is not None


@pytest.fixture
def pool(tmp_path):
    """Three llamas of one kind, and a gpt2."""
    seeds = {"a": 0, "b": 1, "base": 2}
    sources = {
        name: str(tiny.tiny_folder("llama", tmp_path / name, seed))
        for name, seed in seeds.items()
    }
    return Pool({**sources, "gpt2": str(tiny.tiny_folder("gpt2", tmp_path / "gpt2"))})


@pytest.mark.parametrize(
    ("models", "options", "says"),
    [
        (["a"], {}, "at least two"),
        ("ab", {}, "at least two"),
        ({"a", "b"}, {}, "at least two"),
        (["a", "b"], {"weights": {"a": 0.5, "c": 0.5}}, "expected each of"),
        (["a", "b"], {"weights": pd.Series([0.5, 0.5], ["b", "b"])}, "each of"),
        (["a", "b"], {"method": "magic"}, "unknown method 'magic'"),
        (["a", "b"], {"method": "ties"}, "needs the base"),
        (["a", "b"], {"base": "base"}, "knows no base"),
        (["a", "b", "base"], {"method": "slerp"}, "two models"),
        (["a", "b"], {"weights": [1.0]}, "do not fit 2"),
        (["a", "b"], {"weights": [0.9, 0.9]}, "sum to 1"),
        (["a", "b"], {"weights": [1.5, -0.5]}, "do not fit"),
        (["a", "b"], {"density": 0.0}, "density"),
        (["a", "b"], {"density": 0.3}, "has no density"),
        (["a", "b"], {"method": "slerp", "density": 0.3}, "has no density"),
        (["a", "b"], {"seed": 1}, "draws nothing"),
        (["a", "b"], {"method": "ties", "base": "base", "seed": 1}, "draws nothing"),
    ],
)
def test_what_makes_no_sense_is_refused(pool, tmp_path, models, options, says):
    with pytest.raises(ValueError, match=says):
        merge(models, tmp_path / "out", pool=pool, **options)


def test_a_folder_that_exists_is_left_alone(pool, tmp_path):
    with pytest.raises(ValueError, match="exists"):
        merge(["a", "b"], tmp_path, pool=pool)


@pytest.mark.skipif(INSTALLED, reason="mergekit is installed")
def test_says_what_to_install(pool, tmp_path):
    with pytest.raises(ImportError, match=r"braidbandit\[merge\]"):
        merge(["a", "b"], tmp_path / "out", pool=pool)


def test_models_of_other_shapes_are_refused(pool, tmp_path):
    with pytest.raises(ValueError, match="architecture llama and gpt2"):
        merge(["a", "gpt2"], tmp_path / "out", pool=pool)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not INSTALLED, reason="mergekit is an extra")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what it imports
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("linear", {}),
        ("slerp", {}),
        ("ties", {"base": "base"}),
        ("dare_ties", {"base": "base"}),
        ("dare_linear", {"base": "base"}),
    ],
)
def test_what_comes_out_is_a_strand(pool, tmp_path, method, options):
    out = merge(
        ["a", "b"], tmp_path / "out", method=method, weights={"b": 0.25, "a": 0.75},
        pool=pool, **options,
    )  # fmt: skip
    strand = Pool()[str(out)]
    ids = torch.tensor([[5, 50, 150]])
    assert torch.isfinite(strand.model(ids).logits).all()
    assert strand.tokens.key == pool["a"].tokens.key
    if method == "linear":
        name = "model.layers.1.mlp.up_proj.weight"
        a, b, both = (
            s.model.state_dict()[name] for s in (pool["a"], pool["b"], strand)
        )
        torch.testing.assert_close(both, 0.75 * a + 0.25 * b)


def asks_for_its_code(folder):
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    changed = {**config, "model_type": "mine", "auto_map": names}
    (folder / "config.json").write_text(json.dumps(changed))
    (folder / "mine.py").write_text("raise SystemExit('ran')")


def is_cut_off(folder):
    (folder / "config.json").write_text("{")


def has_no_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.write_text("{")


@pytest.mark.parametrize("damage", [asks_for_its_code, is_cut_off, has_no_tokenizer])
def test_a_model_that_cannot_be_loaded_is_named_and_runs_no_code(
    pool, tmp_path, monkeypatch, damage
):
    """Nor does transformers ask whether it may, which would wait for an answer."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    damage(tmp_path / "b")
    with pytest.raises(ValueError, match="cannot load a model from 'b'"):
        merge(["a", "b"], tmp_path / "out", pool=pool)
    assert not (tmp_path / "out").exists()


def test_a_name_that_nobody_knows_is_refused(pool, tmp_path):
    with pytest.raises(ValueError, match="unknown model source 'nobody'"):
        merge(["a", "nobody"], tmp_path / "out", pool=pool)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("density", [-0.5, 0.0, 1.5, float("nan")])
def test_a_density_is_a_share_of_something(pool, tmp_path, density):
    options = {"method": "ties", "base": "base", "density": density}
    with pytest.raises(ValueError, match=r"density lies in \(0, 1\]"):
        merge(["a", "b"], tmp_path / "out", pool=pool, **options)
