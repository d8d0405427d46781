"""Put one choice into numbers that add up and into one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braidbandit.belief import Belief
from braidbandit.catalogue import Catalogue
from braidbandit.decision import ArmRow, Explanation
from braidbandit.descriptors import block_of
from braidbandit.policies import Choice

Array = NDArray[np.float64]

_WORDS = {
    "share": "the shares of its models",
    "anchor": "its anchor",
    "pair": "how its models work together",
    "strands": "its number of models",
    "layers": "its fusion layers",
    "strategy": "its strategy",
    "control": "its own-state fuser",
    "cost": "its size",
    "gain": "how its models fared on the probe tasks",
    "arm": "its own record",
}
# Contributions to quality below this are not worth a word.
_WORTH_SAYING = 0.005


@dataclass(frozen=True)
class ChoiceView:
    """Everything that went into one choice.

    Parameters
    ----------
    catalogue : Catalogue
    Z : ndarray of shape (A, m)
    columns : sequence of str, length m
    belief : Belief
    choice : Choice
    cost_term : ndarray of shape (A,)
    eligible : ndarray of bool, shape (A,)
    kind : tuple of (type, share), optional
        Type of the task and how sure that is.
    """

    catalogue: Catalogue
    Z: Array
    columns: Sequence[str]
    belief: Belief
    choice: Choice
    cost_term: Array
    eligible: NDArray[np.bool_]
    kind: tuple[str, float] | None

    def blocks(self) -> dict[str, float]:
        """Split the chosen arm's lead over the best single model by block.

        The values add up to the difference of the two expected qualities.
        """
        singles = [i for i, b in enumerate(self.catalogue.braids) if b.is_single]
        if not singles:
            return {}
        best = max(singles, key=lambda row: self.belief.mean[row])
        lead = (self.Z[self.choice.arm] - self.Z[best]) * self.belief.mu
        own = self.belief.own
        blocks = {"arm": float(own[self.choice.arm] - own[best])}
        for name, value in zip(self.columns, lead, strict=True):
            block = block_of(name)
            blocks[block] = blocks.get(block, 0.0) + float(value)
        return {block: value for block, value in blocks.items() if value}

    def sentence(self) -> str:
        """Say what was chosen, why, and what is expected of it."""
        row = self.choice.arm
        reasons = []
        score = self.belief.mean + self.choice.exploration + self.cost_term
        if score[row] < score[self.eligible].max():
            reasons.append("every eligible braid is tried now and then, at random")
        if self.kind is not None:
            reasons.append(f"the task is {self.kind[0]}-related ({self.kind[1]:.2f})")
        leading = sorted(self.blocks().items(), key=lambda item: -item[1])[:2]
        said = [(b, v) for b, v in leading if v > _WORTH_SAYING and b in _WORDS]
        if said:
            gains = " and ".join(f"{_WORDS[b]} ({v:+.2f})" for b, v in said)
            reasons.append(f"{gains} speak for it over the best single model")
        if not reasons:
            reasons.append("nothing known yet speaks for another")
        cost = self.catalogue.relative_costs()[row]
        return (
            f"chose {self.catalogue.braids[row].label()}, because "
            f"{' and '.join(reasons)}; expected quality {self.belief.mean[row]:.2f} "
            f"+- {self.belief.sd[row]:.2f}, cost {cost:.2f} of the dearest "
            f"(probability {self.choice.propensity:.2f})"
        )

    def explanation(self, reasons: Sequence[str]) -> Explanation:
        """Return every arm's terms; ``reasons`` says why an arm is masked."""
        rows = tuple(
            ArmRow(
                arm_id=arm_id,
                label=braid.label(),
                mean=float(self.belief.mean[row]),
                exploration=float(self.choice.exploration[row]),
                cost=float(self.cost_term[row]),
                mask=0.0 if self.eligible[row] else float("-inf"),
                reason=reasons[row],
                probability=float(self.choice.probabilities[row]),
                sd=float(self.belief.sd[row]),
            )
            for row, (arm_id, braid) in enumerate(
                zip(self.catalogue.ids, self.catalogue.braids, strict=True)
            )
        )
        return Explanation(
            arm_id=self.catalogue.ids[self.choice.arm],
            rows=rows,
            blocks=self.blocks(),
            sentence=self.sentence(),
            probability=self.choice.propensity,
        )
