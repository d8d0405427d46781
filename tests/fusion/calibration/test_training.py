import math

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


def test_what_a_part_draws_is_of_the_seed_alone(store):
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        module, mine = Mean(), []

        def loss(group, module=module, mine=mine):
            mine.append(float(torch.rand(())))
            return module.loss(group)

        before = torch.get_rng_state()
        train_part(store, module, loss, ([1, 3], [2]), epochs=2, group=2, label="")
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append(mine)
    assert drawn[0] == drawn[1]


def far_away(module):
    """A loss whose slope is always clipped to 1: each step of Adam is its rate."""
    return lambda group: (module.number - 1e3).pow(2)


@pytest.mark.parametrize(
    ("items", "group", "epochs"), [(4, 1, 1), (4, 2, 2), (1, 9, 4)]
)
def test_the_rate_falls_in_a_straight_line_by_hand(items, group, epochs):
    """Four steps of 0.1, 0.075, 0.05 and 0.025; weights decay by 1 in 1000."""
    module = Mean()
    train(
        module, far_away(module), range(items), [0], epochs=epochs, learning_rate=0.1,
        seed=0, group=group, progress=False,
    )  # fmt: skip
    assert module.number.item() == pytest.approx(0.25, rel=1e-3)


def test_a_module_is_scored_before_and_twice_an_epoch():
    """Six steps an epoch: before, and after steps 3, 6, 9 and 12."""
    module, scored = Mean(), []

    def loss(group):
        if not torch.is_grad_enabled():
            scored.append(len(module.groups))
        return module.loss(group)

    train(
        module, loss, range(6), [1], epochs=2, learning_rate=0.1, seed=0, group=1,
        progress=False,
    )  # fmt: skip
    assert scored == [0, 3, 6, 9, 12]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_leaves_the_best_state(bad):
    """The fourth step spoils the weights for good; the state after the second stays."""
    module = Mean()

    def loss(group):
        spoilt = len(module.groups) >= 3
        return module.loss(group) * (bad if spoilt else 1.0)

    best = train(
        module, loss, [4, 4, 4, 4], [4], epochs=2, learning_rate=0.1, seed=0, group=1,
        progress=False,
    )  # fmt: skip
    assert 0 < module.number.item() < 1
    assert best == pytest.approx((4 - module.number.item()) ** 2)


def test_scoring_draws_the_same_numbers_every_time_and_none_of_trainings():
    scored, trained = [], []

    def run(held_out):
        module = Mean()
        torch.manual_seed(5)

        def loss(group):
            drawn = float(torch.rand(()))
            (trained if torch.is_grad_enabled() else scored).append(drawn)
            return module.loss(group)

        train(
            module, loss, range(4), held_out, epochs=1, learning_rate=0.1, seed=0,
            group=2, progress=False,
        )  # fmt: skip

    run([1])
    assert len(set(scored)) == 1
    assert len(set(trained)) == len(trained) == 2
    run([1, 2, 3, 4, 5])
    assert trained[2:] == trained[:2]


def test_weights_that_take_no_gradient_stay():
    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    module[0].requires_grad_(False)
    before = [p.clone() for p in module[0].parameters()]
    x = torch.ones(1, 1)
    train(
        module, lambda group: (module(x) - 3).pow(2).mean(), [0, 1], [2], epochs=3,
        learning_rate=0.1, seed=0, progress=False,
    )  # fmt: skip
    assert all(
        torch.equal(a, b) for a, b in zip(before, module[0].parameters(), strict=True)
    )


def test_another_seed_is_another_order():
    orders = set()
    for seed in range(5):
        module = Mean()
        train(
            module, module.loss, range(9), [1], epochs=1, learning_rate=0.0, seed=seed,
            group=1, progress=False,
        )  # fmt: skip
        orders.add(tuple(map(tuple, module.groups)))
    assert len(orders) == 5
