"""Training of small modules by steps, with the best state kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from .store import CalibrationStore

RATE = 5e-4

Loss = Callable[[Sequence[int]], Tensor]


def _groups(
    items: Sequence[int], group: int, epochs: int, seed: int
) -> Iterator[tuple[list[int], bool]]:
    """The items of each step, and whether to score after it: twice an epoch."""
    generator = np.random.default_rng(seed)
    steps = math.ceil(len(items) / group)
    for _ in range(epochs):
        order = generator.permutation(items).tolist()
        for step in range(steps):
            part = order[step * group : (step + 1) * group]
            yield part, step + 1 in (steps, steps // 2)


def _mean_loss(
    loss: Loss, items: Sequence[int], group: int, seed: int, cards: set[torch.device]
) -> float:
    """The loss of all items, always with the same random numbers."""
    with torch.no_grad(), torch.random.fork_rng(devices=cards):
        torch.manual_seed(seed)
        parts = [items[i : i + group] for i in range(0, len(items), group)]
        return sum(float(loss(part)) * len(part) for part in parts) / len(items)


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def train(
    module: nn.Module,
    loss: Loss,
    training: Sequence[int],
    held_out: Sequence[int],
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    group: int = 4,
    label: str = "",
    progress: bool = True,
) -> float:
    """Train a module in place with AdamW and keep the state that is best held out.

    Twice an epoch the module is scored. The state before training counts too, so a
    module never ends worse than it began.

    Parameters
    ----------
    module : nn.Module
    loss : callable
        From numbers of items (texts or positions) to their mean loss.
    training, held_out : sequence of int
        The items to train on and to score by; some of each.
    epochs : int
    learning_rate : float
        Of the first step; it falls to 0 in a straight line.
    seed : int
        Of the order, and of all that the loss draws: it must not depend on what was
        trained before. The caller's generator stays as it is.
    group : int
        Items of a step.
    label : str
        Of the progress bar.
    progress : bool
        Whether to show one.

    Returns
    -------
    float
        The best loss on the held-out items.

    Raises
    ------
    ValueError
        Without items to train on or to score by.
    """
    if not training or not held_out:
        raise ValueError(
            f"received {len(training)} items to train on and {len(held_out)} to judge "
            "by; give longer texts: one token alone predicts nothing"
        )
    parameters = [p for p in module.parameters() if p.requires_grad]
    cards = {p.device for p in parameters if p.device.type == "cuda"}
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    steps = epochs * math.ceil(len(training) / group)
    # Large steps first, none at the end: with this little text it overfits otherwise.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: 1 - i / steps)
    module.eval()
    best, kept = _mean_loss(loss, held_out, group, seed, cards), _copied(module)
    groups = _groups(training, group, epochs, seed)
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(seed)
        for part, score in tqdm(
            groups, desc=label, total=steps, disable=not progress, leave=False
        ):
            module.train()
            optimiser.zero_grad()
            loss(part).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            if score:
                module.eval()
                now = _mean_loss(loss, held_out, group, seed, cards)
                if now < best:
                    best, kept = now, _copied(module)
    module.load_state_dict(kept)
    return best


def train_part(
    store: CalibrationStore,
    part: nn.Module,
    loss: Loss,
    items: tuple[Sequence[int], Sequence[int]],
    *,
    epochs: int,
    group: int,
    label: str,
    learning_rate: float = RATE,
) -> None:
    """Train a part of a braid as `train` does, with the seed of a store.

    Parameters
    ----------
    store : CalibrationStore
        Whose seed, and whether to show a progress bar.
    part, loss
        As in `train`.
    items : pair of sequences of int
        To train on, and held out.
    epochs, group, label, learning_rate
        As in `train`.
    """
    train(
        part,
        loss,
        *items,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=store.seed,
        group=group,
        label=label,
        progress=store.progress,
    )
