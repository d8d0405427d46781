import copy

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from fusion import BraidConfig, BraidedLLM, Strand
from fusion.braid.fusers import LearnedWeighted
from fusion.braid.output_mixture import (
    BLOCK,
    FEW,
    OutputMixer,
    Voice,
    special_pairs,
    vocabulary_map,
)
from fusion.tokens.token_bytes import TokenBytes
from fusion.tokens.vocabulary import Carried, Node, Reading, VocabularyMap

# Strands of two tokens, so that what a donor says is carried as it is.
TOKENS = TokenBytes(tiny.handmade("a b"))
HERE = torch.tensor([True])


def mixer(n=1, gated=False):
    maps = [VocabularyMap(TOKENS, TOKENS, 2, 2)] * n
    return OutputMixer(2, [3] * n, maps, LearnedWeighted, gated)


def logits(*p):
    return torch.tensor([p]).log()


def first_two(hidden):
    return hidden[:, :2]


def reading(*states):
    nodes = [Node(s, n - 1, 0, b"", True) for n, s in enumerate(states)]
    return Reading(tuple(nodes))


def voice(rows, here=None, head=first_two, said=None):
    """A donor that says these logits (N, 2), where it is there."""
    readings = np.full(len(rows), None, dtype=object)
    for n, row in enumerate(rows):
        if here is None or here[n]:
            readings[n] = reading(torch.cat([row, row.new_zeros(1)]))
    return Voice(readings, head, said)


@pytest.mark.parametrize("gated", [False, True])
def test_by_hand(gated):
    """Before calibration a gate leaves the shares: 0.75 * 0.8 + 0.25 * 0.2."""
    m = mixer(gated=gated)
    out = m(logits(0.8, 0.2), [voice(logits(0.2, 0.8))], [0.75, 0.25])
    torch.testing.assert_close(out.exp(), torch.tensor([[0.65, 0.35]]))


def test_an_absent_donor_weighs_nothing():
    out = mixer()(logits(0.8, 0.2), [voice(logits(0.2, 0.8), [False])], [0.5, 0.5])
    torch.testing.assert_close(out.exp(), torch.tensor([[0.8, 0.2]]))


def test_a_share_of_zero_weighs_nothing():
    donors = [voice(logits(0.2, 0.8)), voice(logits(0.5, 0.5))]
    out = mixer(2)(logits(0.8, 0.2), donors, [0.5, 0.0, 0.5])
    torch.testing.assert_close(out.exp(), torch.tensor([[0.65, 0.35]]))


def test_a_gate_moves_weight_from_the_shares():
    m = mixer(gated=True)
    m.gate.bias.data = torch.tensor([0.0, 1.0])
    weights = m.log_weights(torch.zeros(1, 7), [HERE], [0.5, 0.5]).exp()
    wanted = torch.tensor([[0.0, 1.0]]).softmax(-1)
    torch.testing.assert_close(weights, wanted)


def test_features_by_hand():
    half, sure = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    told = Carried(sure, torch.tensor(0.25), torch.tensor(0.125))
    found = OutputMixer.features([half, sure], [told])
    log2 = float(torch.tensor(2.0).log())
    # Entropy and largest log-probability of each, then log of sqrt(0.5), then how much
    # is inside a token, and how much is not read.
    wanted = torch.tensor([log2, -log2, 0, 0, -log2 / 2, 0.25, 0.125])
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_an_absent_donor_shows_the_anchors_own():
    """All of it unread; it is as certain as the anchor, and overlaps as a whole."""
    m = mixer(gated=True)
    [(parts, seen, there)] = m.parts(
        logits(0.8, 0.2), [voice(logits(0.2, 0.8), [False])]
    )
    assert there == [False]
    assert torch.equal(parts[0], parts[1])
    torch.testing.assert_close(seen[:2], seen[2:4])
    torch.testing.assert_close(seen[4:], torch.tensor([0.0, 0.0, 1.0]))


def test_without_a_gate_nothing_is_shown():
    [(_, seen, there)] = mixer().parts(logits(0.8, 0.2), [voice(logits(0.2, 0.8))])
    assert seen is None
    assert there == [True]


def test_certain_distributions_have_finite_features_and_gradients():
    sure = torch.tensor([[0.0, -400.0]], requires_grad=True)
    other = torch.tensor([[-400.0, 0.0]], requires_grad=True)
    m = mixer(gated=True)
    [(found, seen, _)] = m.parts(sure, [voice(other)])
    assert torch.isfinite(seen).all()
    (seen.sum() + sum(p.sum() for p in found)).backward()
    assert torch.isfinite(sure.grad).all()
    assert torch.isfinite(other.grad).all()


def test_many_rows_are_mixed_as_each_alone():
    m = mixer(gated=True)
    for p in m.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    a, d = torch.randn(2, 40, 2)
    here = (torch.arange(40) % 3 > 0).tolist()
    together = m(a, [voice(d, here)], [0.7, 0.3])
    alone = [m(a[[i]], [voice(d[[i]], here[i:])], [0.7, 0.3]) for i in range(40)]
    torch.testing.assert_close(together, torch.cat(alone))


def adapted(m, state):
    """What a donor's head is given."""
    seen = []

    def head(hidden):
        seen.append(hidden)
        return hidden

    m.said(0, Voice(np.array([reading(state)], dtype=object), head))
    return seen[0]


def test_an_adapter_starts_as_the_identity():
    hidden = torch.randn(3)
    assert torch.equal(adapted(mixer(), hidden), hidden[None])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rows", [0, 1, BLOCK, BLOCK + 1])
def test_any_number_of_rows_is_mixed(rows, gated):
    a, d = torch.zeros(2, rows, 2)
    out = mixer(gated=gated)(a, [voice(d)], [0.5, 0.5])
    torch.testing.assert_close(out.exp(), torch.full((rows, 2), 0.5))


def test_an_anchor_without_a_share_speaks_where_no_donor_does():
    a, d = logits(0.8, 0.2), logits(0.2, 0.8)
    out = mixer()(a, [voice(d, [False])], [0.0, 1.0])
    torch.testing.assert_close(out.exp(), torch.tensor([[0.8, 0.2]]))
    out = mixer()(a, [voice(d)], [0.0, 1.0])
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
    features = torch.linspace(-2, 2, 2 + 5 * n)[None]
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
    m.adapters[0].own.weight.data = torch.eye(3)
    hidden = torch.tensor([3.0, 0.0, 4.0])
    moved = [adapted(m, hidden * scale) - hidden * scale for scale in (1, 1000)]
    torch.testing.assert_close(*moved, atol=1e-4, rtol=1e-4)


def test_half_precision_states_are_adapted_in_full():
    out = adapted(mixer(), torch.ones(3, dtype=torch.bfloat16))
    assert out.dtype == torch.float32


class Counted:
    """A head that knows how many states it was asked for."""

    def __init__(self):
        self.asked = 0

    def __call__(self, hidden):
        self.asked += len(hidden)
        return hidden[:, :2]


def test_a_place_that_several_readings_have_is_asked_for_once():
    head, states = Counted(), torch.randn(3, 3)
    readings = [reading(*states[:2]), None, reading(*states[1:]), reading(states[2])]
    said = mixer().said(0, Voice(np.array(readings, dtype=object), head))
    assert head.asked == 3
    wanted = states[:, :2].log_softmax(-1)
    assert [len(rows) for rows in said] == [2, 0, 2, 1]
    for rows, numbers in zip(said, ([0, 1], [], [1, 2], [2]), strict=True):
        for row, n in zip(rows, numbers, strict=True):
            torch.testing.assert_close(row, wanted[n])


def test_what_was_said_in_the_step_before_is_kept():
    """A place of before has its state elsewhere in memory; the numbers tell it."""
    m, head, kept = mixer(2), Counted(), {}
    states = torch.randn(3, 3)

    def ask(donor, *rows):
        voice = Voice(np.array([reading(*rows)], dtype=object), head, kept)
        return m.said(donor, voice)[0]

    first = ask(0, *states[:2])
    again = ask(0, states[1].clone(), states[2])
    assert head.asked == 3
    assert torch.equal(again[0], first[1])
    # What was not asked for again is forgotten, and another donor says other things.
    ask(0, states[0])
    assert head.asked == 4
    ask(1, states[0])
    assert head.asked == 5
    ask(0, states[0])
    assert head.asked == 5
    # After a step of training the same state is heard otherwise.
    with torch.no_grad():
        m.adapters[0].own.weight.add_(1.0)
    ask(0, states[0])
    assert head.asked == 6


def test_of_a_long_step_nothing_is_kept():
    head, kept = Counted(), {}
    states = torch.randn(FEW + 1, 3)
    long = Voice(np.array([reading(*states)], dtype=object), head, kept)
    mixer().said(0, long)
    assert kept == {}
    mixer().said(0, Voice(np.array([reading(*states[1:])], dtype=object), head, kept))
    assert len(kept) == FEW


def heard(m, beside, *numbers, said=None):
    """What a donor says at one state, beside which the anchor has these states."""
    nodes = tuple(Node(torch.ones(3), -1, 0, b"", True, beside=n) for n in numbers)
    readings, states = (np.full(1, None, dtype=object) for _ in range(2))
    readings[0], states[0] = Reading(nodes), beside
    return m.said(0, Voice(readings, first_two, said, states))[0]


def test_a_donor_hears_the_anchor_beside_it():
    """Of a state (1, 1, 1), with 2 and 3 times the anchor's, of size 1, added."""
    m = mixer()
    m.adapters[0].bridges[0].weight.data = torch.tensor([[2.0, 0], [0, 3], [0, 0]])
    anchor = torch.tensor([[1.0, 1.0], [5.0, -5.0]])
    found = heard(m, anchor, 0, 1, -1)
    wanted = torch.tensor([[3.0, 4.0], [3.0, -2.0], [1.0, 1.0]]).log_softmax(-1)
    torch.testing.assert_close(torch.stack(found), wanted)


def test_what_was_said_is_kept_with_what_was_heard():
    m, kept = mixer(), {}
    m.adapters[0].bridges[0].weight.data.fill_(1.0)
    m.adapters[0].bridges[0].weight.data[0] = 0.0
    first, *_ = heard(m, torch.tensor([[1.0, 1.0]]), 0, said=kept)
    other, *_ = heard(m, torch.tensor([[1.0, -1.0]]), 0, said=kept)
    deaf, *_ = heard(m, torch.tensor([[1.0, -1.0]]), -1, said=kept)
    assert not torch.allclose(first, other)
    torch.testing.assert_close(other, deaf)


def test_what_is_kept_holds_no_graph():
    m, kept = mixer(), {}
    [[said]] = m.said(0, voice(logits(0.8, 0.2), said=kept))
    assert said.requires_grad
    assert not any(row.requires_grad for row in kept.values())


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
