"""The arms of a report on tasks: strands, untrained pools of them, braids, controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..braid.configuration import BraidConfig
from ..braid.model import BraidedLLM
from ..calibration.calibrate import calibrate
from ..strands.strand import Strand
from .controls import ANCHOR_SHARE, SHUFFLED, ProductOfExperts
from .questions import Asked

STRAND, CALIBRATED, MIXTURE, PRODUCT, BRAID = (
    "strand",
    "calibrated strand",
    "output mixture",
    "product of experts",
    "braid",
)
OBJECTIVES = ("text", "choice")


@dataclass(frozen=True, eq=False)  # recipes are no keys, arms are
class Arm:
    """One arm: what to build, and what to train it for.

    Attributes
    ----------
    kind : str
        `STRAND`, `CALIBRATED`, `MIXTURE`, `PRODUCT` or `BRAID`.
    config : BraidConfig
    objective : str or None
        None where nothing is trained.
    """

    kind: str
    config: BraidConfig
    objective: str | None = None

    @property
    def label(self) -> str:
        """The arm in words."""
        names = " + ".join([self.config.anchor, *self.config.donors])
        if self.kind == STRAND:
            return f"{names} alone"
        if self.kind == CALIBRATED:
            return f"{names} calibrated alone, {self.objective}"
        if self.kind in (MIXTURE, PRODUCT):
            return f"{names}, {self.kind}"
        places = "+".join(map(str, self.config.fusion_layers))
        return f"{names}, {self.config.strategy}, {places}, {self.objective}"

    @property
    def shuffled(self) -> Arm:
        """The same with donors whose states come in the wrong order."""
        config = BraidConfig(
            self.config.anchor,
            [name + SHUFFLED for name in self.config.donors],
            self.config.shares,
            self.config.fusion_layers,
            self.config.strategy,
        )
        return replace(self, config=config)

    def build(self, strands: Sequence[Strand]) -> BraidedLLM:
        """The arm as a model, not yet calibrated."""
        keys = ("anchor", "donors", "shares", "fusion_layers", "strategy")
        config = BraidConfig(**{key: getattr(self.config, key) for key in keys})
        kind = ProductOfExperts if self.kind == PRODUCT else BraidedLLM
        return kind(config, strands)

    def calibrate(
        self,
        model: BraidedLLM,
        questions: Sequence[Asked],
        store: Path,
        seed: int,
        progress: bool,
    ) -> None:
        """Train the arm's model in place, where there is anything to train."""
        if self.objective is None:
            return
        given: list[Any] = [q.text for q in questions if q.reference]
        if self.objective == "choice":
            given = [
                {"prompt": q.prompt, "choices": q.choices, "answer": q.answer}
                for q in questions
                if q.choices
            ]
        calibrate(
            model,
            given,
            store=store,
            seed=seed,
            progress=progress,
            objective=self.objective,
        )


def single_arms(
    names: Sequence[str], objectives: Sequence[str] = OBJECTIVES
) -> Iterator[Arm]:
    """Each strand, plain and calibrated for each objective."""
    for name in names:
        yield Arm(STRAND, BraidConfig(name))
        for objective in objectives:
            config = BraidConfig(
                name, fusion_layers=["final"], strategy="learned_weighted"
            )
            yield Arm(CALIBRATED, config, objective)


def arms(
    names: Sequence[str],
    strategies: Sequence[str],
    places: Sequence[str],
    objectives: Sequence[str] = OBJECTIVES,
) -> Iterator[Arm]:
    """Singles, then for each anchor its pools and braids.

    With each other strand as the donor, and with all others where there are several.

    Parameters
    ----------
    names : sequence of str
    strategies, places : sequence of str
        As in `controls.plans`, without decoder layers.
    objectives : sequence of str

    Yields
    ------
    Arm

    Examples
    --------
    >>> found = list(arms(["a", "b"], ["router"], ["output"], ["text"]))
    >>> [arm.label for arm in found[4:7:2]]
    ['a + b, output mixture', 'a + b, router, output, text']
    """
    yield from single_arms(names, objectives)
    for anchor in names:
        others = [name for name in names if name != anchor]
        groups = [[name] for name in others] + ([others] if len(others) > 1 else [])
        for donors in groups:
            yield from _braids(anchor, donors, strategies, places, objectives)


def _braids(
    anchor: str,
    donors: Sequence[str],
    strategies: Sequence[str],
    places: Sequence[str],
    objectives: Sequence[str],
) -> Iterator[Arm]:
    n = len(donors)
    equal = [1 / (n + 1)] * (n + 1)
    for kind in (MIXTURE, PRODUCT):
        config = BraidConfig(anchor, donors, equal, ["output"], "learned_weighted")
        yield Arm(kind, config)
    shares = [ANCHOR_SHARE, *[(1 - ANCHOR_SHARE) / n] * n]
    for place in places:
        for strategy in strategies:
            if (place, strategy) == ("output", "attention"):
                continue  # the same gate as router
            config = BraidConfig(anchor, donors, shares, place.split("+"), strategy)
            fixed = (place, strategy) == ("output", "learned_weighted")
            for objective in objectives:
                # The choice trains a fuser at "final" and a gate; here is neither, and
                # all objectives are one.
                if not fixed or objective == objectives[0]:
                    yield Arm(BRAID, config, objective)
