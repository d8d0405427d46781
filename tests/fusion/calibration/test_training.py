import numpy as np
import pytest
import tiny
import torch
from torch import nn

from fusion.calibration.training import (
    SampledSoftmax,
    donor_view,
    mean_distribution,
    read_texts,
    ridge,
    train,
)

TEXT = "The house is old. def f(x): return x + 1"


def exact(strand, states, features):
    logits = strand.logits(states[:-1]).float()
    return float(nn.functional.cross_entropy(logits, features.targets))


def sampled(strand, features, **options):
    mean = mean_distribution(strand, [features], seed=0)
    return SampledSoftmax(strand, mean, features.targets, **options)


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_the_loss_is_exact_when_every_token_is_active(strands, name):
    strand = strands[name]
    [features] = read_texts(strand, [TEXT])
    hidden = features.hidden * 1.1
    loss = sampled(strand, features).loss(hidden[:-1], features.targets)
    assert float(loss) == pytest.approx(exact(strand, hidden, features), abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_mass_that_leaks_to_tokens_out_of_sight_is_counted(strands, name):
    """States moved along the head's rarest rows, none of them active."""
    torch.manual_seed(0)
    strand = strands[name]
    [features] = read_texts(strand, [TEXT])
    softmax = sampled(strand, features, active=8, sampled=20_000)
    assert len(softmax.active) < strand.vocab_size / 4
    rare = strand.logits(features.hidden).mean(0).argsort()[:50]
    rare = rare[~torch.isin(rare, softmax.active)]
    push = strand.head.weight[rare].mean(0)
    moved = features.hidden + 0.3 * push * features.hidden.norm() / push.norm()
    wanted = exact(strand, moved, features)
    unmoved = exact(strand, features.hidden, features)
    found = float(softmax.loss(moved[:-1], features.targets))
    assert abs(found - wanted) < 0.05 * abs(wanted - unmoved)


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_texts_read_together_are_as_read_alone(strands, name):
    texts = [TEXT, "a", TEXT * 3, "It rains \U0001f327 today.", TEXT[:20]]
    together = read_texts(strands[name], texts)
    for text, features in zip(texts, together, strict=True):
        [alone] = read_texts(strands[name], [text])
        assert torch.equal(features.ids, alone.ids)
        assert features.ends.tolist() == alone.ends.tolist()
        torch.testing.assert_close(features.hidden, alone.hidden, atol=1e-5, rtol=1e-5)


def test_the_mean_distribution_is_the_strands_own(strands):
    strand = strands["llama"]
    [features] = read_texts(strand, [TEXT])
    mean = mean_distribution(strand, [features, features], seed=0)
    wanted = strand.logits(features.hidden).softmax(-1).mean(0)
    torch.testing.assert_close(mean, wanted)


def test_training_keeps_the_best_epoch_and_never_gets_worse():
    torch.manual_seed(0)
    module = nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 12)[:, None]

    def loss(group):
        return (module(x[group]) - 2 * x[group]).pow(2).mean()

    train_on, held_out = list(range(0, 12, 2)), list(range(1, 12, 2))
    before = float(loss(held_out).detach())
    options = {"epochs": 5, "seed": 0, "progress": False}
    best = train(module, loss, train_on, held_out, learning_rate=0.1, **options)
    assert best < before
    kept = module.weight.item()
    # A wild rate makes it worse: nothing of it is kept.
    assert train(module, loss, train_on, held_out, learning_rate=1e3, **options) == best
    assert module.weight.item() == kept


def test_the_donor_beside_the_anchor_has_read_no_further(strands):
    [anchor], [donor] = (read_texts(strands[n], [TEXT]) for n in ("llama", "gemma"))
    view = donor_view(anchor, donor, donor.hidden)
    for t, end in enumerate(anchor.ends):
        seen = np.flatnonzero(view.visible[0, t].numpy())
        assert (donor.ends[seen] <= end).all()
        assert (donor.ends[len(seen) :] > end).all()
        assert view.last[0, t] == len(seen) - 1


def test_a_heavier_penalty_gives_a_smaller_map():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [2.0], [3.0]])
    sizes = [float(ridge(x, y, p)[0].norm()) for p in (0.0, 0.1, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert ridge(x, y, 0.0)[0].flatten().tolist() == pytest.approx([1.0, 2.0, 3.0])


def test_special_tokens_that_are_written_out_are_read_as_such(strands):
    """A donor is given the words that the anchor's tokens write, as in serving."""
    gemma, llama = strands["gemma"], strands["llama"]
    text = "<bos>The rain<eos> stays<|end|>"
    [own] = read_texts(gemma, [text])
    eos = gemma.tokenizer.eos_token_id
    assert own.ids.tolist() == gemma.tokens.read(text)
    assert own.ids.tolist().count(eos) == 1
    [donor] = read_texts(llama, [text], anchor=gemma)
    assert donor.ids.tolist() == llama.tokens.encode("The rain stays<|end|>")
    assert own.ends[-1] == donor.ends[-1]
    [sister] = read_texts(strands["llama-2"], [text], anchor=llama)
    assert sister.ids.tolist() == llama.tokens.read(text)


def test_texts_on_both_sides_of_a_turn_are_read_apart():
    strand = tiny.long_rope_strand(10)
    texts = ["a b c", "a b c d e", tiny.PROSE[:20], tiny.PROSE]
    together = read_texts(strand, texts)
    assert len({strand.is_long(len(t.ids)) for t in together}) == 2
    for text, features in zip(texts, together, strict=True):
        [alone] = read_texts(strand, [text])
        torch.testing.assert_close(features.hidden, alone.hidden, atol=1e-5, rtol=1e-5)
