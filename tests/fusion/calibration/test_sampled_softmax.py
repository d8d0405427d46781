import math

import pytest
import torch
from torch import nn

from fusion.calibration.features import compute_features
from fusion.calibration.sampled_softmax import SampledSoftmax, mean_distribution
from fusion.strands.strand import Strand

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
    [features] = compute_features(strand, [TEXT])
    hidden = features.hidden * 1.1
    loss = sampled(strand, features).loss(hidden[:-1], features.targets)
    assert float(loss) == pytest.approx(exact(strand, hidden, features), abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_mass_that_leaks_to_tokens_out_of_sight_is_counted(strands, name):
    """States moved along the head's rarest rows, none of them active."""
    torch.manual_seed(0)
    strand = strands[name]
    [features] = compute_features(strand, [TEXT])
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


def test_the_mean_distribution_is_the_strands_own(strands):
    strand = strands["llama"]
    [features] = compute_features(strand, [TEXT])
    mean = mean_distribution(strand, [features, features], seed=0)
    wanted = strand.logits(features.hidden).softmax(-1).mean(0)
    torch.testing.assert_close(mean, wanted)


def test_its_gradient_is_that_of_the_exact_loss_when_every_token_is_active(strands):
    strand = strands["llama"]
    [features] = compute_features(strand, [TEXT])
    found, wanted = (features.hidden[:-1].clone().requires_grad_() for _ in range(2))
    sampled(strand, features).loss(found, features.targets).backward()
    nn.functional.cross_entropy(strand.logits(wanted), features.targets).backward()
    torch.testing.assert_close(found.grad, wanted.grad, atol=1e-6, rtol=1e-4)


def test_all_targets_and_the_likeliest_tokens_are_active():
    """Of the means 0.1, 0.2, 0.3, 0.4 the largest is token 3; 0 is asked for."""

    class Head:
        head = nn.Linear(2, 4)
        head_rows = Strand.head_rows

    mean = torch.tensor([0.1, 0.2, 0.3, 0.4])
    softmax = SampledSoftmax(Head(), mean, torch.tensor([0]), active=1)
    assert softmax.active.tolist() == [0, 3]
    assert softmax.rest.tolist() == pytest.approx([0.0, 0.4, 0.6, 0.0])


class FiveWords:
    """A head of five tokens over states of one number; the logits of 1 are its rows."""

    head_rows = Strand.head_rows

    def __init__(self, logits, bias=None, cap=lambda x: x):
        self.head = nn.Linear(1, 5, bias=bias is not None)
        self.head.weight.data = torch.tensor(logits)[:, None]
        if bias is not None:
            self.head.bias.data = torch.tensor(bias)
        self.cap = cap


LOGITS = [0.5, -1.0, 2.0, 0.0, 1.5]
MEAN = torch.tensor([0.1, 0.05, 0.5, 0.15, 0.2])


@pytest.mark.parametrize("target", [0, 2, 3])
def test_the_sampled_partition_function_is_right_on_average(monkeypatch, target):
    """Tokens 2 (the likeliest) and the target count in full; each of the others is
    drawn with its chance q, so the mean of exp l / q over the draws is their sum.

    exp(0.5) + exp(-1) + exp(2) + exp(0) + exp(1.5) = 14.8873.
    """
    strand = FiveWords(LOGITS)
    softmax = SampledSoftmax(strand, MEAN, torch.tensor([target]), active=1, sampled=1)
    z = 0.0
    for token, chance in enumerate(softmax.rest.tolist()):
        drawn = torch.tensor([token])
        monkeypatch.setattr(torch, "multinomial", lambda *a, d=drawn, **o: d)
        if chance:
            loss = softmax.loss(torch.ones(1, 1), torch.tensor([target]))
            z += chance * math.exp(loss.item() + LOGITS[target])
    assert z == pytest.approx(14.8873, abs=1e-4)


def test_a_sample_of_every_other_token_by_hand(monkeypatch):
    """Active: 2 and 0. Of 1, 3 and 4 are drawn 1 and 4, with chances 1/8 and 1/2:
    Z = e^2 + e^0.5 + e^-1 / (2 / 8) + e^1.5 / (2 / 2)."""
    softmax = SampledSoftmax(
        FiveWords(LOGITS), MEAN, torch.tensor([0]), active=1, sampled=2
    )
    assert softmax.rest.tolist() == pytest.approx([0, 1 / 8, 0, 3 / 8, 1 / 2])
    monkeypatch.setattr(torch, "multinomial", lambda *a, **o: torch.tensor([1, 4]))
    z = math.exp(2) + math.exp(0.5) + 4 * math.exp(-1) + math.exp(1.5)
    loss = softmax.loss(torch.ones(1, 1), torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(z) - 0.5, rel=1e-6)


@pytest.mark.parametrize("bias", [None, [0.3, 0.1, -0.2, 0.0, 1.0]])
@pytest.mark.parametrize("cap", [lambda x: x, lambda x: 2 * torch.tanh(x / 2)])
def test_the_full_vocabulary_by_hand(bias, cap):
    """-log softmax, with the bias of the head and the cap on its logits."""
    strand = FiveWords(LOGITS, bias, cap)
    softmax = SampledSoftmax(strand, MEAN, torch.tensor([3, 1]))
    assert softmax.active.tolist() == [0, 1, 2, 3, 4]
    rows = [
        cap(torch.tensor(LOGITS) * state + torch.tensor(bias or [0.0] * 5))
        for state in (1.0, -2.0)
    ]
    wanted = [
        math.log(sum(math.exp(x) for x in row.tolist())) - float(row[target])
        for row, target in zip(rows, (3, 1), strict=True)
    ]
    loss = softmax.loss(torch.tensor([[1.0], [-2.0]]), torch.tensor([3, 1]))
    assert loss.item() == pytest.approx(sum(wanted) / 2, rel=1e-5)


def test_the_bias_and_the_cap_count_for_drawn_tokens_too(monkeypatch):
    """Every other token drawn once with its chance: then the sum is the exact one."""
    bias = [0.3, 0.1, -0.2, 0.0, 1.0]
    strand = FiveWords(LOGITS, bias, lambda x: 2 * torch.tanh(x / 2))
    mean = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2])  # of 1, 3 and 4 each a third
    softmax = SampledSoftmax(strand, mean, torch.tensor([0]), active=1, sampled=3)
    monkeypatch.setattr(torch, "multinomial", lambda *a, **o: torch.tensor([1, 3, 4]))
    logits = strand.cap(torch.tensor(LOGITS) + torch.tensor(bias))
    wanted = nn.functional.cross_entropy(logits[None], torch.tensor([0]))
    loss = softmax.loss(torch.ones(1, 1), torch.tensor([0]))
    assert loss.item() == pytest.approx(float(wanted), rel=1e-5)


def test_a_token_that_no_text_makes_likely_can_still_be_drawn():
    mean = torch.tensor([0.0, 0.0, 0.6, 0.0, 0.4])
    softmax = SampledSoftmax(FiveWords(LOGITS), mean, torch.tensor([2]), active=1)
    assert (softmax.rest > 0).tolist() == [True, True, False, True, True]
    assert float(softmax.rest.sum()) == pytest.approx(1.0)


def test_more_positions_than_are_needed_are_drawn_by_the_seed(strands, monkeypatch):
    monkeypatch.setattr("fusion.calibration.sampled_softmax.POSITIONS", 3)
    features = compute_features(strands["llama"], [TEXT])
    means = [mean_distribution(strands["llama"], features, s) for s in (0, 0, 1)]
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])
    assert float(means[2].sum()) == pytest.approx(1.0, abs=1e-5)
