import copy

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from fusion import BraidConfig, BraidedLLM, Strand
from fusion.braid.output_mixture import (
    BLOCK,
    OutputMixer,
    special_pairs,
    vocabulary_map,
)
from fusion.tokens.vocabulary import VocabularyMap

TABLE = [b"a", b"b"]
HERE, ABSENT = torch.tensor([True]), torch.tensor([False])


def mixer(n=1, gated=False):
    return OutputMixer([3] * n, [VocabularyMap(TABLE, TABLE, 2, 2)] * n, gated)


def logits(*p):
    return torch.tensor([p]).log()


@pytest.mark.parametrize("gated", [False, True])
def test_by_hand(gated):
    """Before calibration a gate leaves the shares: 0.75 * 0.8 + 0.25 * 0.2."""
    out = mixer(gated=gated)(logits(0.8, 0.2), [logits(0.2, 0.8)], [HERE], [0.75, 0.25])
    torch.testing.assert_close(out.exp(), torch.tensor([[0.65, 0.35]]))


def test_an_absent_donor_weighs_nothing():
    out = mixer()(logits(0.8, 0.2), [logits(0.2, 0.8)], [ABSENT], [0.5, 0.5])
    torch.testing.assert_close(out.exp(), torch.tensor([[0.8, 0.2]]))


def test_a_share_of_zero_weighs_nothing():
    donors = [logits(0.2, 0.8), logits(0.5, 0.5)]
    out = mixer(2)(logits(0.8, 0.2), donors, [HERE, HERE], [0.5, 0.0, 0.5])
    torch.testing.assert_close(out.exp(), torch.tensor([[0.65, 0.35]]))


def test_a_gate_moves_weight_from_the_shares():
    m = mixer(gated=True)
    m.gate.bias.data = torch.tensor([0.0, 1.0])
    weights = m.log_weights(torch.zeros(1, 5), [HERE], [0.5, 0.5]).exp()
    wanted = torch.tensor([[0.0, 1.0]]).softmax(-1)
    torch.testing.assert_close(weights, wanted)


def test_features_by_hand():
    half, sure = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    found = OutputMixer.features([half.log(), sure.log()], [half, sure])[0]
    log2 = torch.tensor(2.0).log()
    # entropy and largest log-probability of each, then log of sqrt(0.5)
    wanted = torch.stack([log2, -log2, log2 * 0, log2 * 0, -log2 / 2])
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_certain_distributions_have_finite_features_and_gradients():
    sure = torch.tensor([[0.0, -400.0]], requires_grad=True)
    other = torch.tensor([[-400.0, 0.0]], requires_grad=True)
    m = mixer(gated=True)
    found, seen = m.parts(sure, [other])
    assert torch.isfinite(seen).all()
    (seen.sum() + sum(p.sum() for p in found)).backward()
    assert torch.isfinite(sure.grad).all()
    assert torch.isfinite(other.grad).all()


def test_many_rows_are_mixed_as_each_alone():
    m = mixer(gated=True)
    for p in m.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    a, d = torch.randn(2, 40, 2)
    here = torch.arange(40) % 3 > 0
    together = m(a, [d], [here], [0.7, 0.3])
    alone = [m(a[[i]], [d[[i]]], [here[[i]]], [0.7, 0.3]) for i in range(40)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_an_adapter_starts_as_the_identity():
    hidden = torch.randn(4, 3)
    assert torch.equal(mixer().adapt([hidden])[0], hidden)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rows", [0, 1, BLOCK, BLOCK + 1])
def test_any_number_of_rows_is_mixed(rows, gated):
    a, d = torch.zeros(2, rows, 2)
    here = torch.ones(rows, dtype=torch.bool)
    out = mixer(gated=gated)(a, [d], [here], [0.5, 0.5])
    torch.testing.assert_close(out.exp(), torch.full((rows, 2), 0.5))


def test_an_anchor_without_a_share_speaks_where_no_donor_does():
    out = mixer()(logits(0.8, 0.2), [logits(0.2, 0.8)], [ABSENT], [0.0, 1.0])
    torch.testing.assert_close(out.exp(), torch.tensor([[0.8, 0.2]]))
    out = mixer()(logits(0.8, 0.2), [logits(0.2, 0.8)], [HERE], [0.0, 1.0])
    torch.testing.assert_close(out.exp(), torch.tensor([[0.2, 0.8]]))


@settings(max_examples=50)
@given(data=st.data(), n=st.integers(1, 3), gated=st.booleans())
def test_weights_are_shares_of_those_who_are_there(data, n, gated):
    """They sum to 1; who is absent or has no share has none, whatever a gate says."""
    part = st.one_of(st.just(0.0), st.floats(0.1, 1))
    raw = data.draw(st.lists(part, min_size=n + 1, max_size=n + 1))
    shares = [x / (sum(raw) or 1) for x in raw]
    here = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    m = mixer(n, gated)
    features = torch.linspace(-2, 2, 2 + 3 * n)[None]
    if gated:
        generator = torch.Generator().manual_seed(n)
        torch.nn.init.normal_(m.gate.weight, generator=generator)
    weights = m.log_weights(features, [torch.tensor([h]) for h in here], shares).exp()
    assert weights.sum().item() == pytest.approx(1, abs=1e-5)
    speaks = [
        shares[0] > 0,
        *(s > 0 and h for s, h in zip(shares[1:], here, strict=True)),
    ]
    wanted = speaks if any(speaks) else [True, *[False] * n]
    assert (weights[0] > 0).tolist() == wanted


def test_an_adapter_reads_states_of_any_size_alike():
    m = mixer()
    m.adapters[0].weight.data = torch.eye(3)
    hidden = torch.tensor([[3.0, 0.0, 4.0]])
    moved = [m.adapt([hidden * scale])[0] - hidden * scale for scale in (1, 1000)]
    torch.testing.assert_close(*moved, atol=1e-4, rtol=1e-4)


def test_half_precision_states_are_adapted_in_full():
    [out] = mixer().adapt([torch.ones(1, 3, dtype=torch.bfloat16)])
    assert out.dtype == torch.float32


def test_a_map_is_made_once_for_a_pair_of_strands(strands):
    llama, gemma = strands["llama"], strands["gemma"]
    assert vocabulary_map(llama, gemma) is vocabulary_map(llama, gemma)
    assert vocabulary_map(llama, gemma) is not vocabulary_map(gemma, llama)


@pytest.mark.parametrize("names", [("more", "llama"), ("llama", "more")])
@pytest.mark.parametrize("family", ["gemma", "gpt2"])
def test_words_that_only_a_tokenizer_has_do_no_harm(strands, family, names):
    """Added to it and not to its model, which can neither read nor write them."""
    tokenizer = copy.deepcopy(tiny.tiny_tokenizer(family))
    tokenizer.add_tokens([AddedToken(w, normalized=False) for w in ("Hey", "ho!")])
    more = Strand("more", tiny.tiny_model(family), tokenizer)
    assert len(more.tokens.table) == more.vocab_size + 2
    anchor, donor = names
    recipe = BraidConfig(anchor, [donor], [0.5, 0.5], ["output"], "router")
    model = BraidedLLM(recipe, [strands["llama"], more])
    ids = torch.tensor([model.anchor.tokens.encode("The dog")])
    with torch.no_grad():
        total = model(ids).logits.exp().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_special_tokens_that_mean_the_same_are_pairs(strands):
    llama, gemma, neox = (strands[name] for name in ("llama", "gemma", "neox"))
    named = {
        (neox.tokens.specials[name], gemma.tokens.specials[name])
        for name in ("<bos>", "<unk>", "<pad>", "<eos>")
    }
    assert set(special_pairs(gemma, neox)) == named
    # An end of another name is the anchor's end; the rest has no twin.
    ends = (gemma.tokens.specials["<eos>"], llama.tokens.specials["<|end|>"])
    assert special_pairs(llama, gemma) == [ends]
