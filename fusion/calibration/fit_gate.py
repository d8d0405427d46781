"""Fitting of the gate that weighs the strands' distributions at the output."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ..braid.model import BraidedLLM
from ..braid.output_mixture import BLOCK
from .sample import Sample, sample_states
from .store import CalibrationStore, braid_key

POSITIONS = 1536
PRIOR = 0.2  # standard deviation of a gate's weights before it sees any text


def active_gate(model: BraidedLLM) -> nn.Linear | None:
    """The gate of the output mixture, where there is something to weigh."""
    return model.mixer.gate if model.mixer is not None and model.active else None


def fit_gate(store: CalibrationStore, model: BraidedLLM, epochs: int) -> None:
    """Fit the gate in place, or take it from the store; nothing where there is none.

    On half of the held-out texts, not on the training texts: fusers that know a text
    by heart look too certain there. The fit is the posterior mode under a normal
    prior, so that with few positions the shares stay what they are.

    Parameters
    ----------
    store : CalibrationStore
    model : BraidedLLM
        With fusers and adapters that are trained already.
    epochs : int
        That these were trained for.
    """
    gate = active_gate(model)
    if gate is not None:
        fit = partial(_fit, store, model, gate)
        store.load_or_fit("gate", braid_key(model, epochs), gate, fit)


def _fit(store: CalibrationStore, model: BraidedLLM, gate: nn.Linear) -> None:
    mixer = model.mixer
    assert mixer is not None  # it has this gate
    sample = sample_states(store, model, store.held_out[1::2], POSITIONS)
    features, p, present = _seen(model, sample)
    optimiser = torch.optim.LBFGS(
        gate.parameters(), max_iter=100, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        weights = mixer.log_weights(features, present, model.config.shares).exp()
        nats = -(weights * p).sum(-1).clamp(min=1e-30).log().sum()
        prior = sum(w.pow(2).sum() for w in gate.parameters()) / 2 / PRIOR**2
        total = (nats + prior) / len(p)
        total.backward()
        return total

    optimiser.step(loss)


@torch.no_grad()
def _seen(model: BraidedLLM, sample: Sample) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What the gate sees (N, k), the targets' probability for each strand, and where
    each donor is present (N,)."""
    rows, picked, here = [], [], []
    for low in range(0, len(sample.targets), BLOCK):
        at = slice(low, low + BLOCK)
        found = model.distributions(sample.states, (slice(None), at))
        for target, (parts, seen, there) in zip(
            sample.targets[at].tolist(), found, strict=True
        ):
            assert seen is not None  # a gate sees something
            rows.append(seen)
            picked.append(torch.stack([p[target] for p in parts]))
            here.append(there)
    places = torch.tensor(here, device=sample.targets.device)
    return torch.stack(rows), torch.stack(picked), list(places.unbind(-1))
