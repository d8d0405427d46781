"""How likely each option of a question is, by many models, each strand reading once.

The prompt is read once for all options, and what a strand made of it serves every braid
that it is in. `scoring.choose` scores each option alone; the two agree.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from ..braid.cache import Gathered, Row, gather_branches
from ..braid.donors import DonorPath, walk
from ..braid.fusers import DonorStates
from ..braid.model import BraidedLLM, BraidStates
from ..strands.strand import Strand, Tap, memo_key
from ..tokens.vocabulary import VocabularyMap
from .scoring import CHUNK, StateCache, scored_bytes, scored_tokens, target_log_probs

# What a braid mixes at one position: see `BraidedLLM.distributions`.
_Parts: TypeAlias = tuple[list[Tensor], Tensor | None, list[bool]]

_BEFORE: WeakKeyDictionary[BraidedLLM, tuple[object, str]] = WeakKeyDictionary()

RULES = ("byte", "sum", "unprompted")
NEUTRAL = "Answer:"


@dataclass(frozen=True)
class OptionScores:
    """What a model says of the options of a question.

    Attributes
    ----------
    logs : tuple of float
        Log-likelihood of each option after the prompt, in nats.
    n_bytes : tuple of int
        How many bytes the scored tokens of each stand for.
    unprompted : tuple of float or None
        Log-likelihood of each option after `NEUTRAL` alone; None where that was not
        asked for.
    """

    logs: tuple[float, ...]
    n_bytes: tuple[int, ...]
    unprompted: tuple[float, ...] | None = None

    def by(self, rule: str) -> list[float]:
        """The score of each option by one of `RULES`.

        "byte" is the log-likelihood per byte, "sum" the log-likelihood, "unprompted"
        how much more likely the prompt makes an option: its log-likelihood after the
        prompt less that after `NEUTRAL`, as in Brown et al., "Language models are
        few-shot learners", 2020, section 2.4.

        Examples
        --------
        >>> scores = OptionScores((-6.0, -4.0), (12, 4), (-9.0, -4.5))
        >>> scores.by("byte"), scores.by("sum"), scores.by("unprompted")
        ([-0.5, -1.0], [-6.0, -4.0], [3.0, 0.5])
        """
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}; expected one of {RULES}")
        if rule == "byte":
            return [s / n for s, n in zip(self.logs, self.n_bytes, strict=True)]
        if rule == "sum":
            return list(self.logs)
        if self.unprompted is None:
            raise ValueError(
                "these options were scored with their prompt only; score them without "
                "it too"
            )
        return [s - u for s, u in zip(self.logs, self.unprompted, strict=True)]

    def choice(self, rule: str) -> int:
        """The option of the highest score; the first of equals."""
        scores = self.by(rule)
        return max(range(len(scores)), key=scores.__getitem__)


@dataclass
class Positions:
    """The positions of a question that matter to an anchor, each once.

    Several options may go on from one position: U positions for N scored tokens.

    Attributes
    ----------
    texts : list of list of int
        The anchor's tokens of the prompt with each option.
    starts : list of int
        The first scored token of each.
    hidden : Tensor (U, width)
        The anchor's states after the final norm.
    beside : ndarray (1, U) of Tensor (n, width)
        The anchor's states at all tokens of a text that the position is in.
    first : list of int
        Of all N positions, in the order of options, the first that is each of the U.
    place : Tensor (N,), int64
        Which of the U positions each scored token comes behind.
    targets : Tensor (N,), int64
        The scored tokens.
    option : Tensor (N,), int64
        Which option each belongs to.
    n_bytes : list of int
        What the scored tokens of each option stand for.
    """

    texts: list[list[int]]
    starts: list[int]
    hidden: Tensor
    beside: np.ndarray
    first: list[int]
    place: Tensor
    targets: Tensor
    option: Tensor
    n_bytes: list[int]

    @property
    def counts(self) -> list[int]:
        """How many tokens of each option are scored."""
        return [
            len(ids) - start for ids, start in zip(self.texts, self.starts, strict=True)
        ]

    def sums(self, logs: Tensor) -> Tensor:
        """Log-likelihoods of options, in double precision, from those of N tokens."""
        total = torch.zeros(len(self.texts), dtype=torch.float64, device=logs.device)
        return total.index_add(0, self.option, logs.double())


class Question:
    """A prompt and its options, as strands read them.

    Whatever a strand makes of them is kept, so use one for each question and let it go.

    Parameters
    ----------
    prompt : str
    options : sequence of str
        Each is scored right after the prompt, so it starts with the space or line
        break that belongs there.

    Raises
    ------
    ValueError
        For an empty prompt or an empty option.
    """

    def __init__(self, prompt: str, options: Sequence[str]) -> None:
        if not prompt or not all(options):
            raise ValueError(
                f"received the prompt {prompt!r} with the options {list(options)!r}; "
                "give a prompt and options that are not empty"
            )
        self.prompt, self.options = prompt, tuple(options)
        self._positions: dict[object, Positions] = {}
        self._gathered: dict[object, Gathered] = {}
        self._alone = [StateCache() for _ in self.options]
        self._parts: tuple[object, list[_Parts]] | None = None

    def log_probs(self, model: BraidedLLM | Strand) -> list[float]:
        """Log-likelihood of each option after the prompt, in nats.

        Parameters
        ----------
        model : BraidedLLM or Strand

        Returns
        -------
        list of float

        Raises
        ------
        ValueError
            For an option that a strand cannot write, or of which nothing is scored.
        """
        anchor = model.anchor if isinstance(model, BraidedLLM) else model
        at = self.positions(anchor)
        if not _shares_reading(model):
            return [
                float(
                    target_log_probs(
                        model, ids, range(start, len(ids)), memo, start
                    ).sum(dtype=torch.float64)
                )
                for ids, start, memo in zip(
                    at.texts, at.starts, self._alone, strict=True
                )
            ]
        with torch.no_grad():
            found: list[float] = at.sums(self._logs(model, at)).tolist()
        return found

    def _logs(self, model: BraidedLLM | Strand, at: Positions) -> Tensor:
        """Log-probabilities (N,) of the scored tokens."""
        if not isinstance(model, BraidedLLM):
            return target_logs(at, lambda part: model.logits(at.hidden[part]))
        states = self.states(model)
        if not states.donors:
            return target_logs(at, lambda part: model.head(states, (slice(None), part)))
        parts = self._distributions(model, states)
        return target_logs(
            at, lambda part: torch.stack([model.mix(*said) for said in parts[part]])
        )

    def _distributions(self, model: BraidedLLM, states: BraidStates) -> list[_Parts]:
        """What a braid mixes at each position; of the last kind of braid it is kept.

        Pools of the same distributions, and gates that weigh the same, differ in what
        comes after, which takes little of the time.
        """
        donors = tuple(map(_key, model.donors))
        key = (_key(model.anchor), donors, before_mixing(model))
        if self._parts is None or self._parts[0] != key:
            everywhere = (slice(None), slice(None))
            self._parts = key, list(model.distributions(states, everywhere))
        return self._parts[1]

    def n_bytes(self, strand: Strand) -> list[int]:
        """How many bytes the scored tokens of each option stand for."""
        return list(self.positions(strand).n_bytes)

    def states(self, model: BraidedLLM) -> BraidStates:
        """A braid's states at the U positions of its anchor, as of one text."""
        at = self.positions(model.anchor)
        gather = partial(self._gather, model.anchor)
        return model.fuse_read(at.hidden[None], at.beside, gather)

    def sources(self, model: BraidedLLM) -> list[DonorStates]:
        """What the donors of a braid say at its positions, for a fuser at "final"."""
        return [
            self._gather(model.anchor, donor, ["final"], None).states["final"]
            for donor in model.donors
        ]

    @torch.no_grad()
    def positions(self, strand: Strand) -> Positions:
        """What a strand makes of the question as an anchor; read once."""
        key = _key(strand)
        if key not in self._positions:
            self._positions[key] = self._read(strand)
        return self._positions[key]

    def _read(self, strand: Strand) -> Positions:
        found = [scored_tokens(strand, self.prompt, option) for option in self.options]
        sizes = [scored_bytes(strand, self.prompt, option) for option in self.options]
        for option, size in zip(self.options, sizes, strict=True):
            if size < 1:
                raise ValueError(
                    f"nothing to score in the option {option!r}: with its prompt it is "
                    f"one token for {strand.name}, which nothing predicts; give a "
                    "longer prompt"
                )
        texts, starts = [ids for ids, _ in found], [start for _, start in found]
        before = [ids[:-1] for ids in texts]
        states, tree = walk(strand, DonorPath(), before, ["final"])
        whole = [states["final"][seen] for seen in tree.seen]
        nodes = np.concatenate(
            [seen[start - 1 :] for seen, start in zip(tree.seen, starts, strict=True)]
        )
        unique, first, place = np.unique(nodes, return_index=True, return_inverse=True)
        counts = [len(ids) - start for ids, start in found]
        option = np.repeat(np.arange(len(texts)), counts)
        beside = np.full((1, len(unique)), None, dtype=object)
        for u, n in enumerate(first.tolist()):
            beside[0, u] = whole[option[n]]
        device = strand.device
        return Positions(
            texts,
            starts,
            states["final"][torch.from_numpy(unique).to(states["final"].device)],
            beside,
            first.tolist(),
            torch.from_numpy(place).to(device),
            torch.tensor(
                [token for ids, start in found for token in ids[start:]], device=device
            ),
            torch.from_numpy(option).to(device),
            sizes,
        )

    def _gather(
        self,
        anchor: Strand,
        donor: Strand,
        taps: Sequence[Tap],
        carrier: VocabularyMap | None,
    ) -> Gathered:
        """What a donor makes of the U positions; what it once read is kept."""
        pair = (_key(anchor), _key(donor), tuple(taps))
        # What was read to be carried does for a fuser too.
        key = (*pair, carrier is None and (*pair, False) not in self._gathered)
        if key not in self._gathered:
            at = self.positions(anchor)
            rows = [Row(ids[:-1]) for ids in at.texts]
            got = gather_branches(rows, at.counts, anchor, donor, taps, carrier)
            where = torch.tensor(at.first, device=anchor.device)
            states = {
                tap: DonorStates(s.states, s.last[:, where], s.visible[:, where])
                for tap, s in got.states.items()
            }
            readings = got.readings if carrier is None else got.readings[:, at.first]
            self._gathered[key] = Gathered(states, readings)
        return self._gathered[key]


def _key(strand: Strand) -> tuple[object, ...]:
    """Key of what a strand with its present weights made of the question."""
    return *memo_key(strand), strand.dtype, strand.stamp


def before_mixing(model: BraidedLLM) -> str:
    """The same for braids of the same strands that mix the same distributions."""
    weights = {
        name: weight
        for name, weight in sorted(model.state_dict(keep_vars=True).items())
        if not name.startswith("mixer.gate.")
    }
    config = model.config
    recipe = [config.strategy, config.fusion_layers, config.shares]
    now = (str(recipe), *((w.data_ptr(), w._version) for w in weights.values()))
    known = _BEFORE.get(model)
    if known is None or known[0] != now:
        digest = hashlib.sha256(json.dumps(recipe).encode())
        for name, weight in weights.items():
            data = weight.detach().float().cpu().numpy()
            digest.update(name.encode() + data.tobytes())
        _BEFORE[model] = known = now, digest.hexdigest()
    return known[1]


def target_logs(at: Positions, logits: Callable[[slice], Tensor]) -> Tensor:
    """Log-probabilities (N,) of the scored tokens.

    Parameters
    ----------
    at : Positions
    logits : callable
        From some of the U positions to their logits (n, V).
    """
    found = torch.zeros(len(at.targets), device=at.targets.device)
    for low in range(0, len(at.first), CHUNK):
        part = slice(low, low + CHUNK)
        logs = logits(part).float().log_softmax(-1)
        mine = (at.place >= low) & (at.place < low + len(logs))
        found[mine] = logs[at.place[mine] - low, at.targets[mine]]
    return found


def _shares_reading(model: BraidedLLM | Strand) -> bool:
    """Whether a model goes by what strands make of positions, read by whomever.

    Not where the anchor's layers are fused, where donors read the prompt only, and
    where a control makes something else of each text that it is shown.
    """
    if not isinstance(model, BraidedLLM):
        return not getattr(model, "reads_apart", False)
    if model.layers() or (model.donors and model.config.fuse != "always"):
        return False
    return all(map(_shares_reading, (model.anchor, *model.donors)))


def score_options(
    models: Sequence[BraidedLLM | Strand], prompt: str, options: Sequence[str]
) -> list[OptionScores]:
    """What each of several models says of the options of a question.

    Parameters
    ----------
    models : sequence of BraidedLLM or Strand
    prompt : str
    options : sequence of str
        As in `Question`.

    Returns
    -------
    list of OptionScores
    """
    question, neutral = Question(prompt, options), Question(NEUTRAL, options)
    return [option_scores(model, question, neutral) for model in models]


def option_scores(
    model: BraidedLLM | Strand, question: Question, neutral: Question | None = None
) -> OptionScores:
    """What one model says of a question, and of its options behind `NEUTRAL`.

    Raises
    ------
    ValueError
        Where what it says is no finite number.
    """
    anchor = model.anchor if isinstance(model, BraidedLLM) else model
    logs = tuple(question.log_probs(model))
    unprompted = None if neutral is None else tuple(neutral.log_probs(model))
    if not all(map(math.isfinite, (*logs, *(unprompted or ())))):
        raise ValueError(
            f"the options {list(question.options)!r} have log-likelihoods {logs} and "
            f"{unprompted}; a model that gives no finite numbers cannot be compared"
        )
    return OptionScores(logs, tuple(question.n_bytes(anchor)), unprompted)
