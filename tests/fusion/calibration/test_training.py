import pytest
import torch
from torch import nn

from fusion.calibration.training import train, train_part


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


class Mean(nn.Module):
    """One number, which is to be the mean of others."""

    def __init__(self):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))
        self.groups = []

    def loss(self, group):
        if torch.is_grad_enabled():
            self.groups.append(group)
        return (self.number - torch.tensor(group, dtype=torch.float)).pow(2).mean()


def test_every_item_has_its_turn_in_every_epoch():
    module, items = Mean(), [3, 5, 7, 9, 11]
    train(
        module, module.loss, items, [4], epochs=3, learning_rate=0.1, seed=0, group=2,
        progress=False,
    )  # fmt: skip
    assert [len(group) for group in module.groups] == [2, 2, 1] * 3
    epochs = [sum(module.groups[i : i + 3], []) for i in (0, 3, 6)]
    assert all(sorted(epoch) == items for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_score_is_the_mean_over_all_held_out_items():
    """Of (0 - 1)^2, (0 - 2)^2, (0 - 6)^2, in groups of two: 41 / 3."""
    module = Mean()
    options = {"epochs": 1, "seed": 0, "group": 2, "progress": False}
    best = train(module, module.loss, [0], [1, 2, 6], learning_rate=0.0, **options)
    assert best == pytest.approx(41 / 3)


@pytest.mark.parametrize("items", [([], [1]), ([1], [])], ids=["training", "held out"])
def test_without_items_nothing_is_changed(items):
    module = Mean()
    with pytest.raises(ValueError, match="to judge by"):
        train(module, module.loss, *items, epochs=1, learning_rate=1.0, seed=0)
    assert module.number.item() == 0.0


def test_a_part_is_trained_with_the_seed_of_the_store(store):
    modules = [Mean() for _ in range(2)]
    options = {"epochs": 2, "group": 2}
    items = (list(range(9)), [4])
    train_part(store, modules[0], modules[0].loss, items, label="", **options)
    train(modules[1], modules[1].loss, *items, seed=store.seed, learning_rate=5e-4,
          progress=False, **options)  # fmt: skip
    assert modules[0].groups == modules[1].groups
    assert torch.equal(modules[0].number, modules[1].number)
