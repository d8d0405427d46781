"""Fitting of fusers after the final norm, and of each strand's own adapter.

There nothing runs through a model any more: the states are features of the texts, and
what is trained is a map of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..braid.fusers import CrossAttention, DonorStates, LearnedWeighted
from ..braid.model import BraidedLLM
from ..strands.strand import Strand
from .features import TextFeatures, donor_view
from .store import CalibrationStore, strands_key
from .training import train_part

POSITION_GROUP = 512  # positions of a step
POSITION_RATE = 1e-3  # for as many steps or more; less for fewer, or they do harm
POSITION_STEPS = 600
TEXT_GROUP = 3  # about as many, in whole texts


class Positions:
    """All texts as one list of N positions: what a fuser without context needs.

    Neighbouring positions tell nearly the same; steps over shuffled positions of all
    texts learn far more than steps over whole texts.

    Parameters
    ----------
    store : CalibrationStore
    anchor : Strand
    donors : sequence of Strand
    served : bool
        Whether donors read each text so far as in serving, which may cut it otherwise
        than the whole text.

    Attributes
    ----------
    hidden : Tensor (N, width)
        The anchor's states after the final norm.
    targets : Tensor (N,), int64
        The tokens that come next.
    sources : list of (Tensor (M, width), Tensor (N,))
        For each donor its states, and which of them is beside each position: -1 where
        the donor has read nothing yet.
    training, held_out : list of int
        Positions of the texts to train on, and of those held out.
    """

    def __init__(
        self,
        store: CalibrationStore,
        anchor: Strand,
        donors: Sequence[Strand],
        served: bool = True,
    ) -> None:
        texts = store.features(anchor)
        self.softmax = store.sampled_softmax(anchor)
        self.hidden = torch.cat([t.hidden[:-1] for t in texts])
        self.targets = torch.cat([t.targets for t in texts])
        self.sources = [
            _source(
                texts,
                store.features(donor, anchor),
                store.cuts(anchor, donor) if served else [],
            )
            for donor in donors
        ]
        text = np.repeat(np.arange(len(texts)), [len(t.targets) for t in texts])
        self.training: list[int] = np.flatnonzero(
            np.isin(text, store.training)
        ).tolist()
        self.held_out: list[int] = np.flatnonzero(
            np.isin(text, store.held_out)
        ).tolist()

    def loss(self, fuser: nn.Module, group: Sequence[int]) -> Tensor:
        """Mean loss (nats per token) of a fuser at some positions."""
        at = torch.tensor(group, device=self.hidden.device)
        count = torch.arange(len(at), device=self.hidden.device)
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


def _source(
    texts: Sequence[TextFeatures],
    others: Sequence[TextFeatures],
    cuts: Sequence[tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """The donor's states, and beside each position which one (-1: none yet)."""
    index, offset = [], 0
    for text, other in zip(texts, others, strict=True):
        last = donor_view(text, other, other.hidden).last[0]
        index.append(torch.where(last >= 0, last + offset, -1))
        offset += len(other.ids)
    for last, (at, states) in zip(index, cuts, strict=False):
        last[at] = torch.arange(offset, offset + len(at), device=last.device)
        offset += len(states)
    states = [*(o.hidden for o in others), *(states for _, states in cuts)]
    # Behind the last token of a text nothing is predicted.
    return torch.cat(states), torch.cat([last[:-1] for last in index])


def fit_final(store: CalibrationStore, model: BraidedLLM, epochs: int) -> None:
    """Fit the fuser after the final norm in place, or take it from the store.

    Parameters
    ----------
    store : CalibrationStore
    model : BraidedLLM
        With "final" among its fusion layers.
    epochs : int
    """
    fuser, anchor = model.fusers["final"], model.anchor
    aligned = fuser.aligned if isinstance(fuser, CrossAttention) else fuser
    adds = isinstance(aligned, LearnedWeighted)
    if adds and not model.donors:
        _fit_own(store, aligned, anchor, epochs)
    elif adds:
        _fit_aligned(store, aligned, anchor, model.donors, epochs)
    if aligned is not fuser and model.donors:
        _fit_texts(store, fuser, anchor, model.donors, epochs, "attention")
    elif not adds:
        kind = type(fuser).__name__
        _fit_texts(store, fuser, anchor, model.donors, epochs, kind)


def fit_adapter(
    store: CalibrationStore,
    adapter: nn.Module,
    donor: Strand,
    anchor: Strand | None,
    epochs: int,
) -> None:
    """Fit what a donor hears of the anchor at the output, or take it from the store.

    As the fuser after the final norm of a braid with the two changed round, but for
    what it sees: at each token of the donor the anchor has really read what it has.

    Parameters
    ----------
    store : CalibrationStore
    adapter : Module
        Of the output mixture, changed in place.
    donor : Strand
    anchor : Strand or None
        None for the donor's own adapter alone.
    epochs : int
    """
    assert isinstance(adapter, LearnedWeighted)  # for the type checker
    if anchor is None:
        _fit_own(store, adapter, donor, epochs)
    else:
        _fit_aligned(store, adapter, donor, [anchor], epochs, served=False)


def _fit_own(
    store: CalibrationStore, fuser: LearnedWeighted, strand: Strand, epochs: int
) -> None:
    """The strand's own adapter: all that the fuser of the matched control has."""
    module = LearnedWeighted(strand.width, [], add=True).to(strand.device)
    _fit_aligned(store, module, strand, [], epochs)
    own = {k: v for k, v in module.state_dict().items() if k.startswith("own.")}
    fuser.load_state_dict({**fuser.state_dict(), **own})


def _fit_aligned(
    store: CalibrationStore,
    fuser: LearnedWeighted,
    anchor: Strand,
    donors: Sequence[Strand],
    epochs: int,
    served: bool = True,
) -> None:
    """A fuser that adds the states beside each position; without donors, an adapter."""
    # Every strand reads the texts before anything is changed: one may refuse them.
    positions = Positions(store, anchor, donors, served)
    kind = ("final" if served else "adapter") if donors else "own"

    def fit() -> None:
        label = f"{' + '.join(s.name for s in (anchor, *donors))}: {kind}"
        items = (positions.training, positions.held_out)
        steps = epochs * len(positions.training) / POSITION_GROUP
        train_part(
            store,
            fuser,
            partial(positions.loss, fuser),
            items,
            epochs=epochs,
            group=POSITION_GROUP,
            label=label,
            learning_rate=POSITION_RATE * min(1.0, (steps / POSITION_STEPS) ** 0.5),
        )

    key = [*strands_key(anchor, donors), type(fuser).__name__, epochs]
    store.load_or_fit(kind, key, fuser, fit)


def _fit_texts(
    store: CalibrationStore,
    fuser: nn.Module,
    anchor: Strand,
    donors: Sequence[Strand],
    epochs: int,
    kind: str,
) -> None:
    """Fit a fuser that sees more than the states beside a position: on whole texts."""
    texts, softmax = store.features(anchor), store.sampled_softmax(anchor)
    others = [store.features(d, anchor) for d in donors]
    shares = [1.0] * len(others)

    def loss(group: Sequence[int]) -> Tensor:
        fused = []
        for i in group:
            views = [donor_view(texts[i], o[i], o[i].hidden) for o in others]
            hidden = texts[i].hidden[None].float()
            fused.append(fuser(hidden, views, shares)[0, :-1])
        targets = torch.cat([texts[i].targets for i in group])
        return softmax.loss(torch.cat(fused), targets)

    def fit() -> None:
        label = f"{anchor.name}: {kind} after the final norm"
        items = (store.training, store.held_out)
        train_part(
            store, fuser, loss, items, epochs=epochs, group=TEXT_GROUP, label=label
        )

    key = [*strands_key(anchor, donors), epochs]
    store.load_or_fit(kind, key, fuser, fit)
