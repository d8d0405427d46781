"""What a braid writes of itself is read back to the bit, or refused by name."""

import json

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fusion import BraidConfig, BraidedLLM, Pool
from fusion.braid.checkpoint import WEIGHTS, load_weights, write_weights


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


@pytest.fixture
def saved(braid, strands, tmp_path):
    """A braid, the pool of its strands, and the folder that it was saved to."""
    pool = Pool()
    for strand in strands.values():
        pool.add(strand)
    model = braid("llama", "gemma", layers=(1, "final", "output"))
    model.save_pretrained(tmp_path)
    return model, pool, tmp_path


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_the_file_has_the_fusers_and_says_which_strands_they_are_for(saved):
    model, _, folder = saved
    with safe_open(folder / WEIGHTS, "pt") as opened:
        assert set(opened.keys()) == set(model.state_dict())
        told = json.loads(opened.metadata()["strands"])
    assert told == {
        strand.name: {"dtype": "torch.float32", "fingerprint": strand.fingerprint}
        for strand in (model.anchor, *model.donors)
    }


def test_what_is_loaded_has_the_same_bits(saved, braid):
    model, _, folder = saved
    other = braid("llama", "gemma", layers=(1, "final", "output"), std=0)
    load_weights(folder, other, (other.anchor, *other.donors))
    wanted = bits(model)
    assert all(torch.equal(wanted[name], t) for name, t in bits(other).items())


def short(data):
    return data[:100]


def cut_off(data):
    return data[:-10]


def nothing(data):
    return b""


def other_kind(data):
    return b"PK\x03\x04" + data


@pytest.mark.parametrize("damage", [short, cut_off, nothing, other_kind])
def test_a_damaged_file_is_told_and_no_fuser_is_touched(saved, damage):
    model, pool, folder = saved
    file, before = folder / WEIGHTS, bits(model)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=f"cannot read {WEIGHTS} in .* is damaged"):
        load_weights(folder, model, (model.anchor, *model.donors))
    assert all(torch.equal(before[name], t) for name, t in bits(model).items())
    with pytest.raises(ValueError, match="is damaged"):
        BraidedLLM.from_pretrained(folder, pool=pool)


def without_one(weights):
    return dict(list(weights.items())[1:])


def with_one_more(weights):
    return {**weights, "fusers.9.weight": torch.zeros(1)}


def of_another_shape(weights):
    name = next(iter(weights))
    return {**weights, name: weights[name][..., :-1].clone()}


@pytest.mark.parametrize("change", [without_one, with_one_more, of_another_shape])
def test_weights_of_another_recipe_are_named_and_none_is_loaded(saved, change):
    model, _, folder = saved
    weights = bits(model)
    changed = change({name: tensor + 1 for name, tensor in weights.items()})
    write_weights(folder, changed, (model.anchor, *model.donors))
    odd = set(weights) ^ set(changed) or {next(iter(weights))}
    says = rf"do not fit its recipe at \['{odd.pop()}'\] \(1 tensors\)"
    with pytest.raises(ValueError, match=says):
        load_weights(folder, model, (model.anchor, *model.donors))
    assert all(torch.equal(weights[name], t) for name, t in bits(model).items())


def test_a_folder_without_weights_is_no_braid(saved, tmp_path):
    model, pool, folder = saved
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=f"no {WEIGHTS} in .*; expected a saved braid"):
        BraidedLLM.from_pretrained(folder, pool=pool)


def test_weights_that_tell_no_strands_fit_any(saved):
    """Such as those that another program has written."""
    model, _, folder = saved
    weights = bits(model)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    load_weights(folder, model, (model.anchor, *model.donors))
    save_file(weights, folder / WEIGHTS)
    load_weights(folder, model, (model.anchor, *model.donors))


@pytest.mark.parametrize("kind", ["a slice", "turned"])
def test_weights_that_are_views_are_written_as_they_look(kind, strands, tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    view = whole[:, 1:3] if kind == "a slice" else whole.T
    write_weights(tmp_path, {"it": view}, [strands["llama"]])
    assert torch.equal(load_file(tmp_path / WEIGHTS)["it"], view)


def test_a_folder_whose_configuration_is_of_no_braid_is_told(saved):
    _, pool, folder = saved
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no anchor; give that of a saved braid"):
        BraidedLLM.from_pretrained(folder, pool=pool)
