"""Fitting of fusers at decoder layers.

First every bridge in closed form, then weights and bridges together, by steps that run
through the anchor's upper layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from ..braid.fusers import DonorStates, LearnedWeighted
from ..braid.model import BraidedLLM
from .features import donor_view, read_layers
from .store import CalibrationStore, strands_key
from .training import train_part

TEXTS = 48  # to train on: steps through the anchor are dear
TEXT_GROUP = 3  # texts of a step
MOST_EPOCHS = 2
START = 0.05  # a donor's first weight: it helps a little before training, more hurts


@torch.no_grad()
def ridge(x: Tensor, y: Tensor, penalty: float = 1e-2) -> tuple[Tensor, Tensor]:
    """The ridge map from rows of x to rows of y.

    Parameters
    ----------
    x : Tensor (n, in)
    y : Tensor (n, out)
    penalty : float
        Relative to the mean variance of x's columns.

    Returns
    -------
    weight : Tensor (out, in)
    bias : Tensor (out,)

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> weight, bias = ridge(x, 3 * x + 1, penalty=0.0)
    >>> round(weight.item(), 4), round(bias.item(), 4)
    (3.0, 1.0)
    """
    rows, wanted = (part.cpu().to(torch.float64, copy=True).numpy() for part in (x, y))
    alpha = penalty * len(rows) * float(rows.var(axis=0).mean())
    found = Ridge(alpha, solver="cholesky", copy_X=False).fit(rows, wanted)
    weight, bias = (torch.from_numpy(part) for part in (found.coef_, found.intercept_))
    return weight.float().to(x.device), bias.float().to(x.device)


class _Middle:
    """The texts, and the donors' states, behind fusers at decoder layers."""

    def __init__(self, store: CalibrationStore, model: BraidedLLM) -> None:
        self.anchor, self.donors = model.anchor, model.donors
        self.layers, self.shares = model.layers(), model.config.shares[1:]
        self.fusers = nn.ModuleDict({str(n): model.fusers[str(n)] for n in self.layers})
        # Of all texts, not the first: files are often sorted by domain.
        draw = np.random.default_rng(store.seed).permutation
        self.training: list[int] = sorted(draw(store.training)[:TEXTS].tolist())
        self.held_out: list[int] = sorted(draw(store.held_out)[: TEXTS // 4].tolist())
        self.softmax = store.sampled_softmax(self.anchor)
        self.texts = store.features(self.anchor)
        self.others = [store.features(d, self.anchor) for d in self.donors]
        self.taps = [model.donor_taps(d) for d in self.donors]
        self.states = [self._read(j) for j in range(len(self.donors))]

    def _read(self, j: int) -> dict[int, dict[Any, Tensor]]:
        """Donor j's states of every chosen text, at the layers that are read."""
        chosen = [*self.training, *self.held_out]
        texts = [self.others[j][i] for i in chosen]
        taps = [self.taps[j][n] for n in self.layers]
        found = read_layers(self.donors[j], texts, taps)
        return dict(zip(chosen, found, strict=True))

    def view(self, j: int, i: int, layer: int) -> DonorStates:
        """Donor j's states that feed a layer, beside text i."""
        states = self.states[j][i][self.taps[j][layer]]
        return donor_view(self.texts[i], self.others[j][i], states)

    def bridge(self) -> None:
        """Closed-form bridges, and the small weights that training starts from."""
        texts = [self.texts[i] for i in self.training]
        own = read_layers(self.anchor, texts, self.layers)
        for layer in self.layers:
            fuser = self.fusers[str(layer)]
            if not isinstance(fuser, LearnedWeighted):
                continue
            target = torch.cat([states[layer] for states in own]).float()
            for j, linear in enumerate(fuser.bridges.children()):
                views = [self.view(j, i, layer) for i in self.training]
                rows = torch.cat([view.aligned()[0][0] for view in views])
                weight, bias = ridge(rows, target)
                linear.load_state_dict({"weight": weight, "bias": bias})
            start = [[START / s if s > 0 else 0.0] for s in self.shares]
            fuser.weight.data.copy_(torch.tensor(start).expand_as(fuser.weight))

    def _edit(self, i: int, layer: int, hidden: Tensor) -> Tensor:
        views = [self.view(j, i, layer) for j in range(len(self.donors))]
        fused: Tensor = self.fusers[str(layer)](hidden.float(), views, self.shares)
        return fused.to(hidden.dtype)

    def loss(self, group: Sequence[int]) -> Tensor:
        """Mean loss (nats per token) of some texts, read with the fusers."""
        fused = []
        for i in group:
            edits = {n: partial(self._edit, i, n) for n in self.layers}
            ids = self.texts[i].ids[None]
            final = self.anchor.run(ids, taps=["final"], edits=edits)["final"]
            fused.append(final[0, :-1])
        targets = torch.cat([self.texts[i].targets for i in group])
        return self.softmax.loss(torch.cat(fused), targets)


def fit_middle(store: CalibrationStore, model: BraidedLLM, epochs: int) -> None:
    """Fit the fusers at decoder layers in place, or take them from the store.

    Parameters
    ----------
    store : CalibrationStore
    model : BraidedLLM
        With decoder layers among its fusion layers.
    epochs : int
        `MOST_EPOCHS` at most are done.
    """
    config = model.config
    middle = _Middle(store, model)

    def fit() -> None:
        middle.bridge()
        train_part(
            store,
            middle.fusers,
            middle.loss,
            (middle.training, middle.held_out),
            epochs=min(epochs, MOST_EPOCHS),
            group=TEXT_GROUP,
            label=f"{config.anchor}: {config.strategy} at layers {middle.layers}",
        )

    key = [
        *strands_key(model.anchor, model.donors),
        config.strategy,
        middle.layers,
        middle.shares,
        epochs,
        middle.training,
    ]
    if config.donor_layers:
        key.append(config.donor_layers)
    store.load_or_fit("mid", key, middle.fusers, fit)
