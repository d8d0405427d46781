"""Fitting of fusers on calibration text.

After the final norm nothing runs through a model: the states are cached, and what is
trained is a map. At decoder layers a step runs through the anchor's upper layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..braid.cache import DonorStates
from ..braid.fusers import CrossAttention, LearnedWeighted
from ..braid.model import BraidedLLM
from ..strands.strand import Strand
from .store import Session, who
from .training import donor_view, read_layers, ridge

RATE = 5e-4
MID_TEXTS = 48  # training through the anchor is dear
GROUP = 512  # positions of a training step, or about as many in whole texts
TEXT_GROUP = 3


class Positions:
    """All texts as one list of positions: what a fuser without context needs.

    Neighbouring positions tell nearly the same; steps over shuffled positions of all
    texts learn far more than steps over whole texts.
    """

    def __init__(
        self, session: Session, anchor: Strand, donors: Sequence[Strand]
    ) -> None:
        texts = session.features(anchor)
        self.softmax = session.softmax(anchor)
        self.hidden = torch.cat([t.hidden[:-1] for t in texts])
        self.targets = torch.cat([t.targets for t in texts])
        self.sources = [
            self._source(texts, session.features(d, anchor)) for d in donors
        ]
        text = np.repeat(np.arange(len(texts)), [len(t.targets) for t in texts])
        self.training = np.flatnonzero(np.isin(text, session.training)).tolist()
        self.held_out = np.flatnonzero(np.isin(text, session.held_out)).tolist()

    @staticmethod
    def _source(texts: Sequence[Any], others: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """The donor's states, and beside each position which one (-1: none yet)."""
        index, offset = [], 0
        for text, other in zip(texts, others, strict=True):
            last = donor_view(text, other, other.hidden).last[0, :-1]
            index.append(torch.where(last >= 0, last + offset, -1))
            offset += len(other.ids)
        return torch.cat([o.hidden for o in others]), torch.cat(index)

    def loss(self, fuser: nn.Module, group: Sequence[int]) -> Tensor:
        device = self.hidden.device
        at = torch.tensor(group, device=device)
        count = torch.arange(len(at), device=device)
        views = []
        for states, index in self.sources:
            last = index[at]
            rows = states[last.clamp(min=0)]
            last = torch.where(last >= 0, count, -1)
            visible = (count == last[:, None])[None]
            views.append(DonorStates(rows[None], last[None], visible))
        shares = [1.0] * len(views)
        fused = fuser(self.hidden[at][None].float(), views, shares)[0]
        return self.softmax.loss(fused, self.targets[at])

    def train(
        self, session: Session, fuser: nn.Module, epochs: int, label: str
    ) -> None:
        def loss(group: Sequence[int]) -> Tensor:
            return self.loss(fuser, group)

        items = (self.training, self.held_out)
        session.train(fuser, loss, items, GROUP, epochs, RATE, label)


def _fit_aligned(
    session: Session,
    fuser: LearnedWeighted,
    anchor: Strand,
    donors: Sequence[Strand],
    epochs: int,
) -> None:
    """A fuser after the final norm that adds the states beside each position."""
    # Every strand reads the texts before anything is changed: one may refuse them.
    positions = Positions(session, anchor, donors)
    names = [who(d) for d in donors]

    def fit() -> None:
        label = f"{anchor.name}: own adapter"
        if donors:
            # The own adapter is the best start: what is left to learn is the donor.
            _start_from_own(session, fuser, anchor, epochs)
            label = f"{anchor.name} + {', '.join(d.name for d in donors)}: final"
        positions.train(session, fuser, epochs, label)

    key = [who(anchor), names, type(fuser).__name__ if donors else "own", epochs]
    session.part("final" if donors else "own", key, fuser, fit)


def own_map(session: Session, strand: Strand, epochs: int) -> dict[str, Tensor]:
    """The strand's own adapter, the matched control's fuser: a linear map."""
    module = LearnedWeighted(strand.width, [], add=True).to(strand.device)
    _fit_aligned(session, module, strand, [], epochs)
    state = module.state_dict()
    return {k.removeprefix("own."): v for k, v in state.items() if "own." in k}


def _start_from_own(
    session: Session, fuser: LearnedWeighted, anchor: Strand, epochs: int
) -> None:
    own = own_map(session, anchor, epochs)
    start = {f"own.{k}": v for k, v in own.items()}
    fuser.load_state_dict({**fuser.state_dict(), **start})


def fit_final(session: Session, model: BraidedLLM, epochs: int) -> None:
    fuser, anchor = model.fusers["final"], model.anchor
    aligned = fuser.aligned if isinstance(fuser, CrossAttention) else fuser
    assert isinstance(aligned, LearnedWeighted)  # for the type checker
    if not model.donors:
        _start_from_own(session, aligned, anchor, epochs)
        return
    _fit_aligned(session, aligned, anchor, model.donors, epochs)
    if isinstance(fuser, CrossAttention):
        _fit_attention(session, fuser, anchor, model.donors, epochs)


def _fit_attention(
    session: Session,
    fuser: CrossAttention,
    anchor: Strand,
    donors: Sequence[Strand],
    epochs: int,
) -> None:
    """What earlier donor tokens bring on top of the aligned one: whole texts."""
    texts, softmax = session.features(anchor), session.softmax(anchor)
    others = [session.features(d, anchor) for d in donors]
    shares = [1.0] * len(others)

    def loss(group: Sequence[int]) -> Tensor:
        fused = []
        for i in group:
            views = [donor_view(texts[i], o[i], o[i].hidden) for o in others]
            hidden = texts[i].hidden[None].float()
            fused.append(fuser(hidden, views, shares)[0, :-1])
        return softmax.loss(
            torch.cat(fused), torch.cat([texts[i].targets for i in group])
        )

    def fit() -> None:
        label = f"{anchor.name}: attention after the final norm"
        items = (session.training, session.held_out)
        session.train(fuser, loss, items, TEXT_GROUP, epochs, RATE, label)

    key = [who(anchor), [who(d) for d in donors], epochs]
    session.part("attention", key, fuser, fit)


class _Middle:
    """The texts, and the donors' states, behind fusers at decoder layers."""

    def __init__(self, session: Session, model: BraidedLLM) -> None:
        self.anchor, self.donors = model.anchor, model.donors
        self.layers, self.shares = model.layers(), model.config.shares[1:]
        self.fusers = nn.ModuleDict({str(n): model.fusers[str(n)] for n in self.layers})
        # Of all texts, not the first: files are often sorted by domain.
        draw = np.random.default_rng(session.seed).permutation
        self.training = sorted(draw(session.training)[:MID_TEXTS].tolist())
        self.held_out = sorted(draw(session.held_out)[: MID_TEXTS // 4].tolist())
        self.softmax = session.softmax(self.anchor)
        self.texts = session.features(self.anchor)
        self.others = [session.features(d, self.anchor) for d in self.donors]
        self.taps = [model.donor_taps(d) for d in self.donors]
        chosen = [*self.training, *self.held_out]
        self.states = [
            dict(zip(chosen, read_layers(donor, [other[i] for i in chosen],
                                         [tap[n] for n in self.layers]), strict=True))
            for donor, other, tap in zip(
                self.donors, self.others, self.taps, strict=True
            )
        ]  # fmt: skip

    def views(self, i: int, layer: int) -> list[DonorStates]:
        """The donors' states that feed a layer, beside text i."""
        return [
            donor_view(self.texts[i], other[i], states[i][tap[layer]])
            for other, states, tap in zip(
                self.others, self.states, self.taps, strict=True
            )
        ]

    def bridge(self) -> None:
        """Closed-form bridges, and the small weights that training starts from."""
        own = read_layers(
            self.anchor, [self.texts[i] for i in self.training], self.layers
        )
        for layer in self.layers:
            fuser = self.fusers[str(layer)]
            if not isinstance(fuser, LearnedWeighted):
                continue
            target = torch.cat([states[layer] for states in own]).float()
            for j, linear in enumerate(fuser.bridges.children()):
                rows = [self.views(i, layer)[j].aligned()[0][0] for i in self.training]
                weight, bias = ridge(torch.cat(rows), target)
                linear.load_state_dict({"weight": weight, "bias": bias})
            # s = 0.05 helps a little before any training; more hurts.
            start = [[0.05 / s if s > 0 else 0.0] for s in self.shares]
            fuser.weight.data.copy_(torch.tensor(start).expand_as(fuser.weight))

    def _edit(self, i: int, layer: int, hidden: Tensor) -> Tensor:
        fused = self.fusers[str(layer)](
            hidden.float(), self.views(i, layer), self.shares
        )
        return fused.to(hidden.dtype)  # type: ignore[no-any-return]

    def loss(self, group: Sequence[int]) -> Tensor:
        fused = []
        for i in group:
            edits = {n: partial(self._edit, i, n) for n in self.layers}
            ids = self.texts[i].ids[None]
            final = self.anchor.run(ids, taps=["final"], edits=edits)["final"]
            fused.append(final[0, :-1])
        targets = torch.cat([self.texts[i].targets for i in group])
        return self.softmax.loss(torch.cat(fused), targets)


def fit_mid(session: Session, model: BraidedLLM, epochs: int) -> None:
    """Bridges in closed form, then weights and bridges through the anchor."""
    config = model.config
    middle = _Middle(session, model)

    def fit() -> None:
        middle.bridge()
        label = f"{config.anchor}: {config.strategy} at layers {middle.layers}"
        items = (middle.training, middle.held_out)
        session.train(middle.fusers, middle.loss, items, TEXT_GROUP, min(epochs, 2),
                      RATE, label)  # fmt: skip

    key = [who(model.anchor), [who(d) for d in model.donors], config.strategy,
           middle.layers, middle.shares, epochs, middle.training]  # fmt: skip
    if config.donor_layers:
        key.append(config.donor_layers)
    session.part("mid", key, middle.fusers, fit)
