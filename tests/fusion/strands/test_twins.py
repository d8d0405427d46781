import gc

import pytest
import tiny
import torch

from fusion.strands.twins import kin, twin

FAMILY = pytest.mark.parametrize("family", tiny.FAMILIES + tiny.MORE_FAMILIES)
IDS = torch.tensor([[5, 50, 150, 250, 300]])


@FAMILY
def test_a_twin_has_the_same_weights_in_memory(family):
    model = tiny.tiny_model(family)
    other = twin(model)
    assert torch.equal(other(IDS).logits, model(IDS).logits)
    named = dict(other.named_parameters())
    assert all(named[name] is p for name, p in model.named_parameters())
    named = dict(other.named_buffers())
    assert all(named[name] is b for name, b in model.named_buffers())
    assert other.config is not model.config


@FAMILY
def test_a_hook_on_one_is_not_on_the_other(family):
    model = tiny.tiny_model(family)
    other = twin(model)
    ran = []
    for part in other.modules():
        if next(part.children(), None) is not None:
            part.register_forward_hook(lambda *_: ran.append(1))
    model(IDS)
    assert not ran
    other(IDS)
    assert ran


def test_a_part_put_into_one_is_not_in_the_other():
    model = tiny.tiny_model("llama")
    other = twin(model)
    wanted = model(IDS).logits
    q = other.model.layers[1].self_attn.q_proj
    other.model.layers[1].self_attn.q_proj = torch.nn.Sequential(q, torch.nn.ReLU())
    assert torch.equal(model(IDS).logits, wanted)
    assert not torch.equal(other(IDS).logits, wanted)


def test_all_twins_are_kin_for_as_long_as_they_live():
    model = tiny.tiny_model("llama")
    assert kin(model) == [model]
    first = twin(model)
    second = twin(first)
    assert {id(m) for m in kin(model)} == {id(m) for m in (model, first, second)}
    assert {id(m) for m in kin(second)} == {id(m) for m in kin(first)}
    del first
    gc.collect()
    assert {id(m) for m in kin(model)} == {id(m) for m in (model, second)}
