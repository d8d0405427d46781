"""What a fair report sets beside a braid: every recipe, and every control of it.

Much of what a trained fuser gains is adaptation to the text. The same fuser fed the
anchor's own states shows how much; a donor whose states come in the wrong order shows
what its size alone brings; a mixture weighted by how well each strand predicts the
prompt shows what needs no training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from scipy.special import softmax
from torch import Tensor

from ..braid.configuration import STRATEGIES, BraidConfig
from ..braid.model import BraidedLLM, BraidStates
from ..judging.scoring import bits_per_byte, scored_bytes
from ..strands.strand import Strand, Tap

PLACES = ("output", "final", "final+output", "sparse")
_SPARSE = (0.7, 0.83, 0.97)  # depths of the three decoder layers called "sparse"
ANCHOR_SHARE = 0.7
SHUFFLED = " (shuffled)"
BY_PROMPT = "prompt_perplexity"


class Plan(NamedTuple):
    """A row of the report: what to build, and how its strategy is called there.

    Attributes
    ----------
    config : BraidConfig
    strategy : str or None
        That of the config, or `BY_PROMPT`.
    """

    config: BraidConfig
    strategy: str | None

    @property
    def control(self) -> bool:
        """Calibrated without a donor, or with one that is of no use."""
        useful = [d for d in self.config.donors if not d.endswith(SHUFFLED)]
        return bool(self.config.fusion_layers) and not useful

    @property
    def trained(self) -> bool:
        """Whether there is anything to calibrate."""
        return bool(self.config.fusion_layers) and self.strategy != BY_PROMPT

    def build(self, strands: Sequence[Strand]) -> BraidedLLM:
        """The braid, not yet calibrated; recipes are not shared between braids."""
        keys = ("anchor", "donors", "shares", "fusion_layers", "strategy")
        config = BraidConfig(**{key: getattr(self.config, key) for key in keys})
        kind = PromptWeighted if self.strategy == BY_PROMPT else BraidedLLM
        return kind(config, strands)


def plans(
    models: Mapping[str, int],
    strategies: Sequence[str] = STRATEGIES,
    places: Sequence[str] = PLACES[:3],
) -> Iterator[Plan]:
    """Singles, calibrated singles, then every pair, place and strategy.

    And the controls of each pair: its output mixture weighted by the prompt, and
    fusers trained on the donor's states in the wrong order.

    Parameters
    ----------
    models : dict
        Names, and how many decoder layers each has.
    strategies : sequence of str
        Some of `STRATEGIES`.
    places : sequence of str
        Some of `PLACES`.

    Yields
    ------
    Plan
    """
    for name in models:
        yield Plan(BraidConfig(name), None)
    for name in models:
        config = BraidConfig(name, fusion_layers=["final"], strategy="learned_weighted")
        yield Plan(config, config.strategy)
    for anchor in models:
        for donor in models:
            if donor != anchor:
                yield from _pair(anchor, donor, strategies, places, models[anchor])


def layers_at(place: str, depth: int) -> list[str | int]:
    """The fusion layers of one of `PLACES` in an anchor of so many layers.

    Parameters
    ----------
    place : str
    depth : int

    Returns
    -------
    list of int or str

    Examples
    --------
    >>> layers_at("final+output", 30), layers_at("sparse", 30)
    (['final', 'output'], [20, 24, 28])
    """
    if place != "sparse":
        return [*place.split("+")]
    return [*sorted({max(round(depth * part) - 1, 0) for part in _SPARSE})]


def _pair(
    anchor: str,
    donor: str,
    strategies: Sequence[str],
    places: Sequence[str],
    depth: int,
) -> Iterator[Plan]:
    def plan(donor: str, place: str, strategy: str, name: str = "") -> Plan:
        shares = [ANCHOR_SHARE, 1 - ANCHOR_SHARE]
        layers = layers_at(place, depth)
        config = BraidConfig(anchor, [donor], shares, layers, strategy)
        return Plan(config, name or strategy)

    yield plan(donor, "output", "learned_weighted", BY_PROMPT)
    for place in places:
        for strategy in strategies:
            # At the output there is nothing to attend to: the same gate as router.
            if (place, strategy) != ("output", "attention"):
                yield plan(donor, place, strategy)
        yield plan(donor + SHUFFLED, place, "router")


class Shuffled:
    """A donor whose states come in the wrong order: as large, and of no use.

    It stands in for a strand and is not one: all but `run` and the name is asked of
    the strand behind it, so that the same weights are in memory once.

    Parameters
    ----------
    strand : Strand

    Attributes
    ----------
    reads_apart : bool
        What it makes of a text is of use for this text only.
    """

    reads_apart = True

    def __init__(self, strand: Strand) -> None:
        self.strand = strand
        self.name = strand.name + SHUFFLED

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strand, name)

    def run(
        self, input_ids: Tensor, *, taps: Iterable[Tap], **options: Any
    ) -> dict[Tap, Tensor]:
        """As `Strand.run`, with the positions of all taps shuffled alike."""
        generator = torch.Generator().manual_seed(int(input_ids.sum()))
        order = torch.randperm(input_ids.shape[1], generator=generator)
        states = self.strand.run(input_ids, taps=taps, **options)
        return {tap: s[:, order.to(s.device)] for tap, s in states.items()}


class ProductOfExperts(BraidedLLM):
    """The strands' distributions pooled by their logarithms, with nothing trained.

    ``p`` is proportional to ``prod_i (T_i p_i)^share_i``, where an output mixture has
    the sum: a token is likely if all strands think so (Hinton, "Training products of
    experts by minimizing contrastive divergence", 2002, with exponents that sum to 1).

    A braid in every other way, as `PromptWeighted` is.
    """

    def head(self, states: BraidStates, index: Any = ...) -> Tensor:
        """Log-probabilities (N, V) for the positions ``states.*[index]``."""
        if not states.donors:
            return super().head(states, index)
        return torch.stack(
            [self.mix(*found) for found in self.distributions(states, index)]
        )

    def mix(
        self, parts: Sequence[Tensor], seen: Tensor | None, there: Sequence[bool]
    ) -> Tensor:
        """Log-probabilities (V,) at one position."""
        # A donor that is not there says what the anchor does.
        pooled = torch.zeros_like(parts[0])
        for share, p in zip(self.config.shares, parts, strict=True):
            pooled.add_(p.clamp(min=1e-30).log_(), alpha=share)
        return pooled.log_softmax(-1)


class PromptWeighted(BraidedLLM):
    """An output mixture weighted by how well each strand predicts the prompt.

    ``w_i`` is proportional to ``exp(-n_i)``, ``n_i`` the strand's nats per byte of the
    prompt times the anchor's bytes per token: the softmax over perplexities of
    PackLLM-sim (Mavromatis et al., "Pack of LLMs", 2024) where tokenizers differ. A
    prompt that says nothing of a strand, empty or of one token, weighs all alike.

    A braid in every other way, which is why it is one: it is built, run and scored as
    any braid, and only its shares are set anew by each prompt.
    """

    def read_prompt(
        self, prompt: str, states: MutableMapping[Any, Any] | None = None
    ) -> None:
        """Set the shares for one prompt.

        Parameters
        ----------
        prompt : str
        states : dict, optional
            As in `scoring.bits_per_byte`.
        """
        self.config.update({"shares": self._weights(self._words(prompt), states)})

    def _weights(
        self, prompt: str, states: MutableMapping[Any, Any] | None
    ) -> list[float]:
        strands = (self.anchor, *self.donors)
        if not all(scored_bytes(strand, "", prompt) for strand in strands):
            return [1 / len(strands)] * len(strands)
        bits = [bits_per_byte(strand, "", prompt, states) for strand in strands]
        per_token = len(prompt.encode()) / len(self.anchor.tokens.encode(prompt))
        weights: list[float] = softmax(
            [-per_token * math.log(2) * b for b in bits]
        ).tolist()
        return weights

    def _words(self, prompt: str) -> str:
        """What donors are given of a prompt: no special tokens of the anchor."""
        ids, _ = self.anchor.tokens.read_with_ends(prompt)
        return self.anchor.tokens.text(ids).decode()
