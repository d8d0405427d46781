import pytest
import tiny
import torch
from torch import nn
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from fusion.strand import Strand, decoder_layers

FAMILY = pytest.mark.parametrize("family", tiny.FAMILIES)
IDS = torch.tensor([[5, 50, 150, 250, 300]])


@pytest.fixture
def strand(strands, family):
    return strands[family]


@FAMILY
def test_taps_are_the_models_own_hidden_states(strand):
    """Last decoder layer aside: there transformers reports the state after the norm."""
    n = strand.n_layers
    got = strand.run(IDS, taps=[*range(n), "final"])
    theirs = strand.model(IDS, output_hidden_states=True)
    for layer in range(n - 1):
        assert torch.equal(got[layer], theirs.hidden_states[layer + 1])
    assert torch.equal(got["final"], theirs.hidden_states[-1])
    assert torch.equal(strand.logits(got["final"]), theirs.logits)


@FAMILY
def test_stops_at_the_deepest_tap(strand):
    last = decoder_layers(strand.body, strand.n_layers)[-1]
    ran = []
    handle = last.register_forward_hook(lambda *_: ran.append(1))
    try:
        assert set(strand.run(IDS, taps=[0])) == {0}
        assert not ran
        strand.run(IDS, taps=["final"])
        assert ran
    finally:
        handle.remove()


@FAMILY
def test_an_edit_changes_what_comes_after(strand):
    plain = strand.run(IDS, taps=[0, 1, "final"])
    edited = strand.run(IDS, taps=[0, 1, "final"], edits={1: lambda h: h * 2})
    assert torch.equal(edited[0], plain[0])
    assert torch.equal(edited[1], plain[1] * 2)
    assert not torch.allclose(edited["final"], plain["final"])
    # Nothing stays behind.
    assert torch.equal(strand.run(IDS, taps=["final"])["final"], plain["final"])


@FAMILY
def test_an_edit_that_fails_leaves_nothing_behind(strand):
    before = strand.model(IDS).logits

    def broken(hidden):
        raise RuntimeError("edit failed")

    with pytest.raises(RuntimeError, match="edit failed"):
        strand.run(IDS, taps=["final"], edits={0: broken})
    assert torch.equal(strand.model(IDS).logits, before)


def test_two_strands_of_one_model_do_not_hear_each_other(strands):
    """A run of one strand inside an edit of another is its own request."""
    a, b = strands["llama"], strands["llama-2"]
    alone = b.run(IDS, taps=["final"])["final"]
    inside = {}

    def edit(hidden):
        inside.update(b.run(IDS, taps=["final"]))
        return hidden

    a.run(IDS, taps=["final"], edits={1: edit})
    assert torch.equal(inside["final"], alone)


@FAMILY
def test_is_frozen(strand):
    assert not strand.model.training
    assert not any(p.requires_grad for p in strand.model.parameters())


def test_facts(strands):
    s = strands["gemma"]
    assert (s.n_layers, s.width, s.name, s.source) == (6, 48, "gemma", "gemma")
    assert s.vocab_size == s.head.weight.shape[0]
    assert (s.dtype, s.device) == (torch.float32, torch.device("cpu"))
    assert tiny.tiny_strand("gpt2", "other").name == "other"


def test_a_capped_head_is_followed():
    model = tiny.tiny_model("gemma")
    model.config.final_logit_softcapping = 1.5
    strand = Strand("capped", model, tiny.tiny_tokenizer("gemma"))
    got = strand.logits(strand.run(IDS, taps=["final"])["final"])
    assert got.abs().max() <= 1.5
    assert torch.equal(got, model(IDS).logits)


def test_a_head_of_another_width_is_refused():
    """OPT-350M projects its states before the head."""
    tokenizer = tiny.tiny_tokenizer("opt")
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=36,
        word_embed_proj_dim=20,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    with pytest.raises(ValueError, match="width 36 and a head of width 20"):
        Strand("odd", OPTForCausalLM(config), tokenizer)


def test_a_head_that_does_more_is_refused():
    model = tiny.tiny_model("llama")
    model.lm_head.register_forward_hook(lambda m, a, out: out)
    real = model.forward
    model.forward = lambda *a, **k: _scaled(real(*a, **k))
    with pytest.raises(ValueError, match="between its final norm and its logits"):
        Strand("odd", model, tiny.tiny_tokenizer("llama"))


def test_a_model_that_keeps_no_tokens_is_refused():
    """A recurrent state cannot take its last tokens back."""
    tokenizer = tiny.tiny_tokenizer("llama")
    config = MambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, state_size=8
    )
    with pytest.raises(ValueError, match="MambaForCausalLM keeps no keys and values"):
        Strand("odd", MambaForCausalLM(config), tokenizer)


def test_a_window_inside_the_layers_is_known():
    """GPT-Neo's local layers go by columns, whatever mask they are given."""
    tokenizer = tiny.tiny_tokenizer("llama")
    config = GPTNeoConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
    )
    strand = Strand("neo", GPTNeoForCausalLM(config), tokenizer)
    assert strand.window == 8
    assert not strand.reads_trees


def _scaled(out):
    out.logits = out.logits * 3
    return out


def test_decoder_layers_must_be_unmistakable():
    twice = nn.ModuleDict(
        {name: nn.ModuleList(nn.Linear(1, 1) for _ in range(2)) for name in "ab"}
    )
    with pytest.raises(ValueError, match="found 2 module lists of length 2"):
        decoder_layers(twice, 2)
    with pytest.raises(ValueError, match="found 0"):
        decoder_layers(twice, 3)


def test_the_content_is_all_that_decides_what_it_computes():
    """A setting, the order of rows and of columns, a weight; not where it came from."""
    strand, again = (tiny.tiny_strand("llama") for _ in range(2))
    assert strand.content == again.content
    assert strand.number != again.number
    seen = {strand.content}
    for change in (
        lambda model: setattr(model.config, "rms_norm_eps", 0.1),
        lambda model: model.lm_head.weight.copy_(model.lm_head.weight.flip(0)),
        lambda model: model.lm_head.weight.copy_(model.lm_head.weight.flip(1)),
        lambda model: model.model.norm.weight.mul_(1.01),
    ):
        other = tiny.tiny_strand("llama")
        with torch.no_grad():
            change(other.model)
        seen.add(other.content)
    assert len(seen) == 5


@torch.no_grad()
def test_what_is_known_of_a_strand_follows_its_weights():
    strand = tiny.tiny_strand("llama")
    known = [(strand.stamp, strand.fingerprint, strand.content)]
    strand.model.model.norm.weight.mul_(1.5)
    known.append((strand.stamp, strand.fingerprint, strand.content))
    strand.model.lm_head.weight = torch.nn.Parameter(strand.head.weight.flip(0))
    known.append((strand.stamp, strand.content))
    for values in zip(*known[:2], strict=True):
        assert len(set(values)) == 2
    assert known[2][0] != known[1][0]
    assert known[2][1] != known[1][2]
