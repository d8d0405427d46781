import pytest
import torch

from fusion.braid.output_mixture import OutputMixer
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
