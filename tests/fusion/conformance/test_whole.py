"""Each check of the whole braid fails on a defect of its kind."""

import time

import pytest
import torch
from safetensors.torch import save_file

from fusion.braid.fusers import FUSERS
from fusion.braid.model import BraidedLLM
from fusion.conformance import (
    check_concurrency,
    check_frozen,
    check_identity,
    check_save_load,
    randomise,
    sibling,
)
from fusion.strands.pool import Pool

TEXTS = ("if x: 好", "é😀 end")


@pytest.fixture
def model(braid):
    return braid("llama", "gemma", layers=(1, "final"))


@pytest.fixture
def pool(strands):
    pool = Pool()
    for name in ("llama", "gemma"):
        pool.add(strands[name])
    return pool


@pytest.mark.parametrize("strategy", FUSERS)
@pytest.mark.parametrize("layers", [(1,), ("final",)], ids=str)
def test_a_braid_before_calibration_is_its_anchor(braid, strategy, layers):
    model = braid("llama", "gemma", layers=layers, strategy=strategy, std=0)
    check_identity(model, (*TEXTS, "a"))
    with pytest.raises(AssertionError, match="identity, .*differ by up to"):
        check_identity(randomise(model), TEXTS)


def a_little_more(out, options):
    out.logits = out.logits + 1e-6 * out.logits.abs().max()


def more_with_a_mask(out, options):
    if options.get("attention_mask") is not None:
        a_little_more(out, options)


def more_from_a_cache(out, options):
    if options.get("cache") is not None:
        a_little_more(out, options)


def says_no_number(out, options):
    out.logits = out.logits * float("nan")


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        (a_little_more, "identity, 'if x: 好': the braid and its anchor differ"),
        (more_with_a_mask, "'if x: 好' with a mask: the braid and its anchor differ"),
        (more_from_a_cache, "'if x: 好' cached: the braid and its anchor differ"),
        (says_no_number, "identity, 'if x: 好': .*differ by up to nan"),
    ],
)
def test_a_difference_in_the_last_digit_is_told_with_how_it_was_read(
    model, planted, defect, says
):
    alone = sibling(model, shares=[1, 0])
    check_identity(alone, TEXTS)
    planted(defect)
    with pytest.raises(AssertionError, match=says):
        check_identity(alone, TEXTS)


def test_requests_that_share_a_place_are_right_one_by_one_and_wrong_together(
    model, planted
):
    check_concurrency(model, TEXTS)
    place = {}

    def shared(out, options):
        place["text"] = options["input_ids"].sum()
        time.sleep(0.02)
        out.logits = out.logits + place["text"]

    planted(shared)
    with pytest.raises(AssertionError, match="concurrency, .*logits differ by"):
        check_concurrency(model, TEXTS)


def test_braids_that_run_beside_it_are_checked_as_well(braid, model, planted):
    other = braid("gemma", "llama", layers=("final",))
    check_concurrency(model, TEXTS[:1], others=[other])
    seen = []

    def first_three_times(out, options):
        if out.logits.shape[-1] == other.anchor.vocab_size:
            seen.append(out)
            out.logits = out.logits + len(seen)

    planted(first_three_times)
    with pytest.raises(AssertionError, match="concurrency, 'if x: 好': logits differ"):
        check_concurrency(model, TEXTS[:1], others=[other])


@pytest.mark.parametrize("strategy", FUSERS)
def test_what_is_saved_and_loaded_again_passes(braid, pool, tmp_path, strategy):
    model = braid("llama", "gemma", layers=(1, "final", "output"), strategy=strategy)
    check_save_load(model, tmp_path, pool, TEXTS)


def writes_two_files(monkeypatch):
    real = BraidedLLM.save_pretrained

    def save(self, path):
        real(self, path)
        save_file({"x": torch.zeros(1)}, path / "strand.safetensors")

    monkeypatch.setattr(BraidedLLM, "save_pretrained", save)


def leaves_one_out(monkeypatch):
    real = BraidedLLM.save_pretrained

    def save(self, path):
        real(self, path, state_dict=dict(list(self.state_dict().items())[1:]))

    monkeypatch.setattr(BraidedLLM, "save_pretrained", save)


def saves_one_more(monkeypatch):
    real = BraidedLLM.save_pretrained

    def save(self, path):
        weights = {**self.state_dict(), "anchor.head": self.anchor.head.weight}
        real(self, path, state_dict=weights)

    monkeypatch.setattr(BraidedLLM, "save_pretrained", save)


def loads_as_it_was_at_first(monkeypatch):
    real = BraidedLLM.from_pretrained
    monkeypatch.setattr(
        BraidedLLM, "from_pretrained", lambda *a, **k: sibling(real(*a, **k))
    )


def loads_the_last_digit_wrong(monkeypatch):
    real = BraidedLLM.from_pretrained

    def load(path, pool):
        model = real(path, pool=pool)
        model.fusers["final"].own.bias.data += 1e-6
        return model

    monkeypatch.setattr(BraidedLLM, "from_pretrained", load)


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        (writes_two_files, "save: expected one weights file in .*strand.safetensors"),
        (leaves_one_out, r"save: the file lacks \['fusers.*'\] and has \[\] beyond"),
        (saves_one_more, r"save: the file lacks \[\] and has \['anchor.head'\] bey"),
        (loads_as_it_was_at_first, "save: after loading, logits of 'if x: 好' differ"),
        (loads_the_last_digit_wrong, "differ by .*, expected the same bits"),
    ],
)
def test_a_braid_that_is_saved_or_loaded_wrongly_is_told(
    model, pool, tmp_path, monkeypatch, defect, says
):
    defect(monkeypatch)
    with pytest.raises(AssertionError, match=says):
        check_save_load(model, tmp_path, pool, TEXTS)


@pytest.mark.parametrize("strategy", FUSERS)
def test_training_reaches_every_fuser_and_no_strand(braid, strategy):
    model = braid("llama", "gemma", layers=(1, "final", "output"), strategy=strategy)
    check_frozen(model, ("a", *TEXTS))  # after one token there is nothing to learn
    assert all(p.grad is None for p in model.parameters())


def has_no_loss(out, options):
    out.loss = None


def has_a_loss_that_is_no_number(out, options):
    out.loss = out.loss * float("nan")


def learns_nothing(out, options):
    out.loss = out.loss.detach()


@pytest.mark.parametrize(
    ("defect", "says"),
    [
        (has_no_loss, "frozen: no loss though labels were given"),
        (has_a_loss_that_is_no_number, "frozen: the loss of 'if x: 好' is .*nan"),
        (learns_nothing, "frozen: the loss does not depend on the fusers"),
    ],
)
@pytest.mark.parametrize("after", [0, 1])
def test_a_braid_that_cannot_be_trained_is_told_and_keeps_no_gradient(
    model, planted, defect, says, after
):
    """Nor the gradients of the texts before."""
    seen = []

    def later(out, options):
        seen.append(out)
        if len(seen) > after:
            defect(out, options)

    planted(later)
    with pytest.raises(AssertionError, match=says):
        check_frozen(model, (TEXTS[0], TEXTS[0]))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_strand_that_gets_a_gradient_is_named(model, strands, planted, name):
    weight = strands[name].model.get_output_embeddings().weight

    def leaks(out, options):
        weight.grad = torch.zeros_like(weight)

    planted(leaks)
    try:
        with pytest.raises(AssertionError, match="frozen: .* received a gradient"):
            check_frozen(model, TEXTS)
    finally:
        weight.grad = None


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_a_strand_that_could_be_trained_is_named(model, strands, name):
    weight = next(strands[name].model.parameters()).requires_grad_(True)
    try:
        with pytest.raises(AssertionError, match="frozen: .* is trainable"):
            check_frozen(model, TEXTS)
    finally:
        weight.requires_grad_(False)
        weight.grad = None


def test_a_parameter_that_nothing_uses_is_named(model):
    model.fusers["final"].unused = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(AssertionError, match="final.unused received no gradient"):
        check_frozen(model, TEXTS)


def test_a_gradient_that_is_no_number_is_named(model):
    weight = model.fusers["final"].own.bias
    weight.register_hook(lambda grad: grad * float("nan"))
    with pytest.raises(
        AssertionError, match="gradient of fusers.final.own.bias is not"
    ):
        check_frozen(model, TEXTS)
    assert weight.grad is None
