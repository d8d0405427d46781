import pytest
import torch
from torch import nn

from fusion.calibration.features import compute_features
from fusion.calibration.sampled_softmax import SampledSoftmax, mean_distribution

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

    mean = torch.tensor([0.1, 0.2, 0.3, 0.4])
    softmax = SampledSoftmax(Head(), mean, torch.tensor([0]), active=1)
    assert softmax.active.tolist() == [0, 3]
    assert softmax.rest.tolist() == pytest.approx([0.0, 0.4, 0.6, 0.0])
