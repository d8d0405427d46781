import pytest
import tiny

from fusion import BraidConfig, BraidedLLM, Pool


def test_a_save_that_fails_leaves_the_braid_that_was_there(tmp_path, monkeypatch):
    mine = [tiny.tiny_strand(f, seed=i) for i, f in enumerate(("llama", "gemma"))]
    config = BraidConfig("llama", ["gemma"], [0.6, 0.4], ["final"], "router")
    model, pool = BraidedLLM(config, mine), Pool()
    for strand in mine:
        pool.add(strand)
    model.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    model.fusers["final"].own.bias.data.fill_(1.0)
    monkeypatch.setattr(type(model.generation_config), "to_json_file", full)
    with pytest.raises(OSError, match="No space"):
        model.save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    again = BraidedLLM.from_pretrained(tmp_path, pool=pool)
    assert not again.fusers["final"].own.bias.any()
