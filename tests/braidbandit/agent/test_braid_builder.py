"""Building on two tiny real models; the loop around it is in test_meta_braider.py."""

import json

import pytest

from braidbandit import Braid, ModelCard
from braidbandit.agent.braid_builder import BraidBuilder, completed

tiny = pytest.importorskip("tiny")
TEXTS = [f"The dog number {i} sleeps beside {i + 1} strands." for i in range(12)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        family: str(tiny.tiny_folder(family, folder / family))
        for family in ("llama", "gemma")
    }


def test_braids_share_strands_and_are_built_once(sources, tmp_path):
    builder = BraidBuilder(sources, tmp_path, TEXTS)
    alone = Braid("llama")
    pair = Braid("llama", ("gemma",), (0.7, 0.3), ("final",), "learned_weighted")
    assert pair not in builder
    assert builder.build(alone) is None
    report = builder.build(pair)
    assert report is not None
    assert "final" in report.trained
    assert builder[pair] is builder[pair]
    assert builder[pair].anchor is builder[alone].anchor is builder.strands["llama"]
    again = BraidBuilder(sources, tmp_path).build(pair)
    assert again is not None
    assert again.trained == ()


def test_the_folder_keeps_the_settings(sources, tmp_path):
    BraidBuilder(sources, tmp_path, TEXTS, "bfloat16")
    later = BraidBuilder(sources, tmp_path)
    assert (later.texts, later.dtype) == (TEXTS, "bfloat16")
    before = (tmp_path / "calibration.json").read_bytes()
    with pytest.raises(ValueError, match="received 'int8'"):
        BraidBuilder(sources, tmp_path, dtype="int8")
    assert (tmp_path / "calibration.json").read_bytes() == before
    assert json.loads(before)["dtype"] == "bfloat16"


def test_a_card_says_more_than_the_configuration(sources):
    card = completed(ModelCard("llama", layers=99), sources)
    assert card.layers == 99
    assert card.width == tiny.tiny_strand("llama", "x").width
    assert card.vocab_size
    whole = ModelCard("nowhere", parameters=1, layers=1, width=1, vocab_size=1)
    assert completed(whole, {}) is whole
