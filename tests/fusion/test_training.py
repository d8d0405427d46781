import numpy as np
import pytest
import torch
from torch import nn

from fusion.training import candidate_loss, donor_view, read_text, ridge, train

TEXT = "The house is old. def f(x): return x + 1"


def exact(strand, states, features):
    logits = strand.logits(states[:-1]).float()
    return float(nn.functional.cross_entropy(logits, features.targets))


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
def test_the_loss_of_unfused_states_is_exact(strands, name):
    strand = strands[name]
    features = read_text(strand, TEXT)
    loss = candidate_loss(strand, [features.hidden], [features])
    assert float(loss) == pytest.approx(
        exact(strand, features.hidden, features), abs=1e-4
    )


def test_mass_that_leaks_to_other_tokens_is_counted(strands):
    """States moved along the head's rarest rows: the whole vocabulary must count."""
    torch.manual_seed(0)
    strand = strands["llama"]
    features = read_text(strand, TEXT)
    rare = strand.logits(features.hidden).mean(0).argsort()[:50]
    push = strand.head.weight[rare].mean(0)
    moved = features.hidden + 0.5 * push * features.hidden.norm() / push.norm()
    wanted = exact(strand, moved, features)
    unmoved = exact(strand, features.hidden, features)
    found = float(candidate_loss(strand, [moved], [features]))
    # Without the random sample it would be a small part of the change.
    assert abs(found - wanted) < 0.3 * abs(wanted - unmoved)


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
    # A wild rate makes every epoch worse: nothing of it is kept.
    assert train(module, loss, train_on, held_out, learning_rate=1e3, **options) == best
    assert module.weight.item() == kept


def test_the_donor_beside_the_anchor_has_read_no_further(strands):
    anchor, donor = (read_text(strands[n], TEXT) for n in ("llama", "gemma"))
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
