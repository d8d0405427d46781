"""Fitting of what comes after the final norm to choose: the right option, not others.

    loss = -log softmax_c(n s_c / n_c)[right] - s_right / tokens

s_c is the log-likelihood of option c after the prompt, n_c its bytes, and n their mean
over the options: the score by which options are chosen, on the scale of a
log-likelihood. The second part is the text objective, which keeps the model one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..braid.fusers import DonorStates
from ..braid.model import BraidedLLM
from ..judging.choices import Positions, Question
from ..strands.strand import Strand
from .fit_gate import PRIOR, active_gate
from .store import CalibrationStore, braid_key, strands_key
from .training import train_part

GROUP = 8  # questions of a step
RATE = 3e-4

# What this process has read already; by strand, as none is kept alive.
_READ: WeakKeyDictionary[Strand, dict[str, list[Question]]]
_READ = WeakKeyDictionary()


class Choice(NamedTuple):
    """A question to learn from.

    Attributes
    ----------
    prompt : str
    options : tuple of str
    answer : int
        Index of the right one.
    """

    prompt: str
    options: tuple[str, ...]
    answer: int

    @property
    def text(self) -> str:
        """The prompt with the right option."""
        return self.prompt + self.options[self.answer]


def fit_choice(
    store: CalibrationStore, model: BraidedLLM, asked: Sequence[Choice], epochs: int
) -> None:
    """Fit the fuser after the final norm and the gate in place, or take them as stored.

    Parameters
    ----------
    store : CalibrationStore
        Of the texts of the questions, in their order.
    model : BraidedLLM
        Trained on these texts already.
    asked : sequence of Choice
    epochs : int
    """
    data = json.dumps([list(question) for question in asked])
    asked_hash = hashlib.sha256(data.encode()).hexdigest()[:16]
    if "final" in model.fusers:
        fuser = model.fusers["final"]
        key: list[Any] = [*strands_key(model.anchor, model.donors), model.config.shares]
        key += [type(fuser).__name__, epochs, asked_hash]
        fit = partial(_fit_final, store, model, asked, asked_hash, epochs)
        store.load_or_fit("final-choice", key, fuser, fit)
    gate = active_gate(model)
    if gate is not None:
        key = [*braid_key(model, epochs), asked_hash]
        fit = partial(_fit_gate, store, model, asked, asked_hash, gate)
        store.load_or_fit("gate-choice", key, gate, fit)


def _read(anchor: Strand, asked: Sequence[Choice], asked_hash: str) -> list[Question]:
    """The questions as strands read them, the same for all braids of an anchor."""
    known = _READ.setdefault(anchor, {})
    if asked_hash not in known:
        known[asked_hash] = [Question(q.prompt, q.options) for q in asked]
    return known[asked_hash]


def loss_of_choice(at: Positions, logs: Tensor, answer: int) -> Tensor:
    """Equation (60) for one question, of the log-probabilities (N,) of scored tokens.

    Parameters
    ----------
    at : Positions
    logs : Tensor (N,)
    answer : int

    Returns
    -------
    Tensor ()
        In nats.
    """
    sums = torch.zeros(len(at.texts), device=logs.device).index_add(0, at.option, logs)
    sizes = torch.tensor(at.n_bytes, device=logs.device, dtype=logs.dtype)
    scores = sums / sizes * sizes.mean()
    choice = -scores.log_softmax(0)[answer]
    return choice - sums[answer] / at.counts[answer]


class _Seen(NamedTuple):
    """A question, as the fuser after the final norm sees it."""

    at: Positions
    sources: list[DonorStates]
    answer: int


def _fit_final(
    store: CalibrationStore,
    model: BraidedLLM,
    asked: Sequence[Choice],
    asked_hash: str,
    epochs: int,
) -> None:
    anchor, fuser = model.anchor, model.fusers["final"]
    label = f"{' + '.join(s.name for s in (anchor, *model.donors))}: choices"
    questions = _read(anchor, asked, asked_hash)
    seen = [
        _Seen(question.positions(anchor), question.sources(model), choice.answer)
        for question, choice in zip(
            tqdm(questions, f"{label}, read", disable=not store.progress, leave=False),
            asked,
            strict=True,
        )
    ]
    softmax = store.sampled_softmax(anchor, torch.cat([one.at.targets for one in seen]))
    shares = model.config.shares[1:]

    def loss(group: Sequence[int]) -> Tensor:
        mine = [seen[i] for i in group]
        fused = [
            fuser(one.at.hidden[None].float(), one.sources, shares)[0] for one in mine
        ]
        offsets = torch.tensor([0, *(len(f) for f in fused)]).cumsum(0)[:-1].tolist()
        place = torch.cat(
            [one.at.place + n for one, n in zip(mine, offsets, strict=True)]
        )
        targets = torch.cat([one.at.targets for one in mine])
        logs = softmax.log_probs(torch.cat(fused), place, targets)
        parts = logs.split([len(one.at.targets) for one in mine])
        losses = [
            loss_of_choice(one.at, part, one.answer)
            for one, part in zip(mine, parts, strict=True)
        ]
        return torch.stack(losses).mean()

    train_part(
        store,
        fuser,
        loss,
        (store.training, store.held_out),
        epochs=epochs,
        group=GROUP,
        label=label,
        learning_rate=RATE,
    )


def _fit_gate(
    store: CalibrationStore,
    model: BraidedLLM,
    asked: Sequence[Choice],
    asked_hash: str,
    gate: nn.Linear,
) -> None:
    """As `fit_gate.fit_gate`, from where that ended: on held-out questions."""
    mixer = model.mixer
    assert mixer is not None  # it has this gate
    questions = _read(model.anchor, asked, asked_hash)
    numbers = store.held_out[1::2]
    label = f"{model.anchor.name}: gate of choices"
    bar = tqdm(numbers, label, disable=not store.progress, leave=False)
    seen = [_weighed(model, questions[i]) for i in bar]
    optimiser = torch.optim.LBFGS(
        gate.parameters(), max_iter=100, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        losses = []
        for i, (at, features, p, present) in zip(numbers, seen, strict=True):
            weights = mixer.log_weights(features, present, model.config.shares).exp()
            logs = (weights[at.place] * p).sum(-1).clamp(min=1e-30).log()
            losses.append(loss_of_choice(at, logs, asked[i].answer))
        prior = torch.stack([w.pow(2).sum() for w in gate.parameters()]).sum()
        total = torch.stack(losses).sum() + prior / 2 / PRIOR**2
        total = total / len(numbers)
        total.backward()
        return total

    optimiser.step(loss)


@torch.no_grad()
def _weighed(
    model: BraidedLLM, question: Question
) -> tuple[Positions, Tensor, Tensor, list[Tensor]]:
    """What the gate sees (U, k), what each strand gives the tokens (N, n + 1), and
    where each donor is present (U,)."""
    at = question.positions(model.anchor)
    places = at.place.tolist()
    rows, here = [], []
    picked: list[Tensor | None] = [None] * len(places)
    found = model.distributions(question.states(model), (slice(None), slice(None)))
    for u, (parts, seen, there) in enumerate(found):
        assert seen is not None  # a gate sees something
        rows.append(seen)
        here.append(there)
        for n in (n for n, place in enumerate(places) if place == u):
            picked[n] = torch.stack([p[at.targets[n]] for p in parts])
    present = torch.tensor(here, device=at.targets.device)
    p = torch.stack([one for one in picked if one is not None])
    return at, torch.stack(rows), p, list(present.unbind(-1))
